"""The train step and the eval step: pure functions of (state, batch), jitted, sharded, the state donated."""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxformers.core.compilation import Compiled
from jaxformers.core.params import STATS, Tree, shardings
from jaxformers.core.transformer import Execution
from jaxformers.core.vocabulary import unmultiplied
from jaxformers.errors import InputError
from jaxformers.families import Model
from jaxformers.families.model import ANSWERS
from jaxformers.parallel.mesh import ACTIVATION_RULES, activate, make_mesh, specification
from jaxformers.train import neftune
from jaxformers.train.arguments import TrainingArguments
from jaxformers.train.average import with_average
from jaxformers.train.groups import Paths, Trainable, frozen, joined, only, parted
from jaxformers.train.losses import Batch, LossFn, contrast, default_loss
from jaxformers.train.optim import global_norm, make_optimizer
from jaxformers.train.precision import cast, compute_dtype, with_loss_scale
from jaxformers.train.schedules import Schedule, make_schedule
from jaxformers.train.state import TrainState, state_shardings

Metrics = dict[str, jax.Array]


class TrainStep(Compiled):
    """`step(state, batch) -> (state, metrics)`, compiled once a batch shape; `step.function` is the pure function.

    `metrics` are device scalars: `loss_sum` and `loss_count`, `grad_norm` before clipping, `learning_rate`. `step.loss` is what
    is differentiated: `(moving, rest, batch, rng) -> (sum, count, new statistics)`, of the parameters that learn and of those
    that do not (`step.still`).
    """

    def __init__(
        self,
        model: Model,
        function: Callable[[TrainState, Batch], tuple[TrainState, Metrics]],
        optimizer: optax.GradientTransformation,
        mesh: Mesh,
        seed: int,
        loss: Callable[[Tree, Tree, Batch, jax.Array], tuple[jax.Array, jax.Array, Tree | None]],
        still: Paths,
    ) -> None:
        places = state_shardings(model, optimizer, mesh)
        super().__init__(function, donate_argnums=0, out_shardings=(places, None))
        self.model, self.optimizer, self.mesh, self.seed = model, optimizer, mesh, seed
        self.loss, self.still = loss, still

    def init(self) -> TrainState:
        """The state before the first step."""
        return TrainState.create(self.model, self.optimizer, self.mesh, self.seed)

    def put(self, batch: Mapping[str, np.ndarray]) -> Batch:
        """This process's rows of a batch, laid onto the mesh."""
        return put_batch(batch, self.mesh)

    def outline(self) -> TrainState:
        """Shapes, dtypes and places of the state, without memory: enough to compile the step (`program`)."""
        return TrainState.outline(self.model, self.optimizer, self.mesh, self.seed)


