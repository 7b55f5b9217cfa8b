"""English words as the Moses scripts cut them, each with the place in the text that it came from.

XLM's vocabularies were learned on such words: punctuation is first brought to a plain form, characters that do not
print are dropped, then punctuation is set apart from letters, but for numbers, abbreviations and contractions. The
rules are those of the Moses scripts (Koehn et al. 2007, "Moses: Open Source Toolkit for Statistical Machine
Translation"; normalize-punctuation.perl and tokenizer.perl) as sacremoses runs them, in their order: each rule sees what
the one before it left. Other languages have other rules, which are not here.
"""

import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

Span = tuple[int, int]

# Letters and digits (Alphabetic and Nd) of the Basic Multilingual Plane as the scripts know them: those of Unicode 7,
# without ideographs and hangul syllables, whose languages are cut otherwise. In hexadecimal: the distance from the
# range before, and after "-" how many characters follow the first.
_ALNUM = """
30-9 8-19 7-19 30 b 5 6-16 2-1e 2-1c9 5-b f-4 8 2 57 2b-4 2-1 3-3 2 7 2-2 2 2-13 2-52 2-8a 9-a5 2-25 3 8-26 29-d 2 2-1
2-1 2 9-1a 6-2 1e-a 6-37 2-10 5-65 2-7 5-7 5-f 3 11-2f e-64 f-2a a-1 5 6-17 3-12 14-18 48-12 32-5 7-60 5-e 3-9 2-12
2-7 3-1 3-15 2-6 2 4-3 3-8 3-1 3-3 9 5-1 2-4 3-b 10-2 2-5 5-1 3-15 2-6 2-1 2-1 2-1 3 2-4 5-1 3-2 4 8-3 2 8-f c-2 2-8
2-2 2-15 2-6 2-1 2-4 3-9 2-2 2-2 3 10-3 3-9 e-2 2-2 2-7 3-1 3-15 2-6 2-1 2-4 3-8 3-1 3-2 9-1 5-1 2-4 3-9 2 11-1 2-5
4-2 2-3 4-1 2 2-1 4-1 4-2 4-b 5-4 4-2 2-3 3 7 f-9 11-3 2-7 2-2 2-16 2-f 4-7 2-2 2-3 8-1 2-1 7-3 3-9 12-2 2-7 2-2 2-16
2-9 2-4 3-8 2-2 2-3 8-1 8 2-3 3-9 2-1 f-2 2-7 2-2 2-32 2-2 2-4 9 9-3 3-9 b-5 3-1 2-11 4-17 2-8 2 3-6 4 5-5 2 2-7 7-9
3-1 e-39 6-6 7 3-9 28-1 2 3-1 2 3 7-3 2-6 2-2 2 2 3-1 2-10 3-4 2 7 3-9 3-3 21 20-9 17-7 2-23 5-10 7-f 2-23 44-36 2-1
2-e 7-12 3-3 6-18 8 2-9 3-1 3-25 2 6 3-2a 2-14c 2-3 3-6 2 2-3 3-28 2-3 3-20 2-3 3-6 2 2-3 3-e 2-38 2-3 3-42 5 21-f
11-54 d-26b 3-10 2-19 6-4a 4-a 8-c 2-6 c-13 d-13 d-c 2-2 2-1 d-33 3-12 f 5 4-9 27-9 7-57 9-2a 6-45 b-1e 2-b 5-8 e-27
3-4 c-2b 5-19 7-9 27-1b 5-3e 3-13 c-9 7-9 e 59-33 2-e 2-6 5-9 27-29 2-3a 2-a f-35 2 9-9 4-30 6c-3 2-5 2-1 a-bf 28-d
c-115 3-5 3-25 3-5 3-7 2 2 2 2-1e 3-34 2-6 2 4-2 2-6 4-3 3-5 5-c 6-2 2-6 75 e 11-c 66 5 3-9 2 4-4 7 2 2 2-3 2-a 3-3
6-4 5 12-28 32e-33 e3 634-2e 2-2e 2-84 7-3 4-1 d-25 2 6 3-37 8 11-16 a-6 2-6 2-6 2-6 2-6 2-6 2-6 2-6 2-1f 30 1d7 2b-4
7 5-55 7-2 2-59 2-3 6-28 4-5d 12-1a 36-f 6e01-48c 44-2d 3-10c 4-1b 15-2e 6-7 4-1e 2-50 28-8 3-66 3-3 2-1d 3-1 46-a 2-2
2-3 2-1b 19-33 d-44 c-9 19-5 4 5-2a 6-23 d-1c 4-32 2-b 10-a 7-4 2-18 2-36 a-d 3-9 7-16 4 4-40 2 2 19-2 3-f 3-4 b-5 3-5
3-5 a-6 2-6 2-2a 2-3 5-1 5b-2a 6-9 2bb7-16 5-30 2305-6 d-4 6-b 2-c 2-4 2 2-1 2-1 2-6b 22-16a 13-3f 3-35 29-b 75-4 2-86
14-9 8-19 7-19 c-58 4-5 3-5 3-5 3-2 a63 607 73-1 79 40 4d a 6b-1 b3-1 52 11 f5 4 7c-1 fc-1 7f 77-1 182-1 1a6 54 20b
103 3 52 cbb3
"""

