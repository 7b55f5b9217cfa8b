"""XLM (Lample and Conneau 2019, arXiv:1901.07291): BERT's layers, over words, positions and languages.

Its own: a table of languages (`langs`), token types that are looked up among the words, states that are zero where padding
is, words predicted by the embedding table and nothing before it, and question answering by beams. It generates by asking for
the word of a mask token behind the text, and most of its checkpoints look both ways: so what it remembers of a text is the
words alone, and each step reads all of them. Without an `attention_mask` the ids say what padding is, in every head. The
adaptive softmax of some models' words is not supported.
"""

import dataclasses
from collections.abc import Mapping
from functools import partial, wraps
from typing import Any

import jax
import jax.numpy as jnp

from jaxformers.core import heads, positions, spans
from jaxformers.core.attention import Mask, causal_mask, padding_mask
from jaxformers.core.cache import Cache, empty_cache, extend, recall, remember
from jaxformers.core.layers import ACTIVATIONS, declare_linear, declare_norm, dropout, layer_norm, linear
from jaxformers.core.outputs import Output
from jaxformers.core.params import Param, Tree, normal, stacked
from jaxformers.core.transformer import BlockNames, declare_post_norm, post_norm, stack
from jaxformers.errors import ConfigError, InputError
from jaxformers.families import text_encoder
from jaxformers.families.config import keys_of, read_config, with_new_names, write_config
from jaxformers.families.model import Family, Forward, class_names
from jaxformers.families.text_encoder import CLASSIFIERS, FIXED, Text, TextConfig
from jaxformers.parallel.mesh import shard

INPUTS = (*text_encoder.INPUTS, "langs")


@dataclasses.dataclass(frozen=True, kw_only=True)
class XLMConfig(TextConfig):
    """XLM's numbers; the defaults are those of xlm-mlm-en-2048. Two of them follow from others, and are not in its files."""

    vocab_size: int = 30145
    hidden_size: int = 2048
    num_attention_heads: int = 16
    hidden_dropout_prob: float = 0.1
    gelu_activation: bool = True
    sinusoidal_embeddings: bool = False  # how the position table starts; it is learned either way
    causal: bool = False
    n_langs: int = 1
    lang_id: int = 0  # the language of what is generated
    mask_token_id: int = 0  # stands where the next token is asked for
    use_lang_emb: bool = True
    embed_init_std: float = 2048**-0.5
    summary_type: str = "first"
    summary_activation: str | None = None
    summary_first_dropout: float = 0.1
    start_n_top: int = 5
    end_n_top: int = 5
    pad_token_id: int = 2

    SIZES = (*TextConfig.SIZES, "n_langs", "start_n_top", "end_n_top")

    def __post_init__(self) -> None:
        object.__setattr__(self, "intermediate_size", 4 * self.hidden_size)
        object.__setattr__(self, "hidden_act", "gelu" if self.gelu_activation else "relu")
        super().__post_init__()
        if self.embed_init_std < 0:
            raise ConfigError(f"embed_init_std must not be negative, found {self.embed_init_std}")
        if self.summary_type not in heads.SUMMARIES:
            raise ConfigError(f"unknown summary_type {self.summary_type!r}; known: {', '.join(heads.SUMMARIES)}")


KEYS = keys_of(
    XLMConfig,
    without=("classifier_dropout", "hidden_act", "intermediate_size"),
    hidden_size="emb_dim",
    num_hidden_layers="n_layers",
    num_attention_heads="n_heads",
    hidden_dropout_prob="dropout",
    attention_probs_dropout_prob="attention_dropout",
    initializer_range="init_std",
)
OLD_NAMES = {"n_words": "vocab_size", "pad_index": "pad_token_id"}
IGNORED = {
    **dict.fromkeys(("bos_index", "eos_index", "unk_index", "mask_index"), "the tokenizer's business"),
    **dict.fromkeys(("lang2id", "id2lang"), "names of languages; the caller gives `langs` by number"),
    **dict.fromkeys(
        ("max_vocab", "min_count", "same_enc_dec", "share_inout_emb"), "read by the original training code"
    ),
    **dict.fromkeys(("asm_cutoffs", "asm_div_value"), "of the adaptive softmax, which `asm` asks for"),
}
_FIXED = FIXED | {
    "asm": (False, "the adaptive softmax"),
    "is_encoder": (True, "the decoder"),
    "summary_use_proj": (True, "a text classified without a dense layer"),
    "summary_proj_to_labels": (True, "a summary as wide as the model for logits"),
}
config_to_hf = partial(write_config, KEYS, "xlm")


