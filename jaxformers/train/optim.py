"""The optimizers by transformers' names, put together from Optax as transformers' Trainer does with PyTorch's.

What looks at a matrix as a whole (Adafactor, LAMB, Muon) sees the matrices of the Hugging Face checkpoint, one a layer:
our arrays stack the layers and split the heads, and the declarations say how.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxformers.checkpoints.mapping import is_stacked, letters_of
from jaxformers.core.params import Param, Tree, decay_mask, leaves
from jaxformers.train.arguments import TrainingArguments
from jaxformers.train.schedules import Plateau, Schedule, check_options

Axes = tuple[int, ...]


def make_optimizer(args: TrainingArguments, schedule: Schedule, declared: Tree) -> optax.GradientTransformation:
    """Clipping by the global norm, then the optimizer `args.optim` with `args.optim_args`.

    Args:
      args: the optimizer and its settings.
      schedule: step -> learning rate.
      declared: the declarations of the parameters; biases and norms have no weight decay.

    Raises:
      InputError: the optimizer has no option of that name.
    """
    make, options = OPTIMIZERS[args.optim], args.optimizer_options
    check_options(f"optim {args.optim!r}", make, options)
    parts = [make(args, schedule, declared, **options)]
    if args.max_grad_norm:
        parts.insert(0, clip_by_global_norm(args.max_grad_norm))
    if args.lr_scheduler_type == "reduce_lr_on_plateau":
        parts.append(Plateau(args).transformation())
    return optax.chain(*parts) if len(parts) > 1 else parts[0]


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


# -- what a parameter looks like in its checkpoint ---------------------------------------------------------------------


class Matrix(NamedTuple):
    """Which axes of our array make the rows and the columns of a checkpoint's matrix, and which make one tensor of it."""

    rows: Axes
    columns: Axes
    tensor: Axes


def matrix_of(param: Param) -> Matrix:
    """Rows and columns are empty where the checkpoint holds a vector; of more than two axes they are the last two.

    >>> matrix_of(Param((2, 64, 4, 16), ("layers", "embed", "heads", "head_size"), None, "{}.q", "(h k) d -> d h k"))
    Matrix(rows=(2, 3), columns=(1,), tensor=(1, 2, 3))
    """
    first = int(is_stacked(param))
    tensor = tuple(range(first, len(param.shape)))
    theirs, ours = letters_of(param)
    if len(theirs) < 2:
        return Matrix((), (), tensor)
    rows, columns = (tuple(sorted(first + ours.index(letter) for letter in group)) for group in theirs[-2:])
    return Matrix(rows, columns, tensor)


# -- the optimizers ----------------------------------------------------------------------------------------------------


def adamw(args: TrainingArguments, schedule: Schedule, declared: Tree) -> optax.GradientTransformation:
    """Loshchilov & Hutter 2019."""
    return optax.adamw(
        schedule,
        b1=args.adam_beta1,
        b2=args.adam_beta2,
        eps=args.adam_epsilon,
        weight_decay=args.weight_decay,
        mask=decay_mask(declared),
    )


def _coupled(
    args: TrainingArguments, schedule: Schedule, declared: Tree, scale: optax.GradientTransformation
) -> optax.GradientTransformation:
    """PyTorch's older optimizers add decay to the gradient, before it is scaled."""
    decay = [optax.add_decayed_weights(args.weight_decay, decay_mask(declared))] if args.weight_decay else []
    return optax.chain(*decay, scale, optax.scale_by_learning_rate(schedule))


def sgd(
    args: TrainingArguments, schedule: Schedule, declared: Tree, *, momentum: float = 0.0, nesterov: bool = False
) -> optax.GradientTransformation:
    """Gradient descent, with momentum where it is asked for."""
    scale = optax.trace(momentum, nesterov) if momentum else optax.identity()
    return _coupled(args, schedule, declared, scale)


def adagrad(
    args: TrainingArguments,
    schedule: Schedule,
    declared: Tree,
    *,
    eps: float = 1e-10,
    initial_accumulator_value: float = 0.0,
) -> optax.GradientTransformation:
    """Duchi et al. 2011."""
    scale = optax.scale_by_rss(initial_accumulator_value, eps**2)  # Optax adds its epsilon under the root
    return _coupled(args, schedule, declared, scale)