def make_train_step(
    model: Model,
    args: TrainingArguments,
    *,
    loss_fn: LossFn | None = None,
    optimizer: optax.GradientTransformation | None = None,
    schedule: Schedule | None = None,
    num_training_steps: int | None = None,
    mesh: Mesh | None = None,
    trainable: Trainable | None = None,
) -> TrainStep:
    """Makes `step(state, batch) -> (state, metrics)`.

    Args:
      model: what to train.
      args: batch, optimizer, precision and seed settings.
      loss_fn: `(output, batch) -> (sum, count)`; the head's own by default.
      optimizer: any Optax transformation; clipping and AdamW by default.
      schedule: step -> learning rate, for the default optimizer and the metrics.
      num_training_steps: all optimizer steps, which the default schedule needs; else `args.max_steps`.
      mesh: where it runs; all devices data-parallel by default.
      trainable: which parameters learn, see `train.groups.Trainable`; the others have no optimizer state.

    Returns:
      The step. `step.init()` gives the first state, `step.put(batch)` lays a numpy batch onto the mesh.
    """
    mesh = make_mesh() if mesh is None else mesh
    if schedule is None:
        schedule = make_schedule(args, num_training_steps)
    if optimizer is None:
        optimizer = make_optimizer(args, schedule, model.declare())
    if args.ema_decay is not None:
        optimizer = with_average(optimizer, args.ema_decay)
    still = frozen(trainable, model.declare())
    if still:
        optimizer = only(still, model.declare(), optimizer)
    if args.fp16:
        optimizer = with_loss_scale(optimizer)
    if args.neftune_noise_alpha:
        neftune.check(model)
    own_loss = loss_fn is None
    loss_fn = loss_fn or default_loss(model.head, model.config, args.label_smoothing_factor)
    dtype = compute_dtype(args)
    remat = args.gradient_checkpointing_policy if args.gradient_checkpointing else None
    execution = Execution(remat=remat, trace_once=True)
    micro_batches = args.gradient_accumulation_steps

    def loss_sum(moving: Tree, rest: Tree, batch: Batch, rng: jax.Array) -> tuple[jax.Array, jax.Array, Tree | None]:
        inputs = inputs_of(model, batch)
        params = cast(joined(moving, rest), dtype)
        if args.neftune_noise_alpha:
            rng, rng_noise = jax.random.split(rng)
            inputs = neftune.with_noise(params, inputs, rng_noise, args.neftune_noise_alpha)
        with unmultiplied(own_loss):  # another's may want to see the logits
            output = model.apply(params, rng=rng, execution=execution, **inputs)
        return *loss_fn(output, batch), getattr(output, "new_stats", None)

    def loss_mean(moving: Tree, rest: Tree, batch: Batch, rng: jax.Array, scale: Any) -> Any:
        total, count, stats = loss_sum(moving, rest, batch, rng)
        return total * scale / jnp.maximum(count, 1), (total, count, stats)

    def loss_scaled(moving: Tree, rest: Tree, batch: Batch, rng: jax.Array, scale: Any) -> Any:
        total, count, stats = loss_sum(moving, rest, batch, rng)
        return total * scale, (total, count, stats)

    def sums(params: Tree, batch: Batch, rng: jax.Array, scale: Any) -> tuple[Tree, jax.Array, jax.Array, Tree | None]:
        """Gradients of sums, over micro-batches, the sum and count of their losses, and the statistics, renewed by each."""
        # [micro · size] -> micro × [size], each micro-batch spread over all devices without moving a row between them.
        micro = {k: jnp.moveaxis(v.reshape(-1, micro_batches, *v.shape[1:]), 1, 0) for k, v in batch.items()}

        def add(carry: Any, inputs: Any) -> tuple[Any, None]:
            before, stats = carry
            here = renewed(rest, stats)
            gradients, (total, count, stats) = jax.grad(loss_scaled, has_aux=True)(moving, here, *inputs, scale)
            return (jax.tree.map(jnp.add, before, (gradients, total, count)), stats), None

        moving, rest = parted(still, params)
        zero = jnp.zeros((), jnp.float32)
        start = ((jax.tree.map(jnp.zeros_like, moving), zero, zero), params.get(STATS))
        (gradients, total, count), stats = jax.lax.scan(add, start, (micro, jax.random.split(rng, micro_batches)))[0]
        return gradients, total, count, stats

    def summed_by_hand(
        params: Tree, batch: Batch, rng: jax.Array, scale: Any
    ) -> tuple[Tree, jax.Array, jax.Array, Tree | None]:
        """`sums` over all data-parallel devices, each of which computes alone, and the gradients' sum in `gradient_dtype`."""

        def own(
            params: Tree, batch: Batch, rng: jax.Array, scale: Any
        ) -> tuple[Tree, jax.Array, jax.Array, Tree | None]:
            with activate(None):
                rng = jax.random.fold_in(rng, jax.lax.axis_index("data"))
                gradients, *losses, stats = sums(params, batch, rng, scale)
            add = lambda g: jax.lax.psum(g.astype(args.gradient_dtype), "data").astype(g.dtype)  # noqa: E731
            return jax.tree.map(add, gradients), *jax.lax.psum(losses, "data"), jax.lax.pmean(stats, "data")

        everywhere, rows = PartitionSpec(), PartitionSpec("data")
        run = jax.shard_map(
            own, mesh=mesh, in_specs=(everywhere, rows, everywhere, everywhere), out_specs=everywhere, check_vma=False
        )
        return run(params, batch, rng, jnp.asarray(scale, jnp.float32))

    by_hand = args.gradient_dtype is not None and mesh.size > 1
    if by_hand and mesh.size != mesh.shape["data"]:
        sizes = " × ".join(f"{axis}={size}" for axis, size in mesh.shape.items() if size > 1)
        raise InputError(
            f"gradient_dtype={args.gradient_dtype} needs a mesh of data alone, found {sizes}: where parameters or texts are cut, "
            "the compiler sums gradients while it computes them, in the dtype of the computation"
        )

    if by_hand and loss_fn is contrast:
        raise InputError(
            f"gradient_dtype={args.gradient_dtype} lets each device compute alone, and this loss compares the rows of all"
        )

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        rng = jax.random.fold_in(state.rng, state.step)
        scale: Any = optax.tree.get(state.opt_state, "loss_scale") if args.fp16 else 1.0
        with activate(mesh):
            if micro_batches == 1 and not by_hand:
                gradients, (total, count, stats) = jax.grad(loss_mean, has_aux=True)(
                    *parted(still, state.params), batch, rng, scale
                )
            else:  # divided once, by the count of all: a big batch, not a mean of means
                gradients, total, count, stats = (summed_by_hand if by_hand else sums)(state.params, batch, rng, scale)
                gradients = jax.tree.map(lambda g: g / jnp.maximum(count, 1).astype(g.dtype), gradients)
        if args.fp16:
            gradients = jax.tree.map(lambda leaf: leaf / scale.astype(leaf.dtype), gradients)
        norm = global_norm(gradients)
        unmoved = jax.tree.map(jnp.zeros_like, parted(still, state.params)[1])  # constants, which are never made
        updates, opt_state = optimizer.update(joined(gradients, unmoved), state.opt_state, state.params)
        metrics = {
            "loss_sum": total,
            "loss_count": count,
            "grad_norm": norm,
            "learning_rate": schedule(state.step) * optax.tree.get(state.opt_state, "plateau_scale", 1.0),
        }
        if args.include_num_input_tokens_seen != "no":
            metrics["tokens"] = _tokens(batch, args.include_num_input_tokens_seen)
        params = renewed(optax.apply_updates(state.params, updates), stats)
        return TrainState(state.step + 1, params, opt_state, state.rng), metrics

    return TrainStep(model, step, optimizer, mesh, args.seed, loss_sum, still)


