"""Pretraining steps of published shapes beside PyTorch transformers: tokens a second, and the share of the machine's matrix rate.

    python -m experiments.benchmarks.pretrain --shapes bert-base gpt2 --rounds 3

Random parameters, random words, AdamW, clipping, no dropout; the same shapes, batch, dtype and threads on both sides, each in a
process of its own, in turn. PyTorch runs with its fused attention, as it comes and with its forward pass compiled by
torch.compile (`--no-peer-compiled` leaves that out). A step's time is the median of several after the first two, which compile
and are told apart. MFU is the arithmetic of the model's matrix products, three times that of a forward pass, over the rate of one
large product of the same dtype, measured in the same run. Needs the [parity] extra. Run it on a quiet machine.
"""

import dataclasses
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import tyro

from experiments.benchmarks.finetune import bare

STILL = {
    "bert": {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
    "gpt2": {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
    "llama": {},
}
SHAPES: dict[str, tuple[str, dict[str, Any], int, int]] = {  # head, config, rows, length
    "bert-base": ("masked-lm", {"model_type": "bert"}, 8, 128),
    "bert-large": (
        "masked-lm",
        {"model_type": "bert", "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16,
         "intermediate_size": 4096}, 8, 512,
    ),
    "gpt2": ("causal-lm", {"model_type": "gpt2"}, 2, 512),
    "gpt2-medium": ("causal-lm", {"model_type": "gpt2", "n_embd": 1024, "n_layer": 24, "n_head": 16}, 8, 1024),
    "llama-1b": (
        "causal-lm",
        {"model_type": "llama", "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
         "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 32000, "max_position_embeddings": 2048}, 4, 2048,
    ),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Options:
    """What to measure."""

    shapes: tuple[str, ...] = ("bert-base", "gpt2")
    """Rows of `SHAPES`."""
    rows: int | None = None
    """Texts a step, in place of the shape's."""
    length: int | None = None
    """Tokens a text, in place of the shape's."""
    bf16: bool = False
    """bfloat16 products, on both sides."""
    steps: int = 5
    """Steps that are timed, in each process."""
    rounds: int = 3
    """Processes of each side."""
    peer_compiled: bool = True
    """Also PyTorch by torch.compile."""
    output: Path = Path("out/benchmarks/pretrain.json")
    """Where the figures go."""


def ours(job: dict[str, Any]) -> dict[str, Any]:
    """Our side of one shape: seconds of a step, of compiling, the model's arithmetic and the machine's matrix rate."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    import jaxformers as jf
    from jaxformers.parallel.mesh import MeshConfig, make_mesh
    from jaxformers.train import TrainingArguments, make_train_step
    from jaxformers.train.estimate import matmul_flops

    model = jf.load(job["config"], job["head"])
    mesh = make_mesh(MeshConfig(data=1), jax.devices()[:1])
    step = make_train_step(
        model, TrainingArguments(bf16=job["bf16"], max_steps=1000), num_training_steps=1000, mesh=mesh
    )
    draw = np.random.default_rng(0)
    ids = draw.integers(5, 20_000, (job["rows"], job["length"]), np.int32)
    batch = step.put({"input_ids": ids, "attention_mask": np.ones_like(ids), "labels": labels_of(ids, job["head"])})
    given = {name: batch[name] for name in ("input_ids", "attention_mask")}
    forward = jax.make_jaxpr(lambda params: model.apply(params, **given).logits)(model.params)
    state = step.init()
    state, metrics = step(state, batch)
    seconds = []
    for _ in range(job["steps"] + 1):
        start = time.perf_counter()
        state, metrics = step(state, batch)
        jax.block_until_ready(metrics)
        seconds.append(time.perf_counter() - start)
    x = jnp.ones(
        (2048, 2048) if jax.default_backend() == "cpu" else (8192, 8192), jnp.bfloat16 if job["bf16"] else None
    )
    product = jax.jit(lambda x: x @ x)
    product(x).block_until_ready()
    rates = []
    for _ in range(10):
        start = time.perf_counter()
        product(x).block_until_ready()
        rates.append(2 * len(x) ** 3 / (time.perf_counter() - start))
    return {"seconds": statistics.median(seconds[1:]), "compile_seconds": step.seconds, "device": jax.devices()[0].device_kind,
            "flops": 3 * matmul_flops(forward.jaxpr), "rate": max(rates)}  # fmt: skip


def labels_of(ids: Any, head: str) -> Any:
    """Every word where the next is predicted; of masked ones every seventh."""
    labels = ids.copy()
    if head == "masked-lm":
        labels.reshape(-1)[[n for n in range(labels.size) if n % 7]] = -100
    return labels


def run(who: str, job: dict[str, Any]) -> dict[str, Any]:
    """One process."""
    command = [sys.executable, "-m", "experiments.benchmarks.pretrain", "side", json.dumps(job)]
    if who != "jaxformers":
        command = [sys.executable, str(Path(__file__).with_name("pretrain_peer.py")), json.dumps(job)]
    done = subprocess.run(command, env=bare(), capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{who} failed:\n{done.stderr[-4000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main(options: Options) -> None:
    """Runs both sides and tells."""
    sides = {"jaxformers": {}, "PyTorch": {"compiled": False}, "PyTorch, compiled": {"compiled": True}}
    found: list[dict[str, Any]] = []
    for shape in options.shapes:
        head, config, rows, length = SHAPES[shape]
        job: dict[str, Any] = {
            "shape": shape, "head": head, "config": config | STILL[config["model_type"]], "rows": options.rows or rows,
            "length": options.length or length, "bf16": options.bf16, "steps": options.steps,
        }  # fmt: skip
        runs: dict[str, list[dict[str, Any]]] = {}
        for _ in range(options.rounds):
            for who, more in sides.items():
                if options.peer_compiled or not more.get("compiled"):
                    runs.setdefault(who, []).append(run(who, job | more))
        flops = runs["jaxformers"][0]["flops"]
        rate = max(each["rate"] for each in runs["jaxformers"])
        ours_seconds = statistics.median(each["seconds"] for each in runs["jaxformers"])
        print(f"{shape}: {job['rows']} x {job['length']} tokens, {flops / 1e9:.0f} GFLOP a step, one product "
              f"{rate / 1e9:.0f} GFLOP/s ({runs['jaxformers'][0]['device']})")  # fmt: skip
        for who, each in runs.items():
            seconds = statistics.median(one["seconds"] for one in each)
            compiling = statistics.median(one["compile_seconds"] for one in each)
            print(f"  {who:18} {job['rows'] * job['length'] / seconds:9.0f} tokens/s  MFU {flops / seconds / rate:.0%}  "
                  f"first call {compiling:5.1f} s  ours is {seconds / ours_seconds:.2f} times as fast")  # fmt: skip
        found.append({**job, "runs": runs})
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["side"]:
        print(json.dumps(ours(json.loads(sys.argv[2]))))
    else:
        main(tyro.cli(Options, description=__doc__))
