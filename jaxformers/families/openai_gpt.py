"""OpenAI GPT (Radford et al. 2018): GPT-2's parts in the older order, each sum normalised after it is made; see `families.gpt2`.

Its own: no norm after the last layer, and "gelu", by which its files mean the one by tanh.
"""

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any

from jaxformers.core.layers import layer_norm, split_rng
from jaxformers.core.params import Param, Tree, normal, stacked
from jaxformers.errors import ConfigError
from jaxformers.families import gpt2, text_decoder
from jaxformers.families.config import keys_of, read_config, write_config
from jaxformers.families.model import Family, Forward
from jaxformers.families.text_decoder import FIXED, INPUTS, DecoderConfig
from jaxformers.parallel.mesh import shard

ACTIVATIONS = {"gelu": "gelu_new", "relu": "relu", "silu": "silu", "swish": "swish"}  # in its files -> ours


@dataclasses.dataclass(frozen=True, kw_only=True)
class OpenAIGPTConfig(DecoderConfig):
    """OpenAI GPT's numbers; the defaults are those of openai-gpt."""

    vocab_size: int = 40478
    hidden_act: str = "gelu_new"

    scale_attn_weights = True
    scale_attn_by_inverse_layer_idx = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "intermediate_size", 4 * self.hidden_size)
        super().__post_init__()


KEYS = keys_of(
    OpenAIGPTConfig,
    without=("intermediate_size", "classifier_dropout"),
    hidden_size="n_embd",
    num_hidden_layers="n_layer",
    num_attention_heads="n_head",
    hidden_act="afn",
    hidden_dropout_prob="resid_pdrop",
    embedding_dropout="embd_pdrop",
    attention_probs_dropout_prob="attn_pdrop",
    max_position_embeddings="n_positions",
    layer_norm_eps="layer_norm_epsilon",
)
IGNORED = gpt2.IGNORED | dict.fromkeys(
    ("n_special", "predict_special_tokens"), "how words were added to the first release"
)


def config_from_hf(raw: Mapping[str, Any], source: str = "config.json") -> OpenAIGPTConfig:
    """Reads a config.json, whose activations have names of their own."""
    plain = dict(raw)
    if isinstance(name := plain.get("afn"), str):
        if name not in ACTIVATIONS:
            raise ConfigError(f"{source}: unknown afn {name!r}; known: {', '.join(ACTIVATIONS)}")
        plain["afn"] = ACTIVATIONS[name]
    return read_config(OpenAIGPTConfig, KEYS, FIXED, IGNORED, plain, source)


def config_to_hf(config: OpenAIGPTConfig, architecture: str) -> dict[str, Any]:
    """Writes a config.json that transformers reads."""
    name = next(theirs for theirs, ours in ACTIVATIONS.items() if ours == config.hidden_act)
    return write_config(KEYS, "openai-gpt", config, architecture) | {"afn": name}


def declare(config: OpenAIGPTConfig, head: str | None = None) -> Tree:
    """Every parameter of OpenAI GPT with `head`: shape, axes, initialiser, checkpoint name and layout."""
    D, init, at = config.hidden_size, normal(config.initializer_range), "transformer."
    positions = (config.max_position_embeddings, D)
    return {
        "embeddings": {
            "word": Param((config.vocab_size, D), ("vocab", "table"), init, at + "tokens_embed.weight"),
            "position": Param(positions, ("positions", "table"), init, at + "positions_embed.weight"),
        },
        "layers": stacked(config.num_hidden_layers, gpt2.declare_block(config)),
        **text_decoder.declare_heads(config, head, init, "classifier"),
    }


def block(layer: Tree, carried: Any, *, config: OpenAIGPTConfig, rng: Any, **options: Any) -> Any:
    """One post-norm block: norm(x + attention(x)), norm(x + feed-forward(x))."""
    x_BLD, cache = carried
    rng_attention, rng_output = split_rng(rng, 2)
    a_BLD, weights_BHLS, cache = gpt2.attention(layer, x_BLD, cache, config=config, rng=rng_attention, **options)
    x_BLD = layer_norm(layer["attention_norm"], x_BLD + a_BLD, config.layer_norm_eps)
    h_BLD = gpt2.feed_forward(layer, x_BLD, config, rng_output)
    x_BLD = layer_norm(layer["output_norm"], x_BLD + h_BLD, config.layer_norm_eps)
    return (shard(x_BLD, "batch", "length", "embed"), cache), weights_BHLS


decode = partial(text_decoder.decode, embed=gpt2.embed, block=block)
HEADS: dict[str | None, Forward] = {
    None: decode,
    "causal-lm": text_decoder.predict_next(decode),
    "sequence-classification": text_decoder.classify_last(decode),
}

FAMILY = Family(
    name="openai-gpt",
    config_class=OpenAIGPTConfig,
    config_from_hf=config_from_hf,
    config_to_hf=config_to_hf,
    config_keys=KEYS,
    declare=declare,
    heads=HEADS,
    architectures={
        None: "OpenAIGPTModel",
        "causal-lm": "OpenAIGPTLMHeadModel",
        "sequence-classification": "OpenAIGPTForSequenceClassification",
    },
    prefix="transformer.",
    trunk=("embeddings", "layers"),
    inputs=(*INPUTS, "token_type_ids"),
    cache=text_decoder.cache_for,
    buffers=("transformer.h.{}.attn.bias", "transformer.position_ids"),
    ties={"lm_head.weight": "transformer.tokens_embed.weight"},
)
