"""SQuAD: find the answer to a question in a text (Rajpurkar et al. 2016, 2018). BERT fine-tuned on spans of tokens.

    python -m experiments.squad

With no flags it fine-tunes bert-base-uncased on `hf:squad`. `--data` takes SQuAD's own files (`train-v1.1.json` and
`dev-v1.1.json` in a folder, or one such file), version 2 with its unanswerable questions included, or rows with `question`,
`context` and `answers`. Long contexts are read in overlapping windows. Scored by exact match and F1 of words under SQuAD's rules.
Without a network a small BERT runs on bundled synthetic questions; those scores are not SQuAD's.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments import finetune
from experiments.finetune import Prepared, Recipe
from experiments.launch import launch
from jaxformers.data import Table
from jaxformers.errors import DataError
from jaxformers.preprocess import Tokenizer
from jaxformers.train import Callback, EvalPrediction
from jaxformers.train.metrics import squad_scores, squad_v2_scores


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(finetune.Config):
    """Flags of the experiment, and every field of TrainingArguments."""

    max_length: int = 384
    """Tokens of a window, question included."""
    doc_stride: int = 128
    """Tokens that a window repeats of the one before; a third of a window at most."""
    n_best_size: int = 20
    """Starts and ends that are tried for an answer."""
    max_answer_length: int = 30
    """The most tokens of an answer."""
    output_dir: str = "out/squad"
    """Where checkpoints, metrics, the model card and the final model go."""


def read(splits: dict[str, Table], config: Any) -> dict[str, Table]:
    """The columns `question`, `context`, `texts` and `starts` (all given answers; none where there is no answer)."""
    return {name: _flat(table) for name, table in splits.items()}


def _flat(table: Table) -> Table:
    rows: dict[str, list[Any]] = {"question": [], "context": [], "texts": [], "starts": []}
    for number, row in enumerate(table):
        for question, context, answers in _questions(row, f"row {number} of {table.name}"):
            rows["question"].append(question.strip())
            rows["context"].append(context)
            rows["texts"].append([text for text, _ in answers])
            rows["starts"].append([start for _, start in answers])
    return Table(rows, table.name)


def _questions(row: dict[str, Any], where: str) -> list[tuple[str, str, list[tuple[str, int]]]]:
    """(question, context, answers) of a row: an article of SQuAD's own files, or one question."""
    try:
        if "paragraphs" in row:
            return [
                (asked["question"], paragraph["context"], _pairs(asked["answers"]))
                for paragraph in row["paragraphs"]
                for asked in paragraph["qas"]
            ]
        return [(row["question"], row["context"], _pairs(row["answers"]))]
    except (KeyError, TypeError) as error:
        raise DataError(f"{where} is no question of SQuAD's form (question, context, answers): {error!r}") from None


def _pairs(answers: Any) -> list[tuple[str, int]]:
    """Answers as (text, start), from a list of dicts or a dict of lists."""
    if isinstance(answers, dict):
        starts = answers["answer_start"]
        return list(zip(answers["text"], map(int, starts), strict=True))
    return [(answer["text"], int(answer["answer_start"])) for answer in answers]


