"""Evaluation and prediction over a whole set: every example counted once, predictions back in the order of the data."""

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from jaxformers.core.compilation import Compiled
from jaxformers.core.params import Tree, shardings
from jaxformers.data import Batches, choose_buckets
from jaxformers.data.loader import Collator, iterate
from jaxformers.errors import InputError
from jaxformers.families import Model
from jaxformers.families.model import ANSWERS
from jaxformers.generate import GenerateOutput, generate
from jaxformers.generate.speech import transcribe
from jaxformers.parallel.distributed import fetch
from jaxformers.parallel.mesh import make_mesh
from jaxformers.train.arguments import TrainingArguments
from jaxformers.train.callbacks import Callback, Progress, checked
from jaxformers.train.losses import LossFn
from jaxformers.train.metrics import perplexity
from jaxformers.train.step import LABELS, PREDICTED, has_labels, make_eval_step, places_here, put_batch

EVAL_BUCKETS, TRAIN_BUCKETS = 3, 6  # programs at most: one more saves 1-2 % of the tokens and costs a compile
OWN_LENGTHS = ("labels", "decoder_input_ids", "decoder_attention_mask")  # of what is answered, letters of a sound too
PAD = -100  # fills predictions and labels of unequal length, as transformers does

LANGUAGE_MODELS = ("masked-lm", "causal-lm", *ANSWERS)  # heads whose loss is a cross-entropy a token
WRITERS = ("seq2seq-lm", "speech-seq2seq")  # heads whose predictions may be what they write


class EvalPrediction(NamedTuple):
    """What `compute_metrics` gets.

    Args:
      predictions: logits over the whole set (a tuple of arrays where a head has several); with `predict_with_generate` token ids
        [examples, length], the one that all begin with first, -100 after a text of fewer tokens than others.
      label_ids: the labels, None where the data has none.
      inputs: `input_ids`, where `include_for_metrics` names inputs.
      losses: the mean loss of each batch, where it names loss.
    """

    predictions: Any
    label_ids: Any
    inputs: Any = None
    losses: Any = None


class Streaming(NamedTuple):
    """Metrics of a set whose predictions no machine can hold: three functions, fed one batch after another.

    Args:
      start: () -> a state.
      update: (state, EvalPrediction of one batch's real rows) -> state.
      result: state -> numbers.

    A running accuracy: `Streaming(lambda: (0, 0), lambda s, p: (s[0] + int((p.predictions.argmax(-1) == p.label_ids).sum()),
    s[1] + len(p.label_ids)), lambda s: {"accuracy": s[0] / s[1]})`.
    """

    start: Callable[[], Any]
    update: Callable[[Any, EvalPrediction], Any]
    result: Callable[[Any], Mapping[str, float]]


class PredictionOutput(NamedTuple):
    """What `predict` gives: `predictions` and `label_ids` as in `EvalPrediction`, and `metrics` with prefix `test_`."""

    predictions: Any
    label_ids: Any
    metrics: dict[str, float]


ComputeMetrics = Callable[..., Mapping[str, float]] | Streaming
Preprocess = Callable[[Any, Any], Any]  # (logits, labels) -> logits, both of one batch, on the device


