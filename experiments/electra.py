"""ELECTRA: pretraining by telling replaced words from real ones (Clark et al. 2020, arXiv:2003.10555).

    python -m experiments.electra --data corpus.txt

A small generator fills masked words in; the model proper, the discriminator, learns for every token whether it was replaced. Both
learn at once, sharing their embeddings: the generator's masked-language loss plus 50 times the discriminator's. They start from
random parameters in the sizes of google/electra-small (`--model` names another; its tokenizer is used), or go on from two
checkpoints with `--generator`. Text is cut into blocks as in `experiments.mlm`. The output folder holds the discriminator, which
is what one fine-tunes, and in `generator/` the generator. Without a network two tiny models learn from bundled sentences.
"""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from experiments import finetune, mlm
from experiments.finetune import Prepared, Recipe
from experiments.launch import launch
from jaxformers.checkpoints import load, save
from jaxformers.checkpoints.files import locate, read_json
from jaxformers.core.layers import split_rng
from jaxformers.core.params import Tree, initialise
from jaxformers.data import Table
from jaxformers.data.masking import MaskTokens
from jaxformers.errors import InputError
from jaxformers.families import Model, electra
from jaxformers.families.config import Config as ModelConfig
from jaxformers.families.electra import ElectraConfig
from jaxformers.families.model import Family
from jaxformers.preprocess import Tokenizer
from jaxformers.train import Callback
from jaxformers.train.losses import IGNORE, Batch, cross_entropy, row_weights

WEIGHT = 50.0  # of the discriminator's loss


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(mlm.Config):
    """Flags of the experiment, and every field of TrainingArguments."""

    generator: str | None = None
    """A generator to go on from, with --model as its discriminator; both start from random parameters without it."""
    generator_size: float = 0.25
    """The generator's width, heads and feed-forward width as a share of the discriminator's."""
    output_dir: str = "out/electra"
    """Where checkpoints, metrics, the model card and the final models go."""


# -- two models as one -------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class PairConfig(ModelConfig):
    """The numbers of both."""

    generator: ElectraConfig
    discriminator: ElectraConfig


@flax.struct.dataclass
class PairOutput:
    """What both say.

    Args:
      generator_logits: [B, L, V].
      logits: [B, L], positive says that the generator put this token there.
      replaced: bool [B, L], whether it did, and with another token than was there.
    """

    generator_logits: jax.Array
    logits: jax.Array
    replaced: jax.Array


SHARED = ("word", "position", "type", "norm")  # of the embeddings; the generator's are the discriminator's


def declare(config: PairConfig, head: str | None = None) -> Tree:
    """Both models' parameters, the shared ones once."""
    generator = electra.declare(config.generator, "masked-lm")
    own = {name: part for name, part in generator.pop("embeddings").items() if name not in SHARED}
    return {
        "generator": generator | ({"embeddings": own} if own else {}),
        "discriminator": electra.declare(config.discriminator, "pretraining"),
    }


def generator_params(params: Tree) -> Tree:
    """The generator's tree, with the embeddings it shares."""
    shared = {name: part for name, part in params["discriminator"]["embeddings"].items() if name in SHARED}
    return {**params["generator"], "embeddings": {**params["generator"].get("embeddings", {}), **shared}}


def forward(
    params: Tree,
    input_ids: jax.Array,
    attention_mask: jax.Array | None = None,
    labels: jax.Array | None = None,
    *,
    config: PairConfig,
    rng: jax.Array | None = None,
    **options: Any,
) -> PairOutput:
    """Fills the masked tokens in by drawing from the generator, and asks the discriminator which ones were replaced.

    Args:
      params: the tree of `declare`.
      input_ids: [B, L], masked.
      attention_mask: [B, L].
      labels: [B, L], what was masked there, -100 elsewhere.
      config: both models' numbers.
      rng: key for dropout and for drawing; without it nothing is dropped, and the drawing is the same each time.
      **options: such as `execution`.
    """
    if labels is None:
        raise InputError("replaced-token pretraining needs labels: what the masked tokens were")
    rng_generator, rng_discriminator, rng_draw = split_rng(rng, 3)
    logits_BLV = electra.HEADS["masked-lm"](
        generator_params(params), input_ids, attention_mask, config=config.generator, rng=rng_generator, **options
    ).logits
    assert logits_BLV is not None
    drawn_BL = jax.random.categorical(
        jax.random.key(0) if rng_draw is None else rng_draw, logits_BLV.astype(jnp.float32)
    )
    masked_BL = labels != IGNORE
    filled_BL = jnp.where(masked_BL, drawn_BL, input_ids)
    found = electra.HEADS["pretraining"](
        params["discriminator"],
        filled_BL,
        attention_mask,
        config=config.discriminator,
        rng=rng_discriminator,
        **options,
    )
    assert found.logits is not None
    return PairOutput(logits_BLV, found.logits, masked_BL & (filled_BL != labels))


