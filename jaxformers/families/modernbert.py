"""ModernBERT (Warner et al. 2024, arXiv:2412.13663): a pre-norm encoder with rotary positions and gated feed-forward layers.

Its own: two layers of three look only at near tokens, with faster rotations than the third; the first layer has no norm before
its attention; query, key and value, and gate and input, are one tensor each. All heads go through a dense layer and norm.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxformers.core import heads, positions
from jaxformers.core.attention import Mask, attend, padding_mask
from jaxformers.core.layers import (
    ACTIVATIONS,
    declare_linear,
    declare_norm,
    dropout,
    layer_norm,
    linear,
    product,
    split_rng,
)
from jaxformers.core.outputs import Output
from jaxformers.core.params import Param, Tree, leaves, stacked, tree_map, zeros
from jaxformers.core.transformer import heads_out, stack
from jaxformers.errors import ConfigError, InputError
from jaxformers.families import text_encoder
from jaxformers.families.config import keys_of, read_config, shown, write_config
from jaxformers.families.model import Family, Forward, class_names
from jaxformers.families.text_encoder import FIXED, INPUTS, Text, TextConfig
from jaxformers.parallel.mesh import shard

FULL, SLIDING = "full_attention", "sliding_attention"
ROTARY = {FULL: "global_rope_theta", SLIDING: "local_rope_theta"}  # kind of layer -> field


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModernBertConfig(TextConfig):
    """ModernBERT's numbers; the defaults are those of ModernBERT-base.

    `layer_types` says of each layer whether it looks at all or at near tokens; left out, every
    `global_attn_every_n_layers`-th looks at all. Near is up to half of `local_attention` away.
    """

    vocab_size: int = 50368
    intermediate_size: int = 1152
    num_hidden_layers: int = 22
    max_position_embeddings: int = 8192
    initializer_cutoff_factor: float = 2.0
    layer_norm_eps: float = 1e-5
    norm_bias: bool = False
    pad_token_id: int = 50283
    attention_bias: bool = False
    attention_probs_dropout_prob: float = 0.0
    layer_types: tuple[str, ...] = ()
    global_attn_every_n_layers: int = 3
    global_rope_theta: float = 160_000.0
    local_rope_theta: float = 10_000.0
    local_attention: int = 128
    embedding_dropout: float = 0.0
    mlp_bias: bool = False
    mlp_dropout: float = 0.0
    decoder_bias: bool = True
    classifier_pooling: str = "cls"
    classifier_dropout: float = 0.0
    classifier_bias: bool = False
    classifier_activation: str = "gelu"

    SIZES = (*TextConfig.SIZES, "global_attn_every_n_layers", "local_attention")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.layer_types:
            every = self.global_attn_every_n_layers
            kinds = tuple(SLIDING if n % every else FULL for n in range(self.num_hidden_layers))
            object.__setattr__(self, "layer_types", kinds)
        if len(self.layer_types) != self.num_hidden_layers or not set(self.layer_types) <= {FULL, SLIDING}:
            raise ConfigError(
                f"layer_types must say {FULL!r} or {SLIDING!r} for each of {self.num_hidden_layers} layers, "
                f"found {shown(self.layer_types)}"
            )
        if self.classifier_pooling not in ("cls", "mean"):
            raise ConfigError(f"classifier_pooling must be 'cls' or 'mean', found {self.classifier_pooling!r}")


KEYS = keys_of(
    ModernBertConfig,
    hidden_act="hidden_activation",
    layer_norm_eps="norm_eps",
    attention_probs_dropout_prob="attention_dropout",
)
IGNORED = {
    **dict.fromkeys(("layer_norm_eps", "position_embedding_type"), "left over from BERT's config, never read"),
    **dict.fromkeys(("deterministic_flash_attn", "reference_compile", "repad_logits_with_grad"), "how PyTorch runs it"),
    **dict.fromkeys(
        ("sparse_prediction", "sparse_pred_ignore_index"), "PyTorch's training computes fewer logits by it"
    ),
}
_FIXED = {key: value for key, value in FIXED.items() if key not in IGNORED}


def config_from_hf(raw: Mapping[str, Any], source: str = "config.json") -> ModernBertConfig:
    """Reads a config.json; the rotations' bases are keys of their own in older files, `rope_parameters` in newer ones."""
    plain = {key: value for key, value in raw.items() if key != "rope_parameters"}
    rope = raw.get("rope_parameters") or {}
    if not isinstance(rope, Mapping) or not all(isinstance(kind, Mapping) for kind in rope.values()):
        raise ConfigError(f"{source}: rope_parameters must hold an object a kind of layer, found {shown(rope)}")
    for kind, given in rope.items():
        if kind not in ROTARY or not {*given} <= {"rope_type", "rope_theta"} or given.get("rope_type") != "default":
            raise ConfigError(
                f"{source}: rope_parameters hold {shown({kind: given})}, only plain rotations are supported"
            )
        if plain.setdefault(ROTARY[kind], given.get("rope_theta")) != given.get("rope_theta", plain[ROTARY[kind]]):
            raise ConfigError(
                f"{source}: {ROTARY[kind]}={shown(plain[ROTARY[kind]])} and rope_parameters "
                f"({shown(given['rope_theta'])}) differ"
            )
    return read_config(ModernBertConfig, KEYS, _FIXED, IGNORED, plain, source)