def prepare(splits: dict[str, Table], tokenizer: Tokenizer, config: Any) -> Prepared:
    """Questions with windows of their contexts; the answer's first and last token where the window holds it, else [CLS]."""
    length = min(config.max_length, tokenizer.model_max_length or config.max_length)
    windows = {
        name: Windows(table, tokenizer, length, min(config.doc_stride, length // 3)) for name, table in splits.items()
    }
    held_out = windows["validation"]

    def metrics(prediction: EvalPrediction) -> dict[str, float]:
        start_BL, end_BL = prediction.predictions
        said = held_out.answers(start_BL, end_BL, config.n_best_size, config.max_answer_length)
        right = held_out.table["texts"]
        if all(right):
            return squad_scores(said, right)
        scores = squad_v2_scores(said, right)
        return {"exact_match": scores.pop("exact"), **scores}

    return Prepared({name: each.examples for name, each in windows.items()}, metrics)


class Windows:
    """A split's questions as windows of tokens, and the way back from logits to texts.

    Args:
      table: with the columns of `read`.
      tokenizer: of the model.
      length: tokens of a window.
      stride: tokens that a window repeats of the one before.
    """

    def __init__(self, table: Table, tokenizer: Tokenizer, length: int, stride: int) -> None:
        self.table = table
        encoded = tokenizer(
            list(table["question"]),
            list(table["context"]),
            truncation="only_second",
            max_length=length,
            stride=stride,
            return_overflowing_tokens=True,
        )
        self.owners: list[int] = list(encoded["overflow_to_sample_mapping"])
        self.encodings = encoded.encodings
        # Where [CLS] stands, which says that there is no answer: first, but last for XLNet.
        self.nothing = [encoding.ids.index(tokenizer.cls_token_id) for encoding in self.encodings]
        columns = {key: encoded[key] for key in ("input_ids", "token_type_ids") if key in encoded}
        places = [
            place(encoding, table["starts"][owner][:1], table["texts"][owner][:1]) or (nothing, nothing)
            for encoding, owner, nothing in zip(self.encodings, self.owners, self.nothing, strict=True)
        ]
        columns["start_positions"] = [first for first, _ in places]
        columns["end_positions"] = [last for _, last in places]
        self.examples = Table(columns, table.name)

    def answers(self, start_BL: np.ndarray, end_BL: np.ndarray, n_best: int, longest: int) -> list[str]:
        """Each question's likeliest answer over its windows; "" where [CLS] is likelier and some question has no answer."""
        best: list[tuple[float, str]] = [(-np.inf, "")] * len(self.table)
        null = np.full(len(self.table), np.inf)
        for row, (encoding, owner) in enumerate(zip(self.encodings, self.owners, strict=True)):
            start_L, end_L = start_BL[row, : len(encoding)], end_BL[row, : len(encoding)]
            nothing = self.nothing[row]
            null[owner] = min(null[owner], float(start_L[nothing] + end_L[nothing]))
            of_context = np.array([sequence == 1 for sequence in encoding.sequence_ids])
            starts, ends = (
                [i for i in np.argsort(-np.where(of_context, x_L, -np.inf), kind="stable")[:n_best] if of_context[i]]
                for x_L in (start_L, end_L)
            )
            for first in starts:
                for last in ends:
                    score = float(start_L[first] + end_L[last])
                    if first <= last < first + longest and score > best[owner][0]:
                        begin, end = encoding.offsets[first][0], encoding.offsets[last][1]
                        best[owner] = (score, self.table["context"][owner][begin:end])
        may_be_none = any(not texts for texts in self.table["texts"])
        return ["" if may_be_none and none > score else text for (score, text), none in zip(best, null, strict=True)]


def place(encoding: Any, starts: list[int], texts: list[str]) -> tuple[int, int] | None:
    """First and last token of an answer in a window; None where the window does not hold it whole."""
    if not starts:
        return None
    begin, end = starts[0], starts[0] + len(texts[0])
    inside = [
        token
        for token, (sequence, (left, right)) in enumerate(zip(encoding.sequence_ids, encoding.offsets, strict=True))
        if sequence == 1 and left < end and right > begin
    ]
    context = [token for token, sequence in enumerate(encoding.sequence_ids) if sequence == 1]
    if not inside or encoding.offsets[context[0]][0] > begin or encoding.offsets[context[-1]][1] < end:
        return None
    return inside[0], inside[-1]


RECIPE = Recipe(
    name="SQuAD",
    head="question-answering",
    model="bert-base-uncased",
    data="hf:squad",
    bundled="questions",
    bundled_is="synthetic questions",
    read=read,
    prepare=prepare,
    texts=lambda table: [*table["question"], *dict.fromkeys(table["context"])],
    told=("exact_match", "f1"),
    shuffled=False,
)


def run(config: Config, callbacks: Sequence[Callback] = ()) -> dict[str, Any]:
    """Trains, evaluates and saves; returns the results."""
    return finetune.run(config, RECIPE, callbacks)


if __name__ == "__main__":
    launch(Config, run, __doc__, "python -m experiments.squad")
