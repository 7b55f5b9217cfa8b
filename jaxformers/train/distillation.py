"""Knowledge distillation (Hinton et al. 2015, arXiv:1503.02531; Sanh et al. 2019, arXiv:1910.01108): a student learns what a
teacher says, beside what is right.

Both are one model to the train step: the teacher's parameters lie on the mesh with the student's, and do not learn.
"""

import dataclasses
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from jaxformers.checkpoints.mapping import is_stacked
from jaxformers.core.outputs import Output
from jaxformers.core.params import Tree, leaves, nested, tree_map
from jaxformers.errors import InputError
from jaxformers.families import Family, Model
from jaxformers.train.losses import Batch, LossFn, row_weights


@flax.struct.dataclass
class TaughtOutput(Output):
    """What the student says, and beside it what the teacher says of the same.

    Args:
      teacher: the teacher's output.
    """

    teacher: Output | None = None


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class TaughtFamily(Family):
    """A student's family, with a teacher at its side; see `Family`.

    Args:
      student: the student's own.
    """

    student: Family


def taught(student: Model, teacher: Model) -> Model:
    """Student and teacher as one model, of which the student learns; to be trained with the loss `distillation` gives.

    Its config is the student's, its tree `{"student": …, "teacher": …}`, its forward pass in training (with a `rng`) that of
    both, the teacher's without dropout. Without one, in evaluation, the student speaks alone. `student_of` takes it out again.

    Raises:
      InputError: their heads differ, or they are encoder-decoders.
    """
    if student.family.decoder_inputs or teacher.family.decoder_inputs:
        raise InputError("distillation is of models of one stack; encoder-decoders are not taught here")
    if student.head != teacher.head:
        raise InputError(f"student and teacher need the same head, found {student.head!r} and {teacher.head!r}")
    own, theirs = student.family, teacher.family

    def declare(config: Any, head: str | None = None) -> Tree:
        still = tree_map(lambda param: dataclasses.replace(param, learns=False), theirs.declare(teacher.config, head))
        return {"student": own.declare(config, head), "teacher": still}

    def forward(params: Tree, *, config: Any, rng: jax.Array | None = None, **named: Any) -> Output:
        def say(model: Model, params: Tree, rng: jax.Array | None, **asked: bool) -> Output:
            foreign = {*student.inputs, *teacher.inputs} - {*model.inputs}
            given = {name: value for name, value in named.items() if name not in foreign}
            return model.apply(params, rng=rng, **{**given, **asked})

        pupil = dataclasses.replace(student, config=config)
        if rng is None:
            return say(pupil, params["student"], None)
        said = say(pupil, params["student"], rng, output_hidden_states=True)
        heard = say(teacher, params["teacher"], None, output_hidden_states=True)
        return TaughtOutput(**{name: said[name] for name in said.keys()}, teacher=heard)  # noqa: SIM118 (not a dict)

    parts = {field.name: getattr(own, field.name) for field in dataclasses.fields(Family)}
    parts |= {"declare": declare, "heads": {student.head: forward}, "trunk": ("student", "teacher")}
    parts["inputs"] = tuple(dict.fromkeys((*own.inputs, *theirs.inputs)))
    family = TaughtFamily(**parts, student=own)
    params = {"student": student.params, "teacher": teacher.params}
    return Model(family, student.head, student.config, params, student.generation)


def student_of(model: Model) -> Model:
    """The student alone, out of what `taught` gave. Raises `InputError` where the model is no such pair."""
    if not isinstance(model.family, TaughtFamily):
        raise InputError("the model has no teacher at its side")
    return dataclasses.replace(model, family=model.family.student, params=model.params["student"])


def every_other_layer(teacher: Model, layers: int) -> Model:
    """A student of `layers` layers that begins as the teacher's, evenly chosen: DistilBERT's 0, 2, 4, 7, 9 and 11 of BERT's 12.

    Raises:
      InputError: the teacher has no more layers than that.
    """
    depth = teacher.config.num_hidden_layers
    if not 0 < layers < depth:
        raise InputError(f"a student of a teacher with {depth} layers has 1 to {depth - 1}, found {layers}")
    chosen = np.linspace(0, depth - 1, layers).round().astype(int)
    declared = dict(leaves(teacher.declare()))
    flat = {path: leaf[chosen] if is_stacked(declared[path]) else leaf for path, leaf in leaves(teacher.params)}
    return dataclasses.replace(teacher, config=teacher.config.replace(num_hidden_layers=layers), params=nested(flat))


def distillation(
    loss: LossFn, *, temperature: float = 2.0, soft: float = 5.0, hard: float = 2.0, cosine: float = 1.0
) -> LossFn:
    """The loss of a `taught` model; the weights are those DistilBERT was trained with. In evaluation it is `loss` alone.

    Args:
      loss: the loss against the labels, such as `losses.tokens` or `losses.default_loss(head, config)`.
      temperature: T, by which both sides' logits are divided before they are compared.
      soft: weight of T² times the divergence of the student's distribution from the teacher's, a mean over real tokens (or
        over rows, where the head has one distribution for each).
      hard: weight of `loss`.
      cosine: weight of 1 - cos of the angle between the last hidden states, a mean over real tokens.

    Returns:
      `loss_fn(output, batch) -> (sum, count)`, counted as `loss` is.

    Raises:
      InputError: when it is computed: the widths differ, so that hidden states have no angle; cosine=0 leaves it out.
    """

    def mean(each: jax.Array, batch: Batch) -> jax.Array:
        """Over real rows [B] or real tokens [B, L]."""
        weights = row_weights(batch)
        if each.ndim == 2:
            weights = weights[:, None] * batch.get("attention_mask", jnp.ones(each.shape, jnp.float32))
        return (each * weights).sum() / jnp.maximum(weights.sum(), 1)

    def loss_fn(output: Any, batch: Batch) -> tuple[jax.Array, jax.Array]:
        total, count = loss(output, batch)
        if not isinstance(output, TaughtOutput):
            return total, count
        student: Any = output
        teacher: Any = output.teacher
        extra = jnp.zeros((), jnp.float32)
        if soft:
            said, heard = (each.logits.astype(jnp.float32) / temperature for each in (student, teacher))
            divergence = jax.nn.softmax(heard) * (jax.nn.log_softmax(heard) - jax.nn.log_softmax(said))
            extra += soft * temperature**2 * mean(divergence.sum(-1), batch)
        if cosine:
            x_BLD, y_BLD = (each.hidden_states[-1].astype(jnp.float32) for each in (student, teacher))
            if x_BLD.shape != y_BLD.shape:
                raise InputError(
                    f"student and teacher have widths {x_BLD.shape[-1]} and {y_BLD.shape[-1]}: give cosine=0"
                )
            length = jnp.linalg.norm(x_BLD, axis=-1) * jnp.linalg.norm(y_BLD, axis=-1)
            extra += cosine * mean(1 - (x_BLD * y_BLD).sum(-1) / jnp.maximum(length, 1e-8), batch)
        return hard * total + extra * count, count

    return loss_fn