def rmsprop(
    args: TrainingArguments,
    schedule: Schedule,
    declared: Tree,
    *,
    alpha: float = 0.99,
    eps: float = 1e-8,
    momentum: float = 0.0,
    centered: bool = False,
) -> optax.GradientTransformation:
    """Hinton 2012."""
    by = optax.scale_by_stddev if centered else optax.scale_by_rms
    scale = by(alpha, eps, eps_in_sqrt=False)
    if momentum:
        scale = optax.chain(scale, optax.trace(momentum))
    return _coupled(args, schedule, declared, scale)


def lion(args: TrainingArguments, schedule: Schedule, declared: Tree) -> optax.GradientTransformation:
    """Chen et al. 2023; `adam_beta1` and `adam_beta2` are its betas."""
    return optax.lion(
        schedule, b1=args.adam_beta1, b2=args.adam_beta2, weight_decay=args.weight_decay, mask=decay_mask(declared)
    )


def lamb(args: TrainingArguments, schedule: Schedule, declared: Tree) -> optax.GradientTransformation:
    """You et al. 2020: Adam's step of each tensor of the checkpoint, as long as the tensor is."""

    def trusted(update: jax.Array, leaf: jax.Array, param: Param) -> jax.Array:
        axes = matrix_of(param).tensor
        length, step = (
            jnp.sqrt(jnp.square(array).sum(axes, keepdims=True, dtype=jnp.float32)) for array in (leaf, update)
        )
        ratio = jnp.where((length > 0) & (step > 0), length / jnp.where(step > 0, step, 1.0), 1.0)
        return update * ratio.astype(update.dtype)

    return optax.chain(
        optax.scale_by_adam(args.adam_beta1, args.adam_beta2, args.adam_epsilon),
        optax.add_decayed_weights(args.weight_decay, decay_mask(declared)),
        optax.stateless(lambda updates, params: _each(trusted, declared, updates, params)),
        optax.scale_by_learning_rate(schedule),
    )


def muon(
    args: TrainingArguments, schedule: Schedule, declared: Tree, *, momentum: float = 0.95, ns_steps: int = 5
) -> optax.GradientTransformation:
    """Jordan et al. 2024 for the matrices of the layers, AdamW for all else (embeddings, heads, biases, norms).

    Updates are as large as AdamW's (0.2 a entry, Liu et al. 2025), so that one learning rate serves both.
    """

    def orthogonal(momentum: jax.Array, leaf: jax.Array, param: Param) -> jax.Array:
        rows, columns, _ = matrix_of(param)
        order = [axis for axis in range(momentum.ndim) if axis not in (*rows, *columns)] + [*rows, *columns]
        moved = momentum.transpose(order)
        height, width = (math.prod(param.shape[axis] for axis in axes) for axes in (rows, columns))
        found = _orthogonalise(moved.reshape(-1, height, width), ns_steps).reshape(moved.shape)
        return 0.2 * math.sqrt(max(height, width)) * found.transpose([order.index(axis) for axis in range(len(order))])

    def which(param: Param) -> str:
        return "muon" if is_stacked(param) and param.decay and matrix_of(param).rows else "adamw"

    matrices = optax.chain(
        optax.trace(momentum, nesterov=True),
        optax.stateless(lambda updates, params: _each(orthogonal, declared, updates, params)),
        optax.add_decayed_weights(args.weight_decay),
        optax.scale_by_learning_rate(schedule),
    )
    parts = {"muon": matrices, "adamw": adamw(args, schedule, declared)}
    return optax.partition(parts, lambda params: _each(lambda leaf, param: which(param), declared, params))


def _orthogonalise(x_NRC: jax.Array, steps: int) -> jax.Array:
    """Brings the singular values of each matrix near 1, by an odd polynomial that is steepest at zero (Newton-Schulz)."""
    wide_NRC = x_NRC if x_NRC.shape[1] <= x_NRC.shape[2] else x_NRC.mT
    wide_NRC = wide_NRC / (jnp.sqrt(jnp.square(wide_NRC).sum((1, 2), keepdims=True)) + 1e-7)
    for _ in range(steps):
        a_NRR = wide_NRC @ wide_NRC.mT
        wide_NRC = 3.4445 * wide_NRC + (-4.7750 * a_NRR + 2.0315 * a_NRR @ a_NRR) @ wide_NRC
    return wide_NRC if x_NRC.shape[1] <= x_NRC.shape[2] else wide_NRC.mT


class AdafactorState(NamedTuple):
    """Steps done; means of squared gradients over columns and over rows (of vectors whole, and 0); means of gradients."""

    steps: jax.Array
    rows: Tree
    columns: Tree
    mean: Tree | None


