"""`fit`: the whole of a training run. State and step are `state.py` and `step.py`; nothing here is out of their users' reach.

A run can be killed at any moment: rerun with the same arguments, it goes on from its newest readable checkpoint and ends
with the same parameters, optimizer state, data position and metrics.jsonl as if nothing had happened.
"""

import contextlib
import dataclasses
import json
import logging
import math
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from jaxformers.checkpoints.save import save
from jaxformers.core import params as core_params
from jaxformers.core.compilation import enable_cache
from jaxformers.data import Table, iterate
from jaxformers.data.loader import Collator
from jaxformers.errors import InputError, TrainingError
from jaxformers.families import Model
from jaxformers.parallel.distributed import agree
from jaxformers.parallel.mesh import make_mesh
from jaxformers.train import report
from jaxformers.train.arguments import TrainingArguments
from jaxformers.train.callbacks import Callback, JsonLines, Progress, ProgressBar, TensorBoard
from jaxformers.train.checkpoint import Checkpoints
from jaxformers.train.evaluation import (
    TRAIN_BUCKETS,
    ComputeMetrics,
    Evaluator,
    make_batches,
    make_evaluator,
    one_of_each_shape,
    own_lengths,
)
from jaxformers.train.folder import folder_of
from jaxformers.train.guard import interruptions, locked
from jaxformers.train.losses import TARGETS, LossFn
from jaxformers.train.optim import Schedule
from jaxformers.train.state import TrainState
from jaxformers.train.step import TrainStep, make_train_step, places_here

LOG = logging.getLogger("jaxformers")
Export = Callable[[Model, Any, Any], Any]
_UNENDING = 2**31  # epochs: how many are run is decided by the number of steps


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


def fit(
    model: Model,
    args: TrainingArguments,
    *,
    train: Any,
    eval: Any = None,
    tokenizer: Any = None,
    loss_fn: LossFn | None = None,
    compute_metrics: ComputeMetrics | None = None,
    callbacks: Sequence[Callback] = (),
    optimizer: optax.GradientTransformation | None = None,
    schedule: Schedule | None = None,
    mesh: Mesh | None = None,
    data_collator: Collator | None = None,
    export: Export = save,
    facts: Mapping[str, Any] | None = None,
) -> tuple[Model, TrainOutput]:
    """Trains `model`, evaluates, saves, resumes, exports.

    Args:
      model: what to train.
      args: how.
      train: examples: a `Table` or a sequence of dicts with `input_ids`, `labels`, ….
      eval: examples to evaluate on, in the same form; or a dict of several sets, told under `eval_NAME_…`.
      tokenizer: saved beside the model; gives the padding id.
      loss_fn: `(output, batch) -> (sum, count)`; the head's own by default.
      compute_metrics: from `EvalPrediction` to numbers.
      callbacks: told of every step, log, evaluation and save.
      optimizer: any Optax transformation; clipping and AdamW by default.
      schedule: step -> learning rate.
      mesh: where it runs; all devices data-parallel by default.
      data_collator: `collator(batch, generators) -> batch`, done to each batch on the host: masking, augmentation. There is one
        numpy generator a row (`data.Batches`); an evaluation draws the same each time.
      export: `export(model, directory, tokenizer)` writes the final model; the Hugging Face layout by default.
      facts: what to add to `all_results.json` and the model card, such as `{"dataset": …, "model": …}`.

    Returns:
      The trained model, and what happened. On disk in `args.output_dir`: the model in Hugging Face layout, `checkpoints/`,
      `metrics.jsonl`, `runs/`, the model card, `all_results.json`.

    Raises:
      InputError: arguments, data or an earlier run in `output_dir` do not fit.
      TrainingError: the loss is not finite, or a checkpoint could not be written or read.
    """
    enable_cache()
    mesh = make_mesh() if mesh is None else mesh
    folder = folder_of(args.output_dir)
    with contextlib.ExitStack() as stack:
        stack.enter_context(locked(folder.here))
        if args.overwrite_output_dir and jax.process_index() == 0:
            folder.clear()
        agree({"output_dir": args.output_dir})  # and none goes on before the first has made it ready
        run = _Run(
            model, args, train, eval, tokenizer, loss_fn, compute_metrics, optimizer, schedule, mesh, data_collator
        )
        checkpoints = stack.enter_context(Checkpoints(folder.checkpoints, args.save_total_limit))
        trained = run.train(checkpoints, callbacks, stack)
        result = run.finish(trained, export, dict(facts or {}))
    return trained, result


