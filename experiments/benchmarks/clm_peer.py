"""The run of `clm.py` in PyTorch transformers: PLACE STEPS. Imports nothing of ours.

PLACE holds `start/`, the blocks of both splits and `settings.json`; STEPS, after which steps a mean loss is told. The last line
printed is JSON.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, get_cosine_schedule_with_warmup


def run(place: Path, told: list[int]) -> dict[str, Any]:
    """Trains and evaluates."""
    settings = json.loads((place / "settings.json").read_text())
    train, held_out = (torch.from_numpy(np.load(place / f"{name}.npy")).long() for name in ("train", "validation"))
    model = AutoModelForCausalLM.from_pretrained(place / "start").train()
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": settings["weight_decay"]},
        {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(
        groups,
        lr=settings["learning_rate"],
        betas=(settings["adam_beta1"], settings["adam_beta2"]),
        eps=settings["adam_epsilon"],
    )
    schedule = get_cosine_schedule_with_warmup(optimizer, settings["warmup_steps"], settings["max_steps"])
    losses: list[float] = []
    start = time.perf_counter()
    for rows in settings["order"]:
        blocks = train[rows]
        loss = model(input_ids=blocks, labels=blocks).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings["max_grad_norm"])
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    seconds = time.perf_counter() - start
    model.eval()
    with torch.no_grad():
        size = settings["per_device_eval_batch_size"]
        sums = [float(model(input_ids=part, labels=part).loss) * len(part) for part in held_out.split(size)]
    parts = zip([0, *told[:-1]], told, strict=True)
    return {
        "losses": [float(np.mean(losses[first:last])) for first, last in parts],
        "eval_loss": sum(sums) / len(held_out),
        "seconds": seconds,
    }


if __name__ == "__main__":
    print(json.dumps(run(Path(sys.argv[1]), json.loads(sys.argv[2]))))