def config_from_hf(raw: Mapping[str, Any], source: str = "config.json") -> XLMConfig:
    """Reads a config.json; older ones say `n_words` and `pad_index`."""
    return read_config(XLMConfig, KEYS, _FIXED, IGNORED, with_new_names(raw, OLD_NAMES), source)


# -- what it owns ------------------------------------------------------------------------------------------------------

_ATTENTION = "transformer.attentions.{}."
NAMES = BlockNames(
    query=_ATTENTION + "q_lin",
    key=_ATTENTION + "k_lin",
    value=_ATTENTION + "v_lin",
    out=_ATTENTION + "out_lin",
    attention_norm="transformer.layer_norm1.{}",
    up="transformer.ffns.{}.lin1",
    down="transformer.ffns.{}.lin2",
    output_norm="transformer.layer_norm2.{}",
)


def declare(config: XLMConfig, head: str | None = None) -> Tree:
    """Every parameter of XLM with `head`: shape, axes, initialiser, checkpoint name and layout."""
    D, init, table = config.hidden_size, normal(config.initializer_range), normal(config.embed_init_std)
    fixed = lambda key, shape, dtype: jnp.asarray(positions.sinusoids(*shape), dtype)  # noqa: E731
    start = fixed if config.sinusoidal_embeddings else table
    at = "transformer."
    embeddings: Tree = {
        "word": Param((config.vocab_size, D), ("vocab", "table"), table, at + "embeddings.weight"),
        "position": Param(
            (config.max_position_embeddings, D), ("positions", "table"), start, at + "position_embeddings.weight"
        ),
        "norm": declare_norm(D, at + "layer_norm_emb"),
    }
    if config.n_langs > 1 and config.use_lang_emb:
        embeddings["lang"] = Param((config.n_langs, D), ("types", "table"), table, at + "lang_embeddings.weight")
    names: dict[str | None, tuple[str | None, str]] = {
        kind: CLASSIFIERS[kind] for kind in CLASSIFIERS if kind in ("token-classification", "question-answering")
    }
    tree: Tree = {
        "embeddings": embeddings,
        "layers": stacked(config.num_hidden_layers, declare_post_norm(config, NAMES, init)),
        **text_encoder.declare_classifier(config, head, names),
    }
    if head in ("sequence-classification", "multiple-choice"):
        tree["summary"] = declare_linear(D, config.num_labels, "sequence_summary.summary", init)
    if head == "multiple-choice":  # over the classes' logits, odd as it is
        tree["classifier"] = declare_linear(config.num_labels, 1, "logits_proj", init, ("labels", "labels"))
    if head in ("masked-lm", "causal-lm"):
        tied, vocab = config.tie_word_embeddings, config.vocab_size
        tree["masked_lm"] = heads.declare_vocabulary(D, vocab, "pred_layer.proj", table, tied)
    if head == "question-answering-beam":
        tree["span"] = spans.declare_beams(D, "qa_outputs.", init)
    return tree


# -- how it computes ---------------------------------------------------------------------------------------------------


def without_padding(x_BLD: jax.Array, attention_mask: jax.Array | None) -> jax.Array:
    """Zeros where padding is."""
    return x_BLD if attention_mask is None else x_BLD * attention_mask[..., None].astype(x_BLD.dtype)


