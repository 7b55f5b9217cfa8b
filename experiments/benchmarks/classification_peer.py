"""PyTorch transformers' classifier of images or of spectra, in a plain loop on what `classification.py` writes into FOLDER.

Imports nothing of ours. The last line printed is JSON.
"""

import json
import sys
import time
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForImageClassification, get_scheduler


def moved(images: np.ndarray, shift: int, black: float, generator: np.random.Generator) -> np.ndarray:
    """Each image moved by up to `shift` pixels up, down and to either side; black comes in."""
    height, width = images.shape[1:3]
    wide = np.pad(images, ((0, 0), (shift, shift), (shift, shift), (0, 0)), constant_values=black)
    places = generator.integers(0, 2 * shift + 1, (len(images), 2))
    return np.stack([image[y : y + height, x : x + width] for image, (y, x) in zip(wide, places, strict=True)])


def batch_of(rows: np.ndarray) -> dict[str, torch.Tensor]:
    """Images [B, Y, X, C] as PyTorch takes them, channels first."""
    return {"pixel_values": torch.from_numpy(np.ascontiguousarray(np.moveaxis(rows, -1, 1)))}


def main(folder: str) -> None:
    """Trains with AdamW, a warm-up and a cosine, and scores the held-out rows."""
    with open(f"{folder}/settings.json", encoding="utf-8") as file:
        settings: dict[str, Any] = json.load(file)
    rows = np.load(f"{folder}/rows.npz")
    examples, labels = rows["train"], rows["train_labels"]
    torch.manual_seed(settings["seed"])
    generator = np.random.default_rng(settings["seed"])
    model = AutoModelForImageClassification.from_pretrained(f"{folder}/start")
    smoothing = settings["label_smoothing_factor"]
    size, rate = settings["per_device_train_batch_size"], settings["learning_rate"]
    steps = int(np.ceil(settings["num_train_epochs"] * np.ceil(len(examples) / size)))
    decayed = [each for each in model.parameters() if each.ndim > 1]
    others = [each for each in model.parameters() if each.ndim < 2]
    groups = [{"params": decayed, "weight_decay": settings["weight_decay"]}, {"params": others, "weight_decay": 0.0}]
    betas = (settings["adam_beta1"], settings["adam_beta2"])
    optimizer = torch.optim.AdamW(groups, lr=rate, betas=betas, eps=settings["adam_epsilon"])
    schedule = get_scheduler(settings["lr_scheduler_type"], optimizer, settings["warmup_steps"], steps)
    model.train()
    started, total, order = time.perf_counter(), 0.0, np.zeros(0, np.int64)
    for _ in range(steps):
        if not len(order):
            order = generator.permutation(len(examples))
        chosen, order = order[:size], order[size:]
        batch = examples[chosen]
        if settings.get("shift"):
            batch = moved(batch, settings["shift"], float(rows["black"]), generator)
        logits, wanted = model(**batch_of(batch)).logits, torch.from_numpy(labels[chosen]).long()
        loss = torch.nn.functional.cross_entropy(logits, wanted, label_smoothing=smoothing)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings["max_grad_norm"])
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        total += float(loss)
    seconds = time.perf_counter() - started
    model.eval()
    held, true = rows["validation"], torch.from_numpy(rows["validation_labels"]).long()
    with torch.no_grad():
        logits = torch.cat([model(**batch_of(held[first : first + 100])).logits for first in range(0, len(held), 100)])
    told = {
        "eval_accuracy": float((logits.argmax(-1) == true).float().mean()),
        "eval_loss": float(torch.nn.functional.cross_entropy(logits, true, label_smoothing=smoothing)),
        "train_loss": total / steps,
        "train_runtime": seconds,
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main(sys.argv[1])
