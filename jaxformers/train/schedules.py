"""Learning-rate schedules by transformers' names, as functions of the step; and `Plateau`, which looks at evaluations.

Each is `fall(step, total, warmup, **options)`: the share of the peak rate after the warmup, traced once and so written
with `jnp`. The rise before it is linear from zero, but for the two schedules that say otherwise.
"""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxformers.errors import InputError
from jaxformers.train.arguments import TrainingArguments

Schedule = Callable[[Any], Any]


def make_schedule(args: TrainingArguments, num_training_steps: int | None = None) -> Schedule:
    """The learning rate as a function of the step.

    Args:
      args: `learning_rate`, `lr_scheduler_type`, `lr_scheduler_kwargs`, `warmup_steps`, `warmup_ratio`.
      num_training_steps: all optimizer steps; `args.max_steps` where it is positive and this is None.

    Raises:
      InputError: the schedule needs the number of steps and nothing gives it, or has no option of that name.

    >>> schedule = make_schedule(TrainingArguments(learning_rate=1.0, warmup_steps=2), 6)
    >>> [round(float(schedule(step)), 3) for step in range(7)]
    [0.0, 0.5, 1.0, 0.75, 0.5, 0.25, 0.0]
    """
    name, options = args.lr_scheduler_type, args.scheduler_options
    fall, needs_total = SCHEDULES[name]
    if name == "polynomial":
        options.setdefault("lr_end", 1e-7)
    check_options(f"lr_scheduler_type {name!r}", fall, options)
    total = num_training_steps if num_training_steps is not None else args.max_steps
    if total <= 0 and (needs_total or (0 < args.warmup < 1)):
        raise InputError("the schedule needs the number of steps: pass num_training_steps, or set max_steps")
    warmup = args.warmup_in(total)
    for rate in {"min_lr", "lr_end"}.intersection(options):
        options[rate] /= args.learning_rate or 1.0  # the functions below speak in shares of the peak

    def schedule(step: Any) -> Any:
        return args.learning_rate * fall(jnp.asarray(step, jnp.float32), total, warmup, **options)

    return schedule


def _risen(step: Any, warmup: int, then: Any) -> Any:
    """`then` after a linear rise from zero."""
    return jnp.where(step < warmup, step / max(1, warmup), then)


def _progress(step: Any, total: int, warmup: int) -> Any:
    """The share of the steps after the warmup that is done."""
    return (step - warmup) / max(1, total - warmup)


def _wave(progress: Any, num_cycles: float) -> Any:
    """A cosine from 1; half a cycle ends at 0 (Loshchilov & Hutter 2017)."""
    return 0.5 * (1.0 + jnp.cos(2.0 * jnp.pi * num_cycles * progress))


def constant(step: Any, total: int, warmup: int) -> Any:
    """The peak, at once."""
    return jnp.ones_like(step)


def constant_with_warmup(step: Any, total: int, warmup: int) -> Any:
    """The peak."""
    return _risen(step, warmup, 1.0)


def linear(step: Any, total: int, warmup: int) -> Any:
    """Straight to zero."""
    return _risen(step, warmup, jnp.maximum(0.0, 1.0 - _progress(step, total, warmup)))


def cosine(step: Any, total: int, warmup: int, *, num_cycles: float = 0.5) -> Any:
    """`num_cycles` waves; beyond the last step it stays where it ends."""
    return _risen(step, warmup, _wave(jnp.minimum(1.0, _progress(step, total, warmup)), num_cycles))


def cosine_with_restarts(step: Any, total: int, warmup: int, *, num_cycles: int = 1) -> Any:
    """`num_cycles` half waves, each from the peak to zero."""
    progress = _progress(step, total, warmup)
    fall = jnp.where(progress >= 1.0, 0.0, _wave(num_cycles * progress % 1.0, 0.5))
    return _risen(step, warmup, fall)


def polynomial(step: Any, total: int, warmup: int, *, lr_end: float, power: float = 1.0) -> Any:
    """A power of what is left, down to the rate `lr_end` (1e-7)."""
    left = jnp.maximum(0.0, 1.0 - _progress(step, total, warmup))
    return _risen(step, warmup, lr_end + (1.0 - lr_end) * left**power)


