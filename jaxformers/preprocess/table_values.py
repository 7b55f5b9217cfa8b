"""Numbers and dates in a table and in a question about it: what TAPAS is told of them beside the words.

Here: finding them in a text, agreeing on one kind for a column, ranks within a column, and how a column's values compare
with those of a question. What counts as a number or a date, and what takes precedence, is as in google-research/tapas and
in transformers' tokenizer. `tokenizer_tapas` writes the results beside each token.
"""

import datetime
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

Date = tuple[int | None, int | None, int | None]  # year, month, day, as far as a text says
Value = float | Date
EQUAL, LESS, GREATER = 1, 2, 4  # a question's value beside a cell's: bits, as there may be several values

MOST_WORDS = 5  # of a date
FIRST_YEAR, LAST_YEAR = 1700, 2016
SHARE = 0.7  # of a column's cells that must hold the kind of value

_NUMBER = re.compile(r"((^|\s)[+-])?((\.\d+)|(\d+(,\d\d\d)*(\.\d*)?))")
_CARDINALS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
_ORDINALS = ("zeroth", "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth",
             "eleventh", "twelfth")  # fmt: skip
_WORDS = {word: float(n) for words in (_CARDINALS, _ORDINALS) for n, word in enumerate(words)}
_SUFFIXES = ("st", "nd", "rd", "th")

_MONTHS = ("january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november",
           "december")  # fmt: skip
_MONTH_OF = {name: n for n, month in enumerate(_MONTHS, 1) for name in (month, month[:3])}
_PARTS = {
    "FULL": rf"(?P<name>{'|'.join(_MONTHS)})",
    "MONTH": rf"(?P<name>{'|'.join(_MONTH_OF)})",
    "YEAR": r"(?P<year>\d{4})",
    "MM": r"(?P<month>1[0-2]|0?[1-9])",
    "DD": r"(?P<day>3[01]|[12]\d|0?[1-9])",
    "WEEKDAY": r"(?:mon|tues|wednes|thurs|fri|satur|sun)day",
}
_DATES = tuple(
    re.compile(re.sub("|".join(_PARTS), lambda match: _PARTS[match[0]], pattern))
    for pattern in (
        *(
            "FULL",
            "YEARs?",
            "MONTH YEAR",
            "MONTH DD",
            "DD MONTH",
            "MONTH DD, YEAR",
            "DD MONTH YEAR",
            "WEEKDAY, MONTH DD",
        ),
        *("MM-DD-YEAR", "YEAR-MM-DD", "YEAR-MM", r"DD\.MM\.YEAR"),
    )
)


def values_in(text: str) -> list[Value]:
    """The numbers and dates of a text, in order. Of what overlaps the longest counts, be it both a number and a year.

    >>> values_in("On 2 May 2010, 1,200 people ran in the 3rd of two races")
    [(2010, 5, 2), 1200.0, 3.0, 2.0]
    >>> values_in("2010")
    [2010.0, (2010, None, None)]
    """
    text = " ".join(text.lower().split())
    found: dict[tuple[int, int], list[Value]] = {}
    for match in _NUMBER.finditer(text):
        if (number := _number(match[0])) is not None:
            found[match.span()] = [number]
    for start, end in _spans(text, 1):
        word = text[start:end]
        if (start, end) not in found and (number := _number(word, _WORDS.get(word))) is not None:
            found[start, end] = [number]
    for start, end in _spans(text, MOST_WORDS):
        if (date := _date(text[start:end])) is not None:
            found.setdefault((start, end), []).append(date)
    kept: list[tuple[int, int]] = []
    for start, end in sorted(found, key=lambda span: (span[0] - span[1], span[0])):
        if not any(first <= start and end <= last for first, last in kept):
            kept.append((start, end))
    return [value for span in sorted(kept) for value in found[span]]