def adafactor(
    args: TrainingArguments,
    schedule: Schedule,
    declared: Tree,
    *,
    eps: float = 1e-30,
    eps_scale: float = 1e-3,
    clip_threshold: float = 1.0,
    decay_rate: float = -0.8,
    beta1: float | None = None,
    scale_parameter: bool = False,
) -> optax.GradientTransformation:
    """Shazeer & Stern 2018, with the learning rate of the schedule, as the Trainer calls it.

    Optax's own chooses what to factor by size and factors our arrays, not the checkpoint's matrices.

    Args:
      args: `weight_decay`; else as for `make_optimizer`.
      schedule: step -> learning rate.
      declared: the declarations of the parameters.
      eps: added to squared gradients.
      eps_scale: the least size of a parameter, with `scale_parameter`.
      clip_threshold: a tensor's update has at most this root mean square.
      decay_rate: the second moment's decay is `1 - step ** decay_rate`.
      beta1: the first moment's decay; None keeps none.
      scale_parameter: whether the learning rate is relative to a tensor's root mean square.
    """

    def init(params: Tree) -> AdafactorState:
        def row(leaf: jax.Array, param: Param) -> jax.Array:  # of a vector: all of it
            return jnp.zeros(_without(matrix_of(param).columns, leaf.shape), jnp.float32)

        def column(leaf: jax.Array, param: Param) -> jax.Array:
            rows = matrix_of(param).rows
            return jnp.zeros(_without(rows, leaf.shape) if rows else (), jnp.float32)

        mean = None if beta1 is None else jax.tree.map(jnp.zeros_like, params)
        zero = jnp.zeros((), jnp.int32)
        return AdafactorState(zero, _each(row, declared, params), _each(column, declared, params), mean)

    def rms(array: jax.Array, axes: Axes) -> jax.Array:
        return jnp.sqrt(jnp.square(array).mean(axes, keepdims=True))

    def update(updates: Tree, state: AdafactorState, params: Any = None) -> tuple[Tree, AdafactorState]:
        decay = 1.0 - (state.steps + 1).astype(jnp.float32) ** decay_rate
        rate = schedule(state.steps)

        def one(gradient: jax.Array, row: jax.Array, column: jax.Array, leaf: jax.Array, param: Param) -> Any:
            gradient, matrix = gradient.astype(jnp.float32), matrix_of(param)
            square = jnp.square(gradient) + eps
            row = decay * row + (1.0 - decay) * square.mean(matrix.columns, keepdims=True)
            step = gradient
            if matrix.rows:
                column = decay * column + (1.0 - decay) * square.mean(matrix.rows, keepdims=True)
                step *= jax.lax.rsqrt(row / row.mean(matrix.rows, keepdims=True)) * jax.lax.rsqrt(column)
            else:
                step *= jax.lax.rsqrt(row)
            step /= jnp.maximum(1.0, rms(step, matrix.tensor) / clip_threshold)
            size = jnp.maximum(eps_scale, rms(leaf, matrix.tensor)) if scale_parameter else 1.0
            return step * (rate * size), leaf * (rate * size * args.weight_decay * param.decay), row, column

        found = _each(one, declared, updates, state.rows, state.columns, params)
        steps, fade, rows, columns = (jax.tree.map(lambda _, all, n=n: all[n], updates, found) for n in range(4))
        mean = state.mean
        if mean is not None and beta1 is not None:
            mean = steps = jax.tree.map(lambda old, new: beta1 * old + (1.0 - beta1) * new, mean, steps)
        down = jax.tree.map(lambda step, less, leaf: -(step + less).astype(leaf.dtype), steps, fade, updates)
        return down, AdafactorState(state.steps + 1, rows, columns, mean)

    return optax.GradientTransformation(init, update)


def _without(axes: Axes, shape: tuple[int, ...]) -> list[int]:
    return [1 if axis in axes else size for axis, size in enumerate(shape)]


def _each(function: Callable[..., Any], declared: Tree, *trees: Tree) -> Tree:
    """`function(leaf of each tree…, Param)` for each parameter there is: frozen ones may be missing from the trees."""
    params = dict(leaves(declared))
    return jax.tree_util.tree_map_with_path(
        lambda path, *found: function(*found, params[tuple(key.key for key in path)]), *trees
    )


OPTIMIZERS: Mapping[str, Callable[..., optax.GradientTransformation]] = {
    "adamw": adamw,
    "adafactor": adafactor,
    "sgd": sgd,
    "adagrad": adagrad,
    "rmsprop": rmsprop,
    "lion": lion,
    "lamb": lamb,
    "muon": muon,
}
