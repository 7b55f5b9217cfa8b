"""The vision-encoder-decoder: any vision encoder here, and a decoder of texts that looks at what it has seen (captions, OCR).

Its own: a config.json with one inside it for each side, and where the two meet (`enc_to_dec_proj`, where their widths differ).
Each side is its own family's; the decoder runs as that of `families.text_seq2seq`. `join` makes one of two checkpoints.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax

from jaxformers.core import heads
from jaxformers.core.cache import Cache
from jaxformers.core.heads import Head
from jaxformers.core.layers import declare_linear, layer_norm, linear, split_rng
from jaxformers.core.outputs import Output
from jaxformers.core.params import Param, Tree, initialise, normal, stacked, tree_map
from jaxformers.errors import ConfigError, InputError
from jaxformers.families import beit, bert, deit, dinov2, gpt2, swin, text_decoder, text_encoder, text_seq2seq, vit
from jaxformers.families.config import Config, keys_of, read_config, write_config
from jaxformers.families.model import Family, Model
from jaxformers.families.text_encoder import Text
from jaxformers.families.text_seq2seq import Parts

INPUTS = ("pixel_values", "decoder_input_ids", "decoder_attention_mask", "decoder_inputs_embeds", "encoder_outputs")


class Decoder(NamedTuple):
    """A family that can write under an encoder.

    Args:
      family: as it is alone.
      head: the head it writes with.
      cross: what a layer has beside: (config) -> tree.
      parts: how it runs, see `text_seq2seq.Parts`.
      predict: states to words.
    """

    family: Family
    head: str
    cross: Callable[[Any], Tree]
    parts: Parts
    predict: Head


Embed = Callable[[Tree, Text, Any, jax.Array | None], jax.Array]


def parts_of(embed: Embed, block: Callable[..., Any]) -> Parts:
    """A decoder's parts, of its embeddings and its block; a norm follows the last layer where it has one."""

    def finish(stack: Tree, x_BLD: jax.Array, config: Any, rng: jax.Array | None) -> jax.Array:
        return layer_norm(stack["final_norm"], x_BLD, config.layer_norm_eps) if "final_norm" in stack else x_BLD

    return Parts(lambda params, side, text, config, rng: embed(params["embeddings"], text, config, rng), block, finish)


post_norm = partial(text_seq2seq.block, norm=layer_norm, norm_first=False)
ENCODERS = {each.FAMILY.name: each.FAMILY for each in (beit, deit, dinov2, swin, vit)}
DECODERS = {
    "bert": Decoder(
        bert.FAMILY, "masked-lm", bert.declare_cross, parts_of(text_encoder.embed_text, post_norm), heads.predict_words
    ),
    "gpt2": Decoder(
        gpt2.FAMILY, "causal-lm", gpt2.declare_cross, parts_of(gpt2.embed, gpt2.block_across), heads.over_vocabulary
    ),
}

# -- config ------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class VisionEncoderDecoderConfig(Config):
    """Both sides' numbers; the defaults are a ViT and a BERT, as they are by default."""

    encoder: Config = dataclasses.field(default_factory=vit.ViTConfig)
    decoder: Config = dataclasses.field(default_factory=bert.BertConfig)
    decoder_start_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | None = None
    pad_token_id: int | None = None

    @property
    def sees(self) -> Family:
        """The encoder's family."""
        return next(family for family in ENCODERS.values() if type(self.encoder) is family.config_class)

    @property
    def writes(self) -> Decoder:
        """The decoder's."""
        return next(each for each in DECODERS.values() if type(self.decoder) is each.family.config_class)

    @property
    def vocab_size(self) -> int:
        """V, of the decoder."""
        return int(self.decoder.vocab_size)  # type: ignore[attr-defined]

    @property
    def max_position_embeddings(self) -> int:
        """The most tokens that the decoder writes."""
        return int(self.decoder.max_position_embeddings)  # type: ignore[attr-defined]

    @property
    def tie_word_embeddings(self) -> bool:
        """Whether the decoder's output is its table of words."""
        return bool(self.decoder.tie_word_embeddings)  # type: ignore[attr-defined]

    @property
    def widths(self) -> tuple[int, int]:
        """D of what the encoder has seen, and of the decoder."""
        seen = getattr(self.encoder, "hidden_size", 0) or self.encoder.widths[-1]  # type: ignore[attr-defined]
        return seen, self.decoder.hidden_size  # type: ignore[attr-defined]