@dataclasses.dataclass
class Evaluator:
    """Evaluates over one set, again and again, with programs compiled once.

    Args:
      model: its functions and config; the parameters come with each call.
      step: an eval step (`make_eval_step`).
      batches: the set, each example once.
      mesh: where it runs.
      compute_metrics: from `EvalPrediction` to numbers. Where there is none, predictions are kept only for `predict`: those of a
        language model over a whole set are larger than a machine.
      keep: whether predictions are kept.
      generation: options of `generate`, where predictions are what it writes.
      args: `batch_eval_metrics`, `include_for_metrics`, `label_names`.
    """

    model: Model
    step: Compiled
    batches: Batches
    mesh: Mesh
    compute_metrics: ComputeMetrics | None = None
    keep: bool = True
    generation: Mapping[str, Any] | None = None
    args: TrainingArguments = dataclasses.field(default_factory=TrainingArguments)

    def prepare(self, params: Tree) -> None:
        """Compiles every program the set needs, but for those that generate: these are compiled when they first run."""
        self.step.prepare(params, (put_batch(batch, self.mesh) for batch in one_of_each_shape(self.batches)))

    def __call__(
        self, params: Tree, prefix: str = "eval", after_batch: Callable[[], None] = lambda: None
    ) -> PredictionOutput:
        """Runs over the whole set with `params`, which live on the mesh; `after_batch` is called after each batch."""
        start = time.perf_counter()
        kept: dict[str, list[Any]] = {}
        totals = np.zeros(2)
        labelled = False
        waiting: tuple[Any, Any] | None = None
        model = dataclasses.replace(self.model, params=params)
        stream = self.compute_metrics if isinstance(self.compute_metrics, Streaming) else None
        state = None if stream is None else stream.start()
        for batch in self._batches():
            sent = None
            if batch is not None:  # send the next batch before reading the last one's result: the device never waits
                sent = batch, self._result(model, batch)
            if waiting is not None:
                labelled = "loss_sum" in waiting[1]
                rows = self._collect(totals, *waiting)
                if stream is not None:
                    state = stream.update(state, self._prediction(rows))
                else:
                    for key, value in rows.items():
                        kept.setdefault(key, []).append(value)
                after_batch()
            waiting = sent
        losses = kept.pop("losses", None)
        order = np.argsort(np.concatenate(kept.pop("example_index", [np.zeros(0, np.int32)])))
        whole = self._prediction({key: _join(arrays)[order] for key, arrays in kept.items()})
        if losses is not None:
            whole = whole._replace(losses=np.concatenate(losses))
        metrics: dict[str, float] = {"loss": float(totals[0] / max(totals[1], 1))} if labelled else {}
        if labelled and self.model.head in LANGUAGE_MODELS:
            metrics["perplexity"] = perplexity(metrics["loss"])
        if stream is not None:
            metrics |= stream.result(state)
        elif self.compute_metrics is not None and labelled:
            assert callable(self.compute_metrics)
            metrics |= self.compute_metrics(whole)
        seconds = time.perf_counter() - start
        metrics |= {
            "runtime": round(seconds, 4),
            "samples_per_second": round(self.batches.num_examples / seconds, 3),
            "steps_per_second": round(len(self.batches) / seconds, 3),
        }
        named = {key if key.startswith(f"{prefix}_") else f"{prefix}_{key}": value for key, value in metrics.items()}
        return PredictionOutput(whole.predictions, whole.label_ids, named)

    def _batches(self) -> Iterator[Any]:
        """The set's batches, read ahead by threads where there are workers to do so, and None in the end."""
        threads = self.args.dataloader_num_workers
        if threads:
            with iterate(self.batches, prefetch=2 * threads, num_threads=threads) as stream:
                yield from stream
        else:
            yield from self.batches
        yield None

    def _prediction(self, rows: Mapping[str, Any]) -> EvalPrediction:
        """What was predicted for these rows, and what is right."""
        predictions = _one_or_all([rows[key] for key in ("generated", *PREDICTED) if key in rows])
        label_ids = _one_or_all([rows[key] for key in (*LABELS, *self.args.label_names) if key in rows])
        return EvalPrediction(predictions, label_ids, rows.get("input_ids"), rows.get("losses"))

    def _result(self, model: Model, batch: Any) -> dict[str, Any]:
        """The step's result, which of an encoder-decoder needs labels, and what the model writes where that is asked for."""
        result: dict[str, Any] = {}
        if self.generation is None or has_labels(batch):
            result |= self.step(model.params, put_batch(batch, self.mesh))
        if self.generation is not None and self.keep:
            result["generated"] = self._written(model, batch, self.generation).sequences
        return result

    def _written(self, model: Model, batch: Any, options: Mapping[str, Any]) -> GenerateOutput:
        """What the model answers to texts, or writes of sounds."""
        if model.head == "speech-seq2seq":
            whole = self._whole(batch, ("input_features",))
            return transcribe(model, whole["input_features"], **options)
        whole = self._whole(batch, ("input_ids", "attention_mask"))
        return generate(model, whole["input_ids"], whole["attention_mask"], **options)

    def _collect(self, totals: np.ndarray, batch: Any, result: Any) -> dict[str, np.ndarray]:
        """Adds one batch's sums, and gives its real rows' logits and labels."""
        rows: dict[str, np.ndarray] = {}
        if "loss_sum" in result:
            sums = (float(result["loss_sum"]), float(result["loss_count"]))
            totals += sums
            if "loss" in self.args.include_for_metrics and self.keep:
                rows["losses"] = np.array([sums[0] / max(sums[1], 1)], np.float32)
        if not self.keep:
            return rows
        asked = (*LABELS, *self.args.label_names, *(["input_ids"] if "inputs" in self.args.include_for_metrics else []))
        batch = self._whole(batch, ("example_index", *asked))
        index = batch["example_index"]
        real = index >= 0
        rows["example_index"] = index[real]
        for key in ("generated", *PREDICTED):
            if (value := result.get(key)) is not None:
                rows[key] = np.asarray(value)[real]
        return rows | {key: batch[key][real] for key in asked if key in batch}

    def _whole(self, batch: Mapping[str, np.ndarray], keys: Sequence[str]) -> Mapping[str, np.ndarray]:
        """These columns of a batch, with the rows that other processes hold too."""
        if jax.process_count() == 1:
            return batch
        placed = put_batch({key: batch[key] for key in keys if key in batch}, self.mesh)
        return {key: fetch(array) for key, array in placed.items()}