# Characters that are part of a number, likewise.
_NUMBER = """
30-9 79-1 6 3-2 5a2-9 87-9 c7-9 19d-9 77-9 5-5 6d-9 77-9 77-9 3-5 6f-c 74-9 9-6 68-9 77-f 71-9 61-9 77-9 47-13 10d-9
47-9 2d0-13 372-2 f0-9 7-9 17-9 12d-9 81-a a6-9 7-9 b7-9 57-9 87-9 7-9 417 4-5 7-9 c7-32 3-4 2d7-3b 4f-15 277-1d 56a
495-3 8b-9 1f-7 2-e 21-9 28-e 7361-9 bd-9 141-5 9b-9 27-9 c7-9 17-9 57-9 197-9 5317-9
"""


def _characters(table: str) -> str:
    """A table's ranges as the inside of a regular expression's character class."""
    at, ranges = 0, ""
    for entry in table.split():
        gap, _, more = entry.partition("-")
        first = at + int(gap, 16)
        at = first + int(more or "0", 16)
        ranges += chr(first) if at == first else f"{chr(first)}-{chr(at)}"
    return ranges


_N, _AN = _characters(_NUMBER), _characters(_ALNUM)
_IS_ALNUM = re.compile(f"[{_AN}]")
# Before an apostrophe what matters is letters alone; a class cannot subtract, so the digits are listed out.
_DIGITS = "".join(c for c in map(chr, range(0x10000)) if unicodedata.category(c) == "Nd" and _IS_ALNUM.match(c))
_ALPHA, _NOT_ALPHA = f"(?![{_DIGITS}])[{_AN}]", f"(?:[{_DIGITS}]|[^{_AN}])"

# An abbreviation's full stop stays with it.
_ABBREVIATIONS = """
A B C D E F G H I J K L M N O P Q R S T U V W X Y Z
Adj Adm Adv Asst Bart Bldg Brig Bros Capt Cmdr Col Comdr Con Corp Cpl DR Dr Drs Ens Gen Gov Hon Hosp Hr Insp Lt MM MR
MRS MS Maj Messrs Mlle Mme Mr Mrs Ms Msgr Nos Nr Op Ord Pfc Ph Prof Pvt Rep Reps Res Rev Rs Rt Sen Sens Sfc Sgt Sr St
Supt Surg e.g i.e rev v vs Jan Feb Mar Apr Jun Jul Aug Sep Oct Nov Dec
"""
_ABBREVIATED = frozenset(_ABBREVIATIONS.split())
_BEFORE_NUMBERS = frozenset(("Art", "No", "pp"))  # abbreviations only where a number follows

