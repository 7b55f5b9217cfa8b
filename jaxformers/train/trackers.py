"""Trackers: the callbacks that write a run down. metrics.jsonl is always there; TensorBoard, W&B, the bar, curves."""

import json
import logging
from pathlib import Path
from typing import Any

from jaxformers.train.arguments import TrainingArguments
from jaxformers.train.callbacks import Callback, Progress
from jaxformers.train.folder import folder_of

LOG = logging.getLogger("jaxformers")


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


class WeightsAndBiases(Callback):
    """A run of W&B's, where the package is installed; environment variables (WANDB_PROJECT, WANDB_MODE, …) as W&B has them."""

    _run: Any = None

    def on_train_begin(self, progress: Progress) -> None:
        try:
            import wandb
        except ImportError:
            LOG.warning("nothing goes to W&B: wandb is not installed (pip install wandb)")
            return
        args = progress.args
        settings = {key: str(value) for key, value in vars(args).items() if key != "hub_token"}
        self._run = wandb.init(
            name=args.run_name or args.output_dir, config=settings, dir=folder_of(args.output_dir).here
        )

    def _log(self, prefix: str, progress: Progress, values: dict[str, float]) -> None:
        if self._run is not None:
            named = {prefix + key.removeprefix("eval_"): value for key, value in values.items()}
            self._run.log({**named, "train/epoch": progress.epoch, "train/global_step": progress.step})

    def on_log(self, progress: Progress, logs: dict[str, float]) -> None:
        self._log("train/", progress, logs)

    def on_evaluate(self, progress: Progress, metrics: dict[str, float]) -> None:
        self._log("eval/", progress, metrics)

    def close(self) -> None:
        if self._run is not None:
            self._run.finish()


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


class Curves(Callback):
    """`training.png` in output_dir: the training loss, and each metric of the evaluations, over the steps.

    It is drawn from metrics.jsonl, and so shows all of a run that was interrupted.
    """

    def on_train_end(self, progress: Progress) -> None:
        path = folder_of(progress.args.output_dir).here / "training.png"
        try:
            from matplotlib.figure import Figure
        except ImportError:
            LOG.warning('no %s: matplotlib is not installed (pip install "jaxformers[plot]")', path.name)
            return
        lines = (path.parent / "metrics.jsonl").read_text("utf-8").splitlines()
        curves: dict[str, list[tuple[float, float]]] = {}
        for row in map(json.loads, lines):
            for key, value in row.items():
                if key not in ("step", "epoch", "grad_norm") and isinstance(value, int | float):
                    curves.setdefault(key, []).append((row["step"], value))
        together = {key: [key] for key in curves if key != "eval_loss" or "loss" not in curves}
        if "eval_loss" in curves and "loss" in curves:
            together["loss"].append("eval_loss")
        figure = Figure(figsize=(6, 2.5 * max(len(together), 1)), layout="constrained")
        places = figure.subplots(max(len(together), 1), 1, sharex=True, squeeze=False)[:, 0]
        for axes, names in zip(places, together.values(), strict=False):
            for name in names:
                axes.plot(*zip(*curves[name], strict=True), marker="." if len(curves[name]) < 50 else "", label=name)
            axes.legend()
        places[-1].set_xlabel("step")
        figure.savefig(path, dpi=120)


def trackers_of(args: TrainingArguments) -> list[Callback]:
    """The trackers the arguments ask for, beside metrics.jsonl."""
    found: list[Callback] = []
    if "tensorboard" in args.trackers:
        found.append(TensorBoard(Path(args.logging_dir or folder_of(args.output_dir).here / "runs")))
    if "wandb" in args.trackers:
        found.append(WeightsAndBiases())
    return found if args.disable_tqdm else [*found, ProgressBar()]