def _streamed(compute_metrics: Callable[..., Mapping[str, float] | None]) -> Streaming:
    """`compute_metrics(EvalPrediction, compute_result)` as three functions: a batch waits until the next one."""

    def update(before: EvalPrediction | None, batch: EvalPrediction) -> EvalPrediction:
        if before is not None:
            compute_metrics(before, compute_result=False)
        return batch

    return Streaming(lambda: None, update, lambda last: compute_metrics(last, compute_result=True) or {})


def make_evaluator(
    model: Model,
    data: Any,
    args: TrainingArguments,
    *,
    compute_metrics: ComputeMetrics | None = None,
    loss_fn: LossFn | None = None,
    mesh: Mesh,
    pad_values: Mapping[str, float] | None = None,
    collator: Collator | None = None,
    keep: bool = False,
    preprocess: Preprocess | None = None,
) -> Evaluator:
    """An `Evaluator` over `data` (examples as `Batches` takes them, or `Batches`) with `args.per_device_eval_batch_size`.

    Predictions are kept for `compute_metrics`, or where `keep` asks for them; not with `prediction_loss_only`.
    """
    if args.prediction_loss_only:
        compute_metrics, keep = None, False
    if args.batch_eval_metrics and callable(compute_metrics):
        compute_metrics = _streamed(compute_metrics)
    batch_size = args.per_device_eval_batch_size * mesh.shape["data"] * mesh.shape["fsdp"]
    batches = make_batches(
        data,
        EVAL_BUCKETS,
        own_lengths=own_lengths(model),
        batch_size=batch_size,
        group_by_length=True,
        pad_values=pad_values,
        places=places_here(mesh, batch_size),
        collator=collator,
        draw=False,
    )
    labels = (*LABELS, *args.label_names)
    if compute_metrics is not None and not any(key in batches[0] for key in labels):
        raise InputError(f"compute_metrics needs labels, and {batches.name} has none of {', '.join(labels)}")
    keep = keep or compute_metrics is not None
    generation = None
    if args.predict_with_generate:
        if model.head not in WRITERS:
            raise InputError(
                f"predict_with_generate needs a model with the head {WRITERS[0]!r} or {WRITERS[1]!r}, found {model.head!r}"
            )
        asked = {"max_length": args.generation_max_length, "num_beams": args.generation_num_beams}
        generation = {name: value for name, value in asked.items() if value is not None}
    loss_only = not keep or generation is not None
    step = make_eval_step(
        model, args, loss_fn=loss_fn, mesh=mesh, prediction_loss_only=loss_only, preprocess_logits=preprocess
    )
    return Evaluator(model, step, batches, mesh, compute_metrics, keep, generation, args)


def evaluate(
    model: Model,
    data: Any,
    args: TrainingArguments | None = None,
    *,
    compute_metrics: ComputeMetrics | None = None,
    loss_fn: LossFn | None = None,
    mesh: Mesh | None = None,
    data_collator: Collator | None = None,
    preprocess_logits_for_metrics: Preprocess | None = None,
    callbacks: Sequence[Callback] = (),
) -> dict[str, float]:
    """Loss and metrics over a labelled set.

    Args:
      model: what to evaluate.
      data: examples: a `Table` or a sequence of dicts with `input_ids`, `labels`, ….
      args: `per_device_eval_batch_size`, precision.
      compute_metrics: from `EvalPrediction` to numbers; or `Streaming`, which never holds all predictions.
      loss_fn: `(output, batch) -> (sum, count)`; the head's own by default.
      mesh: where it runs; all devices data-parallel by default.
      data_collator: what is done to each batch on the host, as for `fit`.
      preprocess_logits_for_metrics: `(logits, labels) -> logits`, done to each batch on the device before it is kept.
      callbacks: told of each batch, and of the metrics.

    Returns:
      `eval_loss`, the metrics under `eval_…`, `eval_runtime` in seconds, `eval_samples_per_second`.
    """
    return _run(model, data, args, compute_metrics, loss_fn, mesh, data_collator, preprocess_logits_for_metrics,
                callbacks, "eval").metrics  # fmt: skip


