"""NER: names in text. BERT fine-tuned to tag tokens, on WNUT-17's emerging entities (Derczynski et al. 2017) or any CoNLL file.

    python -m experiments.ner

With no flags it fine-tunes bert-base-cased on `hf:wnut_17`. `--data` takes a folder with `.conll` files (a token and its tag a
line, a blank line between sentences) or rows with `tokens` and `ner_tags` or `tags`. It is scored as seqeval scores: an entity
counts where its type and its bounds are right. all-MiniLM-L6-v2 reaches F1 0.53 and 0.54 on WNUT-17's development set (3 epochs,
batch 32, learning rate 1e-4, seeds 1 and 2). Without a network a small BERT runs on bundled synthetic sentences; those scores are
not WNUT's.
"""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from experiments import finetune
from experiments.finetune import Prepared, Recipe, mapped, named_classes, rename
from experiments.launch import launch
from jaxformers.data import Table
from jaxformers.data.collate import IGNORE
from jaxformers.errors import DataError
from jaxformers.preprocess import Tokenizer
from jaxformers.train import Callback, EvalPrediction
from jaxformers.train.metrics import entity_scores


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(finetune.Config):
    """Flags of the experiment, and every field of TrainingArguments."""

    label_all_tokens: bool = False
    """Tag every token of a word, not its first alone."""
    group_by_length: bool = False
    """Off here: a batch's loss is the mean over its words, so in a batch of short texts each word would weigh more."""
    output_dir: str = "out/ner"
    """Where checkpoints, metrics, the model card and the final model go."""


def read(splits: dict[str, Table], config: Any) -> dict[str, Table]:
    """The columns `tokens` (lists of str) and `tags` (lists of str)."""
    return {
        name: _named(rename(table, {"tokens": ("words",), "tags": ("ner_tags", "ner")}))
        for name, table in splits.items()
    }


def _named(table: Table) -> Table:
    for row, (tokens, tags) in enumerate(zip(table["tokens"], table["tags"], strict=True)):
        if len(tokens) != len(tags):
            raise DataError(f"row {row} of {table.name} has {len(tokens)} tokens and {len(tags)} tags")
    named = named_classes(table["tags"])
    return Table(
        {"tokens": table["tokens"], "tags": [[str(named(tag)) for tag in tags] for tags in table["tags"]]}, table.name
    )


def encode(
    rows: dict[str, list[Any]], tokenizer: Tokenizer, number: dict[str, int], max_length: int, all_tokens: bool
) -> dict[str, Any]:
    """Words as the model's tokens, and each tag's `number`."""
    encoded = tokenizer(rows["tokens"], is_split_into_words=True, truncation=True, max_length=max_length)
    columns = {key: encoded[key] for key in ("input_ids", "token_type_ids") if key in encoded}
    columns["labels"] = [
        on_tokens(encoding.word_ids, [number[tag] for tag in tags], all_tokens)
        for encoding, tags in zip(encoded.encodings, rows["tags"], strict=True)
    ]
    return columns


def prepare(splits: dict[str, Table], tokenizer: Tokenizer, config: Any) -> Prepared:
    """Words as the model's tokens, each word's tag on its first token (or on all of them)."""
    found = {tag for tags in splits["train"]["tags"] for tag in tags}
    labels = ["O", *sorted(found - {"O"})]
    number = {label: i for i, label in enumerate(labels)}

    for table in splits.values():
        for row, tags in enumerate(table["tags"]):
            if unknown := [tag for tag in tags if tag not in number]:
                raise DataError(f"row {row} of {table.name} has the tag {unknown[0]!r}, which the {len(labels)} tags of the "
                                f"training data lack: {', '.join(labels[:12])}")  # fmt: skip
    examples = mapped(
        splits,
        partial(
            encode, tokenizer=tokenizer, number=number, max_length=config.max_length, all_tokens=config.label_all_tokens
        ),
        config,
    )

    def metrics(prediction: EvalPrediction) -> dict[str, float]:
        said_BL, true_BL = np.argmax(prediction.predictions, -1), prediction.label_ids
        asked = [row != IGNORE for row in true_BL]
        true = [[labels[i] for i in row[kept]] for row, kept in zip(true_BL, asked, strict=True)]
        said = [[labels[i] for i in row[kept]] for row, kept in zip(said_BL, asked, strict=True)]
        return entity_scores(said, true)

    return Prepared(examples, metrics, {"id2label": dict(enumerate(labels))})


def on_tokens(words: Sequence[int | None], labels: Sequence[int], all_tokens: bool = False) -> list[int]:
    """A word's label on its first token, -100 on its others and on special tokens; or on all of its tokens.

    >>> on_tokens([None, 0, 0, 1, None], [5, 7])
    [-100, 5, -100, 7, -100]
    """
    before: list[int | None] = [None, *words[:-1]]
    return [
        IGNORE if word is None or (word == last and not all_tokens) else labels[word]
        for word, last in zip(words, before, strict=True)
    ]


RECIPE = Recipe(
    name="WNUT-17",
    head="token-classification",
    model="bert-base-cased",
    data="hf:wnut_17",
    bundled="ner",
    bundled_is="synthetic sentences with names",
    read=read,
    prepare=prepare,
    texts=lambda table: [" ".join(tokens) for tokens in table["tokens"]],
    told=("precision", "recall", "f1", "accuracy"),
)


def run(config: Config, callbacks: Sequence[Callback] = ()) -> dict[str, Any]:
    """Trains, evaluates and saves; returns the results."""
    return finetune.run(config, RECIPE, callbacks)


if __name__ == "__main__":
    launch(Config, run, __doc__, "python -m experiments.ner")
