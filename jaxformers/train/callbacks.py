"""Callbacks: what a run tells while it goes on, and the three that are always there (metrics.jsonl, TensorBoard, the bar)."""

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

from jaxformers.train.arguments import TrainingArguments

LOG = logging.getLogger("jaxformers")


@dataclasses.dataclass
class Progress:
    """Where a run stands; what callbacks are handed.

    Args:
      args: the arguments of the run.
      total_steps: optimizer steps in all.
      steps_per_epoch: optimizer steps an epoch.
      step: optimizer steps done.
      stop: a callback sets this to end the run after the current step.
    """

    args: TrainingArguments
    total_steps: int
    steps_per_epoch: int
    step: int = 0
    stop: bool = False

    @property
    def epoch(self) -> float:
        """Epochs done, with a fraction."""
        return self.step / self.steps_per_epoch


class Callback:
    """Override what you want to hear of."""

    def on_train_begin(self, progress: Progress) -> None:
        """Before the first step (of this process: a resumed run begins where it stood)."""

    def on_step_end(self, progress: Progress) -> None:
        """After a step was sent to the device."""

    def on_log(self, progress: Progress, logs: dict[str, float]) -> None:
        """Training loss, gradient norm, learning rate."""

    def on_evaluate(self, progress: Progress, metrics: dict[str, float]) -> None:
        """After an evaluation."""

    def on_save(self, progress: Progress, checkpoint: Path) -> None:
        """After a checkpoint was handed to the writer."""

    def on_train_end(self, progress: Progress) -> None:
        """After the last step."""

    def close(self) -> None:
        """Always, also when the run fails."""


class JsonLines(Callback):
    """`metrics.jsonl`: one line a log or an evaluation. It holds nothing that depends on the clock, so that a run that
    was interrupted and resumed writes the same bytes as one that was not."""

    def __init__(self, path: Path, length: int) -> None:
        """Goes on after the first `length` bytes; what an interrupted run wrote beyond its checkpoint is cut off."""
        self._file = open(path, "a+b")  # noqa: SIM115 (closed in close)
        self._file.truncate(length)
        self._file.seek(0, 2)

    @property
    def length(self) -> int:
        """Bytes written and flushed."""
        self._file.flush()
        return self._file.tell()

    def _write(self, progress: Progress, values: dict[str, float]) -> None:
        line = {"step": progress.step, "epoch": round(progress.epoch, 6), **values}
        self._file.write((json.dumps(line) + "\n").encode())
        self._file.flush()

    def on_log(self, progress: Progress, logs: dict[str, float]) -> None:
        self._write(progress, logs)

    def on_evaluate(self, progress: Progress, metrics: dict[str, float]) -> None:
        timed = ("_runtime", "_per_second")
        self._write(progress, {key: value for key, value in metrics.items() if not key.endswith(timed)})

    def close(self) -> None:
        self._file.close()


class TensorBoard(Callback):
    """TensorBoard events under `logging_dir` (by default `output_dir/runs`)."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._writer: Any = None

    def on_train_begin(self, progress: Progress) -> None:
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            LOG.warning("no TensorBoard events: tensorboardX is not installed")
            return
        self._writer = SummaryWriter(str(self._directory), purge_step=progress.step + 1)

    def _scalars(self, prefix: str, progress: Progress, values: dict[str, float]) -> None:
        if self._writer is not None:
            for key, value in values.items():
                self._writer.add_scalar(prefix + key.removeprefix("eval_"), value, progress.step)

    def on_log(self, progress: Progress, logs: dict[str, float]) -> None:
        self._scalars("train/", progress, logs)

    def on_evaluate(self, progress: Progress, metrics: dict[str, float]) -> None:
        self._scalars("eval/", progress, metrics)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


class ProgressBar(Callback):
    """A tqdm bar, and a line for each log and evaluation."""

    def on_train_begin(self, progress: Progress) -> None:
        from tqdm import tqdm

        self._bar = tqdm(total=progress.total_steps, initial=progress.step, desc="train", unit="step", mininterval=0.5)

    def on_step_end(self, progress: Progress) -> None:
        self._bar.update(1)

    def on_log(self, progress: Progress, logs: dict[str, float]) -> None:
        self._bar.write(_line(progress, logs))
        self._bar.set_postfix_str(f"loss {logs['loss']:.4g}" if "loss" in logs else "", refresh=False)

    def on_evaluate(self, progress: Progress, metrics: dict[str, float]) -> None:
        self._bar.write(_line(progress, metrics))

    def close(self) -> None:
        if hasattr(self, "_bar"):
            self._bar.close()


def _line(progress: Progress, values: dict[str, float]) -> str:
    parts = {"step": progress.step, "epoch": round(progress.epoch, 2), **values}
    return "  ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in parts.items()
    )