def loss(output: Any, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """The generator's mean loss over masked tokens plus 50 times the discriminator's over all; counted by masked tokens."""
    weights_B1 = row_weights(batch)[:, None]
    asked_BL = (batch["labels"] != IGNORE) * weights_B1
    words_BL = (
        cross_entropy(output.generator_logits, jnp.where(batch["labels"] == IGNORE, 0, batch["labels"])) * asked_BL
    )
    logits_BL = output.logits.astype(jnp.float32)
    told_BL = jax.nn.softplus(jnp.where(output.replaced, -logits_BL, logits_BL))
    real_BL = batch["attention_mask"] * weights_B1
    count = asked_BL.sum()
    told = (told_BL * real_BL).sum() / jnp.maximum(real_BL.sum(), 1)
    return words_BL.sum() + WEIGHT * told * count, count


PAIR = Family(
    name="electra-pair",
    config_class=PairConfig,
    config_from_hf=lambda raw, source: electra.config_from_hf(raw, source),
    config_to_hf=lambda config, architecture: electra.config_to_hf(config.discriminator, architecture),
    config_keys={},
    declare=declare,
    heads={"pretraining": forward},  # type: ignore[dict-item]
    architectures={"pretraining": "ElectraForPreTraining"},
    prefix="electra.",
    trunk=("generator", "discriminator"),
    inputs=("input_ids", "attention_mask", "labels"),
)


def smaller(config: ElectraConfig, share: float) -> ElectraConfig:
    """The generator's config. Raises `InputError` where the share leaves no whole number of heads."""
    heads = max(1, round(config.num_attention_heads * share))
    width = config.hidden_size // config.num_attention_heads * heads
    if not 0 < share <= 1:
        raise InputError(f"generator_size must be above 0 and at most 1, found {share}")
    inner = max(1, round(config.intermediate_size * share))
    return config.replace(hidden_size=width, num_attention_heads=heads, intermediate_size=inner)


def build(config: Config, vocab_size: int, mesh: Any) -> Model:
    """Both models in one, from files or from random parameters."""
    if config.generator is not None:
        if config.model is None:
            raise InputError("--generator goes on from two checkpoints: give the discriminator with --model")
        one, two = load(config.generator, "masked-lm"), load(config.model, "pretraining")
        pair = PairConfig(generator=one.config, discriminator=two.config)
        own = {name: part for name, part in one.params["embeddings"].items() if name not in SHARED}
        rest = {name: part for name, part in one.params.items() if name != "embeddings"}
        params = {"generator": rest | ({"embeddings": own} if own else {}), "discriminator": two.params}
        return Model(PAIR, "pretraining", pair, params)
    if config.data == "bundled" and config.model is None:
        raw = {**finetune.SMALL, "model_type": "electra", "embedding_size": 32, "vocab_size": vocab_size}
        sizes = electra.config_from_hf(raw, "config")
    else:
        source = config.model or RECIPE.model
        raw = read_json(locate(source) / "config.json")
        if raw.get("model_type") != "electra":
            raise InputError(
                f"{source} must be an ELECTRA model, whose sizes are taken; its model_type is {raw.get('model_type')!r}"
            )
        sizes = electra.config_from_hf(raw, f"{source}: config.json")
    pair = PairConfig(generator=smaller(sizes, config.generator_size), discriminator=sizes)
    return Model(PAIR, "pretraining", pair, initialise(declare(pair), jax.random.key(config.seed), mesh=mesh))


def export(model: Model, directory: Any, tokenizer: Any = None) -> None:
    """Writes the discriminator into `directory`, the generator into `generator/` in it."""
    generator = Model(electra.FAMILY, "masked-lm", model.config.generator, generator_params(model.params))
    save(generator, Path(directory) / "generator", tokenizer)
    save(
        Model(electra.FAMILY, "pretraining", model.config.discriminator, model.params["discriminator"]),
        directory,
        tokenizer,
    )


def prepare(splits: dict[str, Table], tokenizer: Tokenizer, config: Any) -> Prepared:
    """Blocks of tokens; the chosen ones all hidden behind the mask token."""
    prepared = mlm.prepare(splits, tokenizer, config)
    collator = MaskTokens.of(
        tokenizer, probability=config.mlm_probability, whole_words=config.whole_word_mask, all_masked=True
    )
    return dataclasses.replace(
        prepared,
        collator=collator,
        loss=loss,
        build=lambda mesh: build(config, math.ceil(len(tokenizer) / 8) * 8, mesh),
        export=export,
    )


RECIPE = Recipe(
    name="ELECTRA's corpus",
    head="pretraining",
    model="google/electra-small-discriminator",
    data="hf:wikitext/wikitext-2-raw-v1",
    bundled="text",
    bundled_is="synthetic sentences",
    read=mlm.read,
    prepare=prepare,
    texts=mlm.RECIPE.texts,
    told=("loss",),
    small=finetune.Start(settings={**finetune.SETTINGS, "per_device_train_batch_size": 16}),
    shuffled=False,
)


def run(config: Config, callbacks: Sequence[Callback] = ()) -> dict[str, Any]:
    """Trains, evaluates and saves; returns the results."""
    return finetune.run(config, RECIPE, callbacks)


if __name__ == "__main__":
    launch(Config, run, __doc__, "python -m experiments.electra")