_PLAIN = str.maketrans(
    "，、”“∶：？《》）！（；」「～’━〈〉【】％０１２３４５６７８９", ',,""::?"")!(;""~\'-<>[]%0123456789'
)
# A rule: a pattern, and what stands in its place: groups of the match by number, texts for the whole match, or texts for
# one group.
_Part = int | str | tuple[str, int]
_Rule = tuple[re.Pattern[str], tuple[_Part, ...]]


def _rules(*rows: tuple[Any, ...]) -> tuple[_Rule, ...]:
    return tuple((re.compile(pattern), tuple(parts)) for pattern, *parts in rows)


_FULL_STOPS = _rules(("[。．]\\s*", ". "), ("…", "..."))
_NORMALISE = _rules(
    ("\r",),
    # spaces around brackets and punctuation
    (r"(\()", " ", 1),
    (r"(\))", 1, " "),
    (" +", " "),
    (r"(\)) ([.!:?;,])", 1, 2),
    (r"(\() ", 1),
    (r" (\))", 1),
    (r"(\d) (%)", 1, 2),
    (" (:)", 1),
    (" (;)", 1),
    # quotation marks and dashes
    ("`", "'"),
    ("''", ' " '),
    ("[„“”]", '"'),
    ("–", "-"),
    ("—", " - "),
    (" +", " "),
    ("[´‘‚’]", "'"),
    ("''", '"'),
    ("\u00a0«\u00a0", '"'),
    ("«\u00a0", '"'),
    ("«", '"'),
    ("\u00a0»\u00a0", '"'),
    ("\u00a0»", '"'),
    ("»", '"'),
    # spaces that do not break
    ("\u00a0(%)", 1),
    ("(nº)\u00a0", 1, " "),
    ("\u00a0(:)", 1),
    ("\u00a0(ºC)", " ", 1),
    ("\u00a0(cm)", " ", 1),
    ("\u00a0([?])", 1),
    ("\u00a0(!)", 1),
    ("\u00a0(;)", 1),
    ("(,)\u00a0", 1, " "),
    (" +", " "),
    # English sets the comma inside the quotation, and a point where a space that does not break joins digits
    ('(")([,.]+)', 2, 1),
    ("(\\d)(\u00a0)(\\d)", 1, (".", 2), 3),
)
_SPACES = _rules((r"\s+", " "))
_SYMBOLS = _rules((f"([^{_AN}\\s.'`,\\-])", " ", 1, " "))
_COMMAS_AND_APOSTROPHES = _rules(
    (f"([^{_N}])(,)", 1, " ", 2, " "),
    (f"(,)([^{_N}])", " ", 1, " ", 2),
    (f"([{_N}])(,)$", 1, " ", 2, " "),
    (f"({_NOT_ALPHA})(')({_NOT_ALPHA})", 1, " ", 2, " ", 3),
    (f"((?![{_N}]){_NOT_ALPHA})(')({_ALPHA})", 1, " ", 2, " ", 3),
    (f"({_ALPHA})(')({_NOT_ALPHA})", 1, " ", 2, " ", 3),
    (f"({_ALPHA})(')({_ALPHA})", 1, " ", 2, 3),
    (f"([{_N}])(')(s)", 1, " ", 2, 3),
)
_FINAL = _rules((r"(\.)(') ?$", " ", 1, " ", 2, " "))
# Several full stops in a row become one word of letters while the rules above run, as the scripts do it; a text that
# holds such a word of its own gets the full stops.
_DOTS, _DOTS_WORD = re.compile(r"\.{2,}"), re.compile("(?:DOT)+MULTI")
_WORD = re.compile(r"\S+")


