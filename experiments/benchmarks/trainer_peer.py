"""transformers' Trainer on MRPC, the peer of `finetune.py`: MODEL DATA OUTPUT SEED EPOCHS. Imports nothing of ours."""

import csv
import json
import sys
from typing import Any

import numpy as np
import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)


class Pairs(torch.utils.data.Dataset):
    """MRPC's pairs, tokenized once."""

    def __init__(self, path: str, tokenizer: Any) -> None:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))[1:]
        self.encoded = tokenizer([row[3] for row in rows], [row[4] for row in rows], truncation=True, max_length=128)
        self.labels = [int(row[0]) for row in rows]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict:
        return {**{key: values[index] for key, values in self.encoded.items()}, "labels": self.labels[index]}


def scores(prediction: Any) -> dict[str, float]:
    """Accuracy and F1 of class 1."""
    said, true = prediction.predictions.argmax(-1) == 1, prediction.label_ids == 1
    return {"accuracy": float((said == true).mean()), "f1": float(2 * (said & true).sum() / (said.sum() + true.sum()))}


def main(model_name: str, data: str, output: str, seed: str, epochs: str) -> None:
    """Trains with the Trainer's defaults, evaluating each epoch; the last line printed is JSON."""
    tokenizer = AutoTokenizer.from_pretrained(model_name)
    arguments = TrainingArguments(
        output_dir=output, seed=int(seed), num_train_epochs=float(epochs), eval_strategy="epoch", report_to="none",
        disable_tqdm=True, learning_rate=5e-5, per_device_train_batch_size=8, use_cpu=True,
    )  # fmt: skip
    torch.manual_seed(int(seed))
    np.random.seed(int(seed))
    model = AutoModelForSequenceClassification.from_pretrained(model_name, num_labels=2)
    trainer = Trainer(
        model,
        arguments,
        train_dataset=Pairs(f"{data}/train.tsv", tokenizer),
        eval_dataset=Pairs(f"{data}/dev.tsv", tokenizer),
        data_collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=scores,
    )
    trainer.train()
    trainer.save_model(output)
    metrics = [entry for entry in trainer.state.log_history if "eval_accuracy" in entry][-1]
    print(json.dumps({key: metrics[key] for key in ("eval_accuracy", "eval_f1")}))


if __name__ == "__main__":
    main(*sys.argv[1:])
