"""Distillation: a student with half of a BERT's layers learns to say what it says, as DistilBERT did (Sanh et al. 2019).

    python -m experiments.distillation --data corpus.txt

With no flags the teacher is bert-base-uncased and the text `hf:wikitext/wikitext-2-raw-v1`; `--data` as for experiments.mlm. The
student is of the teacher's family and begins as every other layer of it (`--layers` says how many). Its loss is 5 times the
divergence from the teacher's words at temperature 2, 2 times that of the hidden words, and the angle between the last hidden
states; it is evaluated as experiments.mlm is. Without a network both are small, and the teacher knows nothing either.
"""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any

from experiments import finetune, mlm
from experiments.finetune import Prepared
from experiments.launch import launch
from jaxformers.checkpoints import load, save
from jaxformers.data import Table
from jaxformers.families import Model
from jaxformers.preprocess import Tokenizer
from jaxformers.train import Callback
from jaxformers.train.distillation import distillation, every_other_layer, student_of, taught
from jaxformers.train.losses import tokens


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(mlm.Config):
    """Flags of the experiment, and every field of TrainingArguments; `--model` is the teacher."""

    layers: int | None = None
    """The student's layers; half of the teacher's by default."""
    temperature: float = 2.0
    """What both sides' logits are divided by before they are compared."""
    alpha_ce: float = 5.0
    """Weight of the divergence from what the teacher says."""
    alpha_mlm: float = 2.0
    """Weight of the loss over the hidden words."""
    alpha_cos: float = 1.0
    """Weight of the angle between the last hidden states."""
    output_dir: str = "out/distillation"
    """Where checkpoints, metrics, the model card and the student go."""


def build(config: Any, vocab_size: int, mesh: Any) -> Model:
    """The teacher, and beside it the student made of it."""
    bundled = config.data == "bundled" and config.model is None
    origin: Any = {**finetune.SMALL, "vocab_size": vocab_size} if bundled else config.model or RECIPE.model
    teacher = load(origin, "masked-lm", mesh=mesh, seed=config.seed)
    layers = config.layers or max(1, teacher.config.num_hidden_layers // 2)
    return taught(every_other_layer(teacher, layers), teacher)


def export(model: Model, directory: Any, tokenizer: Any = None) -> None:
    """Writes the student."""
    save(student_of(model), directory, tokenizer)


def prepare(splits: dict[str, Table], tokenizer: Tokenizer, config: Any) -> Prepared:
    """The examples of masked language modelling, and both models."""
    loss = distillation(
        tokens, temperature=config.temperature, soft=config.alpha_ce, hard=config.alpha_mlm, cosine=config.alpha_cos
    )
    return dataclasses.replace(
        mlm.prepare(splits, tokenizer, config), loss=loss, build=partial(build, config, len(tokenizer)), export=export
    )


RECIPE = dataclasses.replace(mlm.RECIPE, prepare=prepare)


def run(config: Config, callbacks: Sequence[Callback] = ()) -> dict[str, Any]:
    """Trains, evaluates and saves; returns the results."""
    return finetune.run(config, RECIPE, callbacks)


if __name__ == "__main__":
    launch(Config, run, __doc__, "python -m experiments.distillation")
