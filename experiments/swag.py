"""SWAG: which of four endings goes on with a sentence (Zellers et al. 2018). BERT fine-tuned for multiple choice.

    python -m experiments.swag

With no flags it fine-tunes bert-base-uncased on `hf:swag/regular`. `--data` takes files with SWAG's columns: `sent1`, `sent2`,
`ending0`, `ending1`, ..., `label`. Scored by accuracy. Without a network a small BERT runs on bundled synthetic sentences; those
scores are not SWAG's.
"""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from experiments import finetune
from experiments.finetune import Prepared, Recipe, mapped, rename
from experiments.launch import launch
from jaxformers.data import Table, check_labels
from jaxformers.errors import DataError
from jaxformers.preprocess import Tokenizer
from jaxformers.train import Callback, EvalPrediction
from jaxformers.train.metrics import accuracy


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(finetune.Config):
    """Flags of the experiment, and every field of TrainingArguments."""

    output_dir: str = "out/swag"
    """Where checkpoints, metrics, the model card and the final model go."""


def read(splits: dict[str, Table], config: Any) -> dict[str, Table]:
    """The columns `first` (a sentence), `endings` (how each choice goes on) and `label`."""
    return {name: _choices(table) for name, table in splits.items()}


def _choices(table: Table) -> Table:
    names = sorted(name for name in table.column_names if name.startswith("ending") and name[6:].isdigit())
    if len(names) < 2:
        raise DataError(f"{table.name} has no columns ending0, ending1, ..., only {', '.join(table.column_names)}")
    found = rename(table, {"sent1": ("startphrase",), "sent2": (), "label": ()})
    endings = [
        [f"{second} {ending}".strip() for ending in row]
        for second, *row in zip(found["sent2"], *(table[name] for name in names), strict=True)
    ]
    made = Table({"first": found["sent1"], "endings": endings, "label": found["label"]}, table.name)
    check_labels(made, "label", len(names))
    return made


def encode(rows: dict[str, list[Any]], tokenizer: Tokenizer, max_length: int) -> dict[str, Any]:
    """Each choice as a pair of its own: `input_ids` [choices][length]."""
    choices = [len(endings) for endings in rows["endings"]]
    encoded = tokenizer(
        [first for first, n in zip(rows["first"], choices, strict=True) for _ in range(n)],
        [ending for endings in rows["endings"] for ending in endings],
        truncation=True,
        max_length=max_length,
    )
    ends = np.cumsum(choices)
    columns: dict[str, Any] = {
        key: [encoded[key][end - n : end] for n, end in zip(choices, ends, strict=True)]
        for key in ("input_ids", "token_type_ids")
        if key in encoded
    }
    return {**columns, "labels": rows["label"]}


def prepare(splits: dict[str, Table], tokenizer: Tokenizer, config: Any) -> Prepared:
    """Choices as the model's inputs."""

    def metrics(prediction: EvalPrediction) -> dict[str, float]:
        return {"accuracy": accuracy(np.argmax(prediction.predictions, -1), prediction.label_ids)}

    return Prepared(mapped(splits, partial(encode, tokenizer=tokenizer, max_length=config.max_length), config), metrics)


RECIPE = Recipe(
    name="SWAG",
    head="multiple-choice",
    model="bert-base-uncased",
    data="hf:swag/regular",
    bundled="endings",
    bundled_is="synthetic sentences and endings",
    read=read,
    prepare=prepare,
    texts=lambda table: [*table["first"], *(ending for endings in table["endings"] for ending in endings)],
    told=("accuracy",),
)


def run(config: Config, callbacks: Sequence[Callback] = ()) -> dict[str, Any]:
    """Trains, evaluates and saves; returns the results."""
    return finetune.run(config, RECIPE, callbacks)


if __name__ == "__main__":
    launch(Config, run, __doc__, "python -m experiments.swag")
