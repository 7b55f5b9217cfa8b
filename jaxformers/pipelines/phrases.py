"""From what Whisper wrote of the pieces of a sound to one text: phrases with their times, words with theirs.

Pieces may overlap: what both say is said once, of its first half by the earlier piece, of its second by the later one.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from jaxformers.preprocess.tokenizer_whisper import language_of

Span = tuple[float, float]
UNSPACED = ("chinese", "japanese", "thai", "lao", "myanmar", "cantonese")  # which do not part words by spaces
OPENING, CLOSING = "\"'“¡¿([{-", "\"'.。,，!！?？:：”)]}、"  # what belongs to the word after it, and before it
PUNCTUATION = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"
UNFINISHED = "\ufffd"  # what bytes are decoded to that are no whole character
WINDOW = 1500  # steps of a piece


@dataclasses.dataclass(frozen=True)
class Piece:
    """What was written of a piece of a sound.

    Args:
      tokens: with those of times.
      times: when each ends, in seconds of the piece; None unless words are timed.
      stride: seconds of the piece, and of these at its start and at its end those that its neighbours hear too.
    """

    tokens: list[int]
    times: list[float] | None = None
    stride: tuple[float, float, float] | None = None


class Story:
    """Phrases as they come.

    Args:
      tokenizer: Whisper's.
      first: the token of the time 0.
      step: seconds from one token of a time to the next.
      timed: whether phrases are timed: False, True, or "word" for their words too.
    """

    def __init__(self, tokenizer: Any, first: int, step: float, timed: bool | str) -> None:
        self.tokenizer, self.first, self.step, self.timed = tokenizer, first, step, timed
        self.special = {*tokenizer.all_special_ids}
        self.phrases: list[dict[str, Any]] = []
        self.language: str | None = None  # the last that was named
        self.offset, self.passing = 0.0, False
        self._open()

    def _open(self) -> None:
        self.begin: float | None = None
        self.own = self.language
        self.rows: list[list[int]] = []
        self.spans: list[list[Span]] = []

    def _close(self, end: float | None) -> None:
        tokens, spans = joined(self.rows, self.spans if self.timed == "word" else None)
        phrase: dict[str, Any] = {
            "language": self.own,
            "timestamp": (self.begin, end),
            "text": self.tokenizer.decode(tokens),
        }
        if self.timed == "word":
            phrase["words"] = words(self.tokenizer, tokens, spans, self.language)
        self.phrases.append(phrase)
        self._open()

    def read(self, piece: Piece) -> None:
        """Goes on with the next piece."""
        before, ended = float(self.first), None
        if piece.stride is not None:
            length, left, right = piece.stride
            self.offset -= left
            before += left / self.step
            ended = self._last_time(piece.tokens, length - right) if right else None
        row, spans = list[int](), list[Span]()
        latest = passed = second = (
            0.0  # the last time, the pieces of 30 seconds before this one, the time before the last
        )
        for place, token in enumerate(piece.tokens):
            if token in self.special:
                named = language_of(self.tokenizer.decode([token]))
                if named is None:
                    continue
                if self.language and named != self.language and not self.timed:
                    self.rows.append(row)
                    self._close(None)
                    row = []
                self.language = self.own = named
            elif token < self.first:
                row.append(token)
                if piece.times is not None:
                    start = piece.times[place - 1] if place else 0.0
                    spans.append((round(start + self.offset, 2), round(piece.times[place] + self.offset, 2)))
            else:
                time = (token - self.first) * self.step
                if time < latest:  # of the next 30 seconds
                    if place > 1 and not min(piece.tokens[place - 2 : place]) >= self.first:
                        passed += self.step * WINDOW
                    else:
                        latest, passed = second, passed + second
                second, latest = latest, time
                if self._is_end(token, round(time + self.offset + passed, 2), before, ended):
                    self.rows.append(row)
                    self.spans.append(spans)
                    self._close(round(time + self.offset + passed, 2))
                    row, spans = [], []
        if piece.stride is not None:
            self.offset += length - right
        if row:
            self.rows.append(row)
            self.spans.append(spans)
        elif not any(self.rows):
            self._open()

    def _last_time(self, tokens: list[int], until: float) -> int | None:
        """The first of the times that the next piece hears as well; else the last of all."""
        last = None
        for token in reversed(tokens):
            if token >= self.first:
                if last is not None and (token - self.first) * self.step < until:
                    break
                last = token
        return last

    def _is_end(self, token: int, time: float, before: float, ended: int | None) -> bool:
        """Whether a time ends the phrase; it may begin it, or be of what a neighbour hears better."""
        if ended is not None and token >= ended:
            self.passing = True  # and so is the one that comes with it
        elif self.passing or (self.rows and token < before):
            self.passing = False
        elif self.begin is None:
            self.begin = time
        else:
            return time != self.begin  # a beginning that is said twice
        return False

    def told(self, with_language: bool) -> tuple[str, list[dict[str, Any]]]:
        """The whole text, and its phrases (or words)."""
        if self.rows:
            self._close(None)
        text = "".join(phrase["text"] for phrase in self.phrases)
        if self.timed == "word":
            named = lambda word, phrase: word | ({"language": phrase["own"]} if with_language else {})  # noqa: E731
            every = [(word, {"own": phrase["language"]}) for phrase in self.phrases for word in phrase["words"]]
            return text, [named(word, phrase) for word, phrase in every]
        keys = [*(["language"] if with_language else []), *(["timestamp"] if self.timed else []), "text"]
        return text, [{key: phrase[key] for key in keys} for phrase in self.phrases]


def joined(rows: Sequence[list[int]], spans: Sequence[list[Span]] | None = None) -> tuple[list[int], list[Span]]:
    """Rows of tokens whose ends say the same, as one: by the overlap of which the largest share agrees, at least two tokens.

    Args:
      rows: of each piece.
      spans: when each token is said; tokens agree that are also said in order.

    >>> joined([[1, 2, 3, 4], [3, 4, 5]])[0]
    [1, 2, 3, 4, 5]
    """
    whole, whole_spans = list[int](), list[Span]()
    left = rows[0]
    times = spans[0] if spans else []
    for number, right in enumerate(rows[1:], 1):
        best, cut = 0.0, (len(left), 0)
        for size in range(1, len(left) + len(right)):
            a = slice(max(0, len(left) - size), min(len(left), len(left) + len(right) - size))
            b = slice(max(0, size - len(left)), min(len(right), size))
            same = [one == other for one, other in zip(left[a], right[b], strict=True)]
            if spans:
                same = [
                    agrees and one <= other for agrees, one, other in zip(same, times[a], spans[number][b], strict=True)
                ]
            count = sum(same)
            share = count / size + size / 10000  # of two that agree as well, the longer
            if count > 1 and share > best:
                best, cut = share, ((a.start + a.stop) // 2, (b.start + b.stop) // 2)
        whole += left[: cut[0]]
        left = right[cut[1] :]
        if spans:
            whole_spans += times[: cut[0]]
            times = spans[number][cut[1] :]
    return whole + left, whole_spans + times


def words(tokenizer: Any, tokens: list[int], spans: list[Span], language: str | None) -> list[dict[str, Any]]:
    """The words of a text and when each is said: `{"text", "timestamp"}`, in order."""
    parts = characters(tokenizer, tokens)
    if (language or "english") not in UNSPACED:
        parts = spaced(parts, tokens, tokenizer.eos_token_id)
    return [
        {"text": text, "timestamp": (spans[places[0]][0], spans[places[-1]][1])} for text, places in with_marks(parts)
    ]


Part = tuple[str, list[int]]  # a text, and the places of its tokens


def characters(tokenizer: Any, tokens: list[int]) -> list[Part]:
    """The shortest runs of tokens that are whole characters."""
    whole = tokenizer.decode(tokens)
    parts, places, done = list[Part](), list[int](), 0
    for place in range(len(tokens)):
        places.append(place)
        text = tokenizer.decode([tokens[each] for each in places])
        at = text.find(UNFINISHED)
        if at < 0 or done + at >= len(whole) or whole[done + at] == UNFINISHED:  # the last: so it is in the text itself
            parts.append((text, places))
            places, done = [], done + len(text)
    return parts


def spaced(parts: list[Part], tokens: list[int], end: int) -> list[Part]:
    """Words by the spaces before them; punctuation is apart."""
    found: list[Part] = []
    for text, places in parts:
        apart = tokens[places[0]] >= end or text.startswith(" ") or text.strip() in PUNCTUATION
        if apart or not found:
            found.append((text, places))
        else:
            found[-1] = (found[-1][0] + text, found[-1][1] + places)
    return found


def with_marks(parts: list[Part]) -> list[Part]:
    """Words with the punctuation that opens and closes them."""
    opened: list[Part] = []
    for text, places in reversed(parts):
        if opened and text.startswith(" ") and text.strip() in OPENING:
            later, its = opened[-1]
            opened[-1] = (text + later, places + its)
        else:
            opened.append((text, places))
    found: list[Part] = []
    for text, places in reversed(opened):
        if found and not found[-1][0].endswith(" ") and text in CLOSING:
            found[-1] = (found[-1][0] + text, found[-1][1] + places)
        else:
            found.append((text, places))
    return [(text, places) for text, places in found if text]