KEYS = keys_of(VisionEncoderDecoderConfig, without=("encoder", "decoder"))
FIXED = {"is_encoder_decoder": (True, "one side alone")}
IGNORED = {"tie_word_embeddings": "the decoder's own config says it"}
DEFAULTS = {"encoder": "vit", "decoder": "bert"}
# What a decoder's config.json says of its place here.
PLACE = ("is_decoder", "add_cross_attention", "cross_attention_hidden_size")


def config_from_hf(raw: Mapping[str, Any], source: str = "config.json") -> VisionEncoderDecoderConfig:
    """Reads a config.json and the two inside it strictly. Raises `ConfigError`."""
    sides: dict[str, Any] = {}
    inner = {side: raw.get(side) or {} for side in ("encoder", "decoder")}
    known: dict[str, dict[str, Family]] = {
        "encoder": ENCODERS,
        "decoder": {name: each.family for name, each in DECODERS.items()},
    }
    for side, families in known.items():
        said = inner[side]
        if not isinstance(said, Mapping):
            raise ConfigError(f"{source}: {side} must be a config of its own, found {said!r:.60}")
        name = str(said.get("model_type", DEFAULTS[side]))
        if name not in families:
            raise ConfigError(
                f"{source}: the {side}'s model_type must be one of {', '.join(families)}, found {name!r:.60}"
            )
        own = {key: value for key, value in said.items() if key not in PLACE}
        sides[side] = families[name].config_from_hf(own, f"{source}: {side}")
    outer = {key: value for key, value in raw.items() if key not in inner}
    ids = {key: inner["decoder"][key] for key in KEYS if inner["decoder"].get(key) is not None}
    outer = {**ids, **{key: value for key, value in outer.items() if value is not None or key not in ids}}
    config = read_config(VisionEncoderDecoderConfig, KEYS, FIXED, IGNORED, outer, source)
    config = config.replace(**sides, raw=json.dumps(dict(raw)))
    width = inner["decoder"].get("cross_attention_hidden_size")
    if width is not None and any(width != own for own in config.widths):
        raise ConfigError(
            f"{source}: decoder: cross_attention_hidden_size={width!r:.20} (a look at states of another width) is not "
            f"supported, both sides must have it, found {config.widths[0]} and {config.widths[1]}"
        )
    return config


def config_to_hf(config: VisionEncoderDecoderConfig, architecture: str) -> dict[str, Any]:
    """The config.json of `config`, with one inside it for each side."""
    raw = write_config(KEYS, "vision-encoder-decoder", config, architecture)
    sees, writes = config.sees, config.writes
    written = {
        "encoder": sees.config_to_hf(config.encoder, sees.architectures[None]),
        "decoder": writes.family.config_to_hf(config.decoder, writes.family.architectures[writes.head])
        | {"is_decoder": True, "add_cross_attention": True},
    }
    for side, own in written.items():
        said = json.loads(getattr(config, side).raw)
        own |= {key: said.get(key) for key in ("architectures", "dtype")}  # the whole's are said outside
        written[side] = {key: value for key, value in own.items() if value is not None or key in said}
    return raw | written | {"is_encoder_decoder": True}


# -- what it owns ------------------------------------------------------------------------------------------------------


