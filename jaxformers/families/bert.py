"""BERT (Devlin et al. 2018, arXiv:1810.04805): a post-norm encoder with learned positions and token types.

The first of its line: what its descendants share with it is `families.text_encoder`, where its forward pass stands too. Here
are its names and its heads.
"""

import dataclasses
from functools import partial

from jaxformers.core import heads
from jaxformers.core.layers import declare_linear, declare_norm
from jaxformers.core.params import Tree, normal, stacked
from jaxformers.core.transformer import declare_heads_in, declare_heads_out, declare_post_norm
from jaxformers.families.config import keys_of, read_config, write_config
from jaxformers.families.model import Family, Forward, class_names
from jaxformers.families.text_encoder import (
    FIXED,
    INPUTS,
    EncoderConfig,
    block_names,
    declare_classifier,
    declare_embeddings,
    encode,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BertConfig(EncoderConfig):
    """BERT's numbers; the defaults are those of bert-base-uncased."""


KEYS = keys_of(BertConfig)  # BERT's config keys are the house's own names
IGNORED = dict.fromkeys(
    ("directionality", "pooler_fc_size", "pooler_num_attention_heads", "pooler_num_fc_layers", "pooler_size_per_head",
     "pooler_type"),
    "left over from the original TensorFlow code; PyTorch's BERT never read it",
)  # fmt: skip
config_from_hf = partial(read_config, BertConfig, KEYS, FIXED, IGNORED)
config_to_hf = partial(write_config, KEYS, "bert")


def declare_cross(config: BertConfig) -> Tree:
    """What a block has beside where BERT writes under an encoder, which it looks at after itself."""
    D, H, init, at = config.hidden_size, config.num_attention_heads, normal(config.initializer_range), CROSS
    names = {"query": "self.query", "key": "self.key", "value": "self.value"}
    cross = {ours: declare_heads_in(D, H, D // H, at + name, init) for ours, name in names.items()}
    return {
        "cross": {**cross, "out": declare_heads_out(D, H, D // H, at + "output.dense", init)},
        "cross_norm": declare_norm(D, at + "output.LayerNorm"),
    }


CROSS = "bert.encoder.layer.{}.crossattention."
POOLED = (None, "sequence-classification", "next-sentence-prediction", "pretraining", "multiple-choice")


def declare(config: BertConfig, head: str | None = None) -> Tree:
    """Every parameter of BERT with `head`: shape, axes, initialiser, checkpoint name and layout."""
    D, init = config.hidden_size, normal(config.initializer_range)
    block = declare_post_norm(config, block_names("bert.encoder.layer.{}."), init)
    tree: Tree = {
        "embeddings": declare_embeddings(config, "bert.embeddings."),
        "layers": stacked(config.num_hidden_layers, block),
        **declare_classifier(config, head),
    }
    if head in POOLED:
        tree["pooler"] = declare_linear(D, D, "bert.pooler.dense", init, ("embed", "mlp"))
    if head in ("masked-lm", "pretraining"):
        tied = config.tie_word_embeddings
        names = {"dense": "cls.predictions.transform.dense", "norm": "cls.predictions.transform.LayerNorm",
                 # PyTorch adds the decoder's bias; the other name is a copy of it only where the two are tied.
                 "bias": "cls.predictions.bias" if tied else "cls.predictions.decoder.bias",
                 "decoder": "cls.predictions.decoder"}  # fmt: skip
        tree["masked_lm"] = heads.declare_masked_lm(D, config.vocab_size, names, init, tied)
    if head in ("next-sentence-prediction", "pretraining"):
        tree["next_sentence"] = declare_linear(D, 2, "cls.seq_relationship", init)
    return tree


HEADS: dict[str | None, Forward] = {
    None: encode,
    "sequence-classification": heads.attach(encode, heads.classify_pooled),
    "token-classification": heads.attach(encode, heads.classify_tokens),
    "question-answering": heads.attach(encode, heads.find_span),
    "masked-lm": heads.attach(encode, heads.predict_words),
    "next-sentence-prediction": heads.attach(encode, heads.predict_next_sentence),
    "pretraining": heads.attach(encode, heads.pretrain),
    "multiple-choice": heads.choose(heads.attach(encode, heads.classify_pooled)),
}

FAMILY = Family(
    name="bert",
    config_class=BertConfig,
    config_from_hf=config_from_hf,
    config_to_hf=config_to_hf,
    config_keys=KEYS,
    declare=declare,
    heads=HEADS,
    architectures=class_names("Bert", HEADS),
    prefix="bert.",
    trunk=("embeddings", "layers"),
    inputs=INPUTS,
    buffers=("bert.embeddings.position_ids", "bert.embeddings.token_type_ids"),
    ties={
        "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
        "cls.predictions.bias": "cls.predictions.decoder.bias",
    },
)
