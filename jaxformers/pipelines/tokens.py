"""Token classification (named entities, parts of speech): a label for every token, or for words and groups of them.

What a caller sees, keys, order and scores, is transformers'. Tokens become entities in three steps, each a function below:
pieces (one a token, or one a word), groups of adjacent pieces of one label, and, for a text in overlapping parts, one
entity where two parts found one each.
"""

import logging
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import tokenizers

from jaxformers.core.params import Tree
from jaxformers.errors import InputError
from jaxformers.pipelines.base import Batch, Forward, Pipeline, Row, fetch
from jaxformers.pipelines.inputs import (
    WHOLE,
    Parts,
    as_float32,
    batched,
    read_one_text,
    rows_of,
    softmax,
    valid_text,
)
from jaxformers.preprocess import Tokenizer

LOG = logging.getLogger("jaxformers")
STRATEGIES = ("none", "simple", "first", "average", "max")


class Words(NamedTuple):
    """A text given as words: joined for display, split for the tokenizer."""

    words: list[str]
    delimiter: str


class Piece(NamedTuple):
    """A label and what it is for: a token, or the tokens of a word, by their places in the row."""

    label: str
    score: float
    tokens: list[int]


def token_classification(parts: Parts) -> Pipeline:
    """Which class each token of a text belongs to, or each group of tokens.

    A str gives a list of `{"entity", "score", "index", "word", "start", "end"}`, one a token whose label is not ignored;
    with an `aggregation_strategy` other than "none" a list of `{"entity_group", "score", "word", "start", "end"}`. A list of
    texts gives a list of these. `start` and `end` are characters of the text as it was given.

    Options of a call:
      aggregation_strategy: "none"; "simple": adjacent tokens of one label are one entity, which B- begins anew; "first",
        "average", "max": the same over words, whose label is that of the first token, of the mean of the tokens'
        scores, or of the token that is most certain.
      grouped_entities, ignore_subwords: older names of the above: "simple", and both together "first".
      ignore_labels: labels that are left out, by default `["O"]`.
      stride: a text beyond the maximum is computed in parts that share so many tokens; without it, it is cut off.
      is_split_into_words: a list of words stands for a text, which is the words joined by `delimiter` (" "). A dict
        `{"tokens": [...]}` does so without being asked.
      max_length: the most tokens of a part, special ones counted.
    """
    model, tokenizer = parts.model, parts.tokenizer
    maximum = parts.max_length
    labels = model.config.labels

    def arrange(inputs: Any, is_split_into_words: bool = False, delimiter: str = " ", **options: Any) -> Any:
        if not is_split_into_words:
            return inputs, options
        if isinstance(inputs, str) or not isinstance(inputs, list | tuple):
            raise InputError(f"with is_split_into_words a text is a list of words, found {inputs!r:.60}")
        texts = inputs if inputs and not isinstance(inputs[0], str) else [inputs]
        return [{"tokens": words, "delimiter": delimiter} for words in texts], options

    def encode(
        items: list[str | Words],
        *,
        stride: int | None = None,
        max_length: int | None = None,
        truncation: bool | str = True,
    ) -> tuple[list[Row], dict[str, Any]]:
        options = {
            "truncation": truncation,
            "max_length": (max_length or maximum) if truncation else None,
            "return_attention_mask": True,
            **({} if stride is None else {"stride": stride, "return_overflowing_tokens": True}),
        }
        rows: list[Row] = []
        encodings: list[tokenizers.Encoding] = []
        places: list[list[int]] = [[] for _ in items]  # which rows are an item's
        for split in (False, True):
            chosen = [index for index, item in enumerate(items) if isinstance(item, Words) == split]
            if not chosen:
                continue
            texts = [item.words if isinstance(item, Words) else item for item in (items[index] for index in chosen)]
            encoding = tokenizer(texts, is_split_into_words=split, **options)
            owners = encoding.get("overflow_to_sample_mapping", range(len(chosen)))
            for owner, row, tokens in zip(owners, rows_of(parts, encoding), encoding.encodings, strict=True):
                places[chosen[owner]].append(len(rows))
                rows.append(row)
                encodings.append(tokens)
        return rows, {"items": items, "places": places, "encodings": encodings}

    def compute(params: Tree, batch: Batch) -> Batch:
        return {"logits": as_float32(model.apply(params, execution=WHOLE, **batch).logits)}

    def postprocess(
        outputs: Batch,
        *,
        aggregation_strategy: str = "none",
        grouped_entities: bool | None = None,
        ignore_subwords: bool | None = None,
        ignore_labels: Sequence[str] | None = None,
    ) -> Any:
        columns, host = fetch(outputs)
        strategy = _strategy(aggregation_strategy, grouped_entities, ignore_subwords)
        if isinstance(ignore_labels, str):
            raise InputError(f"ignore_labels must be a list of labels, found the str {ignore_labels!r}")
        ignored = {"O"} if ignore_labels is None else set(ignore_labels)
        if strategy in STRATEGIES[2:] and not _prefix(tokenizer):
            LOG.warning(
                "%s needs words, which this tokenizer does not mark: they are taken to begin at spaces", strategy
            )
        results: list[list[dict[str, Any]]] = []
        for item, places in zip(host["items"], host["places"], strict=True):
            found: list[dict[str, Any]] = []
            for place in places:
                row = Tokens(item, host["encodings"][place], tokenizer)
                logits_LC = np.asarray(columns["logits"][place])[: len(row.ids)]
                found += _entities(row, softmax(logits_LC), labels, strategy, ignored)
            results.append(found if len(places) == 1 else _once(found))
        return results if host["given"] == "many" else results[0]

    preprocess = batched(parts, maximum, _read, encode, arrange=arrange)
    return Pipeline(preprocess, Forward(model, compute, parts.mesh), postprocess)


