"""Llama (Touvron et al. 2023, Grattafiori et al. 2024) and its line: pre-norm decoders with rotary positions, a gate in their
feed-forward layers, and fewer heads for keys than for queries.

Mistral, Qwen2, Qwen3 and Gemma 1 to 3 are this model with other numbers: each is a config of its own, over what stands here.
"""

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxformers.core import positions
from jaxformers.core.layers import ACTIVATIONS, declare_linear, declare_norm, linear, rms_norm, split_rng
from jaxformers.core.params import Initialiser, Param, Tree, normal, stacked, zeros
from jaxformers.core.transformer import declare_heads_in, declare_heads_out, heads_in, heads_out
from jaxformers.errors import ConfigError, InputError
from jaxformers.families import text_decoder
from jaxformers.families.config import keys_of, read_config, shown, write_config
from jaxformers.families.model import Family, Forward, class_names
from jaxformers.families.text_decoder import FIXED, FULL, INPUTS, SLIDING, View, look_back
from jaxformers.families.text_encoder import Text, TextConfig
from jaxformers.parallel.mesh import shard

# kind of rotation -> the keys of `rope_parameters` it needs, and their fields
ROPE: dict[str, dict[str, str]] = {
    "default": {},
    "linear": {"factor": "rope_factor"},
    "dynamic": {"factor": "rope_factor"},
    "llama3": {"factor": "rope_factor", "low_freq_factor": "rope_low", "high_freq_factor": "rope_high",
               "original_max_position_embeddings": "rope_length"},
}  # fmt: skip