def declare(config: VisionEncoderDecoderConfig, head: str | None = None) -> Tree:
    """Every parameter of both sides with `head`: each side's own declarations, under its prefix, and where they meet."""
    sees, writes = config.sees, config.writes

    def at(prefix: str, name: Callable[[str], str]) -> Callable[[Param], Param]:
        return lambda param: dataclasses.replace(param, name=prefix + name(param.name))

    seen = tree_map(at("encoder.", partial(sees.name_in, None)), sees.declare(config.encoder, None))
    written = arranged(writes.family.declare(config.decoder, writes.head))
    written["decoder"]["layers"] |= stacked(config.decoder.num_hidden_layers, writes.cross(config.decoder))  # type: ignore[attr-defined]
    written = tree_map(at("decoder.", str), written)
    if head is None:
        written.pop("masked_lm", None)
    tree = {**parted(seen), **written}
    if len({*config.widths}) > 1:
        init = normal(config.decoder.initializer_range)  # type: ignore[attr-defined]
        tree["meeting"] = declare_linear(*config.widths, "enc_to_dec_proj", init, ("embed", "mlp"))
    return tree


def parted(encoder: Tree) -> Tree:
    """An encoder's tree as it is kept here; its pooler, which nothing here asks, apart: not every file has it."""
    own = {name: branch for name, branch in encoder.items() if name != "pooler"}
    return {"encoder": own, **({"pooler": encoder["pooler"]} if "pooler" in encoder else {})}


def arranged(decoder: Tree) -> Tree:
    """A decoder's tree as it is kept here: its embeddings and its output where a model's stand, the rest under `decoder`."""
    outside: Tree = {name: decoder[name] for name in ("embeddings", "masked_lm") if name in decoder}
    return {**outside, "decoder": {name: branch for name, branch in decoder.items() if name not in outside}}


# -- how it computes ---------------------------------------------------------------------------------------------------


def see(params: Tree, pixel_values: jax.Array, *, config: VisionEncoderDecoderConfig, **options: Any) -> Output:
    """The encoder's states [B, S, D] of images [B, Y, X, C]; options and errors as its own family has them."""
    return config.sees.heads[None](params["encoder"], pixel_values, config=config.encoder, **options)


def forward(
    params: Tree,
    pixel_values: jax.Array | None = None,
    decoder_input_ids: jax.Array | None = None,
    decoder_attention_mask: jax.Array | None = None,
    decoder_inputs_embeds: jax.Array | None = None,
    encoder_outputs: jax.Array | None = None,
    *,
    config: VisionEncoderDecoderConfig,
    rng: jax.Array | None = None,
    cache: Cache | None = None,
    interpolate_pos_encoding: bool = False,
    **options: Any,
) -> Output:
    """The decoder's hidden states under an image.

    Args:
      params: the tree of `declare`; `layers` may also be a sequence of single layers.
      pixel_values: [B, Y, X, C] images, channels last, for the encoder.
      decoder_input_ids: [B, L] token ids, for the decoder.
      decoder_attention_mask: [B, L] of these, 1 for tokens and 0 for padding; None means no padding.
      decoder_inputs_embeds: [B, L, D] in place of `decoder_input_ids`.
      encoder_outputs: [B, S, D], the encoder's states, where they are known, in place of `pixel_values`.
      config: both sides' numbers.
      rng: key for dropout; None means none.
      cache: what the decoder read before (`core.cache`), with L slots left; `pixel_values` are given with the first part alone.
      interpolate_pos_encoding: take images of another size, of encoders that know how.
      **options: `output_hidden_states`, `output_attentions`, `execution`, as for `text_seq2seq.encode`.

    Returns:
      `Output` with `last_hidden_state` [B, L, D] and `encoder_last_hidden_state` [B, S, D], and `cache` where one was given.

    Raises:
      InputError: not one of the inputs of either side, or what either side refuses.
    """
    known = encoder_outputs is not None or (cache is not None and cache.cross is not None)
    if (pixel_values is None) != known:
        raise InputError("give pixel_values, or what the encoder made of them, and not both")
    rng_encoder, rng_decoder = split_rng(rng, 2)
    seen = Output(last_hidden_state=encoder_outputs)
    if pixel_values is not None:
        larger = {"interpolate_pos_encoding": True} if interpolate_pos_encoding else {}
        seen = see(params, pixel_values, config=config, rng=rng_encoder, **larger, **options)
    source_BSD = seen.last_hidden_state
    if source_BSD is not None and "meeting" in params:
        source_BSD = linear(params["meeting"], source_BSD)
    output = text_seq2seq.forward(
        params, None, None, decoder_input_ids, decoder_attention_mask, None, decoder_inputs_embeds, source_BSD,
        config=config.decoder, parts=config.writes.parts, rng=rng_decoder, cache=cache, **options,
    )  # fmt: skip
    return output.replace(  # type: ignore[attr-defined]
        encoder_last_hidden_state=seen.last_hidden_state,
        encoder_hidden_states=seen.hidden_states,
        encoder_attentions=seen.attentions,
    )


