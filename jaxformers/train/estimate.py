"""What a training step needs, told before anything is allocated: memory of each device by what it is for, and operations.

Two figures stand beside each other. The analytic one adds up what is held: weights, gradients and optimizer state exactly, by
their shapes and places; activations as what the backward pass is handed by the forward pass, before XLA sees either and
computes again what is cheap. What lives for a moment (a layer that is recomputed, logits) is not in it. The other figure is
XLA's own of the compiled step (`core.compilation`).
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.extend.core import Var, jaxprs_in_params
from jax.sharding import Mesh

from jaxformers.core import params as core_params
from jaxformers.core.compilation import program_bytes
from jaxformers.errors import InputError
from jaxformers.families import Model
from jaxformers.parallel.mesh import MeshConfig, make_mesh
from jaxformers.train.arguments import TrainingArguments
from jaxformers.train.groups import parted
from jaxformers.train.losses import LossFn
from jaxformers.train.precision import compute_dtype
from jaxformers.train.step import TrainStep, batch_sharding, make_eval_step, make_train_step

Shapes = Mapping[str, tuple[tuple[int, ...], Any]]  # column of a batch -> its shape, with the rows, and its dtype


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What a training step needs; memory in bytes of one device.

    Args:
      parameters: scalars of the model, over all devices.
      weights: the parameters.
      gradients: of those that learn, as many.
      optimizer: the optimizer's state.
      copies: the weights in the dtype they compute in, where that is another.
      activations: what the forward pass keeps for the backward pass, of one micro-batch. What `tensor` divides is counted
        whole.
      compiled: what XLA's compiler says the step takes at its fullest; None where it was not asked.
      platform: whose compiler that was.
      flops: of a step, over all devices, by the model: forward and twice that backward, nothing recomputed.
    """

    parameters: int
    weights: int
    gradients: int
    optimizer: int
    copies: int
    activations: int
    compiled: int | None
    platform: str
    flops: float

    @property
    def total(self) -> int:
        """All of the analytic figures together."""
        return self.weights + self.gradients + self.optimizer + self.copies + self.activations


