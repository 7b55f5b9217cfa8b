"""MRPC: do two sentences say the same? BERT fine-tuned on the Microsoft Research Paraphrase Corpus (Dolan & Brockett 2005).

    python -m experiments.mrpc

With no flags it fine-tunes bert-base-uncased on `tfds:glue/mrpc`. Where the hub cannot be reached it says so and trains a
small BERT from random parameters on bundled synthetic paraphrases instead, to show that all is well; those scores are not
MRPC's. `--model` and `--data` take folders or ids of your own and never fall back. The other tasks of GLUE: `experiments.glue`.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from experiments import finetune, glue
from experiments.launch import launch
from jaxformers.train import Callback


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(finetune.Config):
    """Flags of the experiment, and every field of TrainingArguments."""

    output_dir: str = "out/mrpc"
    """Where checkpoints, metrics, the model card and the final model go."""


RECIPE = glue.recipe("mrpc", name="MRPC")


def run(config: Config, callbacks: Sequence[Callback] = ()) -> dict[str, Any]:
    """Trains, evaluates and saves; returns the results."""
    return finetune.run(config, RECIPE, callbacks)


if __name__ == "__main__":
    launch(Config, run, __doc__, "python -m experiments.mrpc")
