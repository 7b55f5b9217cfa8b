"""`fit`: the whole of a training run. State and step are `state.py` and `step.py`; nothing here is out of their users' reach.

A run can be killed at any moment: rerun with the same arguments, it goes on from its newest readable checkpoint and ends
with the same parameters, optimizer state, data position and metrics.jsonl as if nothing had happened.
"""

import contextlib
import dataclasses
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import optax
from jax.sharding import Mesh

from jaxformers.checkpoints.save import save
from jaxformers.core import params as core_params
from jaxformers.core.compilation import enable_cache
from jaxformers.data import iterate
from jaxformers.data.loader import Collator
from jaxformers.errors import InputError
from jaxformers.families import Model
from jaxformers.parallel.distributed import agree
from jaxformers.train import report
from jaxformers.train.arguments import TrainingArguments
from jaxformers.train.average import averaged
from jaxformers.train.callbacks import Callback, Progress, checked
from jaxformers.train.checkpoint import Checkpoints
from jaxformers.train.evaluation import (
    TRAIN_BUCKETS,
    ComputeMetrics,
    Evaluator,
    Preprocess,
    make_batches,
    make_evaluator,
    one_of_each_shape,
    own_lengths,
)
from jaxformers.train.folder import folder_of
from jaxformers.train.groups import Trainable
from jaxformers.train.guard import interruptions, locked, settle_process
from jaxformers.train.hub import Hub
from jaxformers.train.losses import LossFn
from jaxformers.train.memory import attempts, memory_used
from jaxformers.train.placement import suited_mesh
from jaxformers.train.record import (
    Record,
    TrainOutput,
    check_same,
    checksum,
    due,
    multiplied,
    used_columns,
)
from jaxformers.train.schedules import Plateau, Schedule
from jaxformers.train.state import TrainState
from jaxformers.train.step import TrainStep, make_train_step, places_here
from jaxformers.train.trackers import JsonLines, trackers_of

