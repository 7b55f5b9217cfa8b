"""What a run remembers of itself: where it stood, and by what a checkpoint is known to be this run's."""

import dataclasses
import json
import logging
import math
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxformers.core.params import leaves
from jaxformers.data import Batches, Table
from jaxformers.errors import InputError, TrainingError
from jaxformers.families import Model
from jaxformers.train.arguments import TrainingArguments
from jaxformers.train.losses import TARGETS

LOG = logging.getLogger("jaxformers")
DECISIVE = ("learning_rate", "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "warmup_ratio", "optim", "optim_args",
            "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm", "label_smoothing_factor",
            "neftune_noise_alpha", "ema_decay", "bf16", "fp16", "seed", "data_seed", "group_by_length",
            "save_only_model")  # fmt: skip


class TrainOutput(NamedTuple):
    """What `fit` gives beside the model.

    Args:
      global_step: optimizer steps done.
      training_loss: mean of all steps' losses.
      metrics: `train_…` and, with an evaluation set, `eval_…` numbers, `compile_seconds`, `compilations`.
    """

    global_step: int
    training_loss: float
    metrics: dict[str, Any]


@dataclasses.dataclass
class Record:
    """What a checkpoint remembers beside the state, so that a resumed run writes what an uninterrupted one writes."""

    step: int = 0
    loss_total: float = 0.0
    loss_since_log: float = 0.0
    steps_since_log: int = 0
    seconds: float = 0.0
    metrics_length: int = 0
    tokens_seen: float = 0.0
    places_seen: int = 0
    data: dict[str, int] = dataclasses.field(default_factory=lambda: {"next_index": 0})
    last_eval: dict[str, float] | None = None
    best_step: int | None = None
    best_value: float | None = None
    callbacks: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    fingerprint: dict[str, Any] = dataclasses.field(default_factory=dict)
    config: dict[str, Any] = dataclasses.field(default_factory=dict)  # the model's config.json, for who opens it alone

    @classmethod
    def begin(
        cls, model: Model, args: TrainingArguments, batches: Batches, total_steps: int, batch_size: int
    ) -> "Record":
        """That of a run before its first step."""
        config = model.family.config_to_hf(model.config, model.family.architectures[model.head])
        return cls(fingerprint=fingerprint(model, args, batches, total_steps, batch_size), config=config)

    def account(self, step: int, metrics: Mapping[str, Any], output_dir: str) -> None:
        """Adds one step's loss. Reading it here, one step late, is the only place where the host waits for the device."""
        loss = float(metrics["loss_sum"]) / max(float(metrics["loss_count"]), 1)
        if not math.isfinite(loss):
            raise TrainingError(
                f"loss is {loss} at step {step} (mean of the {step - 1} steps before: {self.loss_total / max(step - 1, 1):.4g}); "
                f"the learning rate was {float(metrics['learning_rate']):.3g}. Checkpoints in {output_dir} are as they were "
                "before this step"
            )
        self.loss_total += loss
        self.loss_since_log += loss
        self.steps_since_log += 1
        self.tokens_seen += float(metrics.get("tokens", 0))


def fingerprint(
    model: Model, args: TrainingArguments, batches: Batches, total_steps: int, batch_size: int
) -> dict[str, Any]:
    """What must be the same for a checkpoint to be this run's."""
    config = json.loads(json.dumps(dataclasses.asdict(model.config)))  # as a checkpoint gives it back
    config.pop("raw")
    return {
        "total_steps": total_steps,
        "batch_size": batch_size,
        "training examples": batches.num_examples,
        "lengths of the training examples (checksum)": zlib.crc32(batches.lengths.tobytes()),
        "head": model.head,
        "parameters (checksum)": zlib.crc32(
            repr([(*path, param.shape) for path, param in leaves(model.declare())]).encode()
        ),
        **{name: getattr(args, name) for name in DECISIVE},
        **config,
    }


def checksum(data: Any, count: int) -> int:
    """Of what the examples hold: of eight of them, spread over all."""
    if isinstance(data, Batches):
        return zlib.crc32(data.lengths.tobytes())
    rows = np.linspace(0, count - 1, 8).astype(int).tolist()
    return zlib.crc32(repr([sorted(data[row].items()) for row in rows]).encode())


def check_same(found: Mapping[str, Any], expected: Mapping[str, Any], output_dir: str) -> None:
    """Refuses a checkpoint of a run with other arguments, data or model, naming the first difference."""
    for key, value in expected.items():
        if (was := found.get(key)) != value:
            raise InputError(
                f"{output_dir} holds a run with {key}={was!r}, this one has {value!r}: "
                "use another output_dir, or --overwrite-output-dir to start anew"
            )


def used_columns(model: Model, data: Any, args: TrainingArguments) -> Any:
    """`data` without the columns that neither the model nor a loss takes; one line says which."""
    if not isinstance(data, Table) or not args.remove_unused_columns:
        return data
    used = {*model.inputs, *TARGETS, *args.label_names}
    unused = [name for name in data.column_names if name not in used]
    if unused:
        LOG.info(
            "columns of %s that %s does not take are left out: %s", data.name, model.family.name, ", ".join(unused)
        )
    return data.drop(unused) if unused else data


def multiplied(model: Model) -> int:
    """Scalars of the parameters that each token is multiplied with: all but the tables that are looked up, as transformers
    counts them. A step of training takes six operations for each of them and each token (Kaplan et al. 2020)."""
    return sum(
        math.prod(param.shape)
        for _, param in leaves(model.declare())
        if param.axes[-1:] != ("table",) or "lm_head" in param.name or "decoder.weight" in param.name
    )


def due(args: TrainingArguments, step: int, total_steps: int, steps_per_epoch: int, evaluates: bool) -> set[str]:
    """What the strategies ask for after this step: `log`, `evaluate`, `save`. At the last step all three."""
    last = step == total_steps
    epoch_ends = step % steps_per_epoch == 0 or last

    def asked(strategy: str, name: str) -> bool:
        return epoch_ends if strategy == "epoch" else strategy == "steps" and step % args.every(name, total_steps) == 0

    events = set()
    if asked(args.logging_strategy, "logging_steps") or (last and args.logging_strategy != "no"):
        events.add("log")
    if args.logging_first_step and step == 1:
        events.add("log")
    passed = step / steps_per_epoch if args.eval_strategy == "epoch" else step
    if evaluates and (
        (asked(args.eval_strategy, "eval_steps") and passed >= args.eval_delay)
        or (last and args.do_eval and args.eval_strategy != "steps")
    ):
        events.add("evaluate")
    if asked(args.save_strategy, "save_steps") or (last and args.save_strategy != "no"):
        events.add("save")
    return events
