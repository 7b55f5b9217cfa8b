"""DistilBERT (Sanh et al. 2019, arXiv:1910.01108): half of BERT's layers, no token types, no pooler.

Its config has names of its own, its norms a fixed epsilon, its attention no dropout after the output projection, and a text
is classified by a dense layer and ReLU over its first token.
"""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxformers.core import heads, positions
from jaxformers.core.attention import padding_mask
from jaxformers.core.layers import dropout, split_rng
from jaxformers.core.outputs import Output
from jaxformers.core.params import Tree, normal, stacked
from jaxformers.core.transformer import BlockNames, declare_post_norm, post_norm, stack
from jaxformers.families import text_encoder
from jaxformers.families.config import keys_of, read_config, write_config
from jaxformers.families.model import Family, Forward, class_names
from jaxformers.families.text_encoder import CLASSIFIERS, INPUTS, EncoderConfig, Text, declare_embeddings


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistilBertConfig(EncoderConfig):
    """DistilBERT's numbers; the defaults are those of distilbert-base-uncased."""

    num_hidden_layers: int = 6
    type_vocab_size: int = 0
    qa_dropout: float = 0.1
    seq_classif_dropout: float = 0.2
    sinusoidal_pos_embds: bool = False  # how the position table starts; it is learned either way

    SIZES = text_encoder.TextConfig.SIZES


KEYS = keys_of(
    DistilBertConfig,
    without=("layer_norm_eps", "type_vocab_size", "classifier_dropout"),
    hidden_size="dim",
    num_hidden_layers="n_layers",
    num_attention_heads="n_heads",
    intermediate_size="hidden_dim",
    hidden_act="activation",
    hidden_dropout_prob="dropout",
    attention_probs_dropout_prob="attention_dropout",
)
IGNORED = {"tie_weights_": "left over from the original training code, which alone read it"}
config_from_hf = partial(read_config, DistilBertConfig, KEYS, text_encoder.FIXED, IGNORED)
config_to_hf = partial(write_config, KEYS, "distilbert")

_LAYER = "distilbert.transformer.layer.{}."
NAMES = BlockNames(
    query=_LAYER + "attention.q_lin",
    key=_LAYER + "attention.k_lin",
    value=_LAYER + "attention.v_lin",
    out=_LAYER + "attention.out_lin",
    attention_norm=_LAYER + "sa_layer_norm",
    up=_LAYER + "ffn.lin1",
    down=_LAYER + "ffn.lin2",
    output_norm=_LAYER + "output_layer_norm",
)
TWO = ("pre_classifier", "classifier")
LM = {
    "dense": "vocab_transform",
    "norm": "vocab_layer_norm",
    "bias": "vocab_projector.bias",
    "decoder": "vocab_projector",
}


def declare(config: DistilBertConfig, head: str | None = None) -> Tree:
    """Every parameter of DistilBERT with `head`: shape, axes, initialiser, checkpoint name and layout."""
    init = normal(config.initializer_range)
    names = CLASSIFIERS | {"sequence-classification": TWO, "multiple-choice": TWO}
    tree: Tree = {
        "embeddings": declare_embeddings(config, "distilbert.embeddings."),
        "layers": stacked(config.num_hidden_layers, declare_post_norm(config, NAMES, init)),
        **text_encoder.declare_classifier(config, head, names),
    }
    if config.sinusoidal_pos_embds:
        fixed = lambda key, shape, dtype: jnp.asarray(positions.sinusoids(*shape), dtype)  # noqa: E731
        tree["embeddings"]["position"] = dataclasses.replace(tree["embeddings"]["position"], init=fixed)
    if head == "masked-lm":
        tied = config.tie_word_embeddings
        tree["masked_lm"] = heads.declare_masked_lm(config.hidden_size, config.vocab_size, LM, init, tied)
    return tree


def layers(params: Tree, x_BLD: jax.Array, text: Text, config: DistilBertConfig, **options: Any) -> Any:
    """BERT's layers without the dropout after attention."""
    block = partial(post_norm, config=config, mask=padding_mask(text.attention_mask), drop_attention=False)
    return stack(params["layers"], block, x_BLD, **options)


encode = partial(text_encoder.encode, layers=layers)


def classify(params: Tree, trunk: Output, config: DistilBertConfig, rng: jax.Array | None) -> dict[str, Any]:
    """A dense layer and ReLU over the first token, dropout, and the classes: logits [B, C]."""
    return heads.classify_first(params, trunk, rng, "relu", 0.0, config.seq_classif_dropout)


def find_span(params: Tree, trunk: Output, config: DistilBertConfig, rng: jax.Array | None) -> dict[str, Any]:
    """Dropout, then logits [B, L] for the first and for the last token of an answer."""
    states_BLD = dropout(trunk.last_hidden_state, config.qa_dropout, split_rng(rng, 1)[0])  # type: ignore[arg-type]
    return heads.find_span(params, Output(last_hidden_state=states_BLD), config, None)


HEADS: dict[str | None, Forward] = {
    None: encode,
    "sequence-classification": heads.attach(encode, classify),
    "token-classification": heads.attach(encode, heads.classify_tokens),
    "question-answering": heads.attach(encode, find_span),
    "masked-lm": heads.attach(encode, heads.predict_words),
    "multiple-choice": heads.choose(heads.attach(encode, classify)),
}

FAMILY = Family(
    name="distilbert",
    config_class=DistilBertConfig,
    config_from_hf=config_from_hf,
    config_to_hf=config_to_hf,
    config_keys=KEYS,
    declare=declare,
    heads=HEADS,
    architectures=class_names("DistilBert", HEADS),
    prefix="distilbert.",
    trunk=("embeddings", "layers"),
    inputs=tuple(name for name in INPUTS if name != "token_type_ids"),
    buffers=("distilbert.embeddings.position_ids",),
    ties={"vocab_projector.weight": "distilbert.embeddings.word_embeddings.weight"},
)