def config_to_hf(config: ModernBertConfig, architecture: str) -> dict[str, Any]:
    """Writes a config.json that transformers reads."""
    rope = {kind: {"rope_theta": getattr(config, field), "rope_type": "default"} for kind, field in ROTARY.items()}
    return write_config(KEYS, "modernbert", config, architecture) | {"rope_parameters": rope}


# -- what it owns ------------------------------------------------------------------------------------------------------


def declare(config: ModernBertConfig, head: str | None = None) -> Tree:
    """Every parameter of ModernBERT with `head`: shape, axes, initialiser, checkpoint name and layout."""
    D, H, F, N = (config.hidden_size, config.num_attention_heads, config.intermediate_size, config.num_hidden_layers)
    K, cut = D // H, config.initializer_cutoff_factor
    truncated = lambda std: jax.nn.initializers.truncated_normal(std, lower=-cut, upper=cut)  # noqa: E731
    wide, deep = truncated(config.initializer_range), truncated(config.initializer_range / math.sqrt(2 * N))
    norm = partial(declare_norm, D, bias=config.norm_bias)
    at = "model.layers.{}."
    names = {"qkv": at + "attn.Wqkv", "out": at + "attn.Wo", "up": at + "mlp.Wi"}
    attention: Tree = {
        "qkv": {"kernel": Param((D, 3, H, K), ("embed", "parts", "heads", "head_size"), wide,
                                f"{names['qkv']}.weight", "(c h k) d -> d c h k")},
        "out": {"kernel": Param((H, K, D), ("heads", "head_size", "embed"), deep,
                                f"{names['out']}.weight", "d (h k) -> h k d")},
    }  # fmt: skip
    block: Tree = {
        "attention": attention,
        "up": {"kernel": Param((D, 2, F), ("embed", "parts", "mlp"), wide, f"{names['up']}.weight", "(c f) d -> d c f")},
        "down": declare_linear(F, D, at + "mlp.Wo", deep, ("mlp", "embed"), config.mlp_bias),
        "output_norm": norm(at + "mlp_norm"),
    }  # fmt: skip
    if config.attention_bias:
        bias = f"{names['qkv']}.bias"
        parts = Param((3, H, K), ("parts", "heads", "head_size"), zeros, bias, "(c h k) -> c h k", decay=False)
        attention["qkv"]["bias"] = parts
        attention["out"]["bias"] = Param((D,), ("embed",), zeros, f"{names['out']}.bias", decay=False)
    if config.mlp_bias:
        bias = f"{names['up']}.bias"
        block["up"]["bias"] = Param((2, F), ("parts", "mlp"), zeros, bias, "(c f) -> c f", decay=False)
    tree: Tree = {
        "embeddings": {
            "word": Param((config.vocab_size, D), ("vocab", "table"), wide, "model.embeddings.tok_embeddings.weight"),
            "norm": norm("model.embeddings.norm"),
        },
        "layers": stacked(N, block),
        "final_norm": norm("model.final_norm"),
    }
    if N > 1:  # the first layer has none
        norms = stacked(N - 1, norm(at + "attn_norm"))
        tree["attention_norms"] = tree_map(lambda param: dataclasses.replace(param, first=1), norms)
    if head is None:
        return tree
    shared: Tree = {"dense": declare_linear(D, D, "head.dense", deep, ("embed", "mlp"), config.classifier_bias),
                    "norm": norm("head.norm")}  # fmt: skip
    if head == "masked-lm":
        tree["masked_lm"] = shared
        if config.decoder_bias:
            shared["bias"] = Param((config.vocab_size,), ("vocab",), zeros, "decoder.bias", decay=False)
        if not config.tie_word_embeddings:
            shared["decoder"] = Param((config.vocab_size, D), ("vocab", "table"), deep, "decoder.weight")
        return tree
    classes = {"multiple-choice": 1, "question-answering": 2}.get(head, config.num_labels)
    return tree | {"head": shared, "classifier": declare_linear(D, classes, "classifier", truncated(D**-0.5))}


