"""Transformer-XL (Dai et al. 2019, arXiv:1901.02860): a decoder that looks back over a fixed number of tokens by their distance,
and whose words are rare or common.

Its own: a query looks at what a key says and at how far back it stands (by sines), and always over `mem_len` tokens; where a
text is shorter there are zeros, which count as its checkpoints learned it. So padding before a text is as nothing there.
Common words have a wide table, rare ones narrow tables with a projection each; a word's probability is that of its group
times its own within it (Grave et al. 2016), so `logits` are log-probabilities. What PyTorch keeps as `mems`, every layer's
inputs, is here a cache of keys and values made of them.
"""

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxformers.core.attention import attend
from jaxformers.core.cache import Cache, empty_cache, extend, recall, remember
from jaxformers.core.layers import declare_linear, declare_norm, dropout, layer_norm, linear, split_rng
from jaxformers.core.outputs import Output
from jaxformers.core.params import Param, Tree, normal, stacked, zeros
from jaxformers.core.transformer import Execution, heads_out, stack
from jaxformers.errors import ConfigError, InputError
from jaxformers.families.config import keys_of, read_config, shown, with_new_names, write_config
from jaxformers.families.model import Family, Forward
from jaxformers.families.text_decoder import FIXED, classify_last, declare_heads
from jaxformers.families.text_encoder import TextConfig
from jaxformers.parallel.mesh import shard

GROUPS = 16  # the most groups of words: names of tensors are made for so many

