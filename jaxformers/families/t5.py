"""T5 (Raffel et al. 2020, arXiv:1910.10683), its version 1.1, Flan-T5 and T0: an encoder-decoder whose only positions are
learned biases of distances, shared by all layers.

Its own: attention is not scaled (which the initialisers make up for), and a head is as wide as the config says, not as the
model's width over the heads. Where the words' table is also the output's, states are scaled before they meet it.
"""

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxformers.core import heads, positions
from jaxformers.core.cache import Cache, empty_cache
from jaxformers.core.layers import declare_linear, declare_norm, dropout, rms_norm
from jaxformers.core.params import Param, Tree, normal, stacked
from jaxformers.core.transformer import declare_heads_in, declare_heads_out
from jaxformers.errors import ConfigError
from jaxformers.families import text_seq2seq
from jaxformers.families.config import keys_of, read_config, write_config
from jaxformers.families.model import Family, Forward, class_names
from jaxformers.families.text_encoder import Text, TextConfig
from jaxformers.families.text_seq2seq import INPUTS, Parts, shift_right
from jaxformers.parallel.mesh import shard

ACTS = {"gated-gelu": "gelu_new"}  # feed_forward_proj -> activation, where it does not say its name


@dataclasses.dataclass(frozen=True, kw_only=True)
class T5Config(TextConfig):
    """T5's numbers; the defaults are those of t5-small. `tie_word_embeddings` false stands for a table of the output's own, over
    which states are not scaled; transformers 5 says `scale_decoder_outputs` false."""

    vocab_size: int = 32128
    hidden_size: int = 512
    head_dim: int = 64
    intermediate_size: int = 2048
    num_hidden_layers: int = 6
    num_decoder_layers: int | None = None
    num_attention_heads: int = 8
    max_position_embeddings: int | None = None  # type: ignore[assignment]  # there is no longest text
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    hidden_dropout_prob: float = 0.1
    layer_norm_eps: float = 1e-6
    initializer_factor: float = 1.0
    feed_forward_proj: str = "relu"
    pad_token_id: int = 0
    eos_token_id: int = 1
    decoder_start_token_id: int | None = 0
    classifier_dropout: float = 0.0
    scale_decoder_outputs: bool | None = None  # filled in: as `tie_word_embeddings`

    SIZES: ClassVar[tuple[str, ...]] = ("vocab_size", "hidden_size", "head_dim", "intermediate_size", "num_hidden_layers",
                                        "num_decoder_layers", "num_attention_heads")  # fmt: skip

    def __post_init__(self) -> None:
        fill = lambda name, value: object.__setattr__(self, name, value)  # noqa: E731
        if self.num_decoder_layers is None:
            fill("num_decoder_layers", self.num_hidden_layers)
        if self.scale_decoder_outputs is None:
            fill("scale_decoder_outputs", self.tie_word_embeddings)
        kind, _, act = self.feed_forward_proj.rpartition("-")
        if kind not in ("", "gated"):
            raise ConfigError(
                f"feed_forward_proj must be an activation or 'gated-' and one, found {self.feed_forward_proj!r}"
            )
        fill("hidden_act", ACTS.get(self.feed_forward_proj, act))
        fill("attention_probs_dropout_prob", self.hidden_dropout_prob)
        super().__post_init__()
        if self.relative_attention_num_buckets < 4:
            raise ConfigError(
                f"relative_attention_num_buckets must be at least 4, found {self.relative_attention_num_buckets}"
            )
        if self.relative_attention_max_distance <= self.relative_attention_num_buckets // 2:
            raise ConfigError(
                "relative_attention_max_distance must be more than half of relative_attention_num_buckets"
            )

    @property
    def activation_dropout(self) -> float:
        """Of what is between the two feed-forward layers."""
        return self.hidden_dropout_prob

    @property
    def tied(self) -> bool:
        """Whether the words' table is certainly the output's too."""
        return self.tie_word_embeddings and bool(self.scale_decoder_outputs)


LACKING = ("max_position_embeddings", "hidden_act", "attention_probs_dropout_prob", "initializer_range")
RENAMED = {
    "hidden_size": "d_model",
    "head_dim": "d_kv",
    "intermediate_size": "d_ff",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "hidden_dropout_prob": "dropout_rate",
    "layer_norm_eps": "layer_norm_epsilon",
}
FIXED = {"is_decoder": (False, "one stack as a decoder")}
IGNORED = {
    "is_encoder_decoder": "whether there is a decoder, the head says",
    "n_positions": "T5 has no longest text",
    **dict.fromkeys(("dense_act_fn", "is_gated_act"), "feed_forward_proj says it"),
}

ENCODER_ONLY = ("text-encoding", "token-classification")