def inverse_sqrt(step: Any, total: int, warmup: int, *, timescale: int | None = None) -> Any:
    """One over the root of the step (Vaswani et al. 2017), slower with a larger `timescale`."""
    scale = timescale or warmup or 10_000
    return _risen(step, warmup, jnp.sqrt(scale / jnp.maximum(step + scale - warmup, 1.0)))


def _lowest(min_lr: float | None, min_lr_rate: float | None) -> float:
    if (min_lr is None) == (min_lr_rate is None):
        raise InputError("this schedule takes one of min_lr and min_lr_rate in lr_scheduler_kwargs")
    return min_lr if min_lr is not None else min_lr_rate  # type: ignore[return-value]


def cosine_with_min_lr(
    step: Any,
    total: int,
    warmup: int,
    *,
    num_cycles: float = 0.5,
    min_lr: float | None = None,
    min_lr_rate: float | None = None,
) -> Any:
    """A wave between the peak and `min_lr` (or that share of the peak, `min_lr_rate`)."""
    low = _lowest(min_lr, min_lr_rate)
    wave = _wave(_progress(step, total, warmup), num_cycles)
    return _risen(step, warmup, low + (1.0 - low) * wave)


def cosine_warmup_with_min_lr(
    step: Any,
    total: int,
    warmup: int,
    *,
    num_cycles: float = 0.5,
    min_lr: float | None = None,
    min_lr_rate: float | None = None,
    warmup_lr_rate: float | None = None,
) -> Any:
    """The same, one step ahead: the first step has a rate above zero, that of `warmup_lr_rate` where it is given."""
    low = _lowest(min_lr, min_lr_rate)
    if warmup_lr_rate is None:
        rise = (step + 1.0) / max(1, warmup)
    else:
        rise = warmup_lr_rate + (1.0 - warmup_lr_rate) * step / max(1, warmup - 1)
    fall = low + (1.0 - low) * _wave((step - warmup + 1.0) / max(1, total - warmup), num_cycles)
    return jnp.where(step < warmup, rise, fall)


_SHAPES: Mapping[str, Callable[[Any, float], Any]] = {  # from 1 to 0
    "linear": lambda progress, cycles: 1.0 - progress,
    "cosine": _wave,
    "1-sqrt": lambda progress, cycles: 1.0 - jnp.sqrt(progress),
}


def warmup_stable_decay(
    step: Any,
    total: int,
    warmup: int,
    *,
    num_decay_steps: int,
    num_stable_steps: int | None = None,
    warmup_type: str = "linear",
    decay_type: str = "cosine",
    min_lr_ratio: float = 0.0,
    num_cycles: float = 0.5,
) -> Any:
    """Up, level, and down over the last `num_decay_steps` (Hu et al. 2024)."""
    for kind in (warmup_type, decay_type):
        if kind not in _SHAPES:
            raise InputError(f"warmup_type and decay_type must be one of {', '.join(_SHAPES)}, found {kind!r}")
    stable = total - warmup - num_decay_steps if num_stable_steps is None else num_stable_steps
    up = jnp.clip(step / max(1, warmup), 0.0, 1.0)
    risen = {"linear": up, "cosine": 0.5 * (1.0 - jnp.cos(jnp.pi * up)), "1-sqrt": 1.0 - jnp.sqrt(1.0 - up)}[
        warmup_type
    ]
    down = jnp.clip((step - warmup - stable) / max(1, num_decay_steps), 0.0, 1.0)
    shape = jnp.where(step < warmup, risen, jnp.where(down < 1.0, _SHAPES[decay_type](down, num_cycles), 0.0))
    return min_lr_ratio + (1.0 - min_lr_ratio) * shape


def reduce_lr_on_plateau(
    step: Any,
    total: int,
    warmup: int,
    *,
    mode: str = "",
    factor: float = 0.1,
    patience: int = 10,
    threshold: float = 1e-4,
    threshold_mode: str = "rel",
    cooldown: int = 0,
    min_lr: float = 0.0,
    eps: float = 1e-8,
) -> Any:
    """The peak; what brings it down are evaluations, and `Plateau` reads the options."""
    return jnp.ones_like(step)