# -- how it computes ---------------------------------------------------------------------------------------------------


def embed(params: Tree, text: Text, config: ModernBertConfig, rng: jax.Array | None) -> jax.Array:
    """Words, normalised: [B, L, D]. There are no token types, and positions belong to the layers."""
    if text.token_type_ids is not None:
        raise InputError("this model has no token types: leave token_type_ids out")
    x_BLD = params["word"][text.input_ids] if text.inputs_embeds is None else text.inputs_embeds
    x_BLD = layer_norm(params["norm"], shard(x_BLD, "batch", "length", "embed"), config.layer_norm_eps)
    return dropout(x_BLD, config.embedding_dropout, rng)


def project(params: Tree, x_BLD: jax.Array, equation: str) -> jax.Array:
    """A projection whose parts (query, key, value; input, gate) come first in the result."""
    y = product(equation, x_BLD, params["kernel"])
    if "bias" not in params:
        return y
    return y + jnp.broadcast_to(params["bias"][:, None, None], y.shape)


def layers(params: Tree, x_BLD: jax.Array, text: Text, config: ModernBertConfig, **options: Any) -> Any:
    """Pre-norm blocks and the final norm.

    One layer is as another but for its kind, which is stacked beside its parameters; the norm the first one lacks is
    filled in and not used.
    """
    L, K = x_BLD.shape[1], config.hidden_size // config.num_attention_heads
    position_ids = jnp.arange(L)[None] if text.position_ids is None else text.position_ids
    far = positions.rotary_angles(position_ids, K, config.global_rope_theta)
    near = positions.rotary_angles(position_ids, K, config.local_rope_theta)
    mask: Any = padding_mask(text.attention_mask) or Mask()
    window_LS = jnp.abs(jnp.arange(L)[:, None] - jnp.arange(L)[None]) <= config.local_attention // 2

    def block(layer: Tree, x_BLD: jax.Array, *, rng: Any, maps: bool, kernel: str | None) -> Any:
        rng_maps, rng_attention, rng_mlp = split_rng(rng, 3)
        with jax.named_scope("attention"):
            normed_BLD = layer_norm(layer["attention_norm"], x_BLD, config.layer_norm_eps)
            y_BLD = jnp.where(layer["first"], x_BLD, normed_BLD)
            q_BLHK, k_BSHK, v_BSHK = project(layer["attention"]["qkv"], y_BLD, "BLD,DCHK->CBLHK")
            angles = tuple(jnp.where(layer["sliding"], n, f) for n, f in zip(near, far, strict=True))
            seen_LS = window_LS | ~layer["sliding"]
            a_BLHK, weights_BHLS = attend(
                positions.rotate(q_BLHK, *angles),
                positions.rotate(k_BSHK, *angles),
                v_BSHK,
                mask.replace(pairs=seen_LS[None, None] if mask.pairs is None else seen_LS[None, None] & mask.pairs),
                dropout_rate=config.attention_probs_dropout_prob,
                rng=rng_maps,
                maps=maps,
                kernel=kernel,
            )
            a_BLD = heads_out(layer["attention"]["out"], a_BLHK)
            x_BLD = x_BLD + dropout(a_BLD, config.attention_probs_dropout_prob, rng_attention)
        with jax.named_scope("feed_forward"):
            y_BLD = layer_norm(layer["output_norm"], x_BLD, config.layer_norm_eps)
            h_BLF, gate_BLF = project(layer["up"], y_BLD, "BLD,DCF->CBLF")
            h_BLF = shard(ACTIVATIONS[config.hidden_act](h_BLF) * gate_BLF, "batch", "length", "mlp")
            x_BLD = x_BLD + linear(layer["down"], dropout(h_BLF, config.mlp_dropout, rng_mlp))
        return shard(x_BLD, "batch", "length", "embed"), weights_BHLS

    filled = {key: jnp.ones((1, config.hidden_size), leaf.dtype) for (key,), leaf in leaves(params["final_norm"])}
    norms = params.get("attention_norms", {key: leaf[:0] for key, leaf in filled.items()})
    tree = params["layers"] | {
        "attention_norm": jax.tree.map(lambda *both: jnp.concatenate(both), filled, norms),
        "first": jnp.arange(config.num_hidden_layers) == 0,
        "sliding": jnp.array([kind == SLIDING for kind in config.layer_types]),
    }
    x_BLD, states, maps = stack(tree, block, x_BLD, **options)
    x_BLD = layer_norm(params["final_norm"], x_BLD, config.layer_norm_eps)
    return x_BLD, states if states is None else (*states[:-1], x_BLD), maps


