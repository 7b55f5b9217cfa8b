"""Callbacks: what a run tells while it goes on, what they may ask of it, early stopping and a window for the profiler.

Those that write a run down are in `trackers.py`.
"""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jaxformers.errors import InputError
from jaxformers.train.arguments import TrainingArguments
from jaxformers.train.folder import folder_of

ASKABLE = ("log", "evaluate", "save")


@dataclasses.dataclass
class Progress:
    """Where a run stands; what callbacks are handed.

    Args:
      args: the arguments of the run.
      total_steps: optimizer steps in all.
      steps_per_epoch: optimizer steps an epoch.
      step: optimizer steps done.
      stop: a callback sets this to end the run after the current step.
      best_step: the step of the best evaluation so far.
      best_value: its deciding metric.
      asked: what callbacks have asked for after the current step.
    """

    args: TrainingArguments
    total_steps: int
    steps_per_epoch: int
    step: int = 0
    stop: bool = False
    best_step: int | None = None
    best_value: float | None = None
    asked: set[str] = dataclasses.field(default_factory=set)

    @property
    def epoch(self) -> float:
        """Epochs done, with a fraction."""
        return self.step / self.steps_per_epoch

    def ask(self, what: str) -> None:
        """Asks for a `log`, an evaluation (`evaluate`) or a `save` after this step, beside those that are due."""
        if what not in ASKABLE:
            raise InputError(f"a callback may ask for {', '.join(ASKABLE)}, found {what!r}")
        self.asked.add(what)


class Callback:
    """Override what you want to hear of.

    TrainerCallback's events, but for `on_substep_end`, `on_pre_optimizer_step` and `on_optimizer_step`: these moments are
    inside the compiled step.
    """

    def on_init_end(self, progress: Progress) -> None:
        """When the run is set up, before anything is compiled."""

    def on_train_begin(self, progress: Progress) -> None:
        """Before the first step (of this process: a resumed run begins where it stood)."""

    def on_epoch_begin(self, progress: Progress) -> None:
        """Before the first step of an epoch."""

    def on_step_begin(self, progress: Progress) -> None:
        """Before a step is sent to the device."""

    def on_step_end(self, progress: Progress) -> None:
        """After a step was sent to the device."""

    def on_epoch_end(self, progress: Progress) -> None:
        """After the last step of an epoch, before what is due then."""

    def on_log(self, progress: Progress, logs: dict[str, float]) -> None:
        """Training loss, gradient norm, learning rate."""

    def on_prediction_step(self, progress: Progress) -> None:
        """After each batch of an evaluation or a prediction."""

    def on_evaluate(self, progress: Progress, metrics: dict[str, float]) -> None:
        """After an evaluation."""

    def on_predict(self, progress: Progress, metrics: dict[str, float]) -> None:
        """After `predict`."""

    def on_save(self, progress: Progress, checkpoint: Path) -> None:
        """After a checkpoint was handed to the writer."""

    def on_push_begin(self, progress: Progress) -> None:
        """Before an upload to the hub."""

    def on_train_end(self, progress: Progress) -> None:
        """After the last step."""

    def close(self) -> None:
        """Always, also when the run fails."""

    def state(self) -> dict[str, Any]:
        """What a checkpoint is to remember, as plain JSON."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """What `state` gave, when a run is resumed."""


INSIDE = ("on_substep_end", "on_pre_optimizer_step", "on_optimizer_step")


def checked(callbacks: Iterable[Callback]) -> list[Callback]:
    """The callbacks, instances all, none of which waits for an event that never comes."""
    found = [each() if isinstance(each, type) else each for each in callbacks]
    for callback in found:
        name = type(callback).__name__
        if not isinstance(callback, Callback):
            raise InputError(f"callbacks must be instances of jaxformers.train.Callback, found {name}")
        for event in dir(callback):
            if event in INSIDE:
                raise InputError(f"{name}.{event} would never be called: that moment is inside the compiled step")
            if event.startswith("on_") and not hasattr(Callback, event):
                raise InputError(f"{name}.{event}: there is no such event; see jaxformers.train.Callback")
    return found


class EarlyStopping(Callback):
    """Ends a run when the deciding metric (`metric_for_best_model`) has not got better for `patience` evaluations.

    Args:
      patience: evaluations that may pass so.
      threshold: by how much a value must be better to count.
    """

    def __init__(self, patience: int = 1, threshold: float = 0.0) -> None:
        self.patience, self.threshold = patience, threshold
        self.best: float | None = None
        self.waited = 0

    def on_train_begin(self, progress: Progress) -> None:
        if progress.args.eval_strategy == "no":
            raise InputError("EarlyStopping needs evaluations while training: set eval_strategy")
        progress.stop = self.waited >= self.patience  # as a resumed run may find it

    def on_evaluate(self, progress: Progress, metrics: dict[str, float]) -> None:
        name = progress.args.best_metric
        if name not in metrics:
            raise InputError(f"metric_for_best_model {name!r} is not among the metrics {', '.join(sorted(metrics))}")
        value, sign = metrics[name], 1 if progress.args.more_is_better else -1
        if self.best is None or sign * (value - self.best) > self.threshold:
            self.best, self.waited = value, 0
        else:
            self.waited += 1
        progress.stop = progress.stop or self.waited >= self.patience

    def state(self) -> dict[str, Any]:
        return {"best": self.best, "waited": self.waited}

    def restore(self, state: dict[str, Any]) -> None:
        self.best, self.waited = state["best"], state["waited"]


class Profile(Callback):
    """A trace of some steps under `output_dir/profile`, for xprof (`pip install xprof; xprof out/profile`) or Perfetto.

    Args:
      start: the first step that is traced, counted from the start of this process: the first ones warm up.
      steps: how many.
    """

    def __init__(self, start: int = 3, steps: int = 3) -> None:
        self.start, self.steps = start, steps
        self._seen, self._running = 0, False

    def on_step_begin(self, progress: Progress) -> None:
        import jax

        self._seen += 1
        if self._seen == self.start:
            jax.profiler.start_trace(folder_of(progress.args.output_dir).here / "profile")
            self._running = True

    def on_step_end(self, progress: Progress) -> None:
        if self._seen == self.start + self.steps - 1:
            self.close()

    def close(self) -> None:
        import jax

        if self._running:
            self._running = False
            jax.effects_barrier()
            jax.profiler.stop_trace()