def predict(
    model: Model,
    data: Any,
    args: TrainingArguments | None = None,
    *,
    compute_metrics: ComputeMetrics | None = None,
    loss_fn: LossFn | None = None,
    mesh: Mesh | None = None,
    data_collator: Collator | None = None,
    preprocess_logits_for_metrics: Preprocess | None = None,
    callbacks: Sequence[Callback] = (),
) -> PredictionOutput:
    """Logits for every example, in the order of the data; metrics under `test_…` where there are labels.

    Arguments as for `evaluate`.
    """
    return _run(model, data, args, compute_metrics, loss_fn, mesh, data_collator, preprocess_logits_for_metrics,
                callbacks, "test")  # fmt: skip


def _run(
    model: Model,
    data: Any,
    args: TrainingArguments | None,
    compute_metrics: ComputeMetrics | None,
    loss_fn: LossFn | None,
    mesh: Mesh | None,
    collator: Collator | None,
    preprocess: Preprocess | None,
    callbacks: Sequence[Callback],
    prefix: str,
) -> PredictionOutput:
    mesh = make_mesh() if mesh is None else mesh
    args = args or TrainingArguments()
    evaluator = make_evaluator(
        model,
        data,
        args,
        compute_metrics=compute_metrics,
        loss_fn=loss_fn,
        mesh=mesh,
        collator=collator,
        keep=prefix == "test",
        preprocess=preprocess,
    )
    listeners = checked(callbacks)
    progress = Progress(args, total_steps=0, steps_per_epoch=1)

    def after_batch() -> None:
        for listener in listeners:
            listener.on_prediction_step(progress)

    params = jax.device_put(model.params, shardings(model.declare(), mesh))
    found = evaluator(params, prefix, after_batch)
    for listener in listeners:
        (listener.on_evaluate if prefix == "eval" else listener.on_predict)(progress, found.metrics)
    return found


def own_lengths(model: Model) -> tuple[str, ...]:
    """The columns whose lengths are not those of what the model reads."""
    return OWN_LENGTHS if model.head in (*ANSWERS, "ctc") else ()


def make_batches(data: Any, shapes: int, *, own_lengths: Sequence[str] = (), **options: Any) -> Batches:
    """`Batches` padded to at most `shapes` lengths, the best for this data; only those its first epoch meets.

    So a later epoch compiles nothing, and every program is known before the first step. The columns `own_lengths`, as far as
    there are any, have lengths of their own: as many, and the longer for the longer texts. `Batches` are left as they are.
    """
    if isinstance(data, Batches):
        return data.repeated(options.get("num_epochs", 1))
    own = [key for key in own_lengths if len(data) and key in data[0]]
    batches = Batches(data, **options, buckets={key: (np.iinfo(np.int32).max,) for key in own})
    if not batches.buckets:
        return batches
    columns = {key: batches.columns[key].tolist() for key in dict.fromkeys((next(iter(batches.columns)), *own))}
    best = {key: choose_buckets(lengths, count=shapes) for key, lengths in columns.items()}
    most = max(map(len, best.values()))
    best = {key: (*buckets, *buckets[-1:] * (most - len(buckets))) for key, buckets in best.items()}
    batches = Batches(data, **options, buckets=best)
    met = sorted({most - 1, *(batches.place_of(rows) for rows in batches.plan(0))})
    return Batches(data, **options, buckets={key: [buckets[place] for place in met] for key, buckets in best.items()})


def one_of_each_shape(batches: Batches) -> Iterator[dict[str, np.ndarray]]:
    """The first batch of each padded length, in the first epoch."""
    seen = set()
    for step, rows in enumerate(batches.plan(0)):
        place = batches.place_of(rows)
        if place not in seen:
            seen.add(place)
            yield batches[step]


def _join(arrays: list[np.ndarray]) -> np.ndarray:
    """Concatenates along the first axis; a second axis of unequal length is filled with -100."""
    if arrays[0].ndim > 1:
        longest = max(array.shape[1] for array in arrays)
        arrays = [
            np.pad(array, [(0, 0), (0, longest - array.shape[1]), *[(0, 0)] * (array.ndim - 2)], constant_values=PAD)
            for array in arrays
        ]
    return np.concatenate(arrays)


def _one_or_all(arrays: list[np.ndarray]) -> Any:
    return None if not arrays else arrays[0] if len(arrays) == 1 else tuple(arrays)
