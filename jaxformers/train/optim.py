"""The learning-rate schedule and the optimizer, both Optax's, put together as transformers' Trainer does."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxformers.core.params import Tree
from jaxformers.errors import InputError
from jaxformers.train.arguments import TrainingArguments

Schedule = Callable[[Any], Any]


def make_schedule(args: TrainingArguments, num_training_steps: int | None = None) -> Schedule:
    """The learning rate as a function of the step.

    Args:
      args: `learning_rate`, `lr_scheduler_type`, `warmup_steps`, `warmup_ratio`.
      num_training_steps: all optimizer steps; `args.max_steps` where it is positive and this is None.

    Raises:
      InputError: the schedule needs the number of steps and nothing gives it.

    >>> schedule = make_schedule(TrainingArguments(learning_rate=1.0, warmup_steps=2), 6)
    >>> [round(float(schedule(step)), 3) for step in range(7)]
    [0.0, 0.5, 1.0, 0.75, 0.5, 0.25, 0.0]
    """
    total = num_training_steps if num_training_steps is not None else args.max_steps
    warmup_from_ratio = args.warmup_ratio > 0 and args.warmup_steps == 0
    if total <= 0 and (args.lr_scheduler_type in ("linear", "cosine") or warmup_from_ratio):
        raise InputError("the schedule needs the number of steps: pass num_training_steps, or set max_steps")
    warmup = -(-int(total * args.warmup_ratio * 1_000_000) // 1_000_000) if warmup_from_ratio else args.warmup_steps
    if args.lr_scheduler_type == "constant":
        warmup = 0

    def schedule(step: Any) -> Any:
        step = jnp.asarray(step, jnp.float32)
        rise = step / max(1, warmup)
        left = jnp.maximum(0.0, (total - step) / max(1, total - warmup))
        fall: Any = 1.0
        if args.lr_scheduler_type == "linear":
            fall = left
        elif args.lr_scheduler_type == "cosine":  # half a wave (Loshchilov & Hutter 2017)
            fall = 0.5 * (1.0 + jnp.cos(jnp.pi * (1.0 - left)))
        return args.learning_rate * jnp.where(step < warmup, rise, fall)

    return schedule


def make_optimizer(args: TrainingArguments, schedule: Schedule, decay_mask: Tree) -> optax.GradientTransformation:
    """Clipping by the global norm, then AdamW (Loshchilov & Hutter 2019) without decay where `decay_mask` is False."""
    adamw = optax.adamw(
        schedule,
        b1=args.adam_beta1,
        b2=args.adam_beta2,
        eps=args.adam_epsilon,
        weight_decay=args.weight_decay,
        mask=decay_mask,
    )
    return optax.chain(clip_by_global_norm(args.max_grad_norm), adamw) if args.max_grad_norm else adamw


def clip_by_global_norm(max_norm: float) -> optax.GradientTransformation:
    """Scales updates down to `max_norm`, as PyTorch does.

    Optax's own divides every entry; a product with one number is instead folded by XLA into the loops that use the result,
    which saves writing and reading all gradients once more.
    """

    def update(updates: Any, state: optax.EmptyState, params: Any = None) -> tuple[Any, optax.EmptyState]:
        scale = jnp.minimum(1.0, max_norm / (global_norm(updates) + 1e-6))
        return jax.tree.map(lambda update: update * scale.astype(update.dtype), updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def global_norm(tree: Tree) -> jax.Array:
    """The Euclidean norm of all entries of a tree, in float32."""
    return optax.tree.norm(jax.tree.map(lambda leaf: leaf.astype(jnp.float32), tree))
