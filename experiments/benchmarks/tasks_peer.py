"""transformers' Trainer on the tasks of `tasks.py`: TASK MODEL DATA OUTPUT SEED EPOCHS BATCH RATE. Imports nothing of ours.

The last line printed is JSON. DATA holds train.jsonl and validation.jsonl in the columns that `tasks.py` writes.
"""

import json
import re
import string
import sys
from collections import Counter
from typing import Any

import numpy as np
import torch
from transformers import (
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
    default_data_collator,
)


def rows_of(encoded: Any, **more: Any) -> list[dict[str, Any]]:
    """Columns as rows."""
    columns = {key: encoded[key] for key in ("input_ids", "attention_mask", "token_type_ids") if key in encoded} | more
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def classification(task: str, splits: dict[str, list[dict[str, Any]]], tokenizer: Any, model: str) -> tuple[Any, ...]:
    """GLUE's tasks."""
    from scipy.stats import pearsonr, spearmanr
    from sklearn.metrics import accuracy_score, matthews_corrcoef

    classes = 1 if task == "stsb" else 2

    def encode(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        texts = [[row[key] for row in rows] for key in ("sentence1", "sentence2") if key in rows[0]]
        return rows_of(tokenizer(*texts, truncation=True, max_length=128), labels=[row["label"] for row in rows])

    def scores(prediction: Any) -> dict[str, float]:
        said, true = prediction.predictions, prediction.label_ids
        if task == "stsb":
            return {"pearson": float(pearsonr(said[:, 0], true)[0]), "spearman": float(spearmanr(said[:, 0], true)[0])}
        said = said.argmax(-1)
        if task == "cola":
            return {"matthews_correlation": float(matthews_corrcoef(true, said))}
        return {"accuracy": float(accuracy_score(true, said))}

    made = AutoModelForSequenceClassification.from_pretrained(model, num_labels=classes)
    return made, {name: encode(rows) for name, rows in splits.items()}, DataCollatorWithPadding(tokenizer), scores


def names(splits: dict[str, list[dict[str, Any]]], tokenizer: Any, model: str) -> tuple[Any, ...]:
    """Named entities."""
    from seqeval.metrics import f1_score, precision_score, recall_score

    labels = ["O", *sorted({tag for row in splits["train"] for tag in row["tags"]} - {"O"})]

    def encode(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        encoded = tokenizer([row["tokens"] for row in rows], is_split_into_words=True, truncation=True, max_length=128)
        tagged = []
        for number, row in enumerate(rows):
            words = encoded.word_ids(number)
            first = [
                word is not None and word != before for word, before in zip(words, [None, *words[:-1]], strict=True)
            ]
            tagged.append([labels.index(row["tags"][w]) if f else -100 for w, f in zip(words, first, strict=True)])
        return rows_of(encoded, labels=tagged)

    def scores(prediction: Any) -> dict[str, float]:
        pairs = zip(prediction.predictions.argmax(-1), prediction.label_ids, strict=True)
        kept = [
            ([labels[s] for s in said[true != -100]], [labels[t] for t in true[true != -100]]) for said, true in pairs
        ]
        said, true = [a for a, _ in kept], [b for _, b in kept]
        return {
            "f1": f1_score(true, said),
            "precision": precision_score(true, said),
            "recall": recall_score(true, said),
        }

    made = AutoModelForTokenClassification.from_pretrained(model, num_labels=len(labels))
    examples = {name: encode(rows) for name, rows in splits.items()}
    return made, examples, DataCollatorForTokenClassification(tokenizer), scores


def normal(text: str) -> list[str]:
    """SQuAD's words of an answer."""
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", text).split()


def word_f1(said: str, true: str) -> float:
    """F1 of words."""
    common = sum((Counter(normal(said)) & Counter(normal(true))).values())
    return 2 * common / (len(normal(said)) + len(normal(true))) if common else float(normal(said) == normal(true))


def answers(splits: dict[str, list[dict[str, Any]]], tokenizer: Any, model: str) -> tuple[Any, ...]:
    """Extractive answers, windows of 256 tokens that overlap by 85."""
    options = {"truncation": "only_second", "max_length": 256, "stride": 85, "return_overflowing_tokens": True,
               "return_offsets_mapping": True, "padding": "max_length"}  # fmt: skip
    kept: dict[str, Any] = {}

    def encode(name: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        encoded = tokenizer([row["question"].strip() for row in rows], [row["context"] for row in rows], **options)
        kept[name] = encoded
        starts, ends = [], []
        for window, owner in enumerate(encoded["overflow_to_sample_mapping"]):
            answer = rows[owner]["answers"][0]
            begin, end = answer["answer_start"], answer["answer_start"] + len(answer["text"])
            of_context = [i for i, s in enumerate(encoded.sequence_ids(window)) if s == 1]
            offsets = encoded["offset_mapping"][window]
            inside = [i for i in of_context if offsets[i][0] < end and offsets[i][1] > begin]
            whole = inside and offsets[of_context[0]][0] <= begin and offsets[of_context[-1]][1] >= end
            starts.append(inside[0] if whole else 0)
            ends.append(inside[-1] if whole else 0)
        return rows_of(encoded, start_positions=starts, end_positions=ends)

    def scores(prediction: Any) -> dict[str, float]:
        rows, encoded = splits["validation"], kept["validation"]
        best: list[tuple[float, str]] = [(-np.inf, "")] * len(rows)
        for window, (start_L, end_L) in enumerate(zip(*prediction.predictions[:2], strict=True)):
            owner, offsets = encoded["overflow_to_sample_mapping"][window], encoded["offset_mapping"][window]
            of_context = np.array([s == 1 for s in encoded.sequence_ids(window)])
            tops = (
                [i for i in np.argsort(-np.where(of_context, x, -np.inf))[:20] if of_context[i]]
                for x in (start_L, end_L)
            )
            firsts, lasts = tops
            for first in firsts:
                for last in lasts:
                    score = float(start_L[first] + end_L[last])
                    if first <= last < first + 30 and score > best[owner][0]:
                        best[owner] = (score, rows[owner]["context"][offsets[first][0] : offsets[last][1]])
        right = [[answer["text"] for answer in row["answers"]] for row in rows]
        pairs = list(zip((text for _, text in best), right, strict=True))
        return {
            "exact_match": 100 * float(np.mean([max(normal(said) == normal(t) for t in true) for said, true in pairs])),
            "f1": 100 * float(np.mean([max(word_f1(said, t) for t in true) for said, true in pairs])),
        }

    made = AutoModelForQuestionAnswering.from_pretrained(model)
    return made, {name: encode(name, rows) for name, rows in splits.items()}, default_data_collator, scores


def main(task: str, model_name: str, data: str, output: str, seed: str, epochs: str, batch: str, rate: str) -> None:
    """Trains with the Trainer's defaults and evaluates in the end."""
    splits = {}
    for name in ("train", "validation"):
        with open(f"{data}/{name}.jsonl", encoding="utf-8") as file:
            splits[name] = [json.loads(line) for line in file]
    tokenizer = AutoTokenizer.from_pretrained(model_name)
    torch.manual_seed(int(seed))
    np.random.seed(int(seed))
    if task == "ner":
        model, examples, collator, scores = names(splits, tokenizer, model_name)
    elif task == "squad":
        model, examples, collator, scores = answers(splits, tokenizer, model_name)
    else:
        model, examples, collator, scores = classification(task, splits, tokenizer, model_name)
    arguments = TrainingArguments(
        output_dir=output, seed=int(seed), num_train_epochs=float(epochs), save_strategy="no", report_to="none",
        disable_tqdm=True, learning_rate=float(rate), per_device_train_batch_size=int(batch), use_cpu=True,
    )  # fmt: skip
    trainer = Trainer(model, arguments, train_dataset=examples["train"], eval_dataset=examples["validation"],
                      data_collator=collator, compute_metrics=scores)  # fmt: skip
    trainer.train()
    metrics = trainer.evaluate()
    print(json.dumps({key: value for key, value in metrics.items() if key.startswith("eval_") and "_per_" not in key}))


if __name__ == "__main__":
    main(*sys.argv[1:])