def _read(value: Any, where: str) -> str | Words:
    """A text, or a text as words."""
    match value:
        case {"tokens": words, **others} if "text" not in others:
            if not isinstance(words, list | tuple):
                raise InputError(f"{where} must have a list of str under 'tokens', found {words!r:.60}")
            return Words([valid_text(word, where) for word in words], str(others.get("delimiter", " ")))
    return read_one_text(value, where)


def _strategy(name: Any, grouped: bool | None, by_words: bool | None) -> str:
    name = getattr(name, "value", name)  # transformers' own enumeration will do, too
    if not isinstance(name, str) or name.lower() not in STRATEGIES:
        raise InputError(f"aggregation_strategy must be one of {', '.join(STRATEGIES)}; found {name!r}")
    if name.lower() == "none" and grouped:
        return "first" if by_words else "simple"
    return name.lower()


# -- from tokens to entities -------------------------------------------------------------------------------------------


class Tokens:
    """The tokens of one row beside the text they were read from; special tokens are not among `kept`."""

    def __init__(self, item: str | Words, encoding: tokenizers.Encoding, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.ids = encoding.ids
        self.kept = [index for index, special in enumerate(encoding.special_tokens_mask) if not special]
        self.text, self.spans = item if isinstance(item, str) else item.delimiter.join(item.words), encoding.offsets
        if isinstance(item, Words):  # offsets count from the start of each word
            starts = np.cumsum([0, *(len(word) + len(item.delimiter) for word in item.words)]).tolist()
            self.spans = [
                span if word is None else (span[0] + starts[word], span[1] + starts[word])
                for span, word in zip(encoding.offsets, encoding.word_ids, strict=True)
            ]

    def token(self, index: int) -> str:
        """How a token is written: as in the text where the vocabulary does not know it."""
        known = self.ids[index] != self.tokenizer.unk_token_id
        return self.tokenizer.convert_ids_to_tokens(self.ids[index]) if known else self.text[slice(*self.spans[index])]

    def spelled(self, tokens: Sequence[int]) -> str:
        """The text that tokens spell."""
        return self.tokenizer.convert_tokens_to_string([self.token(index) for index in tokens])

    def words(self) -> list[list[int]]:
        """The kept tokens, word by word."""
        words: list[list[int]] = []
        for index in self.kept:
            if words and self._continues(index):
                words[-1].append(index)
            else:
                words.append([index])
        return words

    def _continues(self, index: int) -> bool:
        start, end = self.spans[index]
        if self.ids[index] == self.tokenizer.unk_token_id:
            return False
        if _prefix(self.tokenizer):  # a token that starts a word is written as long as it is in the text
            return len(self.tokenizer.convert_ids_to_tokens(self.ids[index])) != end - start
        return start > 0 and " " not in self.text[start - 1 : start + 1]


def _entities(
    row: Tokens, scores_LC: np.ndarray, labels: Sequence[str], strategy: str, ignored: set[str]
) -> Iterator[dict[str, Any]]:
    """The entities of one row, in order."""
    best_L, top_L = scores_LC.argmax(-1).tolist(), scores_LC.max(-1).tolist()
    if strategy == "none":
        for index in row.kept:
            if (label := labels[best_L[index]]) not in ignored:
                start, end = row.spans[index]
                yield {"entity": label, "score": top_L[index], "index": index, "word": row.token(index),
                       "start": start, "end": end}  # fmt: skip
        return
    pieces: list[Piece] = []
    for tokens in [[index] for index in row.kept] if strategy == "simple" else row.words():
        deciding = tokens[0]
        best, score = best_L[deciding], top_L[deciding]
        if len(tokens) > 1 and strategy == "max":
            deciding = max(tokens, key=top_L.__getitem__)
            best, score = best_L[deciding], top_L[deciding]
        elif len(tokens) > 1 and strategy == "average":
            mean_C = scores_LC[tokens].mean(0)
            best, score = int(mean_C.argmax()), float(mean_C.max())
        pieces.append(Piece(labels[best], score, tokens))
    for group in _groups(pieces):
        label = group[0].label.split("-", 1)[-1]
        if label in ignored:
            continue
        tokens = [index for piece in group for index in piece.tokens]
        if strategy == "simple":
            word = row.spelled(tokens)
        else:
            word = row.tokenizer.convert_tokens_to_string([row.spelled(piece.tokens) for piece in group])
        yield {"entity_group": label, "score": float(np.mean([piece.score for piece in group])), "word": word,
               "start": row.spans[tokens[0]][0], "end": row.spans[tokens[-1]][1]}  # fmt: skip


def _groups(pieces: Sequence[Piece]) -> list[list[Piece]]:
    """Adjacent pieces of one label; B- begins a group, and a label without B- or I- goes on with its like."""
    groups: list[list[Piece]] = []
    last = None
    for piece in pieces:
        tag = piece.label[2:] if piece.label.startswith(("B-", "I-")) else piece.label
        if groups and tag == last and not piece.label.startswith("B-"):
            groups[-1].append(piece)
        else:
            groups.append([piece])
        last = tag
    return groups


def _once(entities: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of entities that overlap, found in two parts of a text, the longest stays; of equally long ones the surest."""
    kept: list[dict[str, Any]] = []
    for entity in sorted(entities, key=lambda entity: entity["start"]):
        if kept and kept[-1]["start"] <= entity["start"] < kept[-1]["end"]:
            kept[-1] = max(kept[-1], entity, key=lambda e: (e["end"] - e["start"], e["score"]))
        else:
            kept.append(entity)
    return kept


def _prefix(tokenizer: Tokenizer) -> str | None:
    """What tokens within a word begin with, where this kind of tokenizer marks them."""
    return getattr(tokenizer.backend.model, "continuing_subword_prefix", None) or None