def write(params: Tree, *inputs: Any, config: Any, logits_to_keep: int = 0, **named: Any) -> Output:
    """The next token after each of the decoder's: logits [B, L, V]; with `logits_to_keep` = n of the last n tokens alone."""
    trunk = forward(params, *inputs, config=config, **named)
    assert trunk.last_hidden_state is not None
    last = Output(last_hidden_state=trunk.last_hidden_state[:, -logits_to_keep:])
    fields = config.writes.predict(params, last, config.decoder, None)
    return trunk.replace(last_hidden_state=None, **fields)  # type: ignore[attr-defined]


def cache_for(config: VisionEncoderDecoderConfig, batch: int, slots: int, dtype: Any) -> Cache:
    """An empty cache of the decoder."""
    return text_decoder.cache_for(config.decoder, batch, slots, dtype)


def join(encoder: Model, decoder: Model, *, seed: int = 0, **ids: int) -> Model:
    """One model of two: what the decoder lacks (its look at the encoder, and a projection where widths differ) is drawn anew.

    Args:
      encoder: a vision model; its head is left aside.
      decoder: a GPT-2 with the head causal-lm, or a BERT with masked-lm.
      seed: for what is new.
      **ids: `decoder_start_token_id`, `pad_token_id`, …, where the decoder's own config does not say them.

    Raises:
      InputError: a family or head that cannot take that side.
    """
    if encoder.family.name not in ENCODERS:
        raise InputError(f"the encoder must be one of {', '.join(ENCODERS)}, found {encoder.family.name}")
    writes = DECODERS.get(decoder.family.name)
    if writes is None or decoder.head != writes.head:
        heads_of = ", ".join(f"{name} with {each.head}" for name, each in DECODERS.items())
        raise InputError(f"the decoder must be one of {heads_of}; found {decoder.family.name} with {decoder.head!r}")
    raw = {
        "encoder": encoder.family.config_to_hf(encoder.config, encoder.family.architectures[None]),
        "decoder": decoder.family.config_to_hf(decoder.config, decoder.family.architectures[decoder.head]),
        **ids,
    }
    config = config_from_hf(raw)
    params = initialise(declare(config, "vision2seq"), jax.random.key(seed))
    given = {**parted(encoder.params), **arranged(decoder.params)}
    trunk = params["encoder"] | {name: given["encoder"][name] for name in params["encoder"]}
    written = given["decoder"] | {"layers": params["decoder"]["layers"] | given["decoder"]["layers"]}
    own = {name: given.get(name, branch) for name, branch in params.items()}
    return Model(FAMILY, "vision2seq", config, own | {"encoder": trunk, "decoder": written})


HEADS = {None: forward, "vision2seq": write}

FAMILY = Family(
    name="vision-encoder-decoder",
    config_class=VisionEncoderDecoderConfig,
    config_from_hf=config_from_hf,
    config_to_hf=config_to_hf,
    config_keys=KEYS,
    declare=declare,
    heads=HEADS,
    architectures=dict.fromkeys(HEADS, "VisionEncoderDecoderModel"),
    prefix="",
    trunk=("embeddings", "encoder", "decoder"),
    inputs=INPUTS,
    cache=cache_for,
    encode=see,
    decoder_inputs=text_seq2seq.shift_right,
    buffers=tuple(f"decoder.{name}" for each in DECODERS.values() for name in each.family.buffers)
    + tuple(f"decoder.transformer.h.{{}}.crossattention.{name}" for name in ("bias", "masked_bias")),
    ties={
        f"decoder.{name}": f"decoder.{words}" for each in DECODERS.values() for name, words in each.family.ties.items()
    },
)