# -- config ------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class LlamaConfig(TextConfig):
    """Llama's numbers; the defaults are those of Llama 2 with 7 billion parameters.

    `sliding_window` tokens are seen by layers from `max_window_layers` on (0: all of a text, by every layer), unless
    `layer_types` says of each layer which kind it is.
    """

    vocab_size: int = 32000
    hidden_size: int = 4096
    intermediate_size: int = 11008
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    hidden_act: str = "silu"
    max_position_embeddings: int = 2048
    layer_norm_eps: float = 1e-6
    pad_token_id: int | None = None  # type: ignore[assignment]
    tie_word_embeddings: bool = False
    attention_probs_dropout_prob: float = 0.0
    attention_bias: bool = False
    mlp_bias: bool = False
    rope_theta: float = 10_000.0
    rope_type: str = "default"
    rope_factor: float = 1.0
    rope_low: float = 1.0
    rope_high: float = 4.0
    rope_length: int = 8192
    sliding_window: int = 0
    max_window_layers: int = 0
    layer_types: tuple[str, ...] = ()

    LOOKS_BACK = True
    # What a family is, rather than what a checkpoint of it says.
    OUT_BIAS: ClassVar[bool | None] = (
        None  # whether the output projection of attention has a bias; None: as the others do
    )
    HEAD_NORMS = False  # whether the queries and keys of each head are normalised
    SCALED_WORDS = False  # whether embeddings are multiplied by the square root of their width
    NORM_OFFSET = 0.0  # what a norm's scale is counted from
    NORMS_AFTER = False  # whether attention and feed-forward layer have a norm after them too
    # What only some families' files say; 0 means that there is nothing of the kind.
    query_pre_attn_scalar = 0  # logits of attention are divided by its square root; else by that of the head's size
    attn_logit_softcapping = 0.0  # what these logits never pass
    rope_local_base_freq = 0.0  # the base of rotations in layers that see near tokens, where it is another

    def __post_init__(self) -> None:
        fill = lambda name, value: object.__setattr__(self, name, value)  # noqa: E731
        heads = max(self.num_attention_heads, 1)
        if self.num_key_value_heads is None:
            fill("num_key_value_heads", self.num_attention_heads)
        if self.head_dim is None:
            if self.hidden_size % heads:
                raise ConfigError(f"hidden_size {self.hidden_size} does not divide into {heads} heads")
            fill("head_dim", self.hidden_size // heads)
        if not self.layer_types:
            first = self.max_window_layers if self.sliding_window else self.num_hidden_layers
            fill(
                "layer_types", tuple(FULL if n < first else SLIDING for n in range(min(self.num_hidden_layers, 10_000)))
            )
        super().__post_init__()
        for name in ("head_dim", "num_key_value_heads"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, found {getattr(self, name)}")
        if heads % self.num_key_value_heads:  # type: ignore[operator]
            raise ConfigError(
                f"{heads} heads cannot share {self.num_key_value_heads} heads of keys (num_key_value_heads)"
            )
        if self.head_dim % 2:  # type: ignore[operator]
            raise ConfigError(f"head_dim must be even, for its pairs turn; found {self.head_dim}")
        if self.rope_type not in ROPE:
            raise ConfigError(f"unknown rope_type {self.rope_type!r}; known: {', '.join(ROPE)}")
        if min(self.rope_theta, self.rope_factor, self.rope_length) <= 0 or self.rope_high <= self.rope_low:
            raise ConfigError("rope_parameters must be positive, and high_freq_factor above low_freq_factor")
        for name in ("sliding_window", "query_pre_attn_scalar", "attn_logit_softcapping", "rope_local_base_freq"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must not be negative, found {getattr(self, name)}")
        if len(self.layer_types) != self.num_hidden_layers or not {*self.layer_types} <= {FULL, SLIDING}:
            raise ConfigError(
                f"layer_types must say {FULL!r} or {SLIDING!r} for each of {self.num_hidden_layers} layers, "
                f"found {shown(self.layer_types)}"
            )
        if SLIDING in self.layer_types and not self.sliding_window:
            raise ConfigError(f"layer_types name {SLIDING!r}, which needs a sliding_window, found none")


_WINDOWS = ("sliding_window", "max_window_layers", "layer_types")
IGNORED = {
    "pretraining_tp": "how it was trained",
    "rope_interleaved": "false in every checkpoint there is",
    "cache_implementation": "how it is run",
    "hidden_act": "left over in Gemma 2's files, which say hidden_activation",
}
_FIXED = FIXED | {
    "hidden_activation": ("gelu_pytorch_tanh", "another activation than the first Gemma's"),
    "use_bidirectional_attention": (False, "looking ahead"),
}
_OFF = ("sliding_window", "attn_logit_softcapping", "final_logit_softcapping")  # 0 here is null in a file

_SCALING = ("rope_type", "rope_factor", "rope_low", "rope_high", "rope_length")  # parts of one key


def keys(cls: type[LlamaConfig], *without: str, **theirs: str) -> dict[str, str]:
    """transformers' keys of a family of this line, but for those it does not have; `theirs` are names that only it has."""
    theirs |= {"layer_norm_eps": "rms_norm_eps", "attention_probs_dropout_prob": "attention_dropout"}
    return keys_of(cls, without=(*without, *_SCALING), **theirs)


def read(cls: type[LlamaConfig], names: Mapping[str, str], raw: Mapping[str, Any], source: str = "config.json") -> Any:
    """Reads a config.json; rotations are `rope_theta` and `rope_scaling` in older files, `rope_parameters` in newer ones."""
    plain = {key: value for key, value in raw.items() if key not in ("rope_parameters", "rope_scaling")}
    for key in ("rope_scaling", "rope_parameters"):
        given = raw.get(key) or {}
        if not isinstance(given, Mapping):
            raise ConfigError(f"{source}: {key} must be an object, found {shown(given)}")
        kind = given.get("rope_type", given.get("type", "default"))
        if kind not in ROPE:
            raise ConfigError(f"{source}: {key} has the rope_type {shown(kind)}, supported are {', '.join(ROPE)}")
        for part, value in given.items():
            if part in ("type", "rope_type"):
                continue
            field = {**ROPE[kind], "rope_theta": "rope_theta"}.get(part)
            if field is None:
                if value is None or part == "original_max_position_embeddings":
                    continue  # written by transformers for every kind, read for few
                raise ConfigError(
                    f"{source}: {key} holds {shown(part)} = {shown(value)}, unknown to {kind!r} rotations"
                )
            if plain.setdefault(field, value) != value:
                raise ConfigError(f"{source}: {field}={shown(plain[field])} and {key} ({shown(value)}) differ")
        if lacking := [part for part in ROPE[kind] if given.get(part) is None]:
            raise ConfigError(f"{source}: {key} lacks {', '.join(lacking)}, which {kind!r} rotations need")
        if given:
            plain["rope_type"] = kind
    plain |= {key: 0 for key in _OFF if key in plain and plain[key] is None}
    return read_config(cls, {**names, **{field: field for field in _SCALING}}, _FIXED, IGNORED, plain, source)


def write(names: Mapping[str, str], model_type: str, config: LlamaConfig, architecture: str) -> dict[str, Any]:
    """Writes a config.json that transformers reads."""
    raw = write_config(names, model_type, config, architecture)
    raw.pop("rope_scaling", None)
    parts = {part: getattr(config, field) for part, field in ROPE[config.rope_type].items()}
    raw["rope_parameters"] = {"rope_type": config.rope_type, "rope_theta": config.rope_theta, **parts}
    return raw | {key: raw[key] or None for key in _OFF if key in raw}


# -- what it owns ------------------------------------------------------------------------------------------------------


def declare(config: LlamaConfig, head: str | None = None) -> Tree:
    """Every parameter of the line with `head`: shape, axes, initialiser, checkpoint name and layout."""
    D, H, F, G, K = (config.hidden_size, config.num_attention_heads, config.intermediate_size,
                     config.num_key_value_heads, config.head_dim)  # fmt: skip
    assert G is not None
    assert K is not None
    init, at = normal(config.initializer_range), "model.layers.{}."
    first: Initialiser = zeros if config.NORM_OFFSET else jax.nn.initializers.ones

    def scale(width: int, name: str) -> Tree:
        return {"scale": dataclasses.replace(declare_norm(width, name, bias=False)["scale"], init=first)}

    looks, biased = at + "self_attn.", config.attention_bias
    attention: Tree = {
        "query": declare_heads_in(D, H, K, looks + "q_proj", init, biased),
        "key": declare_heads_in(D, G, K, looks + "k_proj", init, biased),
        "value": declare_heads_in(D, G, K, looks + "v_proj", init, biased),
        "out": declare_heads_out(
            D, H, K, looks + "o_proj", init, biased if config.OUT_BIAS is None else config.OUT_BIAS
        ),
    }
    if config.HEAD_NORMS:
        for name, theirs in (("query_norm", "q_norm"), ("key_norm", "k_norm")):
            tree = scale(K, f"{at}self_attn.{theirs}")
            attention[name] = {"scale": dataclasses.replace(tree["scale"], axes=("head_size",))}
    block: Tree = {
        "attention": attention,
        "attention_norm": scale(D, at + "input_layernorm"),
        "gate": declare_linear(D, F, at + "mlp.gate_proj", init, ("embed", "mlp"), config.mlp_bias),
        "up": declare_linear(D, F, at + "mlp.up_proj", init, ("embed", "mlp"), config.mlp_bias),
        "down": declare_linear(F, D, at + "mlp.down_proj", init, ("mlp", "embed"), config.mlp_bias),
        "output_norm": scale(D, at + "post_attention_layernorm"),
    }
    if config.NORMS_AFTER:
        block["attention_after"] = block["output_norm"]
        block["output_norm"] = scale(D, at + "pre_feedforward_layernorm")
        block["output_after"] = scale(D, at + "post_feedforward_layernorm")
    return {
        "embeddings": {"word": Param((config.vocab_size, D), ("vocab", "table"), init, "model.embed_tokens.weight")},
        "layers": stacked(config.num_hidden_layers, block),
        "final_norm": scale(D, "model.norm"),
        **text_decoder.declare_heads(config, head, init, "score"),
    }


# -- how it computes ---------------------------------------------------------------------------------------------------


def embed(params: Tree, text: Text, config: LlamaConfig, rng: jax.Array | None) -> jax.Array:
    """Words: [B, L, D]. There are no token types, and positions belong to the layers."""
    if text.token_type_ids is not None:
        raise InputError("this model has no token types: leave token_type_ids out")
    x_BLD = params["word"][text.input_ids] if text.inputs_embeds is None else text.inputs_embeds
    if config.SCALED_WORDS and text.inputs_embeds is None:  # vectors that are given are not words, as in PyTorch
        x_BLD = x_BLD * jnp.asarray(config.hidden_size**0.5, x_BLD.dtype)
    return shard(x_BLD, "batch", "length", "embed")


def rotations(position_ids: jax.Array, config: LlamaConfig) -> Any:
    """Cosine and sine of every position's angles, by the config's kind of rotation; and those of layers that see near tokens,
    where they differ, else None."""
    K, theta, factor = config.head_dim, config.rope_theta, config.rope_factor
    assert K is not None
    rates_K: Any = positions.rotary_rates(K, theta)
    match config.rope_type:
        case "linear":
            rates_K = rates_K / np.float32(factor)
        case "llama3":
            rates_K = positions.llama3_rates(rates_K, factor, config.rope_low, config.rope_high, config.rope_length)
        case "dynamic":
            length = position_ids.max() + 1
            base = positions.dynamic_base(theta, K, factor, length, config.max_position_embeddings)
            rates_K = positions.rotary_rates(K, base)
    local = config.rope_local_base_freq
    return positions.angles(position_ids, rates_K), positions.rotary_angles(position_ids, K, local) if local else None


def rotation_of(layer: Tree, turn: Any) -> tuple[jax.Array, jax.Array]:
    """One layer's own of `rotations`."""
    all_, near = turn
    return all_ if near is None else jax.tree.map(partial(jnp.where, layer["sliding"]), near, all_)


def block(
    layer: Tree, carried: Any, *, view: View, config: LlamaConfig, rng: Any, maps: bool, kernel: str | None
) -> Any:
    """One pre-norm block: x + attention(norm(x)), x + down(activation(gate(norm(x))) · up(norm(x))); with `NORMS_AFTER` the right
    sides of both sums are normalised."""
    x_BLD, cache = carried
    turn, scalar = rotation_of(layer, view.turn), config.query_pre_attn_scalar or config.head_dim
    assert scalar is not None
    attention, normed = layer["attention"], partial(rms_norm, epsilon=config.layer_norm_eps, offset=config.NORM_OFFSET)
    with jax.named_scope("attention"):
        y_BLD = normed(layer["attention_norm"], x_BLD)
        q_BLHK, k_BLGK, v_BLGK = (heads_in(attention[name], y_BLD) for name in ("query", "key", "value"))
        if config.HEAD_NORMS:
            q_BLHK, k_BLGK = normed(attention["query_norm"], q_BLHK), normed(attention["key_norm"], k_BLGK)
        a_BLHK, weights_BHLS, cache = look_back(
            positions.rotate(q_BLHK, *turn), positions.rotate(k_BLGK, *turn), v_BLGK, cache, layer, view,
            scale=scalar**-0.5, cap=config.attn_logit_softcapping or None,
            dropout_rate=config.attention_probs_dropout_prob, rng=split_rng(rng, 1)[0], maps=maps, kernel=kernel,
        )  # fmt: skip
        a_BLD = heads_out(attention["out"], a_BLHK)
        x_BLD = x_BLD + (normed(layer["attention_after"], a_BLD) if config.NORMS_AFTER else a_BLD)
    with jax.named_scope("feed_forward"):
        y_BLD = normed(layer["output_norm"], x_BLD)
        h_BLF = ACTIVATIONS[config.hidden_act](linear(layer["gate"], y_BLD)) * linear(layer["up"], y_BLD)
        h_BLD = linear(layer["down"], shard(h_BLF, "batch", "length", "mlp"))
        x_BLD = x_BLD + (normed(layer["output_after"], h_BLD) if config.NORMS_AFTER else h_BLD)
    return (shard(x_BLD, "batch", "length", "embed"), cache), weights_BHLS


def norm(params: Tree, x_BLD: jax.Array, config: LlamaConfig) -> jax.Array:
    """The norm after the last layer."""
    return rms_norm(params, x_BLD, config.layer_norm_eps, config.NORM_OFFSET)


decode = partial(text_decoder.decode, embed=embed, block=block, norm=norm, turn=rotations)
HEADS = text_decoder.heads_over(decode)


def family(
    name: str,
    their_name: str,
    cls: type[LlamaConfig],
    *without: str,
    spans: str = "model.",
    heads: Mapping[str | None, Forward] = HEADS,
    **theirs: str,
) -> Family:
    """A family of this line.

    Args:
      name: its `model_type`.
      their_name: what transformers' classes start with.
      cls: its config.
      *without: fields that its config.json does not have.
      spans: what the trunk is called beneath question answering.
      heads: those that transformers has.
      **theirs: field -> its name in config.json, where it is neither ours nor the other families'.
    """
    names = keys(cls, *without, **theirs)
    return Family(
        name=name,
        config_class=cls,
        config_from_hf=partial(read, cls, names),
        config_to_hf=partial(write, names, name),
        config_keys=names,
        declare=declare,
        heads=heads,
        architectures=class_names(their_name, heads),
        prefix="model.",
        prefixes={"question-answering": spans},
        trunk=("embeddings", "layers", "final_norm"),
        inputs=INPUTS,
        cache=text_decoder.cache_for,
        buffers=("model.layers.{}.self_attn.rotary_emb.inv_freq",),
        ties={"lm_head.weight": "model.embed_tokens.weight"},
    )


FAMILY = family("llama", "Llama", LlamaConfig, *_WINDOWS, spans="transformer.")
