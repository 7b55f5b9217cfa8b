"""What the experiments that classify images or sounds share: classes found in the data, scores."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.finetune import named_classes, rename
from experiments.pictures import draw_confusion
from jaxformers.data import Table
from jaxformers.errors import DataError
from jaxformers.train import EvalPrediction
from jaxformers.train.folder import folder_of
from jaxformers.train.metrics import accuracy, f1


def read_classes(
    splits: dict[str, Table], names: Mapping[str, tuple[str, ...]], labels: tuple[str, ...], classes: list[str]
) -> dict[str, Table]:
    """The splits with the columns of `names` and, but for a test split that has none, `labels`, a class's number.

    Args:
      splits: as a source has them.
      names: own column -> the names it is known by.
      labels: the names that `label` is known by.
      classes: gets the names of the classes: those the source gives, else those of the training rows, in their order (or, of
        numbers, up to the largest).

    Raises:
      DataError: a row is of a class that no training row has.
    """
    labelled = {**names, "label": labels}

    def classes_of(column: Any) -> list[Any]:
        return list(map(named_classes(column), column))

    column = rename(splits["train"], labelled)["label"]
    train = classes_of(column)
    if not classes:
        numbered = all(isinstance(label, int | np.integer) for label in train)
        seen = range(max(map(int, train)) + 1) if numbered else sorted(set(train))
        classes += getattr(column, "class_names", None) or map(str, seen)
    numbers = {name: number for number, name in enumerate(classes)}
    found = {}
    for split, table in splits.items():
        if split.startswith("test") and not {"label", *labels} & {*table.column_names}:
            found[split] = rename(table, names)
            continue
        renamed = rename(table, labelled)
        own = train if split == "train" else classes_of(renamed["label"])
        for row, label in enumerate(own):
            if str(label) not in numbers:
                raise DataError(f"the label of row {row} of {table.name}, {label!r}, is that of no training row")
        columns: dict[str, Any] = {name: renamed[name] for name in names}
        found[split] = Table({**columns, "labels": [numbers[str(label)] for label in own]}, table.name)
    return found


def scores(prediction: EvalPrediction, classes: list[str], output_dir: str) -> dict[str, float]:
    """Accuracy and F1 (of each class alike), and `confusion.png` in the output folder."""
    said = np.argmax(prediction.predictions, -1)
    draw_confusion(prediction.label_ids, said, classes, folder_of(output_dir).here / "confusion.png")
    return {"accuracy": accuracy(said, prediction.label_ids), "f1": f1(said, prediction.label_ids, average="macro")}