LOG = logging.getLogger("jaxformers")
Export = Callable[[Model, Any, Any], Any]
_UNENDING = 2**31  # epochs: how many are run is decided by the number of steps


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
    preprocess_logits_for_metrics: Preprocess | None = None,
    trainable: Trainable | None = None,
    make_step: Callable[..., TrainStep] = make_train_step,
    log: Callable[[Progress, dict[str, float]], dict[str, float]] | None = None,
    export: Export = save,
    facts: Mapping[str, Any] | None = None,
) -> tuple[Model, TrainOutput]:
    """Trains `model`, evaluates, saves, resumes, exports.

    Args:
      model: what to train.
      args: how.
      train: examples: a `Table` or a sequence of dicts with `input_ids`, `labels`, …; or `Batches`, a loader of your own.
      eval: examples to evaluate on, in the same form; or a dict of several sets, told under `eval_NAME_…`.
      tokenizer: saved beside the model; gives the padding id.
      loss_fn: `(output, batch) -> (sum, count)`; the head's own by default.
      compute_metrics: from `EvalPrediction` to numbers; or `Streaming`, which never holds all predictions.
      callbacks: told of every step, log, evaluation and save.
      optimizer: any Optax transformation; clipping and AdamW by default.
      schedule: step -> learning rate.
      mesh: where it runs; what suits the model and all devices by default (`parallel.plan`).
      data_collator: `collator(batch, generators) -> batch`, done to each batch on the host: masking, augmentation. There is one
        numpy generator a row (`data.Batches`); an evaluation draws the same each time.
      preprocess_logits_for_metrics: `(logits, labels) -> logits`, done to each batch on the device before it is kept.
      trainable: which parameters learn: a regular expression found in their paths, or a function of the path.
      make_step: makes the step, called as `make_train_step` is.
      log: `(progress, logs) -> logs`: what is told in place of the loss, the gradient norm and the learning rate.
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
    settle_process(args)
    mesh = suited_mesh(model.declare()) if mesh is None else mesh
    folder = folder_of(args.output_dir)
    with contextlib.ExitStack() as stack:
        stack.enter_context(locked(folder.here))
        if args.overwrite_output_dir and jax.process_index() == 0:
            folder.clear()
        agree({"output_dir": args.output_dir})  # and none goes on before the first has made it ready
        checkpoints = stack.enter_context(Checkpoints(folder.checkpoints, args.save_total_limit))
        for attempt in attempts(args):
            with attempt, contextlib.ExitStack() as closing:
                run = _Run(model, attempt.args, train, eval, tokenizer, loss_fn, compute_metrics, optimizer, schedule, mesh,
                           data_collator, preprocess_logits_for_metrics, trainable, make_step, log, export)  # fmt: skip
                trained = run.train(checkpoints, checked(callbacks), closing)
        result = run.finish(trained, dict(facts or {}))
    return trained, result


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
        preprocess: Preprocess | None,
        trainable: Trainable | None,
        make_step: Callable[..., TrainStep],
        log: Callable[[Progress, dict[str, float]], dict[str, float]] | None,
        export: Export,
    ) -> None:
        self.model, self.args, self.tokenizer, self.mesh = model, args, tokenizer, mesh
        self.log, self.export = log, export
        pad = {} if getattr(tokenizer, "pad_token_id", None) is None else {"input_ids": tokenizer.pad_token_id}
        train = used_columns(model, train, args)
        self.examples = train
        parts = mesh.shape["data"] * mesh.shape["fsdp"] * args.gradient_accumulation_steps
        batch_size = args.per_device_train_batch_size * parts
        self.batches = make_batches(
            train,
            TRAIN_BUCKETS,
            own_lengths=own_lengths(model),
            batch_size=batch_size,
            num_epochs=_UNENDING,
            seed=args.seed if args.data_seed is None else args.data_seed,
            shuffle=True,
            group_by_length=args.group_by_length,
            drop_last=args.dataloader_drop_last,
            pad_values=pad,
            places=places_here(mesh, batch_size),
            collator=collator,
        )
        self.batch_size = self.batches.batch_size  # the loader's own, where one was given
        if self.batch_size % parts:
            raise InputError(f"batches of {self.batch_size} do not divide by devices × accumulation, {parts}")
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
                used_columns(model, data, args),
                args,
                compute_metrics=compute_metrics,
                preprocess=preprocess,
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
        self.step: TrainStep = make_step(
            model,
            args,
            loss_fn=loss_fn,
            optimizer=optimizer,
            schedule=schedule,
            num_training_steps=self.total_steps,
            mesh=mesh,
            trainable=trainable,
        )
        self.record = Record.begin(model, args, self.batches, self.total_steps, self.batch_size)

    # -- the loop ------------------------------------------------------------------------------------------------------

    def train(self, checkpoints: Checkpoints, callbacks: Sequence[Callback], stack: contextlib.ExitStack) -> Model:
        args, folder = self.args, folder_of(self.args.output_dir)
        agree(
            {
                **self.record.fingerprint,
                "some of the training examples (checksum)": checksum(self.examples, self.batches.num_examples),
            }
        )
        agree({"the newest checkpoint": checkpoints.newest()})
        state = self._resume(checkpoints, self.step.init())
        steps_per_epoch = self.batches.steps_per_epoch
        progress = Progress(args, self.total_steps, steps_per_epoch, self.record.step)
        progress.best_step, progress.best_value = self.record.best_step, self.record.best_value
        self.metrics_file: JsonLines | None = None
        self.hub: Hub | None = None
        self.named = {f"{type(each).__name__} {n}": each for n, each in enumerate(callbacks)}
        listeners: list[Callback] = [*callbacks]
        if jax.process_index() == 0:
            folder.fetch("metrics.jsonl")
            self.hub = Hub(args) if args.push_to_hub else None
            self.metrics_file = JsonLines(folder.here / "metrics.jsonl", self.record.metrics_length)
            listeners = [self.metrics_file, *listeners, *trackers_of(args)]
            report.banner(self.model, args, self.batches, self.batch_size, self.total_steps, self.mesh)
        for name, callback in self.named.items():
            if name in self.record.callbacks:
                callback.restore(self.record.callbacks[name])
        for listener in listeners:
            stack.callback(listener.close)
            listener.on_init_end(progress)
        self._prepare(state)
        agree({"programs": self._compilations()})  # none begins while others compile: gloo waits half a minute for them
        _each(listeners, "on_train_begin", progress)
        if args.eval_on_start and progress.step == 0 and self.evaluators:
            state = self._evaluate(state, listeners, progress)

        asked = stack.enter_context(interruptions())
        started = time.perf_counter() - self.record.seconds
        waiting: tuple[int, Any] | None = None  # the step before, whose metrics are read only now
        threads = max(args.dataloader_num_workers, 1)
        ahead = threads * (args.dataloader_prefetch_factor or 2)
        with iterate(self.batches, start=self.record.step, prefetch=ahead, num_threads=threads) as stream:
            while progress.step < self.total_steps and not progress.stop:
                if progress.step % steps_per_epoch == 0:
                    _each(listeners, "on_epoch_begin", progress)
                _each(listeners, "on_step_begin", progress)
                batch = next(stream)
                self.record.places_seen += self.batch_size * batch.get("input_ids", batch["example_weight"])[0].size
                state, metrics = self.step(state, self.step.put(batch))
                if waiting is not None:
                    self.record.account(*waiting, self.args.output_dir)
                progress.step += 1
                waiting = progress.step, metrics
                _each(listeners, "on_step_end", progress)
                if progress.step % steps_per_epoch == 0 or progress.step == self.total_steps:
                    _each(listeners, "on_epoch_end", progress)

                wanted = due(args, progress.step, self.total_steps, steps_per_epoch, bool(self.evaluators))
                wanted, progress.asked = wanted | progress.asked, set()
                leave = asked.reached(progress.step)
                if wanted or leave or progress.stop:
                    self.record.account(*waiting, self.args.output_dir)
                    waiting = None
                    self.record.step, self.record.data = progress.step, stream.get_state()
                    if "log" in wanted:
                        self._tell(listeners, progress, metrics)
                    if "evaluate" in wanted and self.evaluators:
                        state = self._evaluate(state, listeners, progress)
                    self.record.seconds = time.perf_counter() - started
                    best = args.save_strategy == "best" and self.record.best_step == progress.step
                    if "save" in wanted or leave or best or (progress.stop and args.save_strategy != "no"):
                        self._save(checkpoints, state, listeners, progress)
                if leave:
                    checkpoints.wait()
                    raise SystemExit(asked.farewell(progress.step))
        self.record.seconds = time.perf_counter() - started
        _each(listeners, "on_train_end", progress)
        checkpoints.tidy(self.record.best_step)
        if args.load_best_model_at_end and self.record.best_step not in (None, progress.step):
            assert self.record.best_step is not None
            like = state.replace(opt_state=()) if args.save_only_model else state  # type: ignore[attr-defined]
            state, meta = checkpoints.restore_step(self.record.best_step, like)
            self.record.last_eval = meta["last_eval"]
        elif self.evaluators and args.do_eval and self.record.last_eval is None:
            state = self._evaluate(state, listeners, progress)
        return dataclasses.replace(self.model, params=averaged(state))

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

    def _tell(self, listeners: Sequence[Callback], progress: Progress, metrics: Mapping[str, jax.Array]) -> None:
        logs = {
            "loss": self.record.loss_since_log / max(self.record.steps_since_log, 1),
            "grad_norm": float(metrics["grad_norm"]),
            "learning_rate": float(metrics["learning_rate"]),
        }
        if self.args.include_num_input_tokens_seen != "no":
            logs["num_input_tokens_seen"] = self.record.tokens_seen
        self.record.loss_since_log, self.record.steps_since_log = 0.0, 0
        _each(listeners, "on_log", progress, logs if self.log is None else self.log(progress, logs))

    def _evaluate(self, state: TrainState, listeners: Sequence[Callback], progress: Progress) -> TrainState:
        """Evaluates and tells; the state is another one where the learning rate heeds evaluations."""
        metrics: dict[str, float] = {}
        for prefix, evaluator in self.evaluators.items():
            after = partial(_each, listeners, "on_prediction_step", progress)
            metrics |= evaluator(averaged(state), prefix, after_batch=after).metrics
        self.record.last_eval = metrics
        args, name = self.args, self.args.best_metric
        plateau = args.lr_scheduler_type == "reduce_lr_on_plateau"
        decides = args.load_best_model_at_end or args.metric_for_best_model or args.save_strategy == "best" or plateau
        if decides and progress.step:  # of what is before the first step there is no checkpoint
            if name not in metrics:
                raise InputError(
                    f"metric_for_best_model {name!r} is not among the metrics {', '.join(sorted(metrics))}"
                )
            value, best = metrics[name], self.record.best_value
            if best is None or (value > best if args.more_is_better else value < best):
                self.record.best_value, self.record.best_step = value, progress.step
                progress.best_value, progress.best_step = value, progress.step
            if plateau:
                state = state.replace(opt_state=Plateau(args).heed(state.opt_state, value))  # type: ignore[attr-defined]
        _each(listeners, "on_evaluate", progress, metrics)
        return state

    def _save(
        self, checkpoints: Checkpoints, state: TrainState, listeners: Sequence[Callback], progress: Progress
    ) -> None:
        folder = folder_of(self.args.output_dir)
        if self.metrics_file is not None:
            self.record.metrics_length = self.metrics_file.length
            folder.send()
        self.record.callbacks = {name: each.state() for name, each in self.named.items()}
        alone = {"params": averaged(state), "opt_state": ()} if self.args.save_only_model else {}
        kept = state.replace(**alone)  # type: ignore[attr-defined]
        checkpoints.save(progress.step, kept, dataclasses.asdict(self.record), keep=self.record.best_step)
        place = checkpoints.directory / str(progress.step)
        _each(listeners, "on_save", progress, place)
        if self.args.push_to_hub and self.args.hub_strategy != "end":
            _each(listeners, "on_push_begin", progress)
            self.export(
                dataclasses.replace(self.model, params=averaged(state)),
                folder_of(self.args.output_dir).here,
                self.tokenizer,
            )
            checkpoints.wait()
            if self.hub is not None:
                self.hub.push(f"Training in progress, step {progress.step}", place)

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
        self.record = Record(**meta)
        LOG.warning("resumed from %s (step %s)", source.directory / str(self.record.step), self.record.step)
        return state

    def _check_same(self, meta: Mapping[str, Any]) -> None:
        check_same(meta["fingerprint"], self.record.fingerprint, self.args.output_dir)
        if self.args.save_only_model:
            raise InputError(
                f"{self.args.output_dir} holds a run with save_only_model, whose checkpoints have no optimizer state to "
                "resume from: use another output_dir, or --overwrite-output-dir to start anew"
            )

    def finish(self, trained: Model, facts: dict[str, Any]) -> TrainOutput:
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
            "total_flos": 6 * multiplied(self.model) * self.record.places_seen,
            "compile_seconds": round(self._compile_seconds(), 3),
            "compilations": self._compilations(),
            **({} if self.args.skip_memory_metrics else {"train_mem_compiled": self.step.memory(), **memory_used()}),
            **(self.record.last_eval or {}),
        }
        folder = folder_of(self.args.output_dir)
        if self.args.include_num_input_tokens_seen != "no":
            metrics["num_input_tokens_seen"] = self.record.tokens_seen
        self.export(trained, folder.here, self.tokenizer)
        if jax.process_index() == 0:
            facts = {"parameters": core_params.count(trained.declare()), **facts}
            report.write(trained, self.args, metrics, facts, mesh=self.mesh, folder=folder)
            report.table("train", metrics)
            report.memory(self.step)
        if self.hub is not None:
            with self.hub:
                self.hub.push("End of training")
        return TrainOutput(steps, metrics["train_loss"], metrics)


def _each(listeners: Sequence[Callback], event: str, *told: Any) -> None:
    for listener in listeners:
        getattr(listener, event)(*told)