# -- config ------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransfoXLConfig(TextConfig):
    """Transformer-XL's numbers; the defaults are those of transfo-xl-wt103. `clamp_len` below 1 means no limit to distances.

    Words are in order of how common they are; each of `cutoffs` begins another group, whose table is `div_val` times
    narrower than the one before.
    """

    vocab_size: int = 267735
    hidden_size: int = 1024
    num_hidden_layers: int = 18
    num_attention_heads: int = 16
    head_dim: int = 64
    intermediate_size: int = 4096
    embedding_size: int = 1024
    cutoffs: tuple[int, ...] = (20_000, 40_000, 200_000)
    div_val: int = 4
    mem_len: int = 1600
    clamp_len: int = 1000
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.0
    layer_norm_eps: float = 1e-5
    projection_range: float = 0.01
    max_position_embeddings: int = 2**31 - 1  # there is no longest text
    pad_token_id: int | None = None  # type: ignore[assignment]

    LOOKS_BACK = True
    SIZES = (*TextConfig.SIZES, "head_dim", "embedding_size", "mem_len")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.div_val < 2:
            raise ConfigError(f"div_val must be at least 2 (with 1 all words share one table), found {self.div_val}")
        if not all(a < b for a, b in zip(self.bounds, self.bounds[1:], strict=False)) or len(self.cutoffs) >= GROUPS:
            raise ConfigError(
                f"cutoffs must rise from above 0 to below vocab_size {self.vocab_size}, fewer than {GROUPS}, "
                f"found {shown(self.cutoffs)}"
            )
        if self.widths[-1] < 1:
            raise ConfigError(f"d_embed {self.embedding_size} is too narrow for {len(self.widths)} groups of words")

    @property
    def bounds(self) -> tuple[int, ...]:
        """Where each group of words begins, and where the last one ends."""
        return (0, *self.cutoffs, self.vocab_size)

    @property
    def widths(self) -> tuple[int, ...]:
        """How wide each group's table is."""
        return tuple(self.embedding_size // self.div_val**n for n in range(len(self.cutoffs) + 1))


KEYS = keys_of(
    TransfoXLConfig,
    without=("hidden_act", "classifier_dropout", "max_position_embeddings", "tie_word_embeddings"),
    hidden_size="d_model",
    num_hidden_layers="n_layer",
    num_attention_heads="n_head",
    head_dim="d_head",
    intermediate_size="d_inner",
    embedding_size="d_embed",
    hidden_dropout_prob="dropout",
    attention_probs_dropout_prob="dropatt",
    layer_norm_eps="layer_norm_epsilon",
    initializer_range="init_std",
    projection_range="proj_init_std",
)
IGNORED = {
    **dict.fromkeys(("ext_len", "tgt_len"), "how it was trained"),
    **dict.fromkeys(("init", "init_range"), "other ways to begin training"),
    "trainer_compatible": "in what order PyTorch returned its outputs",
}
_FIXED = FIXED | {
    "adaptive": (True, "one table for all words"),
    "attn_type": (0, "other positions"),
    "pre_lnorm": (False, "norms before, where memories of nothing would say something"),
    "same_length": (True, "the farther back, the later in a text"),
    "untie_r": (True, "biases of attention that all layers share"),
    "sample_softmax": (-1, "a softmax over samples"),
    "proj_share_all_but_first": (True, "projections of their own for the words that are predicted"),
    "tie_weight": (True, "tables of their own for the words that are predicted"),
    "tie_word_embeddings": (True, "tables of their own for the words that are predicted"),
}
config_to_hf = partial(write_config, KEYS, "transfo-xl")


def config_from_hf(raw: Mapping[str, Any], source: str = "config.json") -> TransfoXLConfig:
    """Reads a config.json; older ones say `n_token`. `tie_projs` must be what it is by default: all but the first."""
    plain = with_new_names(raw, {"n_token": "vocab_size"})
    config = read_config(TransfoXLConfig, KEYS, _FIXED, IGNORED | {"tie_projs": "looked at below"}, plain, source)
    if plain.get("tie_projs") not in (None, [], [False] + [True] * len(config.cutoffs)):
        raise ConfigError(
            f"{source}: tie_projs={shown(plain['tie_projs'])} is not supported, only all but the first is"
        )
    return config


# -- what it owns ------------------------------------------------------------------------------------------------------


def declare(config: TransfoXLConfig, head: str | None = None) -> Tree:
    """Every parameter of Transformer-XL with `head`: shape, axes, initialiser, checkpoint name and layout."""
    D, H, K, F = config.hidden_size, config.num_attention_heads, config.head_dim, config.intermediate_size
    init, projected = normal(config.initializer_range), normal(config.projection_range)
    at, word = "transformer.layers.{}.dec_attn.", "transformer.word_emb."

    def bias(name: str) -> Param:
        return Param((H, K), ("heads", "head_size"), init, at + name, decay=False)

    block: Tree = {
        "attention": {
            "qkv": Param((D, 3, H, K), ("embed", "parts", "heads", "head_size"), init, at + "qkv_net.weight",
                         "(c h k) d -> d c h k"),
            "relative": Param((D, H, K), ("embed", "heads", "head_size"), init, at + "r_net.weight", "(h k) d -> d h k"),
            "word_bias": bias("r_w_bias"),
            "relative_bias": bias("r_r_bias"),
            "out": {"kernel": Param((H, K, D), ("heads", "head_size", "embed"), init, at + "o_net.weight",
                                    "d (h k) -> h k d")},
        },
        "attention_norm": declare_norm(D, at + "layer_norm"),
        "up": declare_linear(D, F, "transformer.layers.{}.pos_ff.CoreNet.0", init, ("embed", "mlp")),
        "down": declare_linear(F, D, "transformer.layers.{}.pos_ff.CoreNet.3", init, ("mlp", "embed")),
        "output_norm": declare_norm(D, "transformer.layers.{}.pos_ff.layer_norm"),
    }  # fmt: skip
    embeddings: Tree = {}
    for n, width in enumerate(config.widths):
        words = (config.bounds[n + 1] - config.bounds[n], width)
        embeddings[_table(n)] = Param(words, ("vocab", "table"), init, f"{word}emb_layers.{n}.weight")
        embeddings[f"project_{n}"] = Param((D, width), ("embed", "labels"), projected, f"{word}emb_projs.{n}")
    tree: Tree = {"embeddings": embeddings, "layers": stacked(config.num_hidden_layers, block)}
    if head != "causal-lm":
        return tree | declare_heads(config, head, init, "")
    tree["masked_lm"] = {
        "project": Param((D, config.widths[0]), ("embed", "labels"), projected, "crit.out_projs.0"),
        **{
            f"bias_{n}": Param((end - start,), ("vocab",), zeros, f"crit.out_layers.{n}.bias", decay=False)
            for n, (start, end) in enumerate(zip(config.bounds, config.bounds[1:], strict=False))
        },
    }
    if groups := len(config.cutoffs):
        tree["masked_lm"]["groups"] = {
            "table": Param((groups, config.widths[0]), ("types", "table"), init, "crit.cluster_weight"),
            "bias": Param((groups,), ("types",), zeros, "crit.cluster_bias", decay=False),
        }
    return tree


def _table(group: int) -> str:
    return f"word_{group}" if group else "word"


def cache_for(config: TransfoXLConfig, batch: int, slots: int, dtype: Any) -> Cache:
    """An empty cache: as of other decoders, behind `mem_len` slots of nothing."""
    H, K = config.num_attention_heads, config.head_dim
    whole = empty_cache(config.num_hidden_layers, batch, H, config.mem_len + slots, K, dtype)
    return dataclasses.replace(whole, mask=whole.mask[:, :slots])


# -- how it computes ---------------------------------------------------------------------------------------------------


def embed(params: Tree, input_ids: jax.Array, config: TransfoXLConfig) -> jax.Array:
    """Each word's row in its group's table, projected and scaled: [B, L, D]."""
    x_BLD: Any = 0.0
    for n, (start, end) in enumerate(zip(config.bounds, config.bounds[1:], strict=False)):
        here_BL1 = ((input_ids >= start) & (input_ids < end))[..., None]
        rows_BLE = params[_table(n)][jnp.clip(input_ids - start, 0, end - start - 1)]
        x_BLD = x_BLD + jnp.where(here_BL1, jnp.einsum("BLE,DE->BLD", rows_BLE, params[f"project_{n}"]), 0)
    return x_BLD * jnp.asarray(config.hidden_size**0.5, x_BLD.dtype)


def distances(config: TransfoXLConfig) -> np.ndarray:
    """Sines, then cosines, of the distances from the farthest that is seen down to 0: [M, D] of float32."""
    steps_M = np.arange(config.mem_len - 1, -1, -1, dtype=np.float32)
    if config.clamp_len > 0:
        steps_M = steps_M.clip(max=config.clamp_len)
    width = config.hidden_size
    rates_D = 1 / 10000 ** (np.arange(0, width, 2, dtype=np.float32) / np.float32(width))
    angles_MD = steps_M[:, None] * rates_D[None]
    return np.concatenate((np.sin(angles_MD), np.cos(angles_MD)), axis=-1)


def shift(x_BHLM: jax.Array) -> jax.Array:
    """What each query says of each key, out of what it says of each distance: [B, H, L, M] -> [B, H, L, M + L].

    The keys of L queries are the M before the first of them, and their own; a row's distances end at its own place. Rows that
    follow each other at one number more than they are long begin one place later each: no indices.
    """
    B, H, L, M = x_BHLM.shape
    x_BHN = jnp.pad(x_BHLM, ((0, 0), (0, 0), (0, 0), (1, L))).reshape(B, H, L * (M + L + 1))
    return x_BHN[..., : L * (M + L)].reshape(B, H, L, M + L)


def decode(
    params: Tree,
    input_ids: jax.Array | None = None,
    attention_mask: jax.Array | None = None,
    inputs_embeds: jax.Array | None = None,
    *,
    config: TransfoXLConfig,
    rng: jax.Array | None = None,
    cache: Cache | None = None,
    output_hidden_states: bool = False,
    output_attentions: bool = False,
    execution: Execution = Execution(),  # noqa: B008 (frozen)
) -> Output:
    """Transformer-XL's hidden states.

    Args:
      params: the tree of `declare`; `layers` may also be a sequence of single layers.
      input_ids: [B, L] token ids.
      attention_mask: [B, L], 1 for tokens and 0 for padding; None means no padding. PyTorch's has none; padding before a text
        gives what the text alone does.
      inputs_embeds: [B, L, D] in place of `input_ids`, scaled already.
      config: the model's numbers.
      rng: key for dropout; None means none.
      cache: what came before (`cache_for`); it must have L slots left.
      output_hidden_states: also return every layer's output.
      output_attentions: also return every layer's attention weights [B, H, L, M + L], of M = `mem_len` earlier places first.
      execution: scan or loop, rematerialisation, kernel.

    Returns:
      `Output` with `last_hidden_state` [B, L, D], and `cache` where one was given.

    Raises:
      InputError: both or neither of `input_ids` and `inputs_embeds`.
    """
    if (input_ids is None) == (inputs_embeds is None):
        raise InputError("give either input_ids or inputs_embeds")
    x_BLD = embed(params["embeddings"], input_ids, config) if inputs_embeds is None else inputs_embeds  # type: ignore[arg-type]
    L, M, rate = x_BLD.shape[1], config.mem_len, config.hidden_dropout_prob
    rng_words, rng_distances, rng_layers, rng_output = split_rng(rng, 4)
    table_MD = dropout(jnp.asarray(distances(config), x_BLD.dtype), rate, rng_distances)
    steps_LT = np.arange(M + L)[None] - np.arange(L)[:, None]
    seen = jnp.asarray((steps_LT > 0) & (steps_LT <= M))[None, None]
    real_BL11 = None if attention_mask is None else (attention_mask != 0)[:, :, None, None]
    if cache is not None:
        cache, _ = extend(cache, attention_mask, L)

    def block(layer: Tree, carried: Any, *, rng: Any, maps: bool, kernel: str | None) -> Any:
        x_BLD, cache = carried
        rng_maps, rng_attention, rng_up, rng_down = split_rng(rng, 4)
        attention = layer["attention"]
        with jax.named_scope("attention"):
            y_BLCHK = jnp.einsum("BLD,DCHK->BLCHK", x_BLD, attention["qkv"])
            q_BLHK, k_BTHK, v_BTHK = (
                shard(y_BLCHK[:, :, n], "batch", "length", "heads", "head_size") for n in range(3)
            )
            if real_BL11 is not None:  # padding is as nothing
                k_BTHK, v_BTHK = (jnp.where(real_BL11, each, 0) for each in (k_BTHK, v_BTHK))
            if cache is None:
                k_BTHK, v_BTHK = (jnp.pad(each, ((0, 0), (M, 0), (0, 0), (0, 0))) for each in (k_BTHK, v_BTHK))
            else:
                behind = dataclasses.replace(cache, length=cache.length + M)
                behind = remember(behind, layer["number"], k_BTHK, v_BTHK)
                k_BTHK, v_BTHK = (
                    jax.lax.dynamic_slice_in_dim(each, cache.length, M + L, axis=1)
                    for each in recall(behind, layer["number"])
                )
                cache = dataclasses.replace(behind, length=cache.length)
            add = lambda name: q_BLHK + jnp.broadcast_to(attention[name], q_BLHK.shape)  # noqa: E731
            r_MHK = jnp.einsum("MD,DHK->MHK", table_MD, attention["relative"])
            bias_BHLT = shift(jnp.einsum("BLHK,MHK->BHLM", add("relative_bias"), r_MHK)) * config.head_dim**-0.5
            a_BLHK, weights_BHLT = attend(
                add("word_bias"), k_BTHK, v_BTHK, seen, bias=bias_BHLT, maps=maps, kernel=kernel, rng=rng_maps,
                dropout_rate=config.attention_probs_dropout_prob,
            )  # fmt: skip
            a_BLD = dropout(heads_out(attention["out"], a_BLHK), rate, rng_attention)
            x_BLD = layer_norm(layer["attention_norm"], x_BLD + a_BLD, config.layer_norm_eps)
        with jax.named_scope("feed_forward"):
            h_BLF = shard(jax.nn.relu(linear(layer["up"], x_BLD)), "batch", "length", "mlp")
            h_BLD = dropout(linear(layer["down"], dropout(h_BLF, rate, rng_up)), rate, rng_down)
            x_BLD = layer_norm(layer["output_norm"], x_BLD + h_BLD, config.layer_norm_eps)
        return (shard(x_BLD, "batch", "length", "embed"), cache), weights_BHLT

    carried, states, maps = stack(
        params["layers"],
        block,
        (dropout(shard(x_BLD, "batch", "length", "embed"), rate, rng_words), cache),
        beside={"number": np.arange(config.num_hidden_layers)},
        rng=rng_layers,
        output_hidden_states=output_hidden_states,
        output_attentions=output_attentions,
        execution=execution,
    )
    x_BLD, cache = carried
    x_BLD = dropout(x_BLD, rate, rng_output)
    if cache is not None:
        cache = dataclasses.replace(cache, length=cache.length + L)
    states = states if states is None else (*states[:-1], x_BLD)
    return Output(last_hidden_state=x_BLD, cache=cache, hidden_states=states, attentions=maps)


def predict_next(params: Tree, *inputs: Any, config: TransfoXLConfig, logits_to_keep: int = 0, **named: Any) -> Output:
    """The next token after each: log-probabilities [B, L, V] (of the last n alone with `logits_to_keep` = n)."""
    trunk = decode(params, *inputs, config=config, **named)
    head, embeddings, h_BLD = params["masked_lm"], params["embeddings"], trunk.last_hidden_state[:, -logits_to_keep:]  # type: ignore[index]
    found = []
    for n in range(len(config.widths)):
        project = embeddings[f"project_{n}"] if n else head["project"]
        h_BLE = jnp.einsum("BLD,DE->BLE", h_BLD, project)
        table, bias = embeddings[_table(n)], head[f"bias_{n}"]
        if n == 0 and "groups" in head:
            table = jnp.concatenate((table, head["groups"]["table"]))
            bias = jnp.concatenate((bias, head["groups"]["bias"]))
        logits_BLV = jnp.einsum("BLE,VE->BLV", h_BLE, table)
        logits_BLV = (logits_BLV + jnp.broadcast_to(bias, logits_BLV.shape)).astype(jnp.float32)
        found.append(jax.nn.log_softmax(logits_BLV, axis=-1))
    common_BLV, first = found[0], config.bounds[1]
    rare = [common_BLV[..., first + n : first + n + 1] + each_BLV for n, each_BLV in enumerate(found[1:])]
    logits_BLV = jnp.concatenate((common_BLV[..., :first], *rare), axis=-1).astype(h_BLD.dtype)
    return trunk.replace(last_hidden_state=None, logits=shard(logits_BLV, "batch", "length", "vocab"))  # type: ignore[attr-defined]


HEADS: dict[str | None, Forward] = {
    None: decode,
    "causal-lm": predict_next,
    "sequence-classification": classify_last(decode),
}

FAMILY = Family(
    name="transfo-xl",
    config_class=TransfoXLConfig,
    config_from_hf=config_from_hf,
    config_to_hf=config_to_hf,
    config_keys=KEYS,
    declare=declare,
    heads=HEADS,
    architectures={
        None: "TransfoXLModel",
        "causal-lm": "TransfoXLLMHeadModel",
        "sequence-classification": "TransfoXLForSequenceClassification",
    },
    prefix="transformer.",
    trunk=("embeddings", "layers"),
    inputs=("input_ids", "attention_mask", "inputs_embeds"),
    cache=cache_for,
    buffers=("transformer.pos_emb.inv_freq",),
    ties={
        **{f"crit.out_layers.{n}.weight": f"transformer.word_emb.emb_layers.{n}.weight" for n in range(GROUPS)},
        **{f"crit.out_projs.{n}": f"transformer.word_emb.emb_projs.{n}" for n in range(1, GROUPS)},
    },
)
