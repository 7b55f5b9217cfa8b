"""What a run leaves for people: the banner, `all_results.json`, the model card."""

import json
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from jaxformers.checkpoints.lora import AdaptedFamily
from jaxformers.checkpoints.save import write_text
from jaxformers.core import params as core_params
from jaxformers.core.compilation import Compiled
from jaxformers.data import Batches
from jaxformers.families import Model
from jaxformers.train.arguments import TrainingArguments
from jaxformers.train.folder import RESULTS, Folder, folder_of
from jaxformers.train.memory import memory_used

GIB = 2**30
LIBRARIES = ("jaxformers", "jax", "flax", "optax", "orbax-checkpoint", "tokenizers")


def finished(output_dir: str | Path) -> dict[str, Any] | None:
    """The results of the run that ended in `output_dir`, or None where none has."""
    path = folder_of(output_dir).there / RESULTS
    results: dict[str, Any] | None = json.loads(path.read_text("utf-8")) if path.exists() else None
    return results


def banner(
    model: Model, args: TrainingArguments, batches: Batches, batch_size: int, total_steps: int, mesh: Mesh
) -> None:
    """Prints what is about to run."""
    axes = " × ".join(f"{axis} {size}" for axis, size in mesh.shape.items() if size > 1) or "1 device"
    rows = {
        "Num examples": f"{batches.num_examples:,}",
        "Num epochs": f"{total_steps / batches.steps_per_epoch:g}",
        "Batch size per device": args.per_device_train_batch_size,
        "Gradient accumulation steps": args.gradient_accumulation_steps,
        "Total batch size": batch_size,
        "Total optimization steps": f"{total_steps:,}",
        "Lengths padded to": ", ".join(map(str, batches.buckets)),
        "Number of parameters": f"{core_params.count(model.declare()):,}",
        "Devices": f"{mesh.devices.flat[0].platform}, {axes}",
        "Output": args.output_dir,
    }
    print("***** Running training *****", *(f"  {key} = {value}" for key, value in rows.items()), sep="\n", flush=True)


def table(name: str, metrics: Mapping[str, Any]) -> None:
    """Prints numbers under each other."""
    width = max(map(len, metrics))
    rows = [
        f"  {key:<{width}} = {f'{value:.4f}' if isinstance(value, float) else value}"
        for key, value in sorted(metrics.items())
    ]
    print(f"***** {name} metrics *****", *rows, sep="\n", flush=True)


def memory(step: Compiled) -> None:
    """Prints what the compiler said the steps take of a device, beside what was in use at most."""
    used = memory_used()
    said = f"memory: {step.memory() / GIB:.2f} GiB of a device by the compiler's count"
    if "train_mem_device_peak" in used:
        said += f", {used['train_mem_device_peak'] / GIB:.2f} GiB at most in use"
    print(f"{said}; {used['train_mem_host_peak'] / GIB:.2f} GiB at most of this process", flush=True)


def write(
    model: Model,
    args: TrainingArguments,
    metrics: Mapping[str, Any],
    facts: Mapping[str, Any],
    *,
    mesh: Mesh,
    folder: Folder,
) -> None:
    """Writes the model card and then `all_results.json`, the last file of a run."""
    devices = {"device": mesh.devices.flat[0].device_kind, "devices": mesh.size, "jax": jax.__version__}
    results = {**metrics, **facts, **devices, "seed": args.seed}
    write_text(folder.here / "README.md", _card(model, args, metrics, facts, folder.here))
    write_text(folder.here / RESULTS, json.dumps(results, indent=2, sort_keys=True) + "\n")
    folder.send()


def _card(
    model: Model, args: TrainingArguments, metrics: Mapping[str, Any], facts: Mapping[str, Any], output_dir: Path
) -> str:
    hyper = ("learning_rate", "per_device_train_batch_size", "gradient_accumulation_steps", "num_train_epochs", "max_steps",
             "lr_scheduler_type", "warmup_steps", "weight_decay", "max_grad_norm", "bf16", "seed")  # fmt: skip
    timed = ("_runtime", "_per_second")
    scores = [key for key in metrics if key.startswith("eval_") and not key.endswith(timed)]
    table = ["| step | epoch | " + " | ".join(scores) + " |", "|---" * (len(scores) + 2) + "|"]
    lines = (output_dir / "metrics.jsonl").read_text("utf-8").splitlines()
    for row in map(json.loads, lines):
        if any(key in row for key in scores):
            cells = [f"{row[key]:.4f}" if key in row else "" for key in scores]
            table.append(f"| {row['step']} | {row['epoch']:g} | " + " | ".join(cells) + " |")
    name = model.family.architectures[model.head]
    return "\n".join(
        [
            "---",
            "library_name: jaxformers",
            "tags: [jax, jaxformers]",
            "---",
            "",
            f"# {Path(args.output_dir).resolve().name}",
            "",
            f"{name}, started from {facts.get('model', 'random parameters')}, trained on {facts.get('dataset', 'unnamed data')}.",
            "",
            "## Use",
            "",
            "```python",
            "import jaxformers as jf",
            "",
            f'model = jf.load("{args.output_dir}", head={model.head!r})',
            "```",
            "",
            (
                f"It holds a LoRA adapter alone, which PEFT puts on `{name}` of PyTorch transformers."
                if isinstance(model.family, AdaptedFamily)
                else f"PyTorch transformers opens this folder too, as `{name}`."
            ),
            "",
            "## Evaluation",
            "",
            *(table if scores else ["Not evaluated."]),
            "",
            "## Training",
            "",
            *[f"* {key}: {getattr(args, key)}" for key in hyper],
            f"* optimizer: {args.optim} (betas {args.adam_beta1}, {args.adam_beta2}; epsilon {args.adam_epsilon})",
            f"* training loss: {metrics['train_loss']:.4f} over {metrics['global_step']} steps",
            "",
            "## Versions",
            "",
            f"* Python {platform.python_version()}",
            *[f"* {library} {version(library)}" for library in LIBRARIES],
            "",
        ]
    )