def declare(config: T5Config, head: str | None = None) -> Tree:
    """Every parameter of T5 with `head`: shape, axes, initialiser, checkpoint name and layout."""
    D, H, K, F, factor = (config.hidden_size, config.num_attention_heads, config.head_dim, config.intermediate_size,
                          config.initializer_factor)  # fmt: skip
    plain = normal(factor * D**-0.5)

    def attention(name: str) -> Tree:
        return {
            "query": declare_heads_in(D, H, K, name + ".q", normal(factor * (D * K) ** -0.5), bias=False),
            "key": declare_heads_in(D, H, K, name + ".k", plain, bias=False),
            "value": declare_heads_in(D, H, K, name + ".v", plain, bias=False),
            "out": declare_heads_out(D, H, K, name + ".o", normal(factor * (H * K) ** -0.5), bias=False),
        }

    def side(name: str, depth: int) -> Tree:
        at = f"transformer.{name}.block."
        layer, last = at + "{}.layer.", 2 if name == "decoder" else 1
        block = {
            "attention": attention(layer + "0.SelfAttention"),
            "attention_norm": declare_norm(D, layer + "0.layer_norm", bias=False),
            "output_norm": declare_norm(D, f"{layer}{last}.layer_norm", bias=False),
        }
        if name == "decoder":
            block["cross"] = attention(layer + "1.EncDecAttention")
            block["cross_norm"] = declare_norm(D, layer + "1.layer_norm", bias=False)
        dense = f"{layer}{last}.DenseReluDense."
        names = {"gate": "wi_0", "up": "wi_1"} if config.feed_forward_proj.startswith("gated-") else {"up": "wi"}
        for ours, theirs in names.items():
            block[ours] = declare_linear(D, F, dense + theirs, plain, ("embed", "mlp"), bias=False)
        block["down"] = declare_linear(F, D, dense + "wo", normal(factor * F**-0.5), ("mlp", "embed"), bias=False)
        table = at + "0.layer.0.SelfAttention.relative_attention_bias.weight"
        return {
            "layers": stacked(depth, block),
            "bias": Param(
                (config.relative_attention_num_buckets, H), ("positions", "heads"), plain, table, decay=False
            ),
            "final_norm": declare_norm(D, f"transformer.{name}.final_layer_norm", bias=False),
        }

    words = ("vocab", "table")
    tree: Tree = {
        "embeddings": {"word": Param((config.vocab_size, D), words, normal(factor), "transformer.shared.weight")},
        "encoder": side("encoder", config.num_hidden_layers),
        **text_seq2seq.declare_classifier(config, head, plain),
    }
    if head not in ENCODER_ONLY:
        assert config.num_decoder_layers is not None
        tree["decoder"] = side("decoder", config.num_decoder_layers)
    if head == "seq2seq-lm" and not config.tied:
        tree["masked_lm"] = {"decoder": Param((config.vocab_size, D), words, normal(factor), "lm_head.weight")}
    return tree


# -- how it computes ---------------------------------------------------------------------------------------------------


def embed(params: Tree, side: str, text: Text, config: T5Config, rng: jax.Array | None) -> jax.Array:
    """Words: [B, L, D]. Positions belong to the layers."""
    x_BLD = params["embeddings"]["word"][text.input_ids] if text.inputs_embeds is None else text.inputs_embeds
    return dropout(shard(x_BLD, "batch", "length", "embed"), config.hidden_dropout_prob, rng)


def finish(stack: Tree, x_BLD: jax.Array, config: T5Config, rng: jax.Array | None) -> jax.Array:
    """The norm after the last layer."""
    return dropout(rms_norm(stack["final_norm"], x_BLD, config.layer_norm_eps), config.hidden_dropout_prob, rng)


def bias(stack: Tree, steps_LS: jax.Array, both_ways: bool, config: T5Config) -> jax.Array:
    """What each head adds for each distance: [1, H, L, S]."""
    buckets, farthest = config.relative_attention_num_buckets, config.relative_attention_max_distance
    return stack["bias"][positions.relative_buckets(steps_LS, buckets, farthest, both_ways)].transpose(2, 0, 1)[None]


def scaled(x_BLD: jax.Array, config: T5Config) -> jax.Array:
    """The states as they meet the words."""
    return x_BLD * jnp.asarray(config.hidden_size**-0.5, x_BLD.dtype) if config.scale_decoder_outputs else x_BLD


def cache_for(config: T5Config, batch: int, slots: int, dtype: Any) -> Cache:
    """An empty cache of the decoder."""
    assert config.num_decoder_layers is not None
    return empty_cache(config.num_decoder_layers, batch, config.num_attention_heads, slots, config.head_dim, dtype)


PARTS = Parts(embed, partial(text_seq2seq.block, norm=rms_norm, norm_first=True, scale=1.0), finish, bias)
encode = partial(text_seq2seq.encode, parts=PARTS)
HEADS: dict[str | None, Forward] = {
    **text_seq2seq.heads_over(partial(text_seq2seq.forward, parts=PARTS), states=scaled),
    "text-encoding": encode,
    "token-classification": heads.attach(encode, heads.classify_tokens),
}


def family(name: str, their_name: str, cls: type[T5Config], names: Mapping[str, str]) -> Family:
    """A family of this line: its `model_type`, what transformers' classes start with, its config and its config's keys."""
    return Family(
        name=name,
        config_class=cls,
        config_from_hf=partial(read_config, cls, names, FIXED, IGNORED),
        config_to_hf=partial(write_config, names, name),
        config_keys=names,
        declare=declare,
        heads=HEADS,
        architectures=class_names(their_name, HEADS),
        prefix="transformer.",
        prefixes=dict.fromkeys(("seq2seq-lm", "question-answering", "text-encoding"), ""),
        trunk=("embeddings", "encoder", "decoder"),
        inputs=INPUTS,
        cache=cache_for,
        decoder_inputs=shift_right,
        buffers=("transformer.decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",),
        ties={
            "lm_head.weight": "transformer.shared.weight",
            "transformer.encoder.embed_tokens.weight": "transformer.shared.weight",
            "transformer.decoder.embed_tokens.weight": "transformer.shared.weight",
        },
    )


FAMILY = family("t5", "T5", T5Config, keys_of(T5Config, without=LACKING, **RENAMED))
