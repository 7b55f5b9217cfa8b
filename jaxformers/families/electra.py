"""ELECTRA (Clark et al. 2020, arXiv:2003.10555): BERT trained to tell, token by token, which words a generator replaced.

The generator is a smaller model of the same family with the head `masked-lm`; the discriminator's is `pretraining`, one logit
a token. Embeddings may be narrower than the model, there is no pooler, and a text is classified by a dense layer and gelu of
the head's own over its first token.
"""

import dataclasses
from functools import partial
from typing import Any

import jax

from jaxformers.core import heads
from jaxformers.core.layers import ACTIVATIONS, declare_linear, dropout, linear
from jaxformers.core.outputs import Output
from jaxformers.core.params import Tree, normal, stacked
from jaxformers.core.transformer import declare_post_norm
from jaxformers.errors import ConfigError
from jaxformers.families import text_encoder
from jaxformers.families.config import keys_of, read_config, write_config
from jaxformers.families.model import Family, Forward, class_names
from jaxformers.families.text_encoder import CLASSIFIERS, FIXED, INPUTS, EncoderConfig, encode


@dataclasses.dataclass(frozen=True, kw_only=True)
class ElectraConfig(EncoderConfig):
    """ELECTRA's numbers; the defaults are those of electra-small-discriminator."""

    hidden_size: int = 256
    num_attention_heads: int = 4
    intermediate_size: int = 1024
    embedding_size: int = 128
    summary_type: str = "first"
    summary_use_proj: bool = True
    summary_activation: str = "gelu"
    summary_last_dropout: float = 0.1

    SIZES = (*EncoderConfig.SIZES, "embedding_size")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.summary_type not in heads.SUMMARIES:
            raise ConfigError(f"unknown summary_type {self.summary_type!r}; known: {', '.join(heads.SUMMARIES)}")


KEYS = keys_of(ElectraConfig)
config_from_hf = partial(read_config, ElectraConfig, KEYS, FIXED, {})
config_to_hf = partial(write_config, KEYS, "electra")
LM = {"dense": "generator_predictions.dense", "norm": "generator_predictions.LayerNorm",
      "bias": "generator_lm_head.bias", "decoder": "generator_lm_head"}  # fmt: skip


def declare(config: ElectraConfig, head: str | None = None) -> Tree:
    """Every parameter of ELECTRA with `head`: shape, axes, initialiser, checkpoint name and layout."""
    D, E, init = config.hidden_size, config.embedding_size, normal(config.initializer_range)
    block = declare_post_norm(config, text_encoder.block_names("electra.encoder.layer.{}."), init)
    names = CLASSIFIERS | {"sequence-classification": ("classifier.dense", "classifier.out_proj")}
    dense = partial(declare_linear, init=init, axes=("embed", "mlp"))
    tree: Tree = {
        "embeddings": text_encoder.declare_embeddings(config, "electra.embeddings.", E),
        "layers": stacked(config.num_hidden_layers, block),
        **text_encoder.declare_classifier(config, head, names),
    }
    if E != D:
        tree["embeddings"]["project"] = dense(E, D, "electra.embeddings_project")
    if head == "masked-lm":
        tree["masked_lm"] = heads.declare_masked_lm(D, config.vocab_size, LM, init, config.tie_word_embeddings, E)
    if head == "pretraining":
        at = "discriminator_predictions.dense"
        tree["replaced"] = {"dense": dense(D, D, at), "out": declare_linear(D, 1, f"{at}_prediction", init)}
    if head == "multiple-choice" and config.summary_use_proj:
        tree["summary"] = dense(D, D, "sequence_summary.summary")
    return tree


def classify(params: Tree, trunk: Output, config: ElectraConfig, rng: jax.Array | None) -> dict[str, Any]:
    """Dropout, a dense layer and gelu over the first token, dropout, and the classes: logits [B, C]."""
    rate = heads.classifier_rate(config)
    return heads.classify_first(params, trunk, rng, "gelu", rate, rate)


def choose(params: Tree, trunk: Output, config: ElectraConfig, rng: jax.Array | None) -> dict[str, Any]:
    """The summary of a text, dropout, and one logit: [B, 1]."""
    summary_BD = heads.summarise(params.get("summary"), trunk, config.summary_type, config.summary_activation)
    return {"logits": linear(params["classifier"], dropout(summary_BD, config.summary_last_dropout, rng))}


def find_replaced(params: Tree, trunk: Output, config: ElectraConfig, rng: jax.Array | None) -> dict[str, Any]:
    """Was this token put there by the generator? Logits [B, L], positive says yes."""
    h_BLD = ACTIVATIONS[config.hidden_act](linear(params["replaced"]["dense"], trunk.last_hidden_state))  # type: ignore[arg-type]
    return {"logits": linear(params["replaced"]["out"], h_BLD)[..., 0]}


HEADS: dict[str | None, Forward] = {
    None: encode,
    "sequence-classification": heads.attach(encode, classify),
    "token-classification": heads.attach(encode, heads.classify_tokens),
    "question-answering": heads.attach(encode, heads.find_span),
    "masked-lm": heads.attach(encode, partial(heads.predict_words, activation="gelu")),
    "pretraining": heads.attach(encode, find_replaced),
    "multiple-choice": heads.choose(heads.attach(encode, choose)),
}

FAMILY = Family(
    name="electra",
    config_class=ElectraConfig,
    config_from_hf=config_from_hf,
    config_to_hf=config_to_hf,
    config_keys=KEYS,
    declare=declare,
    heads=HEADS,
    architectures=class_names("Electra", HEADS),
    prefix="electra.",
    trunk=("embeddings", "layers"),
    inputs=INPUTS,
    buffers=("electra.embeddings.position_ids", "electra.embeddings.token_type_ids"),
    ties={"generator_lm_head.weight": "electra.embeddings.word_embeddings.weight"},
)