encode = partial(text_encoder.encode, embed=embed, layers=layers)
Pool = Callable[[jax.Array, jax.Array | None, ModernBertConfig], jax.Array]


def every_token(x_BLD: jax.Array, attention_mask: jax.Array | None, config: ModernBertConfig) -> jax.Array:
    """No pooling: [B, L, D] as it is."""
    return x_BLD


def pool(x_BLD: jax.Array, attention_mask: jax.Array | None, config: ModernBertConfig) -> jax.Array:
    """The first token, or the mean of all tokens but padding: [B, D]."""
    if config.classifier_pooling == "cls":
        return x_BLD[:, 0]
    weights_BL1 = jnp.ones((*x_BLD.shape[:2], 1)) if attention_mask is None else attention_mask[..., None]
    return (x_BLD * weights_BL1.astype(x_BLD.dtype)).sum(1) / weights_BL1.astype(x_BLD.dtype).sum(1)


def pool_choice(x_BLD: jax.Array, attention_mask: jax.Array | None, config: ModernBertConfig) -> jax.Array:
    """As `pool`, but the first token is the first that is not padding: PyTorch does so for multiple choice alone."""
    if config.classifier_pooling == "cls" and attention_mask is not None:
        return jnp.take_along_axis(x_BLD, jnp.argmax(attention_mask, -1)[:, None, None], axis=1)[:, 0]
    return pool(x_BLD, attention_mask, config)


def classify(pool: Pool) -> Forward:
    """A forward function: the trunk, `pool`, a dense layer, activation and norm, dropout, and the classes."""

    def forward(params: Tree, *inputs: Any, config: Any, rng: jax.Array | None = None, **named: Any) -> Output:
        rng_trunk, rng_head = split_rng(rng, 2)
        trunk = encode(params, *inputs, config=config, rng=rng_trunk, **named)
        text = Text(*inputs, **{name: named[name] for name in INPUTS if name in named})
        x = pool(trunk.last_hidden_state, text.attention_mask, config)  # type: ignore[arg-type]
        x = ACTIVATIONS[config.classifier_activation](linear(params["head"]["dense"], x))
        x = dropout(layer_norm(params["head"]["norm"], x, config.layer_norm_eps), config.classifier_dropout, rng_head)
        logits = linear(params["classifier"], x)
        return Output(logits=logits, hidden_states=trunk.hidden_states, attentions=trunk.attentions)

    return forward


def find_span(params: Tree, *inputs: Any, **named: Any) -> Output:
    """Logits [B, L] for the first and for the last token of an answer."""
    output = classify(every_token)(params, *inputs, **named)
    start_BL, end_BL = (output.logits[..., n] for n in (0, 1))  # type: ignore[index]
    return output.replace(logits=None, start_logits=start_BL, end_logits=end_BL)  # type: ignore[attr-defined]


def predict_words(params: Tree, trunk: Output, config: ModernBertConfig, rng: jax.Array | None) -> dict[str, Any]:
    """Masked language modelling with the heads' activation: logits [B, L, V]."""
    return heads.predict_words(params, trunk, config, rng, activation=config.classifier_activation)


HEADS: dict[str | None, Forward] = {
    None: encode,
    "sequence-classification": classify(pool),
    "token-classification": classify(every_token),
    "question-answering": find_span,
    "masked-lm": heads.attach(encode, predict_words),
    "multiple-choice": heads.choose(classify(pool_choice)),
}

FAMILY = Family(
    name="modernbert",
    config_class=ModernBertConfig,
    config_from_hf=config_from_hf,
    config_to_hf=config_to_hf,
    config_keys=KEYS,
    declare=declare,
    heads=HEADS,
    architectures=class_names("ModernBert", HEADS),
    prefix="model.",
    trunk=("embeddings", "layers", "attention_norms", "final_norm"),
    inputs=tuple(name for name in INPUTS if name != "token_type_ids"),
    ties={"decoder.weight": "model.embeddings.tok_embeddings.weight"},
)