def embed(
    params: Tree, text: Text, config: XLMConfig, rng: jax.Array | None, langs: jax.Array | None = None
) -> jax.Array:
    """Words, positions, languages and token types (words too), summed and normalised, padding zeroed: [B, L, D]."""
    x_BLD = params["word"][text.input_ids] if text.inputs_embeds is None else text.inputs_embeds
    x_BLD = x_BLD + jnp.broadcast_to(
        positions.learned(params["position"], x_BLD.shape[1], text.position_ids), x_BLD.shape
    )
    if langs is not None:
        if "lang" not in params:
            raise InputError("this model has no languages: leave langs out")
        x_BLD = x_BLD + params["lang"][langs]
    if text.token_type_ids is not None:
        x_BLD = x_BLD + params["word"][text.token_type_ids]
    x_BLD = layer_norm(params["norm"], shard(x_BLD, "batch", "length", "embed"), config.layer_norm_eps)
    return without_padding(dropout(x_BLD, config.hidden_dropout_prob, rng), text.attention_mask)


def layers(params: Tree, x_BLD: jax.Array, text: Text, config: XLMConfig, **options: Any) -> Any:
    """Post-norm blocks whose output is zero where padding is; a causal one looks back and at nothing else."""
    L = x_BLD.shape[1]
    mask = padding_mask(text.attention_mask)
    if config.causal:
        seen = causal_mask(L, L)
        if (
            text.attention_mask is not None
        ):  # behind a text padding looks around as in PyTorch; before it, it is not seen
            seen = seen & (jnp.cumsum(text.attention_mask, axis=1) > 0)[:, None, None]
        mask = Mask(pairs=seen)

    def block(layer: Tree, x_BLD: jax.Array, **named: Any) -> Any:
        y_BLD, maps = post_norm(layer, x_BLD, config=config, mask=mask, **named)
        return without_padding(y_BLD, text.attention_mask), maps

    return stack(params["layers"], block, x_BLD, **options)


