"""DeBERTa v2 and v3 (He et al. 2020, arXiv:2006.03654; 2021, arXiv:2111.09543): BERT's layers with disentangled attention.

Its own: a query also looks at how far a key is, and a key at how far a query is, through a table of relative distances that all
layers share; far distances share rows (log buckets). The embeddings may have no absolute positions, padding is zeroed in them,
and the largest models add a convolution to their first layer.
"""

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxformers.core import heads, positions
from jaxformers.core.attention import attend
from jaxformers.core.layers import (
    ACTIVATIONS,
    convolved,
    declare_linear,
    declare_norm,
    dropout,
    layer_norm,
    linear,
    product,
    split_rng,
)
from jaxformers.core.outputs import Output
from jaxformers.core.params import Param, Tree, normal, stacked, zeros
from jaxformers.core.transformer import BlockNames, declare_post_norm, heads_in, heads_out, stack
from jaxformers.errors import ConfigError, InputError
from jaxformers.families import text_encoder
from jaxformers.families.config import keys_of, read_config, shown, write_config
from jaxformers.families.model import Family, Forward, class_names
from jaxformers.families.text_encoder import CLASSIFIERS, FIXED, INPUTS, EncoderConfig, Text, TextConfig
from jaxformers.parallel.mesh import shard


@dataclasses.dataclass(frozen=True, kw_only=True)
class DebertaV2Config(EncoderConfig):
    """DeBERTa's numbers; the defaults are transformers'.

    `position_buckets` below 1 means a row for each distance up to `max_relative_positions`, which below 1 means
    `max_position_embeddings`; `conv_kernel_size` 0 means no convolution.
    """

    vocab_size: int = 128100
    hidden_size: int = 1536
    num_hidden_layers: int = 24
    num_attention_heads: int = 24
    intermediate_size: int = 6144
    type_vocab_size: int = 0
    layer_norm_eps: float = 1e-7
    embedding_size: int | None = None
    attention_head_size: int | None = None
    relative_attention: bool = False
    max_relative_positions: int = -1
    position_buckets: int = -1
    position_biased_input: bool = True
    pos_att_type: tuple[str, ...] = ()
    share_att_key: bool = False
    norm_rel_ebd: str = "none"
    conv_kernel_size: int = 0
    conv_groups: int = 1
    conv_act: str = "tanh"
    pooler_dropout: float = 0.0
    pooler_hidden_act: str = "gelu"
    pooler_hidden_size: int | None = None
    cls_dropout: float | None = None
    legacy: bool = True

    SIZES = (*TextConfig.SIZES, "embedding_size", "conv_groups")

    def __post_init__(self) -> None:
        # PyTorch takes these from the width where a file lacks them, but not where it says null: so they are never None.
        for name, size in (("embedding_size", self.hidden_size), ("pooler_hidden_size", self.hidden_size),
                           ("attention_head_size", self.hidden_size // max(self.num_attention_heads, 1))):  # fmt: skip
            if getattr(self, name) is None:
                object.__setattr__(self, name, size)
        super().__post_init__()
        if self.attention_head_size != self.hidden_size // self.num_attention_heads:
            raise ConfigError(f"attention_head_size must be hidden_size over heads, found {self.attention_head_size}")
        if self.pooler_hidden_size != self.hidden_size:
            raise ConfigError(f"pooler_hidden_size must be hidden_size, found {self.pooler_hidden_size}")
        if not set(self.pos_att_type) <= {"c2p", "p2c"}:
            raise ConfigError(f"pos_att_type must be of 'c2p' and 'p2c', found {shown(self.pos_att_type)}")
        if self.position_buckets > 0 and not 2 <= self.position_buckets // 2 < self.farthest - 1:
            raise ConfigError(
                f"position_buckets must be below 1, or at least 4 and half of it less than the farthest of "
                f"{self.farthest} positions, found {self.position_buckets}"
            )
        if self.norm_rel_ebd not in ("none", "layer_norm"):
            raise ConfigError(f"norm_rel_ebd must be 'none' or 'layer_norm', found {self.norm_rel_ebd!r}")
        if self.type_vocab_size < 0 or self.conv_kernel_size < 0:
            found = f"{self.type_vocab_size} and {self.conv_kernel_size}"
            raise ConfigError(f"type_vocab_size and conv_kernel_size must not be negative, found {found}")
        if self.conv_kernel_size and (not self.conv_kernel_size % 2 or self.hidden_size % self.conv_groups):
            raise ConfigError("conv_kernel_size must be odd and conv_groups must divide hidden_size")
        if not self.legacy and self.embedding_size != self.hidden_size:
            raise ConfigError("legacy=False needs an embedding_size that is hidden_size")

    @property
    def span(self) -> int:
        """The largest relative position that has a row of its own."""
        return self.position_buckets if self.position_buckets > 0 else self.farthest

    @property
    def farthest(self) -> int:
        """The largest distance there is a row for, be it a shared one."""
        return self.max_relative_positions if self.max_relative_positions > 0 else self.max_position_embeddings


KEYS = keys_of(DebertaV2Config, without=("classifier_dropout",))
IGNORED = {"pooler_size": "never read; the pooler is as wide as the model"}
config_to_hf = partial(write_config, KEYS, "deberta-v2")


def config_from_hf(raw: Mapping[str, Any], source: str = "config.json") -> DebertaV2Config:
    """Reads a config.json; `pos_att_type` may be one text, `"p2c|c2p"`."""
    if isinstance(raw.get("pos_att_type"), str):
        kinds = [kind.strip() for kind in raw["pos_att_type"].lower().split("|")]
        raw = {**raw, "pos_att_type": [kind for kind in kinds if kind]}
    return read_config(DebertaV2Config, KEYS, FIXED, IGNORED, raw, source)


# -- what it owns ------------------------------------------------------------------------------------------------------

_LAYER = "deberta.encoder.layer.{}."
NAMES = BlockNames(
    query=_LAYER + "attention.self.query_proj",
    key=_LAYER + "attention.self.key_proj",
    value=_LAYER + "attention.self.value_proj",
    out=_LAYER + "attention.output.dense",
    attention_norm=_LAYER + "attention.output.LayerNorm",
    up=_LAYER + "intermediate.dense",
    down=_LAYER + "output.dense",
    output_norm=_LAYER + "output.LayerNorm",
)
# A row that says how far a key is is projected by `pos_key`, one that says how far a query is by `pos_query`.
DISTANCES = {"c2p": ("key", "pos_key"), "p2c": ("query", "pos_query")}
POOLED = ("pooler.dense", "classifier")
LEGACY_LM = {"dense": "cls.predictions.transform.dense", "norm": "cls.predictions.transform.LayerNorm",
             "decoder": "cls.predictions.decoder"}  # fmt: skip
LM = {"dense": "lm_predictions.lm_head.dense", "norm": "lm_predictions.lm_head.LayerNorm",
      "bias": "lm_predictions.lm_head.bias", "decoder": ""}  # fmt: skip


def declare(config: DebertaV2Config, head: str | None = None) -> Tree:
    """Every parameter of DeBERTa with `head`: shape, axes, initialiser, checkpoint name and layout."""
    D, E, init = config.hidden_size, config.embedding_size, normal(config.initializer_range)
    at = "deberta.encoder."
    embeddings = text_encoder.declare_embeddings(config, "deberta.embeddings.", E)
    embeddings["norm"] = declare_norm(D, "deberta.embeddings.LayerNorm")  # it comes after the projection
    if not config.position_biased_input:
        del embeddings["position"]
    if E != D:
        embeddings["project"] = declare_linear(E, D, "deberta.embeddings.embed_proj", init, ("embed", "mlp"), False)  # type: ignore[arg-type]
    block = declare_post_norm(config, NAMES, init)
    names = CLASSIFIERS | {"sequence-classification": POOLED, "multiple-choice": POOLED}
    tree: Tree = {"embeddings": embeddings, **text_encoder.declare_classifier(config, head, names)}
    if config.norm_rel_ebd == "layer_norm":  # PyTorch keeps it even where there is nothing to normalise
        tree["relative"] = {"norm": declare_norm(D, at + "LayerNorm")}
    if config.relative_attention:
        rows = Param((2 * config.span, D), ("positions", "table"), init, at + "rel_embeddings.weight")
        tree["relative"] = tree.get("relative", {}) | {"table": rows}
        for kind, (like, name) in DISTANCES.items():
            if config.share_att_key or kind not in config.pos_att_type:
                continue
            block["attention"][name] = jax.tree.map(
                lambda param, like=like, name=name: dataclasses.replace(
                    param, name=param.name.replace(f"{like}_proj", f"{name}_proj")
                ),
                block["attention"][like],
            )
    tree["layers"] = stacked(config.num_hidden_layers, block)
    if size := config.conv_kernel_size:
        tree["conv"] = {
            "kernel": Param((size, D // config.conv_groups, D), ("parts", "embed", "mlp"), init,
                            at + "conv.conv.weight", "o i k -> k i o"),
            "bias": Param((D,), ("mlp",), zeros, at + "conv.conv.bias", decay=False),
            "norm": declare_norm(D, at + "conv.LayerNorm"),
        }  # fmt: skip
    if head == "masked-lm":
        tied = config.tie_word_embeddings or not config.legacy
        bias = {"bias": "cls.predictions.bias" if tied else "cls.predictions.decoder.bias"}
        lm = LEGACY_LM | bias if config.legacy else LM
        tree["masked_lm"] = heads.declare_masked_lm(D, config.vocab_size, lm, init, tied, E)
    return tree


# -- how it computes ---------------------------------------------------------------------------------------------------


def embed(params: Tree, text: Text, config: DebertaV2Config, rng: jax.Array | None) -> jax.Array:
    """Words, positions and token types where there are tables for them, projected, normalised, padding zeroed."""
    x_BLE = params["word"][text.input_ids] if text.inputs_embeds is None else text.inputs_embeds
    if "position" in params:
        x_BLE = x_BLE + positions.learned(params["position"], x_BLE.shape[1], text.position_ids)
    if "type" in params:
        types = jnp.zeros((1, x_BLE.shape[1]), jnp.int32) if text.token_type_ids is None else text.token_type_ids
        x_BLE = x_BLE + params["type"][types]
    x_BLD = linear(params["project"], x_BLE) if "project" in params else x_BLE
    x_BLD = layer_norm(params["norm"], shard(x_BLD, "batch", "length", "embed"), config.layer_norm_eps)
    return dropout(_without_padding(x_BLD, text.attention_mask), config.hidden_dropout_prob, rng)


def _without_padding(x_BLD: jax.Array, attention_mask: jax.Array | None) -> jax.Array:
    return x_BLD if attention_mask is None else x_BLD * attention_mask[..., None].astype(x_BLD.dtype)


def disentangled(attention: Tree, q_BLHK: jax.Array, k_BSHK: jax.Array, rows_PD: jax.Array, rows_LS: jax.Array,
                 config: DebertaV2Config) -> jax.Array:  # fmt: skip
    """What distance adds to attention, not yet scaled: [B, H, L, S].

    Args:
      attention: the layer's projections.
      q_BLHK: queries.
      k_BSHK: keys.
      rows_PD: the table of relative positions.
      rows_LS: which of its rows says how far query l is from key s.
      config: the model's numbers.
    """
    bias = jnp.zeros((1, 1, 1, 1), q_BLHK.dtype)
    for kind, (like, own) in DISTANCES.items():
        if kind not in config.pos_att_type:
            continue
        projection = attention[like if config.share_att_key else own]
        p_PHK = product("PD,DHK->PHK", rows_PD, projection["kernel"])
        p_PHK = p_PHK + jnp.broadcast_to(projection["bias"], p_PHK.shape)
        if kind == "c2p":
            each_BHLP = jnp.einsum("BLHK,PHK->BHLP", q_BLHK, p_PHK)
            bias = bias + jnp.take_along_axis(each_BHLP, rows_LS[None, None], axis=-1)
        else:
            each_BHSP = jnp.einsum("BSHK,PHK->BHSP", k_BSHK, p_PHK)
            bias = bias + jnp.take_along_axis(each_BHSP, rows_LS.T[None, None], axis=-1).swapaxes(2, 3)
    return bias


def convolve(params: Tree, x_BLD: jax.Array, y_BLD: jax.Array, mask: jax.Array | None, config: DebertaV2Config,
             rng: jax.Array | None) -> jax.Array:  # fmt: skip
    """norm(y + convolution of x) along the text: the first layer's output `y` with its neighbourhood in its input `x`."""
    c_BLD = convolved(
        x_BLD, params["kernel"], window_strides=(1,), padding="SAME", feature_group_count=config.conv_groups
    )
    c_BLD = _without_padding(c_BLD + jnp.broadcast_to(params["bias"], c_BLD.shape), mask)
    c_BLD = ACTIVATIONS[config.conv_act](dropout(c_BLD, config.hidden_dropout_prob, rng))
    return _without_padding(layer_norm(params["norm"], y_BLD + c_BLD, config.layer_norm_eps), mask)


def layers(params: Tree, x_BLD: jax.Array, text: Text, config: DebertaV2Config, **options: Any) -> Any:
    """Post-norm blocks whose attention also sees distances. Padding sees nothing, so it looks at everything alike."""
    L, mask = x_BLD.shape[1], text.attention_mask
    if mask is not None and mask.ndim != 2:
        raise InputError(f"attention_mask must be [batch, length], found shape {mask.shape}")
    pairs = None if mask is None else (mask[:, None, :, None] * mask[:, None, None, :]).astype(bool)
    rate, scale = config.hidden_dropout_prob, (config.attention_head_size * (1 + len(set(config.pos_att_type)))) ** -0.5  # type: ignore[operator]
    if config.relative_attention:
        table_PD = params["relative"]["table"]
        if "norm" in params["relative"]:
            table_PD = layer_norm(params["relative"]["norm"], table_PD, config.layer_norm_eps)
        steps_LS = positions.log_buckets(L, config.position_buckets, config.farthest)
        rows_LS = jnp.asarray((steps_LS + config.span).clip(0, 2 * config.span - 1))

    def block(layer: Tree, x_BLD: jax.Array, *, rng: Any, maps: bool, kernel: str | None) -> Any:
        rng_rows, rng_maps, rng_attention, rng_output, rng_conv = split_rng(rng, 5)
        layer, number = layer["params"], layer["number"]
        attention = layer["attention"]
        with jax.named_scope("attention"):
            q_BLHK, k_BSHK, v_BSHK = (heads_in(attention[name], x_BLD) for name in ("query", "key", "value"))
            bias = None
            if config.relative_attention:
                bias = scale * disentangled(
                    attention, q_BLHK, k_BSHK, dropout(table_PD, rate, rng_rows), rows_LS, config
                )
            a_BLHK, weights_BHLS = attend(
                q_BLHK,
                k_BSHK,
                v_BSHK,
                pairs,
                bias=bias,
                scale=scale,
                dropout_rate=config.attention_probs_dropout_prob,
                rng=rng_maps,
                maps=maps,
                kernel=kernel,
            )
            a_BLD = dropout(heads_out(attention["out"], a_BLHK), rate, rng_attention)
            y_BLD = layer_norm(layer["attention_norm"], x_BLD + a_BLD, config.layer_norm_eps)
        with jax.named_scope("feed_forward"):
            h_BLF = shard(ACTIVATIONS[config.hidden_act](linear(layer["up"], y_BLD)), "batch", "length", "mlp")
            h_BLD = dropout(linear(layer["down"], h_BLF), rate, rng_output)
            y_BLD = layer_norm(layer["output_norm"], y_BLD + h_BLD, config.layer_norm_eps)
        if "conv" in params:
            y_BLD = jax.lax.cond(
                number == 0,
                lambda x_BLD, y_BLD: convolve(params["conv"], x_BLD, y_BLD, mask, config, rng_conv),
                lambda x_BLD, y_BLD: y_BLD,
                x_BLD,
                y_BLD,
            )
        return shard(y_BLD, "batch", "length", "embed"), weights_BHLS

    tree = {"number": jnp.arange(config.num_hidden_layers), "params": params["layers"]}
    return stack(tree, block, x_BLD, **options)


encode = partial(text_encoder.encode, embed=embed, layers=layers)


def classify(params: Tree, trunk: Output, config: DebertaV2Config, rng: jax.Array | None) -> dict[str, Any]:
    """Dropout, a dense layer and activation over the first token, dropout, and the classes: logits [B, C]."""
    after = config.hidden_dropout_prob if config.cls_dropout is None else config.cls_dropout
    return heads.classify_first(params, trunk, rng, config.pooler_hidden_act, config.pooler_dropout, after)


HEADS: dict[str | None, Forward] = {
    None: encode,
    "sequence-classification": heads.attach(encode, classify),
    "token-classification": heads.attach(encode, heads.classify_tokens),
    "question-answering": heads.attach(encode, heads.find_span),
    "masked-lm": heads.attach(encode, heads.predict_words),
    "multiple-choice": heads.choose(heads.attach(encode, classify)),
}

# Published files hold the pretraining's heads beside the model: of v3 the discriminator's, and the words' in two fashions.
_LEFT_OVER = ("mask_predictions.dense", "mask_predictions.LayerNorm", "mask_predictions.classifier",
              "lm_predictions.lm_head.dense", "lm_predictions.lm_head.LayerNorm",
              "cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm")  # fmt: skip
FAMILY = Family(
    name="deberta-v2",
    config_class=DebertaV2Config,
    config_from_hf=config_from_hf,
    config_to_hf=config_to_hf,
    config_keys=KEYS,
    declare=declare,
    heads=HEADS,
    architectures=class_names("DebertaV2", HEADS),
    prefix="deberta.",
    trunk=("embeddings", "layers", "relative", "conv"),
    inputs=INPUTS,
    buffers=(
        "deberta.embeddings.position_ids",
        "deberta.embeddings.position_embeddings.weight",
        "lm_predictions.lm_head.bias",
        *(f"{name}.{kind}" for name in _LEFT_OVER for kind in ("weight", "bias")),
    ),
    ties={
        "cls.predictions.decoder.weight": "deberta.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
        "cls.predictions.bias": "cls.predictions.decoder.bias",
    },
)