def make_eval_step(
    model: Model,
    args: TrainingArguments,
    *,
    loss_fn: LossFn | None = None,
    mesh: Mesh | None = None,
    prediction_loss_only: bool = False,
    preprocess_logits: Callable[[Any, Any], Any] | None = None,
) -> Compiled:
    """Makes `step(params, batch) -> {"logits" and what else the head predicts, "loss_sum", "loss_count"}`, without dropout.

    The loss is there only where the batch has what it asks for (labels), and then alone where `prediction_loss_only` says so.
    `preprocess_logits(logits, labels)` is what is given in place of the logits. Other arguments as for `make_train_step`.
    """
    mesh = make_mesh() if mesh is None else mesh
    execution, dtype = Execution(trace_once=True), compute_dtype(args, evaluation=True)
    everywhere = NamedSharding(mesh, PartitionSpec())

    def step(params: Tree, batch: Batch) -> dict[str, Any]:
        alone = prediction_loss_only and loss_fn is None and has_labels(batch)
        with activate(mesh):
            with unmultiplied(alone):
                output = model.apply(cast(params, dtype), execution=execution, **inputs_of(model, batch))
            said = {key: value for key in PREDICTED if (value := getattr(output, key, None)) is not None}
            if preprocess_logits is not None and "logits" in said and not alone:
                said["logits"] = preprocess_logits(said["logits"], batch.get("labels"))
            if not has_labels(batch):
                return said
            loss = loss_fn or default_loss(model.head, model.config, args.label_smoothing_factor)
            total, count = loss(output, batch)
        sums = {"loss_sum": total, "loss_count": count}
        return sums if prediction_loss_only else {**said, **sums}

    return Compiled(step, in_shardings=(shardings(model.declare(), mesh), None), out_shardings=everywhere)