@dataclasses.dataclass
class _Record:
    """What a checkpoint remembers beside the state, so that a resumed run writes what an uninterrupted one writes."""

    step: int = 0
    loss_total: float = 0.0
    loss_since_log: float = 0.0
    steps_since_log: int = 0
    seconds: float = 0.0
    metrics_length: int = 0
    data: dict[str, int] = dataclasses.field(default_factory=lambda: {"next_index": 0})
    last_eval: dict[str, float] | None = None
    best_step: int | None = None
    best_value: float | None = None
    fingerprint: dict[str, Any] = dataclasses.field(default_factory=dict)


class _Run:
    def __init__(
        self,
        model: Model,
        args: TrainingArguments,
        train: Any,
        eval: Any,
        tokenizer: Any,
        loss_fn: LossFn | None,
        compute_metrics: ComputeMetrics | None,
        optimizer: optax.GradientTransformation | None,
        schedule: Schedule | None,
        mesh: Mesh,
        collator: Collator | None,
    ) -> None:
        self.model, self.args, self.tokenizer, self.mesh = model, args, tokenizer, mesh
        pad = {} if getattr(tokenizer, "pad_token_id", None) is None else {"input_ids": tokenizer.pad_token_id}
        train = _used_columns(model, train)
        self.examples = train
        self.members = mesh.shape["data"] * mesh.shape["fsdp"]
        self.batch_size = args.per_device_train_batch_size * self.members * args.gradient_accumulation_steps
        self.batches = make_batches(
            train,
            TRAIN_BUCKETS,
            own_lengths=own_lengths(model),
            batch_size=self.batch_size,
            num_epochs=_UNENDING,
            seed=args.seed,
            shuffle=True,
            group_by_length=args.group_by_length,
            drop_last=args.dataloader_drop_last,
            pad_values=pad,
            places=places_here(mesh, self.batch_size),
            collator=collator,
        )
        steps = math.ceil(args.num_train_epochs * self.batches.steps_per_epoch)
        self.total_steps = args.max_steps if args.max_steps > 0 else steps
        if self.total_steps < 1:
            raise InputError(f"num_train_epochs={args.num_train_epochs} makes 0 steps")
        sets = (
            {"eval": eval} if not isinstance(eval, Mapping) else {f"eval_{name}": data for name, data in eval.items()}
        )
        self.evaluators: dict[str, Evaluator] = {
            prefix: make_evaluator(
                model,
                _used_columns(model, data),
                args,
                compute_metrics=compute_metrics,
                loss_fn=loss_fn,
                mesh=mesh,
                pad_values=pad,
                collator=collator,
            )
            for prefix, data in sets.items()
            if data is not None
        }
        if not self.evaluators and args.eval_strategy != "no":
            raise InputError(f"eval_strategy={args.eval_strategy!r} needs evaluation data, and there is none")
        self.step: TrainStep = make_train_step(
            model,
            args,
            loss_fn=loss_fn,
            optimizer=optimizer,
            schedule=schedule,
            num_training_steps=self.total_steps,
            mesh=mesh,
        )
        self.record = _Record(fingerprint=self._fingerprint())

    # -- the loop ------------------------------------------------------------------------------------------------------

    def train(self, checkpoints: Checkpoints, callbacks: Sequence[Callback], stack: contextlib.ExitStack) -> Model:
        args, folder = self.args, folder_of(self.args.output_dir)
        agree({**self.record.fingerprint, "some of the training examples (checksum)": self._checksum()})
        agree({"the newest checkpoint": checkpoints.newest()})
        state = self._resume(checkpoints, self.step.init())
        steps_per_epoch = self.batches.steps_per_epoch
        progress = Progress(args, self.total_steps, steps_per_epoch, self.record.step)
        self.metrics_file: JsonLines | None = None
        listeners: list[Callback] = [*callbacks]
        if jax.process_index() == 0:
            folder.fetch("metrics.jsonl")
            self.metrics_file = JsonLines(folder.here / "metrics.jsonl", self.record.metrics_length)
            listeners.insert(0, self.metrics_file)
            if args.report_to == "tensorboard":
                listeners.append(TensorBoard(Path(args.logging_dir or folder.here / "runs")))
            if not args.disable_tqdm:
                listeners.append(ProgressBar())
            report.banner(self.model, args, self.batches, self.batch_size, self.total_steps, self.mesh)
        self._prepare(state)
        agree({"programs": self._compilations()})  # none begins while others compile: gloo waits half a minute for them
        for listener in listeners:
            stack.callback(listener.close)
            listener.on_train_begin(progress)

        asked = stack.enter_context(interruptions())
        started = time.perf_counter() - self.record.seconds
        waiting: tuple[int, Any] | None = None  # the step before, whose metrics are read only now
        with iterate(self.batches, start=self.record.step) as stream:
            while progress.step < self.total_steps and not progress.stop:
                state, metrics = self.step(state, self.step.put(next(stream)))
                if waiting is not None:
                    self._account(*waiting)
                progress.step += 1
                waiting = progress.step, metrics
                for listener in listeners:
                    listener.on_step_end(progress)

                due, leave = self._due(progress.step), asked.reached(progress.step)
                if due or leave or progress.stop:
                    self._account(*waiting)
                    waiting = None
                    self.record.step, self.record.data = progress.step, stream.get_state()
                    if "log" in due:
                        self._tell(listeners, progress, metrics)
                    if "evaluate" in due:
                        self._evaluate(state, listeners, progress)
                    self.record.seconds = time.perf_counter() - started
                    if "save" in due or leave or (progress.stop and args.save_strategy != "no"):
                        self._save(checkpoints, state, listeners, progress)
                if leave:
                    checkpoints.wait()
                    raise SystemExit(asked.farewell(progress.step))
        self.record.seconds = time.perf_counter() - started
        for listener in listeners:
            listener.on_train_end(progress)
        checkpoints.tidy(self.record.best_step)
        if args.load_best_model_at_end and self.record.best_step not in (None, progress.step):
            assert self.record.best_step is not None
            best, meta = checkpoints.restore_step(self.record.best_step, state)
            state, self.record.last_eval = best, meta["last_eval"]
        elif self.evaluators and args.do_eval and self.record.last_eval is None:
            self._evaluate(state, listeners, progress)
        return dataclasses.replace(self.model, params=state.params)

    def _prepare(self, state: TrainState) -> None:
        """Compiles every program of the run before its first step, so that compile time and run time stay apart."""
        if jax.process_index() == 0:
            print("Compiling …", flush=True)
        if self.record.step < self.total_steps:
            self.step.prepare(state, (self.step.put(batch) for batch in one_of_each_shape(self.batches)))
        for evaluator in self.evaluators.values():
            evaluator.prepare(state.params)
        if jax.process_index() == 0:
            print(f"  {self._compilations()} programs in {self._compile_seconds():.1f} s", flush=True)

    def _compilations(self) -> int:
        return self.step.compilations + sum(each.step.compilations for each in self.evaluators.values())

    def _compile_seconds(self) -> float:
        return self.step.seconds + sum(each.step.seconds for each in self.evaluators.values())

    def _due(self, step: int) -> set[str]:
        """What the strategies ask for after this step. At the last step: the log, the evaluation and the save too."""
        args, last = self.args, step == self.total_steps
        epoch_ends = step % self.batches.steps_per_epoch == 0 or last

        def due(strategy: str, every: int) -> bool:
            return epoch_ends if strategy == "epoch" else strategy == "steps" and step % every == 0

        events = set()
        if due(args.logging_strategy, args.logging_steps) or (last and args.logging_strategy != "no"):
            events.add("log")
        if args.logging_first_step and step == 1:
            events.add("log")
        if self.evaluators and (
            due(args.eval_strategy, args.steps_between_evals)
            or (last and args.do_eval and args.eval_strategy != "steps")
        ):
            events.add("evaluate")
        if due(args.save_strategy, args.save_steps) or (last and args.save_strategy != "no"):
            events.add("save")
        return events

    def _account(self, step: int, metrics: Mapping[str, jax.Array]) -> None:
        """Adds one step's loss. Reading it here, one step late, is the only place where the host waits for the device."""
        loss = float(metrics["loss_sum"]) / max(float(metrics["loss_count"]), 1)
        if not math.isfinite(loss):
            done = max(step - 1, 1)
            raise TrainingError(
                f"loss is {loss} at step {step} (mean of the {step - 1} steps before: {self.record.loss_total / done:.4g}); "
                f"the learning rate was {float(metrics['learning_rate']):.3g}. Checkpoints in {self.args.output_dir} are as "
                "they were before this step"
            )
        self.record.loss_total += loss
        self.record.loss_since_log += loss
        self.record.steps_since_log += 1

    def _tell(self, listeners: Sequence[Callback], progress: Progress, metrics: Mapping[str, jax.Array]) -> None:
        logs = {
            "loss": self.record.loss_since_log / max(self.record.steps_since_log, 1),
            "grad_norm": float(metrics["grad_norm"]),
            "learning_rate": float(metrics["learning_rate"]),
        }
        self.record.loss_since_log, self.record.steps_since_log = 0.0, 0
        for listener in listeners:
            listener.on_log(progress, logs)

    def _evaluate(self, state: TrainState, listeners: Sequence[Callback], progress: Progress) -> None:
        metrics: dict[str, float] = {}
        for prefix, evaluator in self.evaluators.items():
            metrics |= evaluator(state.params, prefix).metrics
        self.record.last_eval = metrics
        for listener in listeners:
            listener.on_evaluate(progress, metrics)
        if self.args.load_best_model_at_end:
            name = self.args.best_metric
            if name not in metrics:
                raise InputError(
                    f"metric_for_best_model {name!r} is not among the metrics {', '.join(sorted(metrics))}"
                )
            value, best = metrics[name], self.record.best_value
            if best is None or (value > best if self.args.more_is_better else value < best):
                self.record.best_value, self.record.best_step = value, progress.step

    def _save(
        self, checkpoints: Checkpoints, state: TrainState, listeners: Sequence[Callback], progress: Progress
    ) -> None:
        if self.metrics_file is not None:
            self.record.metrics_length = self.metrics_file.length
            folder_of(self.args.output_dir).send()
        checkpoints.save(progress.step, state, dataclasses.asdict(self.record), keep=self.record.best_step)
        for listener in listeners:
            listener.on_save(progress, checkpoints.directory / str(progress.step))

    # -- before and after ----------------------------------------------------------------------------------------------

    def _resume(self, checkpoints: Checkpoints, state: TrainState) -> TrainState:
        """The newest state of an earlier run with these arguments, or `state` where there is none."""
        source = checkpoints
        if self.args.resume_from_checkpoint:
            place = folder_of(self.args.resume_from_checkpoint).there
            if not place.name.isdigit() or not place.is_dir():
                raise InputError(
                    f"resume_from_checkpoint must be a folder such as out/checkpoints/500, found {str(place)!r}"
                )
            with Checkpoints(place.parent) as source:
                found: Any = source.restore_step(int(place.name), state)
            self._check_same(found[1])
        else:
            found = checkpoints.restore(state, self._check_same)
        if found is None:
            return state
        state, meta = found
        self.record = _Record(**meta)
        LOG.warning("resumed from %s (step %s)", source.directory / str(self.record.step), self.record.step)
        return state

    def _check_same(self, meta: Mapping[str, Any]) -> None:
        """Refuses a checkpoint of a run with other arguments, data or model, naming the first difference."""
        for key, value in self.record.fingerprint.items():
            if (was := meta["fingerprint"].get(key)) != value:
                raise InputError(
                    f"{self.args.output_dir} holds a run with {key}={was!r}, this one has {value!r}: "
                    "use another output_dir, or --overwrite-output-dir to start anew"
                )

    def _fingerprint(self) -> dict[str, Any]:
        """What must be the same for a checkpoint to be this run's."""
        args = self.args
        decisive = ("learning_rate", "lr_scheduler_type", "warmup_steps", "warmup_ratio", "optim", "weight_decay",
                    "adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm", "label_smoothing_factor", "bf16", "seed",
                    "group_by_length")  # fmt: skip
        config = json.loads(json.dumps(dataclasses.asdict(self.model.config)))  # as a checkpoint gives it back
        config.pop("raw")
        return {
            "total_steps": self.total_steps,
            "batch_size": self.batch_size,
            "training examples": self.batches.num_examples,
            "lengths of the training examples (checksum)": zlib.crc32(self.batches.lengths.tobytes()),
            "head": self.model.head,
            **{name: getattr(args, name) for name in decisive},
            **config,
        }

    def _checksum(self) -> int:
        """Of what examples hold: of eight, spread over all."""
        rows = np.linspace(0, self.batches.num_examples - 1, 8).astype(int).tolist()
        return zlib.crc32(repr([sorted(self.examples[row].items()) for row in rows]).encode())

    def finish(self, trained: Model, export: Export, facts: dict[str, Any]) -> TrainOutput:
        """The final model, its card, and last of all `all_results.json`, whose presence says that the run is done."""
        steps, seconds = self.record.step, max(self.record.seconds, 1e-9)
        metrics: dict[str, Any] = {
            "epoch": round(steps / self.batches.steps_per_epoch, 4),
            "global_step": steps,
            "train_loss": self.record.loss_total / max(steps, 1),
            "train_runtime": round(seconds, 3),
            "train_samples_per_second": round(steps * self.batch_size / seconds, 3),
            "train_steps_per_second": round(steps / seconds, 3),
            "train_samples": self.batches.num_examples,
            "compile_seconds": round(self._compile_seconds(), 3),
            "compilations": self._compilations(),
            **(self.record.last_eval or {}),
        }
        folder = folder_of(self.args.output_dir)
        export(trained, folder.here, self.tokenizer)
        if jax.process_index() == 0:
            facts = {"parameters": core_params.count(trained.declare()), **facts}
            report.write(trained, self.args, metrics, facts, mesh=self.mesh, folder=folder)
        return TrainOutput(steps, metrics["train_loss"], metrics)


def _used_columns(model: Model, data: Any) -> Any:
    """`data` without the columns the model does not take; one line says which."""
    if not isinstance(data, Table):
        return data
    used = {*model.inputs, *TARGETS}
    unused = [name for name in data.column_names if name not in used]
    if unused:
        LOG.info(
            "columns of %s that %s does not take are left out: %s", data.name, model.family.name, ", ".join(unused)
        )
    return data.drop(unused) if unused else data