def estimate(
    model: Model,
    args: TrainingArguments,
    batch: Shapes,
    *,
    mesh: Mesh | None = None,
    loss_fn: LossFn | None = None,
    compiles: bool = True,
) -> Estimate:
    """What a training step of a model needs. Nothing is allocated and nothing runs.

    Args:
      model: may be without numbers (`checkpoints.load.outline`).
      args: optimizer, precision, accumulation, recomputation.
      batch: the batch of one step (`batch_of` makes one), with all its rows.
      mesh: where it would run; one device by default.
      loss_fn: the head's own by default.
      compiles: whether to ask XLA's compiler, too, which takes seconds to minutes.
    """
    mesh = make_mesh(MeshConfig(data=1), jax.devices()[:1]) if mesh is None else mesh
    args = args if args.max_steps > 0 else args.replace(max_steps=1000)
    step = make_train_step(model, args, loss_fn=loss_fn, mesh=mesh)
    state = step.outline()
    placed = {
        name: jax.ShapeDtypeStruct(shape, dtype, sharding=batch_sharding(shape, mesh, name))
        for name, (shape, dtype) in batch.items()
    }
    dtype = compute_dtype(args)
    copied = [leaf for leaf in jax.tree.leaves(state.params) if dtype is not None and leaf.dtype != dtype]
    members = mesh.shape["data"] * mesh.shape["fsdp"] * mesh.shape["sequence"]
    return Estimate(
        parameters=core_params.count(model.declare()),
        weights=bytes_of(state.params),
        gradients=bytes_of(parted(step.still, state.params)[0]),
        optimizer=bytes_of(state.opt_state),
        copies=sum(bytes_of(leaf) // leaf.dtype.itemsize for leaf in copied)
        * (np.dtype(dtype).itemsize if copied else 0),
        activations=_kept(step, batch, args.gradient_accumulation_steps) // members,
        compiled=program_bytes(step.program(state, placed)) if compiles else None,
        platform=mesh.devices.flat[0].platform,
        flops=model_flops(model, args, placed, loss_fn),
    )


def batch_of(
    model: Model, rows: int, length: int, target_length: int | None = None, choices: int = 4
) -> dict[str, Any]:
    """A batch as a head's data have it: column -> shape and dtype.

    Args:
      model: of text.
      rows: texts, of all devices.
      length: tokens of each.
      target_length: tokens of what an encoder-decoder writes; `length` by default.
      choices: of multiple choice.

    Raises:
      InputError: the model does not read texts, or its head is not trained as it is.
    """
    whole: dict[str, tuple[int, ...]] = {
        "sequence-classification": (rows,),
        "next-sentence-prediction": (rows,),
        "multiple-choice": (rows,),
        **dict.fromkeys(("token-classification", "masked-lm", "causal-lm", "pretraining"), (rows, length)),
        "seq2seq-lm": (rows, target_length or length),
    }
    spans = model.head in ("question-answering", "question-answering-beam")
    if "input_ids" not in model.inputs or (model.head not in whole and not spans):
        raise InputError(
            f"nothing is known of the batches of {model.family.name} with the head {model.head!r}: an estimate needs a head "
            f"that is trained on texts, one of {', '.join(sorted((*whole, 'question-answering')))}"
        )
    text = (rows, choices, length) if model.head == "multiple-choice" else (rows, length)
    columns: dict[str, tuple[int, ...]] = {
        key: text for key in ("input_ids", "attention_mask", "token_type_ids") if key in model.inputs
    }
    columns |= {"start_positions": (rows,), "end_positions": (rows,)} if spans else {"labels": whole[model.head or ""]}
    if model.head == "pretraining" and model.family.name != "electra":
        columns |= {"sentence_order_label" if model.family.name == "albert" else "next_sentence_label": (rows,)}
    return {name: (shape, np.int32) for name, shape in columns.items()}


def _kept(step: TrainStep, batch: Shapes, micro_batches: int) -> int:
    """Bytes that the backward pass of a micro-batch is handed by its forward pass: those that grow with the rows."""

    def handed(times: int) -> int:
        shapes = {
            name: jax.ShapeDtypeStruct((times * shape[0] // micro_batches, *shape[1:]), dtype)
            for name, (shape, dtype) in batch.items()
        }
        params = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), step.model.params)

        def backward(params: Any, batch: Any, rng: jax.Array) -> Any:
            moving, rest = parted(step.still, params)
            return jax.vjp(lambda moving: step.loss(moving, rest, batch, rng)[0], moving)[1]

        jaxpr = jax.make_jaxpr(backward)(params, shapes, jax.eval_shape(lambda: jax.random.key(0))).jaxpr
        kept = {each for each in jaxpr.outvars if isinstance(each, Var)} - {*jaxpr.invars}
        return sum(_bytes(each.aval) for each in kept)

    return handed(2) - handed(1)  # what does not grow is weights


def model_flops(
    model: Model, args: TrainingArguments, batch: Mapping[str, Any], loss_fn: LossFn | None = None
) -> float:
    """What a training step must compute, over all devices: the forward pass and twice that backward, nothing recomputed.

    Counted in plain operations, for no kernel says what it costs, and a loss that goes through some words at a time runs as
    often as its data says.
    """
    alone = make_mesh(MeshConfig(data=1), jax.devices("cpu")[:1])
    step = make_eval_step(model, args, loss_fn=loss_fn, mesh=alone)
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), (model.params, dict(batch)))
    return 3 * matmul_flops(jax.make_jaxpr(step.function)(*shapes).jaxpr)


def matmul_flops(jaxpr: Any) -> float:
    """Of all matrix products in a jaxpr, loops counted as often as they run."""
    total = 0.0
    for equation in jaxpr.eqns:
        times = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            depth = np.prod([left[axis] for axis in contracted], dtype=float)
            total += 2 * float(depth) * float(np.prod(equation.outvars[0].aval.shape, dtype=float))
        elif equation.primitive.name == "pallas_call" and equation.params.get("cost_estimate"):
            total += equation.params["cost_estimate"].flops
        else:
            total += times * sum(matmul_flops(inner) for inner in jaxprs_in_params(equation.params))
    return total


def bytes_of(tree: Any) -> int:
    """Bytes that one device holds of a tree of abstract arrays with places."""
    return sum(_bytes(leaf, leaf.sharding.shard_shape(leaf.shape)) for leaf in jax.tree.leaves(tree))


def _bytes(array: Any, shape: tuple[int, ...] | None = None) -> int:
    """Bytes of an abstract array, or of a part of it of this shape; keys of random numbers count as nothing."""
    if jax.dtypes.issubdtype(array.dtype, jax.dtypes.prng_key):
        return 0
    return math.prod(array.shape if shape is None else shape) * int(np.dtype(array.dtype).itemsize)
