"""GLUE: the nine tasks of the General Language Understanding Evaluation benchmark (Wang et al. 2018), one experiment.

    python -m experiments.glue --task cola

BERT-base is fine-tuned on `tfds:glue/TASK` and scored with the task's own metrics on its validation set: Matthews correlation
(cola), accuracy (sst2, qnli, rte, wnli, mnli on matched and mismatched), accuracy and F1 (mrpc, qqp), Pearson and Spearman
correlation (stsb). `--data` takes GLUE's own files, too. Without a network a small BERT runs on bundled synthetic sentences;
those scores are not GLUE's.
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
from jaxformers.errors import DataError, InputError
from jaxformers.preprocess import Tokenizer
from jaxformers.train import Callback, EvalPrediction
from jaxformers.train.metrics import accuracy, f1, matthews_correlation, pearson, spearman


@dataclasses.dataclass(frozen=True)
class Task:
    """One of GLUE's tasks.

    Args:
      columns: our name of a column -> the names of it in the sources people have.
      labels: the classes by their names; none for a number to be predicted.
      metrics: what it is scored by.
      bundled: which bundled data stands in for it without a network.
    """

    columns: dict[str, tuple[str, ...]]
    labels: tuple[str, ...]
    metrics: tuple[str, ...] = ("accuracy",)
    bundled: str = "paraphrase"


def _pair(first: tuple[str, ...], second: tuple[str, ...], label: tuple[str, ...] = ()) -> dict[str, tuple[str, ...]]:
    return {"sentence1": first, "sentence2": second, "label": label}


SINGLE: dict[str, tuple[str, ...]] = {"sentence1": ("sentence",), "label": ()}
ENTAILMENT = ("entailment", "not_entailment")
TASKS = {
    "cola": Task(SINGLE, ("unacceptable", "acceptable"), ("matthews_correlation",), bundled="sentiment"),
    "sst2": Task(SINGLE, ("negative", "positive"), bundled="sentiment"),
    "mrpc": Task(_pair(("#1 String",), ("#2 String",), ("Quality",)), ("not_equivalent", "equivalent"), ("accuracy", "f1")),
    "stsb": Task(_pair((), (), ("score",)), (), ("pearson", "spearman")),
    "qqp": Task(_pair(("question1",), ("question2",), ("is_duplicate",)), ("not_duplicate", "duplicate"), ("accuracy", "f1")),
    "mnli": Task(_pair(("premise",), ("hypothesis",), ("gold_label",)), ("entailment", "neutral", "contradiction")),
    "qnli": Task(_pair(("question",), ("sentence",)), ENTAILMENT),
    "rte": Task(_pair((), ()), ENTAILMENT),
    "wnli": Task(_pair((), ()), ("not_entailment", "entailment")),
}  # fmt: skip
METRICS = {
    "accuracy": accuracy,
    "f1": f1,
    "matthews_correlation": matthews_correlation,
    "pearson": pearson,
    "spearman": spearman,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(finetune.Config):
    """Flags of the experiment, and every field of TrainingArguments."""

    task: str = "sst2"
    """One of cola, sst2, mrpc, stsb, qqp, mnli, qnli, rte, wnli."""
    output_dir: str = "out/glue"
    """Where checkpoints, metrics, the model card and the final model go."""


def recipe(task: str, name: str | None = None) -> Recipe:
    """How a task of GLUE is trained. Raises `InputError` where there is none of that name."""
    if task not in TASKS:
        raise InputError(f"GLUE has no task {task!r}; it has {', '.join(TASKS)}")
    this = TASKS[task]
    return Recipe(
        name=name or f"GLUE-{task}",
        head="sequence-classification",
        model="bert-base-uncased",
        data=f"tfds:glue/{task}",
        bundled=this.bundled,
        bundled_is={"paraphrase": "synthetic paraphrases", "sentiment": "synthetic reviews"}[this.bundled],
        read=lambda splits, config: {split: read(table, this, split) for split, table in splits.items()},
        prepare=lambda splits, tokenizer, config: prepare(splits, tokenizer, config, this),
        texts=lambda table: [text for key in ("sentence1", "sentence2") if key in table.column_names for text in table[key]],
        told=("matched_accuracy", "mismatched_accuracy", "accuracy") if task == "mnli" else this.metrics,
        column_names=("source", "label", "mark", "sentence") if task == "cola" else None,
    )  # fmt: skip


def read(table: Table, task: Task, split: str) -> Table:
    """A split with the columns `sentence1`, `sentence2` (for pairs) and `label`, a class's number or a score."""
    private = split.startswith("test")  # the labels of GLUE's test sets are not public
    wanted = {name: known for name, known in task.columns.items() if not (private and name == "label")}
    renamed = rename(table, wanted)
    columns = {name: renamed[name] for name in renamed.column_names}
    if "label" in columns:
        columns["label"] = [_number(label, task, table.name, row) for row, label in enumerate(columns["label"])]
    table = Table(columns, table.name)
    if "label" in columns and task.labels:
        check_labels(table, "label", len(task.labels))
    return table


def _number(label: Any, task: Task, name: str, row: int) -> int | float:
    if not task.labels:
        if isinstance(label, int | float):
            return float(label)
        raise DataError(f"the label of row {row} of {name} must be a number, found {label!r}")
    if isinstance(label, str) and label in task.labels:
        return task.labels.index(label)
    if isinstance(label, int) and not isinstance(label, bool):
        return label
    raise DataError(f"the label of row {row} of {name} must be one of {', '.join(task.labels)}, found {label!r}")


def encode(rows: dict[str, list[Any]], tokenizer: Tokenizer, max_length: int) -> dict[str, Any]:
    """Sentences, or pairs of them, as the model's inputs."""
    encoded = tokenizer(rows["sentence1"], rows.get("sentence2"), truncation=True, max_length=max_length)
    columns = {key: encoded[key] for key in ("input_ids", "token_type_ids") if key in encoded}
    return {**columns, "labels": rows["label"]} if "label" in rows else columns


def prepare(splits: dict[str, Table], tokenizer: Tokenizer, config: Any, task: Task) -> Prepared:
    """Sentences, or pairs of them, as the model's inputs."""
    examples = mapped(splits, partial(encode, tokenizer=tokenizer, max_length=config.max_length), config)

    def metrics(prediction: EvalPrediction) -> dict[str, float]:
        said = np.argmax(prediction.predictions, -1) if task.labels else prediction.predictions[:, 0]
        return {name: METRICS[name](said, prediction.label_ids) for name in task.metrics}

    classes: dict[str, Any] = {"id2label": dict(enumerate(task.labels))}
    return Prepared(examples, metrics, classes if task.labels else {"num_labels": 1, "problem_type": "regression"})


def run(config: Config, callbacks: Sequence[Callback] = ()) -> dict[str, Any]:
    """Trains, evaluates and saves; returns the results."""
    return finetune.run(config, recipe(config.task), callbacks)


if __name__ == "__main__":
    launch(Config, run, __doc__, "python -m experiments.glue")
