"""XLNet (Yang et al. 2019, arXiv:1906.08237), as an encoder that looks both ways: relative positions, and a second stream.

Its own: a query looks at what a key says, at how far it is (by sines, shifted so that each row begins at its own distance),
and at whether both are of one segment; only that counts of `token_type_ids`, so any numbers will do. With `target_mapping`
a second stream of queries runs beside the tokens: it knows a position and not the word there, and predicts it. Every
projection is a tensor [D, H, K] in checkpoints too. Memories of earlier texts (`mems`) are not kept; what generation
remembers is a cache of the keys and values made of them. A text is summarised by its last token, wherever its padding stands.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxformers.core import heads, spans
from jaxformers.core.attention import attend
from jaxformers.core.cache import Cache, empty_cache, extend, recall, remember
from jaxformers.core.layers import ACTIVATIONS, declare_linear, declare_norm, dropout, layer_norm, linear, split_rng
from jaxformers.core.outputs import Output
from jaxformers.core.params import Param, Tree, normal, stacked
from jaxformers.core.transformer import Execution, stack
from jaxformers.errors import ConfigError, InputError
from jaxformers.families.config import keys_of, read_config, with_new_names, write_config
from jaxformers.families.model import Family, Forward, class_names
from jaxformers.families.text_encoder import FIXED, TextConfig, declare_classifier
from jaxformers.parallel.mesh import shard


@dataclasses.dataclass(frozen=True, kw_only=True)
class XLNetConfig(TextConfig):
    """XLNet's numbers; the defaults are those of xlnet-large-cased. `clamp_len` below 1 means no limit to distances."""

    vocab_size: int = 32000
    hidden_size: int = 1024
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    intermediate_size: int = 4096
    head_size: int | None = None
    hidden_dropout_prob: float = 0.1  # everywhere, attention weights included
    clamp_len: int = -1
    summary_type: str = "last"
    summary_use_proj: bool = True
    summary_activation: str = "tanh"
    summary_last_dropout: float = 0.1
    start_n_top: int = 5
    end_n_top: int = 5
    pad_token_id: int = 5

    SIZES = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
             "start_n_top", "end_n_top")  # fmt: skip

    def __post_init__(self) -> None:
        if self.head_size is None:
            object.__setattr__(self, "head_size", self.hidden_size // max(self.num_attention_heads, 1))
        super().__post_init__()
        if self.head_size != self.hidden_size // self.num_attention_heads:
            raise ConfigError(f"d_head must be d_model over n_head, found {self.head_size}")
        if self.summary_type not in heads.SUMMARIES:
            raise ConfigError(f"unknown summary_type {self.summary_type!r}; known: {', '.join(heads.SUMMARIES)}")


KEYS = keys_of(
    XLNetConfig,
    without=("attention_probs_dropout_prob", "classifier_dropout", "max_position_embeddings"),
    hidden_size="d_model",
    num_hidden_layers="n_layer",
    num_attention_heads="n_head",
    intermediate_size="d_inner",
    hidden_act="ff_activation",
    head_size="d_head",
    hidden_dropout_prob="dropout",
)
IGNORED = {
    **dict.fromkeys(
        ("mem_len", "reuse_len", "use_mems_eval", "use_mems_train"), "no memories of earlier texts are kept"
    ),
    "same_length": "of how far a model looks back that looks back only",
}
_FIXED = FIXED | {
    "attn_type": ("bi", "looking back only, as Transformer-XL does"),
    "bi_data": (False, "half of a batch read backwards"),
    "untie_r": (True, "biases of attention that all layers share"),
}
config_to_hf = partial(write_config, KEYS, "xlnet")


def config_from_hf(raw: Mapping[str, Any], source: str = "config.json") -> XLNetConfig:
    """Reads a config.json; in the oldest ones the vocabulary's size is `n_token`."""
    return read_config(XLNetConfig, KEYS, _FIXED, IGNORED, with_new_names(raw, {"n_token": "vocab_size"}), source)


# -- what it owns ------------------------------------------------------------------------------------------------------

CLASSIFIERS: dict[str | None, tuple[str | None, str]] = {
    "sequence-classification": (None, "logits_proj"),
    "multiple-choice": (None, "logits_proj"),
    "token-classification": (None, "classifier"),
    "question-answering": (None, "qa_outputs"),
}


def declare(config: XLNetConfig, head: str | None = None) -> Tree:
    """Every parameter of XLNet with `head`: shape, axes, initialiser, checkpoint name and layout."""
    D, H, F, init = (
        config.hidden_size,
        config.num_attention_heads,
        config.intermediate_size,
        normal(config.initializer_range),
    )
    K, at = D // H, "transformer.layer.{}."

    def project(name: str) -> Param:
        return Param((D, H, K), ("embed", "heads", "head_size"), init, f"{at}rel_attn.{name}")

    def bias(name: str) -> Param:
        return Param((H, K), ("heads", "head_size"), init, f"{at}rel_attn.{name}", decay=False)

    block: Tree = {
        "attention": {
            **{name: project(name[0]) for name in ("query", "key", "value", "out", "relative")},
            "word_bias": bias("r_w_bias"),
            "relative_bias": bias("r_r_bias"),
            "segment_bias": bias("r_s_bias"),
            "segment": Param((2, H, K), ("types", "heads", "head_size"), init, f"{at}rel_attn.seg_embed"),
        },
        "attention_norm": declare_norm(D, at + "rel_attn.layer_norm"),
        "up": declare_linear(D, F, at + "ff.layer_1", init, ("embed", "mlp")),
        "down": declare_linear(F, D, at + "ff.layer_2", init, ("mlp", "embed")),
        "output_norm": declare_norm(D, at + "ff.layer_norm"),
    }
    tree: Tree = {
        "embeddings": {
            "word": Param((config.vocab_size, D), ("vocab", "table"), init, "transformer.word_embedding.weight"),
            "target": Param((1, 1, D), ("types", "positions", "embed"), init, "transformer.mask_emb"),
        },
        "layers": stacked(config.num_hidden_layers, block),
        **declare_classifier(config, head, CLASSIFIERS),
    }
    if head in ("sequence-classification", "multiple-choice") and config.summary_use_proj:
        tree["summary"] = declare_linear(D, D, "sequence_summary.summary", init, ("embed", "mlp"))
    if head == "causal-lm":
        tree["masked_lm"] = heads.declare_vocabulary(D, config.vocab_size, "lm_loss", init, config.tie_word_embeddings)
    if head == "question-answering-beam":
        tree["span"] = spans.declare_beams(D, "", init)
    return tree


# -- how it computes ---------------------------------------------------------------------------------------------------


def distances(farthest: jax.Array | int, count: int, config: XLNetConfig) -> jax.Array:
    """Sines, then cosines, of `count` distances from the farthest down: [P, D] of float32."""
    width, clamp = config.hidden_size, config.clamp_len
    steps_P = (farthest - jnp.arange(count)).astype(jnp.float32)
    if clamp > 0:
        steps_P = steps_P.clip(-clamp, clamp)
    rates_D = 1 / 10000 ** (np.arange(0, width, 2, dtype=np.float32) / np.float32(width))
    angles_PD = steps_P[:, None] * jnp.asarray(rates_D, jnp.float32)[None]
    return jnp.concatenate((jnp.sin(angles_PD), jnp.cos(angles_PD)), axis=-1)


def shift(x_BHLP: jax.Array, keys: int) -> jax.Array:
    """What each query says of each key, out of what it says of each distance: [B, H, L, P] -> [B, H, L, S].

    Query l's row of keys is the window of its distances that begins at P - S - l. All windows at once are the same numbers
    read in rows that are one shorter: no indices, which accelerators are slow at.
    """
    B, H, L, P = x_BHLP.shape
    x_BHN = x_BHLP.reshape(B, H, L * P)[..., P - keys :][..., : L * (P - 1)]
    return x_BHN.reshape(B, H, L, P - 1)[..., :keys]


def look(attention: Tree, q_BLHK: jax.Array, k_BSHK: jax.Array, v_BSHK: jax.Array, p_PHK: jax.Array,
         differ_BLS: jax.Array | None, visible_BLS: jax.Array | None, **options: Any) -> Any:  # fmt: skip
    """Attention by word, distance and segment; `options` are those of `attend`, which says what comes back.

    Args:
      attention: the layer's parameters.
      q_BLHK: queries.
      k_BSHK: keys.
      v_BSHK: values.
      p_PHK: the distances' keys.
      differ_BLS: whether two tokens are of different segments; None means that there are none.
      visible_BLS: where a query may look; None means everywhere.
    """
    scale = q_BLHK.shape[-1] ** -0.5
    add = lambda name: q_BLHK + jnp.broadcast_to(attention[name], q_BLHK.shape)  # noqa: E731
    bias_BHLS = shift(jnp.einsum("BLHK,PHK->BHLP", add("relative_bias"), p_PHK), k_BSHK.shape[1])
    if differ_BLS is not None:
        each_BHLT = jnp.einsum("BLHK,THK->BHLT", add("segment_bias"), attention["segment"])
        bias_BHLS = bias_BHLS + jnp.where(differ_BLS[:, None], each_BHLT[..., 1:], each_BHLT[..., :1])
    mask = None if visible_BLS is None else visible_BLS[:, None]
    return attend(add("word_bias"), k_BSHK, v_BSHK, mask, bias=bias_BHLS * scale, scale=scale, **options)


def visible(attention_mask: jax.Array | None, perm_mask: jax.Array | None) -> jax.Array | None:
    """Where a target may look: at real tokens that come before it in the order of prediction. [B, L, L] or None."""
    real = None if attention_mask is None else (attention_mask != 0)[:, None, :]
    earlier = None if perm_mask is None else jnp.logical_not(perm_mask > 0)
    if real is None or earlier is None:
        return real if earlier is None else earlier
    return jnp.logical_and(*jnp.broadcast_arrays(real, earlier))


def run_layers(params: Tree, x_BLD: jax.Array, L: int, attention_mask: jax.Array | None, token_type_ids: jax.Array | None,
               perm_mask: jax.Array | None, target_mapping: jax.Array | None, config: XLNetConfig,
               rng: jax.Array | None, **options: Any) -> Any:  # fmt: skip
    """The layers over L tokens, after which come the targets (if any): both streams are one array, so `stack` runs them."""
    rate = config.hidden_dropout_prob
    rng_distances, rng_layers = split_rng(rng, 2)
    # One draw for all texts, where PyTorch draws for each: its projection then is one product, not one a text.
    table_PD = dropout(distances(L, 2 * L, config).astype(x_BLD.dtype), rate, rng_distances)
    differ = None if token_type_ids is None else token_type_ids[:, :, None] != token_type_ids[:, None, :]
    for_targets = visible(attention_mask, perm_mask)
    for_tokens = None  # each token sees itself, padding too: so none is left with nothing to look at
    if for_targets is not None:
        for_tokens = jnp.logical_or(*jnp.broadcast_arrays(for_targets, jnp.eye(L, dtype=bool)[None]))

    def block(layer: Tree, x_BLD: jax.Array, *, rng: Any, maps: bool, kernel: str | None) -> Any:
        rng_tokens, rng_targets, *rngs = split_rng(rng, 5)
        attention = layer["attention"]
        with jax.named_scope("attention"):
            q_BLHK, k_BSHK, v_BSHK = (
                shard(jnp.einsum("BLD,DHK->BLHK", y_BLD, attention[name]), "batch", "length", "heads", "head_size")
                for name, y_BLD in (("query", x_BLD), ("key", x_BLD[:, :L]), ("value", x_BLD[:, :L]))
            )
            p_PHK = jnp.einsum("PD,DHK->PHK", table_PD, attention["relative"])
            see = partial(look, attention, k_BSHK=k_BSHK, v_BSHK=v_BSHK, p_PHK=p_PHK, differ_BLS=differ,
                          dropout_rate=rate, maps=maps, kernel=kernel)  # fmt: skip
            a_BLHK, weights_BHLS = see(q_BLHK[:, :L], visible_BLS=for_tokens, rng=rng_tokens)
            if target_mapping is not None:
                q_BLHK = jnp.einsum("BMHK,BML->BLHK", q_BLHK[:, L:], target_mapping)
                g_BLHK, more_BHLS = see(q_BLHK, visible_BLS=for_targets, rng=rng_targets)
                g_BMHK = jnp.einsum("BLHK,BML->BMHK", g_BLHK, target_mapping)
                a_BLHK = jnp.concatenate((a_BLHK, g_BMHK), axis=1)
                weights_BHLS = jnp.concatenate((weights_BHLS, more_BHLS), axis=2) if maps else None
        return finish(layer, x_BLD, a_BLHK, config, rngs), weights_BHLS

    return stack(params, block, x_BLD, rng=rng_layers, **options)


def finish(layer: Tree, x_BLD: jax.Array, a_BLHK: jax.Array, config: XLNetConfig, rngs: Sequence[Any]) -> jax.Array:
    """What a layer does once its attention has looked: both sums, each normalised."""
    rate, (rng_attention, rng_up, rng_output) = config.hidden_dropout_prob, rngs
    with jax.named_scope("attention"):
        a_BLD = dropout(jnp.einsum("BLHK,DHK->BLD", a_BLHK, layer["attention"]["out"]), rate, rng_attention)
        x_BLD = layer_norm(layer["attention_norm"], x_BLD + a_BLD, config.layer_norm_eps)
    with jax.named_scope("feed_forward"):
        h_BLF = shard(ACTIVATIONS[config.hidden_act](linear(layer["up"], x_BLD)), "batch", "length", "mlp")
        h_BLD = dropout(linear(layer["down"], dropout(h_BLF, rate, rng_up)), rate, rng_output)
        x_BLD = layer_norm(layer["output_norm"], x_BLD + h_BLD, config.layer_norm_eps)
    return shard(x_BLD, "batch", "length", "embed")


def encode(
    params: Tree,
    input_ids: jax.Array | None = None,
    attention_mask: jax.Array | None = None,
    token_type_ids: jax.Array | None = None,
    inputs_embeds: jax.Array | None = None,
    perm_mask: jax.Array | None = None,
    target_mapping: jax.Array | None = None,
    mems: None = None,
    *,
    config: XLNetConfig,
    rng: jax.Array | None = None,
    output_hidden_states: bool = False,
    output_attentions: bool = False,
    execution: Execution = Execution(),  # noqa: B008 (frozen)
) -> Output:
    """XLNet's hidden states: of the tokens, or of the targets where there are any.

    Args:
      params: the tree of `declare`.
      input_ids: [B, L] token ids.
      attention_mask: [B, L], 1 for tokens and 0 for padding, on either side; None means no padding.
      token_type_ids: [B, L], tokens of one number are of one segment; None means that segments do not count.
      inputs_embeds: [B, L, D] in place of `input_ids`.
      perm_mask: [B, L, L], 1 where the first token may not look at the second; None lets it look everywhere.
      target_mapping: [B, M, L], target m stands where token l does (1) or does not (0).
      mems: not supported.
      config: the model's numbers.
      rng: key for dropout; None means none.
      output_hidden_states: also return every layer's output; with targets that of the tokens and that of the targets by turns.
      output_attentions: also return every layer's attention weights; with targets a pair, those of the tokens first.
      execution: scan or loop, rematerialisation, kernel.

    Returns:
      `Output` with `last_hidden_state` [B, L, D], or [B, M, D] with targets.

    Raises:
      InputError: both or neither of `input_ids` and `inputs_embeds`, memories, or an array of another shape.
    """
    if (input_ids is None) == (inputs_embeds is None):
        raise InputError("give either input_ids or inputs_embeds")
    if mems is not None:
        raise InputError("memories of earlier texts (mems) are not supported: give the whole text at once")
    x_BLD = params["embeddings"]["word"][input_ids] if inputs_embeds is None else inputs_embeds
    (B, L, D), targets = x_BLD.shape, 0 if target_mapping is None else target_mapping.shape[1]
    for name, array, shape in (("attention_mask", attention_mask, (B, L)), ("perm_mask", perm_mask, (B, L, L)),
                               ("target_mapping", target_mapping, (B, targets, L))):  # fmt: skip
        if array is not None and array.shape != shape:
            raise InputError(f"{name} must be of shape {shape}, found {array.shape}")
    rng_tokens, rng_layers, rng_output = split_rng(rng, 3)
    if target_mapping is not None:
        target_mapping = target_mapping.astype(x_BLD.dtype)
        g_BMD = jnp.broadcast_to(params["embeddings"]["target"].astype(x_BLD.dtype), (B, targets, D))
        x_BLD = jnp.concatenate((x_BLD, g_BMD), axis=1)
    x_BLD = dropout(shard(x_BLD, "batch", "length", "embed"), config.hidden_dropout_prob, rng_tokens)
    x_BLD, states, maps = run_layers(
        params["layers"],
        x_BLD,
        L,
        attention_mask,
        token_type_ids,
        perm_mask,
        target_mapping,
        config,
        rng_layers,
        output_hidden_states=output_hidden_states,
        output_attentions=output_attentions,
        execution=execution,
    )
    if target_mapping is not None:
        x_BLD = x_BLD[:, L:]
        states = states and tuple(part for each in states for part in (each[:, :L], each[:, L:]))
        maps = maps and tuple((each[:, :, :L], each[:, :, L:]) for each in maps)
    x_BLD = dropout(x_BLD, config.hidden_dropout_prob, rng_output)
    return Output(last_hidden_state=x_BLD, hidden_states=states, attentions=maps)


def cache_for(config: XLNetConfig, batch: int, slots: int, dtype: Any) -> Cache:
    """An empty cache, behind one slot of nothing; the last of its N + 1 layers keeps the words' vectors."""
    H = config.num_attention_heads
    whole = empty_cache(config.num_hidden_layers + 1, batch, H, slots + 1, config.hidden_size // H, dtype)
    return dataclasses.replace(whole, mask=whole.mask[:, 1:])


def go_on(
    params: Tree,
    input_ids: jax.Array,
    attention_mask: jax.Array | None = None,
    *,
    config: XLNetConfig,
    cache: Cache,
    rng: None = None,
    execution: Execution = Execution(),  # noqa: B008 (frozen)
) -> Output:
    """The state of a target behind L more tokens [B, L], which tells the next one: [B, 1, D], and the cache that knows them.

    Tokens that are read together look both ways. So with new ones the token before them is read once more, now that it has
    one behind it, and stays as it is then; that is PyTorch's generation, whose memories these keys and values are made of.
    """
    (B, L), N, words = input_ids.shape, config.num_hidden_layers, params["embeddings"]
    first, (cache, _) = cache.length, extend(cache, attention_mask, L)  # an array's slots begin one before the cache's
    new_BLHK = words["word"][input_ids].reshape(B, L, config.num_attention_heads, -1)
    cache = remember(dataclasses.replace(cache, length=first + 1), N, new_BLHK, new_BLHK)
    read_BLD = jax.lax.dynamic_slice_in_dim(recall(cache, N)[0], first, L + 1, axis=1).reshape(B, L + 1, -1)
    target_B1D = jnp.broadcast_to(words["target"].astype(read_BLD.dtype), (B, 1, config.hidden_size))
    x_BLD = jnp.concatenate((read_BLD, target_B1D), axis=1)
    seen_B1S = jnp.pad(cache.mask, ((0, 0), (1, 0)))[:, None]
    table_PD = distances(first + L + 1, seen_B1S.shape[2] + L + 1, config).astype(x_BLD.dtype)

    def block(layer: Tree, carried: Any, *, rng: Any, maps: bool, kernel: str | None) -> Any:
        x_BLD, cache = carried
        attention = layer["attention"]
        with jax.named_scope("attention"):
            q_BLHK, k_BLHK, v_BLHK = (
                shard(jnp.einsum("BLD,DHK->BLHK", y_BLD, attention[name]), "batch", "length", "heads", "head_size")
                for name, y_BLD in (("query", x_BLD), ("key", x_BLD[:, :-1]), ("value", x_BLD[:, :-1]))
            )
            cache = remember(cache, layer["number"], k_BLHK, v_BLHK)
            p_PHK = jnp.einsum("PD,DHK->PHK", table_PD, attention["relative"])
            a_BLHK, weights_BHLS = look(
                attention, q_BLHK, *recall(cache, layer["number"]), p_PHK, None, seen_B1S, maps=maps, kernel=kernel
            )
        return (finish(layer, x_BLD, a_BLHK, config, (None,) * 3), cache), weights_BHLS

    (x_BLD, cache), _, _ = stack(
        params["layers"],
        block,
        (shard(x_BLD, "batch", "length", "embed"), dataclasses.replace(cache, length=first)),
        beside={"number": np.arange(N)},
        execution=execution,
    )
    return Output(last_hidden_state=x_BLD[:, -1:], cache=dataclasses.replace(cache, length=first + L))


def encode_tokens(params: Tree, *inputs: Any, target_mapping: None = None, **named: Any) -> Output:
    """`encode` for heads that judge the tokens themselves."""
    if target_mapping is not None or len(inputs) > 5:
        raise InputError("this head judges tokens, not targets: leave target_mapping out")
    return encode(params, *inputs, **named)


def _summary(params: Tree, trunk: Output, config: XLNetConfig, rng: jax.Array | None) -> jax.Array:
    x_BD = trunk.pooler_output
    assert x_BD is not None
    x_BD = linear(params["summary"], x_BD) if "summary" in params else x_BD
    return dropout(ACTIVATIONS[config.summary_activation](x_BD), config.summary_last_dropout, rng)


def classify(params: Tree, trunk: Output, config: XLNetConfig, rng: jax.Array | None) -> dict[str, Any]:
    """A dense layer (if any) and activation over the text's summary, dropout, and the classes: logits [B, C]."""
    return {"logits": linear(params["classifier"], _summary(params, trunk, config, rng))}


def classify_tokens(params: Tree, trunk: Output, config: XLNetConfig, rng: jax.Array | None) -> dict[str, Any]:
    """A dense layer over every token: logits [B, L, C]. The trunk ends in dropout, so the head has none."""
    return {"logits": linear(params["classifier"], trunk.last_hidden_state)}  # type: ignore[arg-type]


INPUTS = ("input_ids", "attention_mask", "token_type_ids", "inputs_embeds", "perm_mask", "target_mapping")
summarised = heads.summarised(encode_tokens)
HEADS: dict[str | None, Forward] = {
    None: encode,
    "sequence-classification": heads.attach(summarised, classify),
    "token-classification": heads.attach(encode_tokens, classify_tokens),
    "question-answering": heads.attach(encode_tokens, heads.find_span),
    "question-answering-beam": spans.find_by_beams(encode_tokens),
    "causal-lm": heads.attach(heads.remembering(encode, go_on), heads.over_vocabulary),
    "multiple-choice": heads.choose(heads.attach(summarised, classify), INPUTS),
}
_OWN: dict[str | None, str] = {
    "causal-lm": "XLNetLMHeadModel",
    "question-answering": "XLNetForQuestionAnsweringSimple",
    "question-answering-beam": "XLNetForQuestionAnswering",
}

FAMILY = Family(
    name="xlnet",
    config_class=XLNetConfig,
    config_from_hf=config_from_hf,
    config_to_hf=config_to_hf,
    config_keys=KEYS,
    declare=declare,
    heads=HEADS,
    architectures={**class_names("XLNet", [head for head in HEADS if head not in _OWN]), **_OWN},
    prefix="transformer.",
    trunk=("embeddings", "layers"),
    inputs=INPUTS,
    cache=cache_for,
    asks_ahead=True,
    ties={"lm_loss.weight": "transformer.word_embedding.weight"},
)