def renewed(params: Tree, stats: Tree | None) -> Tree:
    """The parameters with these running statistics of batches; as they are, for a model that has none."""
    return params if stats is None else params | {STATS: stats}


LABELS = ("labels", "start_positions", "end_positions")
HIDDEN = ("bool_masked_pos", "noise", "sampled_negative_indices")  # what an input hides of itself is what is right
# head -> what its decoder reads to predict labels
WRITES = {
    **dict.fromkeys(ANSWERS, "decoder_input_ids"),
    **dict.fromkeys(("text-to-speech", "speech-to-speech"), "decoder_input_values"),
}
PREDICTED = ("logits", "start_logits", "end_logits", "prediction_logits", "seq_relationship_logits",
             "sop_logits", "text_embeds", "image_embeds")  # fmt: skip


def has_labels(batch: Mapping[str, Any]) -> bool:
    """Whether a batch says what is right."""
    return any(key in batch for key in (*LABELS, *HIDDEN))


def inputs_of(model: Model, batch: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a batch the forward pass takes; what a decoder reads to predict `labels`, if not there, is made of them."""
    given = {key: value for key, value in batch.items() if key in model.inputs}
    make = model.family.decoder_inputs
    if make and model.head in WRITES and "labels" in batch and "decoder_inputs_embeds" not in given:
        given.setdefault(WRITES[model.head], make(batch["labels"], model.config))
    return given


def put_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> Batch:
    """Lays this process's rows of a batch (`places_here`) onto the mesh, split over `data` and `fsdp`."""
    members = mesh.shape["data"] * mesh.shape["fsdp"]
    here = len(places_here(mesh, members))

    def place(key: str, rows: np.ndarray) -> jax.Array:
        shape = (rows.shape[0] * members // here, *rows.shape[1:])
        sharding = batch_sharding(shape, mesh, key)
        if here == members:
            return jax.make_array_from_process_local_data(sharding, rows, shape)
        first = np.searchsorted(places_here(mesh, shape[0]), range(shape[0]))  # where a place's row is among those here

        def part(index: tuple[slice, ...] | None) -> np.ndarray:
            assert index is not None  # which stands for a device that holds nothing
            start, stop, _ = index[0].indices(shape[0])
            return rows[first[start] :][: stop - start]

        return jax.make_array_from_callback(shape, sharding, part)

    return {key: place(key, rows) for key, rows in batch.items()}


def batch_sharding(shape: tuple[int, ...], mesh: Mesh, name: str) -> NamedSharding:
    """Where an array of a batch lives: its rows split over `data` and `fsdp`. Raises as `parallel.mesh.specification` does."""
    axes = ("batch", *[None] * (len(shape) - 1))
    return NamedSharding(mesh, specification(axes, shape, mesh, ACTIVATION_RULES, name))


@lru_cache
def places_here(mesh: Mesh, batch_size: int) -> np.ndarray:
    """The places in a batch whose rows this process's devices hold, in order: its share of the data.

    Processes that share a member of the mesh's `data` and `fsdp` axes, as those of one `tensor` group, have the same.
    """
    spec = specification(("batch",), (batch_size,), mesh, ACTIVATION_RULES, "batch")
    parts = NamedSharding(mesh, spec).addressable_devices_indices_map((batch_size,)).values()
    return np.unique([place for part in parts if part for place in range(*part[0].indices(batch_size))])


def _tokens(batch: Batch, which: str) -> jax.Array:
    """The tokens a batch has the model read: all of its places, or those that are no padding."""
    ids = next(iter(batch.values())) if "input_ids" not in batch else batch["input_ids"]
    mask = batch.get("attention_mask") if which == "non_padding" else None
    return jnp.asarray(ids.size, jnp.float32) if mask is None else mask.sum(dtype=jnp.float32)
