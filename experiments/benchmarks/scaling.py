"""Does a train step's time grow as its arithmetic does, while layers, batch, length and vocabulary double?

    python -m experiments.benchmarks.scaling

A small GPT-2 of random parameters on one device, AdamW, no dropout. All shapes live in one process and are timed in turn, the
best of several rounds. Beside each time stands the arithmetic of the model's matrix products, both as multiples of the smallest
shape's. Writes `scaling.json`. Run it on a quiet machine.
"""

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import tyro

BASE = {"layers": 2, "batch": 8, "length": 128, "vocabulary": 8192}


@dataclasses.dataclass(frozen=True)
class Options:
    """What to measure."""

    width: int = 256
    """Of the model."""
    doublings: int = 2
    """How often each size doubles."""
    rounds: int = 7
    """Steps of each shape that are timed."""
    output: Path = Path("out/benchmarks/scaling.json")
    """Where the figures go."""


def prepare(sizes: dict[str, int], width: int) -> tuple[Any, float]:
    """A function that runs one step, and the step's arithmetic."""
    import jax
    import numpy as np

    import jaxformers as jf
    from jaxformers.parallel.mesh import MeshConfig, make_mesh
    from jaxformers.train import TrainingArguments, make_train_step
    from jaxformers.train.estimate import matmul_flops

    model = jf.load(
        {"model_type": "gpt2", "n_layer": sizes["layers"], "n_embd": width, "n_head": width // 32, "n_positions": 1024,
         "vocab_size": sizes["vocabulary"], "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "bos_token_id": 0,
         "eos_token_id": 0},
        "causal-lm",
    )  # fmt: skip
    mesh = make_mesh(MeshConfig(data=1), jax.devices()[:1])
    step = make_train_step(model, TrainingArguments(max_steps=1000), num_training_steps=1000, mesh=mesh)
    ids = np.random.default_rng(0).integers(0, sizes["vocabulary"], (sizes["batch"], sizes["length"]), np.int32)
    batch = step.put({"input_ids": ids, "labels": ids})
    forward = jax.make_jaxpr(lambda params: model.apply(params, input_ids=batch["input_ids"]).logits)(model.params)
    states = [step.init()]

    def run() -> None:
        state, metrics = step(states.pop(), batch)
        jax.block_until_ready(metrics)
        states.append(state)

    run()
    return run, 3 * matmul_flops(forward.jaxpr)


def main(options: Options) -> None:
    """Measures all shapes and tells."""
    shapes = [BASE] + [
        BASE | {name: size * 2**times} for name, size in BASE.items() for times in range(1, options.doublings + 1)
    ]
    jobs = [prepare(shape, options.width) for shape in shapes]
    best = [float("inf")] * len(jobs)
    for _ in range(options.rounds):
        for number, (run, _) in enumerate(jobs):
            start = time.perf_counter()
            run()
            best[number] = min(best[number], time.perf_counter() - start)
    rows = []
    print(f"{'layers':>6} {'batch':>6} {'length':>6} {'words':>6} {'seconds':>8} {'time':>6} {'arithmetic':>10}")
    for shape, seconds, (_, flops) in zip(shapes, best, jobs, strict=True):
        row = {**shape, "seconds": seconds, "time": seconds / best[0], "arithmetic": flops / jobs[0][1]}
        rows.append(row)
        print(f"{shape['layers']:6} {shape['batch']:6} {shape['length']:6} {shape['vocabulary']:6} {seconds:8.3f} "
              f"{row['time']:6.2f} {row['arithmetic']:10.2f}")  # fmt: skip
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps({"width": options.width, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
