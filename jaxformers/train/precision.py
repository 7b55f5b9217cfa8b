"""Computing in 16 bits with float32 masters: the casts, and the dynamic loss scale that float16 needs."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxformers.core.params import STATS, Tree
from jaxformers.train.arguments import TrainingArguments
from jaxformers.train.optim import global_norm

FIRST_SCALE, PATIENCE = 2.0**16, 2000  # PyTorch's: the scale doubles after so many finite steps, and halves at once


def compute_dtype(args: TrainingArguments, *, evaluation: bool = False) -> Any:
    """What the forward pass computes in; None leaves the parameters' own dtype."""
    if evaluation and (args.bf16_full_eval or args.fp16_full_eval):
        return jnp.bfloat16 if args.bf16_full_eval else jnp.float16
    return jnp.bfloat16 if args.bf16 else jnp.float16 if args.fp16 else None


def cast(params: Tree, dtype: Any) -> Tree:
    """The parameters in `dtype`, but for running statistics of batches; gradients flow back to the stored ones."""
    if dtype is None:
        return params
    small: Tree = jax.tree.map(lambda leaf: leaf.astype(dtype), params)
    return small | {STATS: params[STATS]} if STATS in params else small


class LossScale(NamedTuple):
    """What a loss is multiplied with, finite steps since it last changed, and the optimizer's own state."""

    loss_scale: jax.Array
    finite_steps: jax.Array
    inner: Any


def with_loss_scale(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """Leaves a step out whose gradients are not finite, and sets the scale (Micikevicius et al. 2018).

    The gradients it is given are those of the loss itself: the step has divided them by `loss_scale` again.
    """

    def init(params: Tree) -> LossScale:
        return LossScale(jnp.asarray(FIRST_SCALE, jnp.float32), jnp.zeros((), jnp.int32), optimizer.init(params))

    def update(updates: Tree, state: LossScale, params: Tree | None = None) -> tuple[Tree, LossScale]:
        finite = jnp.isfinite(global_norm(updates))
        found, inner = optimizer.update(updates, state.inner, params)
        steps = jnp.where(finite, state.finite_steps + 1, 0)
        grown = jnp.where(steps == PATIENCE, state.loss_scale * 2.0, state.loss_scale)
        scale = jnp.where(finite, grown, jnp.maximum(state.loss_scale / 2.0, 1.0))
        kept = jax.tree.map(lambda new, old: jnp.where(finite, new, old), inner, state.inner)
        none = jax.tree.map(lambda new: jnp.where(finite, new, 0), found)
        return none, LossScale(scale, jnp.where(steps == PATIENCE, 0, steps), kept)

    return optax.GradientTransformation(init, update)