def _spans(text: str, most: int) -> Iterator[tuple[int, int]]:
    """Every run of up to `most` words, words being of letters and digits, by its first and last character."""
    starts: list[int] = []
    for place, character in enumerate(text):
        if character.isalnum():
            if not place or not text[place - 1].isalnum():
                starts.append(place)
            if place + 1 == len(text) or not text[place + 1].isalnum():
                yield from ((start, place + 1) for start in starts[-most:])


def _number(text: str, otherwise: float | None = None) -> float | None:
    """The number that a text is, or an ordinal of figures."""
    digits = next((text.removesuffix(suffix) for suffix in _SUFFIXES if text.endswith(suffix)), text)
    try:
        value = float(digits.replace(",", ""))
    except ValueError:
        return otherwise
    return otherwise if math.isnan(value) or value == math.inf else value


def _date(text: str) -> Date | None:
    """The date that a text is."""
    for pattern in _DATES:
        if match := pattern.fullmatch(text):
            parts = match.groupdict()
            month = _MONTH_OF[parts["name"]] if parts.get("name") else parts.get("month")
            year, month, day = (
                None if part is None else int(part) for part in (parts.get("year"), month, parts.get("day"))
            )
            if year is not None and not FIRST_YEAR <= year <= LAST_YEAR:
                return None
            try:
                datetime.date(1900 if year is None else year, month or 1, day or 1)
            except ValueError:  # the 31st of a month that has 30 days
                return None
            return year, month, day
    return None


def column_values(cells: Sequence[str]) -> dict[int, Value]:
    """A column's values by row: all numbers or all dates, whichever more cells hold (dates, if as many), the first of a cell.

    None where fewer than 70 % of the cells hold such.

    >>> column_values(["87", "about 53 of 69", "many", "9"])
    {0: 87.0, 1: 53.0, 3: 9.0}
    """
    values = [values_in(cell) for cell in cells]
    counts = Counter(kind for each in values for kind in {_is_date(value) for value in each})
    most = max(counts.values(), default=0)
    if not counts or most < len(cells) * SHARE:
        return {}
    dates = counts[True] == most
    first = {row: next((value for value in each if _is_date(value) == dates), None) for row, each in enumerate(values)}
    return {row: value for row, value in first.items() if value is not None}


def _is_date(value: Value) -> bool:
    return isinstance(value, tuple)


def comparable(values: Iterable[Value]) -> list[tuple[float, ...]]:
    """Values as what they can be compared by: dates by those of year, month and day that all of them have.

    Nothing, where there are numbers and dates, or dates that have nothing in common.

    >>> comparable([(2010, 5, 5), (2007, 8, None)])
    [(2010, 5), (2007, 8)]
    """
    values = list(values)
    dates = [value for value in values if isinstance(value, tuple)]
    numbers: list[tuple[float, ...]] = [(value,) for value in values if not isinstance(value, tuple)]
    if not dates or numbers:
        return [] if dates else numbers
    parts = [part for part in range(3) if all(date[part] is not None for date in dates)]
    return [tuple(date[part] or 0 for part in parts) for date in dates] if parts else []


def ranks(column: dict[int, Value]) -> dict[int, tuple[int, int]]:
    """For each row that has a value its rank in the column from below and from above, both from 1; equal values share one."""
    keys = comparable(column.values())
    order = {key: rank for rank, key in enumerate(sorted(set(keys)), 1)}
    return {row: (order[key], len(order) + 1 - order[key]) for row, key in zip(column, keys, strict=bool(keys))}


def relations(column: dict[int, Value], question: Iterable[Value]) -> dict[int, int]:
    """How the question's values stand to each row's: the sum of `EQUAL`, `LESS` and `GREATER`, each once."""
    found = dict.fromkeys(column, 0)
    for value in question:
        own, *others = comparable([value, *column.values()]) or [()]
        for row, other in zip(column, others, strict=bool(others)):
            found[row] |= EQUAL if own == other else LESS if own < other else GREATER
    return found
