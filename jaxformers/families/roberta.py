"""RoBERTa (Liu et al. 2019, arXiv:1907.11692): BERT's layers, with positions that count on from the padding token's id.

A text is classified by a dense layer and tanh of the head's own over its first token; the pooler is kept for multiple choice
and for bare hidden states, as PyTorch keeps it. XLM-RoBERTa (Conneau et al. 2019, arXiv:1911.02116) is the same model, see
`families.xlm_roberta`.
"""

import dataclasses
from functools import partial
from typing import Any

import jax

from jaxformers.core import heads, positions
from jaxformers.core.layers import declare_linear
from jaxformers.core.outputs import Output
from jaxformers.core.params import Tree, normal, stacked
from jaxformers.core.transformer import declare_post_norm
from jaxformers.families import text_encoder
from jaxformers.families.config import keys_of, read_config, write_config
from jaxformers.families.model import Family, Forward, class_names
from jaxformers.families.text_encoder import CLASSIFIERS, FIXED, INPUTS, EncoderConfig, Text


@dataclasses.dataclass(frozen=True, kw_only=True)
class RobertaConfig(EncoderConfig):
    """RoBERTa's numbers; the defaults are transformers', roberta-base itself has 514 positions and one token type."""

    vocab_size: int = 50265
    pad_token_id: int = 1


KEYS = keys_of(RobertaConfig)
config_from_hf = partial(read_config, RobertaConfig, KEYS, FIXED, {})
config_to_hf = partial(write_config, KEYS, "roberta")


def declare(config: EncoderConfig, head: str | None = None) -> Tree:
    """Every parameter of RoBERTa with `head`: shape, axes, initialiser, checkpoint name and layout."""
    D, init = config.hidden_size, normal(config.initializer_range)
    block = declare_post_norm(config, text_encoder.block_names("roberta.encoder.layer.{}."), init)
    names = CLASSIFIERS | {"sequence-classification": ("classifier.dense", "classifier.out_proj")}
    tree: Tree = {
        "embeddings": text_encoder.declare_embeddings(config, "roberta.embeddings."),
        "layers": stacked(config.num_hidden_layers, block),
        **text_encoder.declare_classifier(config, head, names),
    }
    if head in (None, "multiple-choice"):
        tree["pooler"] = declare_linear(D, D, "roberta.pooler.dense", init, ("embed", "mlp"))
    if head == "masked-lm":
        tied = config.tie_word_embeddings
        lm = {"dense": "lm_head.dense", "norm": "lm_head.layer_norm", "decoder": "lm_head.decoder",
              "bias": "lm_head.bias" if tied else "lm_head.decoder.bias"}  # fmt: skip
        tree["masked_lm"] = heads.declare_masked_lm(D, config.vocab_size, lm, init, tied)
    return tree


def embed(params: Tree, text: Text, config: EncoderConfig, rng: jax.Array | None) -> jax.Array:
    """BERT's embeddings, at positions that skip padding tokens (of vectors, none is known to be padding)."""
    if text.position_ids is None:
        given = text.input_ids if text.inputs_embeds is None else text.inputs_embeds
        first = config.pad_token_id + 1
        positions.check_length(given.shape[1], config.max_position_embeddings - first)  # type: ignore[union-attr]
        if text.input_ids is None:
            params = params | {"position": params["position"][first:]}
        else:
            text = text._replace(position_ids=positions.after_padding(text.input_ids, config.pad_token_id))
    return text_encoder.embed_text(params, text, config, rng)


encode = partial(text_encoder.encode, embed=embed)


def classify(params: Tree, trunk: Output, config: EncoderConfig, rng: jax.Array | None) -> dict[str, Any]:
    """Dropout, a dense layer and tanh over the first token, dropout, and the classes: logits [B, C]."""
    rate = heads.classifier_rate(config)
    return heads.classify_first(params, trunk, rng, "tanh", rate, rate)


HEADS: dict[str | None, Forward] = {
    None: encode,
    "sequence-classification": heads.attach(encode, classify),
    "token-classification": heads.attach(encode, heads.classify_tokens),
    "question-answering": heads.attach(encode, heads.find_span),
    "masked-lm": heads.attach(encode, partial(heads.predict_words, activation="gelu")),
    "multiple-choice": heads.choose(heads.attach(encode, heads.classify_pooled)),
}

FAMILY = Family(
    name="roberta",
    config_class=RobertaConfig,
    config_from_hf=config_from_hf,
    config_to_hf=config_to_hf,
    config_keys=KEYS,
    declare=declare,
    heads=HEADS,
    architectures=class_names("Roberta", HEADS),
    prefix="roberta.",
    trunk=("embeddings", "layers"),
    inputs=INPUTS,
    buffers=("roberta.embeddings.position_ids", "roberta.embeddings.token_type_ids"),
    ties={
        "lm_head.decoder.weight": "roberta.embeddings.word_embeddings.weight",
        "lm_head.decoder.bias": "lm_head.bias",
        "lm_head.bias": "lm_head.decoder.bias",
    },
)