def encode(
    params: Tree,
    input_ids: jax.Array | None = None,
    attention_mask: jax.Array | None = None,
    token_type_ids: jax.Array | None = None,
    position_ids: jax.Array | None = None,
    inputs_embeds: jax.Array | None = None,
    langs: jax.Array | None = None,
    *,
    config: XLMConfig,
    **options: Any,
) -> Output:
    """XLM's hidden states. As `text_encoder.encode`, and:

    Args:
      params: the tree of `declare`.
      input_ids: [B, L] token ids.
      attention_mask: [B, L]; None means no padding here (`HEADS` look for it: see `knowing_padding`).
      token_type_ids: [B, L], ids of words, whose embeddings are added; as in PyTorch, and in no published training.
      position_ids: [B, L]; None counts from 0.
      inputs_embeds: [B, L, D] in place of `input_ids`.
      langs: [B, L], each token's language by number; None adds none.
      config: the model's numbers.
      **options: those of `text_encoder.encode`.

    Raises:
      InputError: as `text_encoder.encode`; languages given to a model without; a mask of another shape.
    """
    if attention_mask is not None and attention_mask.ndim != 2:
        raise InputError(f"attention_mask must be [batch, length], found shape {attention_mask.shape}")
    inputs = (input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
    return text_encoder.encode(
        params, *inputs, config=config, embed=partial(embed, langs=langs), layers=layers, **options
    )


def cache_for(config: XLMConfig, batch: int, slots: int, dtype: Any) -> Cache:
    """An empty cache: it keeps the words' vectors [1, B, 1, S + 1, D], with room for a mask token behind the last."""
    whole = empty_cache(1, batch, 1, slots + 1, config.hidden_size, dtype)
    return dataclasses.replace(whole, mask=whole.mask[:, :-1])


def go_on(
    params: Tree,
    input_ids: jax.Array,
    attention_mask: jax.Array | None = None,
    *,
    config: XLMConfig,
    cache: Cache,
    **options: Any,
) -> Output:
    """The state [B, 1, D] of the mask token behind L more tokens [B, L], and the cache that knows them."""
    L, word = input_ids.shape[1], params["embeddings"]["word"]
    cache, _ = extend(cache, attention_mask, L)
    x_BLD = word[jnp.pad(input_ids, ((0, 0), (0, 1)), constant_values=config.mask_token_id)]
    cache = remember(cache, 0, x_BLD[:, :, None], x_BLD[:, :, None])
    end = cache.length + L
    real_BS = jnp.pad(cache.mask, ((0, 0), (0, 1)))
    real_BS = real_BS | (jnp.arange(real_BS.shape[1]) == end)[None]
    places_BS = (jnp.cumsum(real_BS, axis=1, dtype=jnp.int32) - 1).clip(0)
    trunk = encode(
        params,
        inputs_embeds=recall(cache, 0)[0][:, :, 0],
        attention_mask=real_BS,
        position_ids=places_BS,
        langs=jnp.full_like(places_BS, config.lang_id) if "lang" in params["embeddings"] else None,
        config=config,
        **options,
    )
    h_B1D = jax.lax.dynamic_slice_in_dim(trunk.last_hidden_state, end, 1, axis=1)  # type: ignore[arg-type]
    return Output(last_hidden_state=h_B1D, cache=dataclasses.replace(cache, length=end))


def knowing_padding(forward: Forward) -> Forward:
    """`forward` with a mask in any case: without one, as many tokens at the end are padding as have the padding token's id."""

    @wraps(forward)
    def run(
        params: Tree,
        input_ids: jax.Array | None = None,
        attention_mask: jax.Array | None = None,
        *inputs: Any,
        config: XLMConfig,
        **named: Any,
    ) -> Output:
        if attention_mask is None and input_ids is not None and named.get("cache") is None:
            lengths_B1 = (input_ids != config.pad_token_id).sum(1, keepdims=True)
            attention_mask = jnp.arange(input_ids.shape[1])[None] < lengths_B1
        return forward(params, input_ids, attention_mask, *inputs, config=config, **named)

    return run


def classify(params: Tree, trunk: Output, config: XLMConfig, rng: jax.Array | None) -> dict[str, Any]:
    """Dropout and a dense layer over the text's summary, and an activation (if any): logits [B, C]."""
    pooled_BD = dropout(trunk.pooler_output, config.summary_first_dropout, rng)  # type: ignore[arg-type]
    logits_BC = linear(params["summary"], pooled_BD)
    return {"logits": ACTIVATIONS[config.summary_activation](logits_BC) if config.summary_activation else logits_BC}


def choose(params: Tree, trunk: Output, config: XLMConfig, rng: jax.Array | None) -> dict[str, Any]:
    """A dense layer over the classes of `classify`: [B, 1]."""
    return {"logits": linear(params["classifier"], classify(params, trunk, config, rng)["logits"])}


summarised = heads.summarised(encode)
HEADS: dict[str | None, Forward] = {
    None: knowing_padding(encode),
    "sequence-classification": knowing_padding(heads.attach(summarised, classify)),
    "token-classification": knowing_padding(heads.attach(encode, heads.classify_tokens)),
    "question-answering": knowing_padding(heads.attach(encode, heads.find_span)),
    "question-answering-beam": knowing_padding(spans.find_by_beams(encode)),
    "causal-lm": knowing_padding(heads.attach(heads.remembering(encode, go_on), heads.over_vocabulary)),
    "masked-lm": knowing_padding(heads.attach(encode, heads.over_vocabulary)),
    "multiple-choice": heads.choose(knowing_padding(heads.attach(summarised, choose)), INPUTS),
}
_OWN: dict[str | None, str] = {
    "causal-lm": "XLMWithLMHeadModel",
    "masked-lm": "XLMWithLMHeadModel",
    "question-answering": "XLMForQuestionAnsweringSimple",
    "question-answering-beam": "XLMForQuestionAnswering",
}

FAMILY = Family(
    name="xlm",
    config_class=XLMConfig,
    config_from_hf=config_from_hf,
    config_to_hf=config_to_hf,
    config_keys=KEYS,
    declare=declare,
    heads=HEADS,
    architectures={**class_names("XLM", [head for head in HEADS if head not in _OWN]), **_OWN},
    prefix="transformer.",
    trunk=("embeddings", "layers"),
    inputs=INPUTS,
    cache=cache_for,
    asks_ahead=True,
    buffers=("transformer.position_ids",),
    ties={"pred_layer.proj.weight": "transformer.embeddings.weight"},
)
