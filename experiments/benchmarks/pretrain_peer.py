"""The steps of `pretrain.py` in PyTorch transformers: JOB, as JSON. Imports nothing of ours. The last line printed is JSON."""

import json
import statistics
import sys
import time
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM


def main(job: dict[str, Any]) -> dict[str, Any]:
    """Trains some steps on one batch."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    config = AutoConfig.for_model(**job["config"])
    masked = job["head"] == "masked-lm"
    model = (AutoModelForMaskedLM if masked else AutoModelForCausalLM).from_config(config, attn_implementation="sdpa")
    model = model.to(device).train()
    ids = torch.from_numpy(np.random.default_rng(0).integers(5, 20_000, (job["rows"], job["length"]), np.int64)).to(
        device
    )
    labels = ids.clone()
    if masked:
        labels.view(-1)[torch.arange(labels.numel()) % 7 != 0] = -100
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5, fused=True)
    forward = torch.compile(model) if job["compiled"] else model

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=job["bf16"]):
            loss = forward(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        loss.item()

    seconds = []
    for _ in range(job["steps"] + 2):
        start = time.perf_counter()
        step()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return {"seconds": statistics.median(seconds[2:]), "compile_seconds": seconds[0]}


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
