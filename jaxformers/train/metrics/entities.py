"""Entities in tagged texts: precision, recall and F1 over whole entities, as CoNLL-2003 counts them and seqeval does.

An entity is right if its type, its first and its last word are.
"""

import logging
from collections import Counter
from collections.abc import Sequence

import numpy as np

from jaxformers.errors import InputError
from jaxformers.train.metrics.classification import averaged

LOG = logging.getLogger("jaxformers")

Entity = tuple[str, int, int]  # type, first word, last word


def entities_of(tags: Sequence[str], *, strict: bool = False) -> list[Entity]:
    """The entities of one text.

    Args:
      tags: one for each word: "O", or a prefix and a type, such as "B-PER".
      strict: by default as the script conlleval reads tags, which forgives: an I- (or E-) begins an entity where none
        is open or one of another type is, and S- and E- (IOBES) are known. Strict IOB2 knows only B- and what follows it:
        an I- that continues nothing belongs to no entity.

    Returns:
      (type, first word, last word), in order; a tag without a type has the type "_".

    Raises:
      InputError: a tag is no str, is empty, or (strict) begins with neither B, I nor O.

    >>> entities_of(["B-PER", "I-PER", "O", "I-LOC"])
    [('PER', 0, 1), ('LOC', 3, 3)]
    >>> entities_of(["B-PER", "I-PER", "O", "I-LOC"], strict=True)
    [('PER', 0, 1)]
    """
    for tag in tags:
        if not isinstance(tag, str) or not tag:
            raise InputError(f"a tag must be a str such as 'B-PER' or 'O', found {tag!r}")
        if strict and tag[0] not in "BIO":
            raise InputError(f"a tag of IOB2 begins with B, I or O, found {tag!r}")
    return _strict(tags) if strict else _lenient(tags)


def entity_scores(
    predicted: Sequence[Sequence[str]],
    labels: Sequence[Sequence[str]],
    *,
    strict: bool = False,
    average: str = "micro",
    by_type: bool = False,
) -> dict[str, float]:
    """Precision, recall and F1 of entities, and the accuracy of tags.

    Args:
      predicted: the tags of N texts.
      labels: of the same lengths.
      strict: how tags are read, see `entities_of`.
      average: "micro", over all entities; "macro", the mean over types; "weighted", the same weighted by their entities.
      by_type: add `PER_precision`, `PER_recall`, `PER_f1`, `PER_number` for each type.

    Returns:
      `precision`, `recall`, `f1`, `accuracy`, from 0 to 1; 0 where there is nothing to count.

    Raises:
      InputError: the lengths differ, or something is no tag.

    >>> entity_scores([["B-PER", "I-PER", "O"]], [["B-PER", "I-PER", "B-LOC"]])
    {'precision': 1.0, 'recall': 0.5, 'f1': 0.6666666666666666, 'accuracy': 0.6666666666666666}
    """
    if average not in ("micro", "macro", "weighted"):
        raise InputError(f"average must be 'micro', 'macro' or 'weighted', found {average!r}")
    lengths = [[len(tags) for tags in texts] for texts in (predicted, labels)]
    if lengths[0] != lengths[1]:
        where = next((i for i, (a, b) in enumerate(zip(*lengths, strict=False)) if a != b), None)
        found = f"{len(lengths[0])} and {len(lengths[1])} texts" if where is None else (
            f"{lengths[0][where]} and {lengths[1][where]} in text {where}")  # fmt: skip
        raise InputError(f"entity_scores needs a predicted tag for each label, found {found}")
    said, true = (
        {(number, *entity) for number, tags in enumerate(texts) for entity in entities_of(list(tags), strict=strict)}
        for texts in (predicted, labels)
    )
    counts = [Counter(entity[1] for entity in entities) for entities in (said & true, said, true)]
    types = sorted(counts[1] | counts[2])
    table_3T = np.array([[count[kind] for kind in types] for count in counts]).reshape(3, len(types))
    tags = [(a, b) for one, other in zip(predicted, labels, strict=True) for a, b in zip(one, other, strict=True)]
    scores = averaged(table_3T, average)
    scores["accuracy"] = sum(a == b for a, b in tags) / len(tags) if tags else 0.0
    if by_type:
        for kind, column in zip(types, table_3T.T, strict=True):
            own = averaged(column[:, None], "micro")
            scores |= {f"{kind}_{name}": value for name, value in own.items()} | {f"{kind}_number": int(column[2])}
    return scores


def _split(tag: str) -> tuple[str, str]:
    """A tag's prefix and type."""
    return tag[0], tag[1:].split("-", 1)[-1] or "_"


def _strict(tags: Sequence[str]) -> list[Entity]:
    entities: list[Entity] = []
    open_type: str | None = None
    for place, tag in enumerate(tags):
        prefix, kind = tag[0], tag[1:].strip("-") or "_"
        if prefix == "B":
            entities.append((kind, place, place))
        elif prefix == "I" and kind == open_type:
            entities[-1] = (kind, entities[-1][1], place)
        else:
            kind = ""
        open_type = kind or None
    return entities


def _lenient(tags: Sequence[str]) -> list[Entity]:
    entities: list[Entity] = []
    first, (last, last_kind) = 0, ("O", "")
    for place, tag in enumerate([*tags, "O"]):
        prefix, kind = _split(tag)
        other = kind != last_kind
        if last in "ES" or (last in "BI" and prefix in "BSO") or (last not in "O." and other):
            entities.append((last_kind, first, place - 1))
        if prefix in "BS" or (prefix in "EI" and last in "ESO") or (prefix not in "O." and other):
            first = place
        last, last_kind = prefix, kind
    return entities