# name -> (the share of the peak, whether it needs the number of steps)
SCHEDULES: Mapping[str, tuple[Callable[..., Any], bool]] = {
    "linear": (linear, True),
    "cosine": (cosine, True),
    "cosine_with_restarts": (cosine_with_restarts, True),
    "polynomial": (polynomial, True),
    "constant": (constant, False),
    "constant_with_warmup": (constant_with_warmup, False),
    "inverse_sqrt": (inverse_sqrt, False),
    "reduce_lr_on_plateau": (reduce_lr_on_plateau, False),
    "cosine_with_min_lr": (cosine_with_min_lr, True),
    "cosine_warmup_with_min_lr": (cosine_warmup_with_min_lr, True),
    "warmup_stable_decay": (warmup_stable_decay, True),
}


def _defaults(function: Callable[..., Any]) -> dict[str, Any]:
    found = inspect.signature(function).parameters.values()
    return {parameter.name: parameter.default for parameter in found if parameter.kind is parameter.KEYWORD_ONLY}


def check_options(owner: str, function: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """Raises `InputError` for an option that is no keyword-only argument of `function`, or a needed one that is not there."""
    known = _defaults(function)
    for name, default in known.items():
        if default is inspect.Parameter.empty and name not in options:
            raise InputError(f"{owner} needs the option {name!r}")
    for name in options:
        if name not in known:
            raise InputError(f"{owner} has no option {name!r}, only {', '.join(known) or 'none'}")


class PlateauState(NamedTuple):
    """Scalars: what the updates are multiplied with, the best value, evaluations since, evaluations to wait."""

    plateau_scale: jax.Array
    best: jax.Array
    bad: jax.Array
    waiting: jax.Array


@dataclasses.dataclass(frozen=True)
class Plateau:
    """Brings the rate down by `factor` after more than `patience` evaluations without a better one, as PyTorch's does.

    Its scale is part of the optimizer's state (`transformation`), where a checkpoint keeps it; `after` is called with it
    after each evaluation.
    """

    args: TrainingArguments

    def transformation(self) -> optax.GradientTransformation:
        """Multiplies updates with the scale."""
        worst = -jnp.inf if self._more_is_better else jnp.inf

        def init(params: Any) -> PlateauState:
            zero = jnp.zeros((), jnp.int32)
            return PlateauState(jnp.ones((), jnp.float32), jnp.asarray(worst, jnp.float32), zero, zero)

        def update(updates: Any, state: PlateauState, params: Any = None) -> tuple[Any, PlateauState]:
            return jax.tree.map(lambda leaf: leaf * state.plateau_scale.astype(leaf.dtype), updates), state

        return optax.GradientTransformation(init, update)

    @property
    def _more_is_better(self) -> bool:
        mode = self.args.scheduler_options.get("mode")
        if mode not in (None, "min", "max"):
            raise InputError(f"mode in lr_scheduler_kwargs must be min or max, found {mode!r}")
        return self.args.more_is_better if mode is None else mode == "max"

    def heed(self, opt_state: Any, value: float) -> Any:
        """The optimizer's state after an evaluation that gave `value`."""
        is_ours = lambda leaf: isinstance(leaf, PlateauState)  # noqa: E731
        return jax.tree.map(lambda leaf: self.after(leaf, value) if is_ours(leaf) else leaf, opt_state, is_leaf=is_ours)

    def after(self, state: PlateauState, value: float) -> PlateauState:
        """The state after an evaluation that gave `value`."""
        options = {**_defaults(reduce_lr_on_plateau), **self.args.scheduler_options}
        scale, best, bad, waiting = (float(leaf) for leaf in state)
        sign, threshold = 1.0 if self._more_is_better else -1.0, options["threshold"]
        if options["threshold_mode"] not in ("rel", "abs"):
            raise InputError(f"threshold_mode must be rel or abs, found {options['threshold_mode']!r}")
        bound = best * (1.0 + sign * threshold) if options["threshold_mode"] == "rel" else best + sign * threshold
        better = sign * value > sign * bound
        best, bad = (value, 0.0) if better else (best, bad + 1)
        if waiting > 0:
            waiting, bad = waiting - 1, 0.0
        if bad > options["patience"]:
            old = self.args.learning_rate * scale
            new = max(old * options["factor"], options["min_lr"])
            scale = new / self.args.learning_rate if old - new > options["eps"] else scale
            waiting, bad = options["cooldown"], 0.0
        found = zip((scale, best, bad, waiting), state, strict=True)
        return PlateauState(*(jax.device_put(np.asarray(new, leaf.dtype), leaf.sharding) for new, leaf in found))