class _Text:
    """A text that rules rewrite, and for each of its characters the span of the original text that it stands for."""

    def __init__(self, text: str, spans: list[Span]) -> None:
        self.text, self.spans = text, spans

    def apply(self, rules: tuple[_Rule, ...]) -> None:
        for pattern, parts in rules:
            self.replace(pattern, lambda match, parts=parts: parts)  # type: ignore[misc]

    def replace(self, pattern: re.Pattern[str], parts_of: Callable[[re.Match[str]], tuple[_Part, ...]]) -> None:
        """Replaces every match of a pattern by the parts that a function says."""
        texts: list[str] = []
        spans: list[Span] = []
        done = 0
        for match in pattern.finditer(self.text):
            texts.append(self.text[done : match.start()])
            spans += self.spans[done : match.start()]
            for part in parts_of(match):
                if isinstance(part, int):
                    texts.append(match[part])
                    spans += self.spans[match.start(part) : match.end(part)]
                else:
                    text, group = (part, 0) if isinstance(part, str) else part
                    texts.append(text)
                    start, end = covering(self.spans[match.start(group) : match.end(group)])
                    each = end - start == len(text)  # as the full stops of a row, that were away meanwhile
                    spans += [(start + i, start + i + 1) if each else (start, end) for i in range(len(text))]
            done = match.end()
        if done:
            self.text = "".join([*texts, self.text[done:]])
            self.spans = spans + self.spans[done:]

    def keep(self, start: int, end: int) -> None:
        self.text, self.spans = self.text[start:end], self.spans[start:end]

    def strip(self) -> None:
        end = len(self.text.rstrip())
        self.keep(min(end, len(self.text) - len(self.text.lstrip())), end)


def covering(spans: Sequence[Span]) -> Span:
    """Returns the smallest span that holds all of `spans`, of which there is at least one."""
    return min(start for start, _ in spans), max(end for _, end in spans)


def moses_words(text: str) -> list[tuple[str, list[Span]]]:
    """Returns the words of an English text, each with the span of `text` that each of its characters stands for.

    Example:
        >>> [word for word, _ in moses_words("Mr. Smith's “dog”, isn’t here...")]
        ['Mr.', 'Smith', "'s", '"', 'dog', ',', '"', 'isn', "'t", 'here', '...']
    """
    line = _Text(text.translate(_PLAIN), [(index, index + 1) for index in range(len(text))])
    line.apply(_FULL_STOPS)
    line.apply(_NORMALISE)
    line.strip()
    printed = [index for index, c in enumerate(line.text) if not unicodedata.category(c).startswith("C")]
    line = _Text("".join(line.text[i] for i in printed), [line.spans[i] for i in printed])

    line.apply(_SPACES)
    line.strip()
    line.apply(_SYMBOLS)
    length = len(line.text)
    line.replace(_DOTS, lambda match: (" " + "DOT" * len(match[0]) + "MULTI" + (" " if match.end() < length else ""),))
    line.apply(_COMMAS_AND_APOSTROPHES)
    _set_full_stops_apart(line)
    line.apply(_SPACES)
    line.strip()
    line.apply(_FINAL)
    line.replace(_DOTS_WORD, lambda match: ("." * (len(match[0]) // 3 - 1),))
    return [(match[0], line.spans[match.start() : match.end()]) for match in _WORD.finditer(line.text)]


def _set_full_stops_apart(line: _Text) -> None:
    """Puts a space before the full stop that ends a word, unless it is an abbreviation's."""
    words = list(_WORD.finditer(line.text))
    apart: set[int] = set()
    for index, word in enumerate(words):
        stem = word[0][:-1]
        if word[0][-1] != "." or not stem:
            continue
        following = words[index + 1][0] if index + 1 < len(words) else ""
        abbreviated = (
            ("." in stem and any(_is_alpha(c) for c in stem))
            or stem in _ABBREVIATED
            or (following != "" and _is_lower(following[0]))
            or (stem in _BEFORE_NUMBERS and following[:1] in set("0123456789"))
        )
        if not abbreviated:
            apart.add(word.end() - 1)
    line.replace(re.compile(r"\."), lambda match: (" .",) if match.start() in apart else (".",))


def _is_alpha(character: str) -> bool:
    return _IS_ALNUM.match(character) is not None and unicodedata.category(character) != "Nd"


def _is_lower(character: str) -> bool:
    # Georgian had no case when the scripts were written; "◌" is in their list of small letters.
    return character == "◌" or (character.islower() and not ("\u10d0" <= character <= "\u10ff"))
