"""ALBERT (Lan et al. 2019, arXiv:1909.11942): BERT whose layers share their parameters, over narrow embeddings.

Layer n of N runs with the parameters of group n·G // N, and a group may be several layers in a row. Its own: the layers'
parameters are looked up, not sliced; the second pretraining task is the order of two texts.
"""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxformers.core import heads
from jaxformers.core.attention import padding_mask
from jaxformers.core.layers import declare_linear, dropout, linear
from jaxformers.core.outputs import Output
from jaxformers.core.params import Tree, normal, stacked
from jaxformers.core.transformer import BlockNames, declare_post_norm, post_norm, stack
from jaxformers.errors import ConfigError
from jaxformers.families import text_encoder
from jaxformers.families.config import keys_of, read_config, write_config
from jaxformers.families.model import Family, Forward, class_names
from jaxformers.families.text_encoder import FIXED, INPUTS, EncoderConfig, Text


@dataclasses.dataclass(frozen=True, kw_only=True)
class AlbertConfig(EncoderConfig):
    """ALBERT's numbers; the defaults are transformers', those of albert-xxlarge-v2 with more heads."""

    vocab_size: int = 30000
    embedding_size: int = 128
    hidden_size: int = 4096
    num_hidden_groups: int = 1
    inner_group_num: int = 1
    num_attention_heads: int = 64
    intermediate_size: int = 16384
    hidden_act: str = "gelu_new"
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    classifier_dropout: float = 0.1

    SIZES = (*EncoderConfig.SIZES, "embedding_size", "num_hidden_groups", "inner_group_num")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_hidden_groups > self.num_hidden_layers:
            found = f"{self.num_hidden_groups} groups, {self.num_hidden_layers} layers"
            raise ConfigError(f"num_hidden_groups must not exceed num_hidden_layers, found {found}")


KEYS = keys_of(AlbertConfig, classifier_dropout="classifier_dropout_prob")
IGNORED = dict.fromkeys(
    ("down_scale_factor", "gap_size", "net_structure_type", "num_memory_blocks"),
    "left over from the original TensorFlow code; PyTorch's ALBERT never read it",
)
config_from_hf = partial(read_config, AlbertConfig, KEYS, FIXED, IGNORED)
config_to_hf = partial(write_config, KEYS, "albert")


def block_names(inner: int) -> BlockNames:
    """The checkpoint names of the `inner`-th layer of each group; `{}` is the group's number."""
    layer = f"albert.encoder.albert_layer_groups.{{}}.albert_layers.{inner}."
    return BlockNames(
        query=layer + "attention.query",
        key=layer + "attention.key",
        value=layer + "attention.value",
        out=layer + "attention.dense",
        attention_norm=layer + "attention.LayerNorm",
        up=layer + "ffn",
        down=layer + "ffn_output",
        output_norm=layer + "full_layer_layer_norm",
    )


POOLED = (None, "sequence-classification", "pretraining", "multiple-choice")


def declare(config: AlbertConfig, head: str | None = None) -> Tree:
    """Every parameter of ALBERT with `head`: shape, axes, initialiser, checkpoint name and layout."""
    D, E, init = config.hidden_size, config.embedding_size, normal(config.initializer_range)
    dense = partial(declare_linear, init=init, axes=("embed", "mlp"))
    tree: Tree = {
        "embeddings": text_encoder.declare_embeddings(config, "albert.embeddings.", E),
        "layers": {
            f"inner_{n}": stacked(config.num_hidden_groups, declare_post_norm(config, block_names(n), init))
            for n in range(config.inner_group_num)
        },
        **text_encoder.declare_classifier(config, head),
    }
    tree["embeddings"]["project"] = dense(E, D, "albert.encoder.embedding_hidden_mapping_in")
    if head in POOLED:
        tree["pooler"] = dense(D, D, "albert.pooler")
    if head in ("masked-lm", "pretraining"):
        tied = config.tie_word_embeddings
        lm = {"dense": "predictions.dense", "norm": "predictions.LayerNorm", "decoder": "predictions.decoder",
              "bias": "predictions.bias" if tied else "predictions.decoder.bias"}  # fmt: skip
        tree["masked_lm"] = heads.declare_masked_lm(D, config.vocab_size, lm, init, tied, E)
    if head == "pretraining":
        tree["order"] = declare_linear(D, config.num_labels, "sop_classifier.classifier", init)
    return tree


def layers(params: Tree, x_BLD: jax.Array, text: Text, config: AlbertConfig, **options: Any) -> Any:
    """BERT's layers over shared parameters, without the dropout after the feed-forward part.

    What is stacked is the number of the group each layer runs with, so that shared parameters stay one copy.
    """
    N, G, inner = config.num_hidden_layers, config.num_hidden_groups, config.inner_group_num
    groups = np.repeat((np.arange(N) / (N / G)).astype(np.int32), inner)
    within = np.tile(np.arange(inner, dtype=np.int32), N)
    mask = padding_mask(text.attention_mask)
    shared = list(params["layers"].values())

    def block(which: Tree, x_BLD: jax.Array, **named: Any) -> tuple[jax.Array, jax.Array | None]:
        def run(n: int) -> Any:
            group = which["group"][0] if G > 1 else 0
            layer = jax.tree.map(lambda leaf: jax.lax.dynamic_index_in_dim(leaf, group, keepdims=False), shared[n])
            return lambda x_BLD: post_norm(layer, x_BLD, config=config, mask=mask, drop_feed_forward=False, **named)

        if inner == 1:
            return run(0)(x_BLD)
        return jax.lax.switch(which["within"][0], [run(n) for n in range(inner)], x_BLD)

    which = {"group": jnp.asarray(groups)[:, None], "within": jnp.asarray(within)[:, None]}
    return stack(which, block, x_BLD, **options)


encode = partial(text_encoder.encode, layers=layers)


def pretrain(params: Tree, trunk: Output, config: AlbertConfig, rng: jax.Array | None) -> dict[str, Any]:
    """Both of ALBERT's pretraining heads: words, and whether two texts stand in their order."""
    pooled_BD = dropout(trunk.pooler_output, config.classifier_dropout, rng)  # type: ignore[arg-type]
    return {
        "prediction_logits": heads.predict_words(params, trunk, config, None)["logits"],
        "sop_logits": linear(params["order"], pooled_BD),
    }


HEADS: dict[str | None, Forward] = {
    None: encode,
    "sequence-classification": heads.attach(encode, heads.classify_pooled),
    "token-classification": heads.attach(encode, heads.classify_tokens),
    "question-answering": heads.attach(encode, heads.find_span),
    "masked-lm": heads.attach(encode, heads.predict_words),
    "pretraining": heads.attach(encode, pretrain),
    "multiple-choice": heads.choose(heads.attach(encode, heads.classify_pooled)),
}

FAMILY = Family(
    name="albert",
    config_class=AlbertConfig,
    config_from_hf=config_from_hf,
    config_to_hf=config_to_hf,
    config_keys=KEYS,
    declare=declare,
    heads=HEADS,
    architectures=class_names("Albert", HEADS),
    prefix="albert.",
    trunk=("embeddings", "layers"),
    inputs=INPUTS,
    buffers=("albert.embeddings.position_ids", "albert.embeddings.token_type_ids"),
    ties={
        "predictions.decoder.weight": "albert.embeddings.word_embeddings.weight",
        "predictions.decoder.bias": "predictions.bias",
        "predictions.bias": "predictions.decoder.bias",
    },
)
