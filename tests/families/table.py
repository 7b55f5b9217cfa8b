"""The one table of families that every parity and property test is parametrised over, and what those tests share.

A new family adds one row here (of images in `sight`, of sounds in `hearing`) and its cases to `tests/goldens/make_goldens.py`
(of images to `tests/goldens/pixels.py`, of sounds to `sounds.py`); its heads come from its own module. Pure data and small
functions, no tests; nothing here needs PyTorch.
"""

import dataclasses
import json
import tempfile
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file

import jaxformers as jf
from jaxformers.checkpoints.mapping import expected
from jaxformers.checkpoints.save import tensors
from jaxformers.core.outputs import Output
from jaxformers.core.params import Tree
from jaxformers.families import Model, family_for
from jaxformers.train import losses
from tests.families import hearing, sight
from tests.families.row import CLASSIFY, Row
from tests.goldens import make_goldens, sounds
from tests.goldens.drawing import draw
from tests.goldens.make_goldens import spread

Arrays = dict[str, np.ndarray]
TOLERANCE = 1e-5  # absolute, on values of order 1, in float32; a difference has a cause, which is found instead


TARGETS = {  # what a text is classified by; the same for every family
    "regression": (("sequence-classification",), {"problem_type": "regression", "id2label": {"0": "score"}}),
    "multi-label": (("sequence-classification",), {"problem_type": "multi_label_classification"}),
}
BERT = Row(
    family="bert",
    config=make_goldens.BERT,
    whole="pretraining",
    lineage=True,
    variants={
        **TARGETS,
        "2 heads": ((None,), {"num_attention_heads": 2}),
        "gelu_new": (("masked-lm",), {"hidden_act": "gelu_new"}),
        "relu": (("masked-lm",), {"hidden_act": "relu"}),
        "epsilon": (("masked-lm",), {"layer_norm_eps": 1e-2}),
        "3 token types": ((None,), {"type_vocab_size": 3}),
        "1 token type": ((None,), {"type_vocab_size": 1}),
        "untied": (("masked-lm", "pretraining"), {"tie_word_embeddings": False}),
        "classifier dropout": (CLASSIFY, {"classifier_dropout": 0.5}),
        "regression of several": (("sequence-classification",), {"problem_type": "regression"}),
        "regression by one label": (("sequence-classification",), {"id2label": {"0": "score"}}),
    },
)
DISTILBERT = Row(
    family="distilbert",
    config=make_goldens.DISTILBERT,
    whole="masked-lm",
    variants={
        **TARGETS,
        "2 heads": ((None,), {"n_heads": 2}),
        "relu": (("masked-lm", "sequence-classification"), {"activation": "relu"}),
        "sines": ((None,), {"sinusoidal_pos_embds": True}),
        "untied": (("masked-lm",), {"tie_word_embeddings": False}),
    },
)
ROBERTA = Row(
    family="roberta",
    config=make_goldens.ROBERTA,
    whole="masked-lm",
    longest=22,
    variants={
        **TARGETS,
        "2 heads": ((None,), {"num_attention_heads": 2}),
        "relu": (("masked-lm",), {"hidden_act": "relu"}),  # the head's own gelu stays
        "epsilon": (("masked-lm",), {"layer_norm_eps": 1e-2}),
        "2 token types": ((None,), {"type_vocab_size": 2}),
        "padding is 3": ((None,), {"pad_token_id": 3}),
        "untied": (("masked-lm",), {"tie_word_embeddings": False}),
    },
)
XLM_ROBERTA = Row(
    family="xlm-roberta",
    config=make_goldens.XLM_ROBERTA,
    whole="masked-lm",
    longest=22,
    brief=True,
    variants={},
)
ELECTRA = Row(
    family="electra",
    config=make_goldens.ELECTRA,
    whole="pretraining",
    variants={
        **TARGETS,
        "2 heads": ((None,), {"num_attention_heads": 2}),
        "relu": (("masked-lm", "pretraining", "sequence-classification"), {"hidden_act": "relu"}),
        "epsilon": (("masked-lm",), {"layer_norm_eps": 1e-2}),
        "as wide as the model": ((None, "masked-lm"), {"embedding_size": 32}),
        "untied": (("masked-lm",), {"tie_word_embeddings": False}),
        "summary of the last": (("multiple-choice",), {"summary_type": "last", "summary_activation": "tanh"}),
        "summary of all": (("multiple-choice",), {"summary_type": "mean", "summary_use_proj": False}),
        "summary without an index": (("multiple-choice",), {"summary_type": "cls_index"}),
    },
)
ALBERT = Row(
    family="albert",
    config=make_goldens.ALBERT,
    whole="pretraining",
    lineage=True,
    variants={
        **TARGETS,
        "1 group": ((None, "pretraining"), {"num_hidden_groups": 1}),
        "groups that do not divide": ((None,), {"num_hidden_layers": 5, "num_hidden_groups": 3}),
        "2 layers a group": ((None,), {"inner_group_num": 2}),
        "gelu": (("masked-lm",), {"hidden_act": "gelu"}),
        "epsilon": (("masked-lm",), {"layer_norm_eps": 1e-2}),
        "as wide as the model": ((None, "masked-lm"), {"embedding_size": 32}),
        "untied": (("masked-lm", "pretraining"), {"tie_word_embeddings": False}),
    },
)
DEBERTA = Row(
    family="deberta-v2",
    config=make_goldens.DEBERTA,
    whole="masked-lm",
    lineage=True,
    longest=None,
    padding_looks=True,
    variants={
        **TARGETS,
        "2 heads": ((None,), {"num_attention_heads": 2}),
        "projections of its own": ((None,), {"share_att_key": False}),
        "c2p alone": ((None,), {"share_att_key": False, "pos_att_type": ["c2p"]}),
        "p2c alone": ((None,), {"pos_att_type": "p2c"}),
        "a row a distance": ((None,), {"position_buckets": -1, "max_relative_positions": 4, "norm_rel_ebd": "none"}),
        "as BERT": (
            (None,),
            {
                "relative_attention": False,
                "pos_att_type": None,
                "position_biased_input": True,
                "type_vocab_size": 2,
                "norm_rel_ebd": "none",
            },
        ),
        "convolution": ((None, "masked-lm"), {"conv_kernel_size": 3, "conv_act": "gelu"}),
        "grouped convolution": ((None,), {"conv_kernel_size": 5, "conv_groups": 4}),
        "narrow embeddings": ((None, "masked-lm"), {"embedding_size": 16}),
        "new words' head": (("masked-lm",), {"legacy": False}),
        "untied": (("masked-lm",), {"tie_word_embeddings": False}),
        "relu": (("sequence-classification",), {"hidden_act": "relu", "pooler_hidden_act": "tanh", "cls_dropout": 0.3}),
    },
)
MODERNBERT = Row(
    family="modernbert",
    config=make_goldens.MODERNBERT,
    whole="masked-lm",
    lineage=True,
    longest=None,
    variants={
        **TARGETS,
        "3 layers": ((None,), {"num_hidden_layers": 3}),
        "2 heads": ((None,), {"num_attention_heads": 2}),
        "biases": (
            (None, "masked-lm", "sequence-classification"),
            dict.fromkeys(("norm_bias", "attention_bias", "mlp_bias", "classifier_bias"), True),
        ),
        "no bias at all": (("masked-lm",), {"decoder_bias": False}),
        "1 layer": ((None,), {"num_hidden_layers": 1}),
        "kinds by name": ((None,), {"layer_types": ["sliding_attention", "full_attention"]}),
        "a narrow window": (("masked-lm",), {"local_attention": 2}),
        "slow rotations": ((None,), {"global_rope_theta": 1e6, "local_rope_theta": 100.0}),
        "relu": (("masked-lm", "token-classification"), {"hidden_activation": "relu", "classifier_activation": "tanh"}),
        "epsilon": (("masked-lm",), {"norm_eps": 1e-2}),
        "mean": (("sequence-classification", "multiple-choice"), {"classifier_pooling": "mean"}),
        "untied": (("masked-lm",), {"tie_word_embeddings": False}),
    },
)
XLM = Row(
    family="xlm",
    config=make_goldens.XLM,
    whole="masked-lm",
    without=("causal-lm",),  # which is masked-lm until it generates
    variants={
        **TARGETS,
        "2 heads": ((None,), {"n_heads": 2}),
        "relu": (("masked-lm", "question-answering-beam"), {"gelu_activation": False}),
        "sines": ((None,), {"sinusoidal_embeddings": True}),
        "epsilon": (("masked-lm", "question-answering-beam"), {"layer_norm_eps": 1e-2}),
        "looking back": (("masked-lm",), {"causal": True}),
        "activation of classes": (("sequence-classification", "multiple-choice"), {"summary_activation": "tanh"}),
        "untied": (("masked-lm",), {"tie_word_embeddings": False}),
    },
)
XLNET = Row(
    family="xlnet",
    config=make_goldens.XLNET,
    whole="causal-lm",
    lineage=True,
    longest=None,
    padding_looks=True,
    variants={
        **TARGETS,
        "2 heads": ((None,), {"n_head": 2}),
        "relu": (("causal-lm", "question-answering-beam"), {"ff_activation": "relu"}),
        "epsilon": (("causal-lm", "question-answering-beam"), {"layer_norm_eps": 1e-2}),
        "distances up to 2": ((None,), {"clamp_len": 2}),
        "more beams": (("question-answering-beam",), {"start_n_top": 3, "end_n_top": 1}),
        "no layer before classes": (("sequence-classification", "multiple-choice"), {"summary_use_proj": False}),
        "activation of the summary": (("sequence-classification",), {"summary_activation": "gelu"}),
        "untied": (("causal-lm",), {"tie_word_embeddings": False}),
    },
)
TABLES = ("encoder.embed_positions.weight", "decoder.embed_positions.weight")
CELLS = ("table-question-answering",)
TAPAS = Row(
    family="tapas",
    config=make_goldens.TAPAS,
    whole="table-question-answering",
    longest=None,
    variants={
        **TARGETS,
        "2 heads": ((None,), {"num_attention_heads": 2}),
        "relu": (("masked-lm",), {"hidden_act": "relu"}),
        "epsilon": (("masked-lm", *CELLS), {"layer_norm_eps": 1e-2}),
        "untied": (("masked-lm",), {"tie_word_embeddings": False}),
        "positions of the text": ((None,), {"reset_position_index_per_cell": False}),
        "cells longer than positions": ((None,), {"max_position_embeddings": 2}),
        "no operators": (CELLS, {"num_aggregation_labels": 0, "aggregation_labels": None}),
        "a column that is none": (CELLS, {"allow_empty_column_selection": True}),
        "fewer rows and columns": (CELLS, {"max_num_rows": 2, "max_num_columns": 2}),
    },
)
GPT2 = Row(
    family="gpt2",
    config=make_goldens.GPT2,
    whole="causal-lm",
    variants={
        **TARGETS,
        "2 heads": ((None,), {"n_head": 2}),
        "four times as wide inside": ((None,), {"n_inner": None}),
        "relu": (("causal-lm",), {"activation_function": "relu"}),
        "epsilon": (("causal-lm",), {"layer_norm_epsilon": 1e-2}),
        "no scale": ((None,), {"scale_attn_weights": False}),
        "scale by layer": ((None,), {"scale_attn_by_inverse_layer_idx": True}),
        "untied": (("causal-lm",), {"tie_word_embeddings": False}),
    },
)
ROPES = {
    "rotations of linear kind": (
        (None,),
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 100.0, "factor": 2.0}},
    ),
    "rotations of Llama 3": (
        ("causal-lm",),
        {
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 100.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 16,
            }
        },
    ),
    "rotations that slow down": (
        (None,),
        {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 100.0, "factor": 2.0}, "max_position_embeddings": 4},
    ),
}
LLAMA = Row(
    family="llama",
    config=make_goldens.LLAMA,
    whole="causal-lm",
    lineage=True,
    longest=None,
    variants={
        **TARGETS,
        **ROPES,
        "as many heads of keys": ((None,), {"num_key_value_heads": None}),
        "1 head of keys": ((None,), {"num_key_value_heads": 1}),
        "wide heads": ((None,), {"head_dim": 16}),
        "biases": ((None, "causal-lm"), {"attention_bias": True, "mlp_bias": True}),
        "gelu": (("causal-lm",), {"hidden_act": "gelu"}),
        "epsilon": (("causal-lm",), {"rms_norm_eps": 1e-2}),
        "slow rotations": ((None,), {"rope_theta": 100.0}),
        "tied": (("causal-lm",), {"tie_word_embeddings": True}),
    },
)
MISTRAL = Row(
    family="mistral",
    config=make_goldens.MISTRAL,
    whole="causal-lm",
    brief=True,
    longest=None,
    variants={"no window": ((None,), {"sliding_window": None})},
)
QWEN2 = Row(
    family="qwen2",
    config=make_goldens.QWEN2,
    whole="causal-lm",
    brief=True,
    longest=None,
    variants={
        "no window": ((None,), {"use_sliding_window": False}),
        "kinds by name": ((None,), {"layer_types": ["sliding_attention", "full_attention"]}),
    },
)
QWEN3 = Row(
    family="qwen3",
    config=make_goldens.QWEN3,
    whole="causal-lm",
    brief=True,
    longest=None,
    variants={"biases": ((None,), {"attention_bias": True})},
)
GEMMA = Row(
    family="gemma",
    config=make_goldens.GEMMA,
    whole="causal-lm",
    brief=True,
    longest=None,
    variants={
        "biases": ((None,), {"attention_bias": True}),
        "an old name of its activation": ((None,), {"hidden_act": "gelu"}),
        "untied": (("causal-lm",), {"tie_word_embeddings": False}),
    },
)
T5 = Row(
    family="t5",
    config=make_goldens.T5,
    whole="seq2seq-lm",
    lineage=True,
    brief=True,
    longest=None,
    variants={
        **TARGETS,
        "wide heads": ((None,), {"d_kv": 10}),
        "deeper decoder": (("seq2seq-lm",), {"num_decoder_layers": 3}),
        "gated": (("seq2seq-lm",), {"feed_forward_proj": "gated-gelu"}),
        "gated silu": ((None,), {"feed_forward_proj": "gated-silu"}),
        "32 buckets": ((None,), {"relative_attention_num_buckets": 32, "relative_attention_max_distance": 128}),
        "an odd number of buckets": ((None,), {"relative_attention_num_buckets": 7}),
        "epsilon": (("seq2seq-lm",), {"layer_norm_epsilon": 1e-2}),
        "a table of the output's own": (("seq2seq-lm",), {"tie_word_embeddings": False}),
    },
)
MT5 = Row(
    family="mt5",
    config=make_goldens.MT5,
    whole="seq2seq-lm",
    longest=None,
    brief=True,
    variants={},
)
GEMMA2 = Row(
    family="gemma2",
    config=make_goldens.GEMMA2,
    whole="causal-lm",
    longest=None,
    brief=True,
    variants={
        "no caps": (("causal-lm",), {"attn_logit_softcapping": None, "final_logit_softcapping": None}),
        "kinds by name": ((None,), {"layer_types": ["full_attention", "sliding_attention"]}),
        "relu": ((None,), {"hidden_activation": "relu", "hidden_act": "gelu"}),
    },
)
GEMMA3 = Row(
    family="gemma3_text",
    config=make_goldens.GEMMA3,
    whole="causal-lm",
    longest=None,
    brief=True,
    without=("sequence-classification",),
    variants={
        "classes, of 1 layer": (("sequence-classification",), {"num_hidden_layers": 1}),
        "a cap": (("causal-lm",), {"final_logit_softcapping": 2.0}),
        "keys of older files": (
            (None,),
            {"rope_parameters": None, "rope_theta": 500.0, "rope_local_base_freq": 50.0,
             "rope_scaling": {"rope_type": "linear", "factor": 4.0}},
        ),
        "kinds by name": ((None,), {"layer_types": ["full_attention", "sliding_attention"]}),
    },
)  # fmt: skip
GPT_NEOX = Row(
    family="gpt_neox",
    config=make_goldens.GPT_NEOX,
    whole="causal-lm",
    longest=None,
    brief=True,
    variants={
        "one sum after the other": ((None,), {"use_parallel_residual": False}),
        "no biases": ((None,), {"attention_bias": False}),
        "whole heads turn": (("causal-lm",), {"rotary_pct": 1.0, "rotary_emb_base": 100.0}),
        "keys of newer files": (
            (None,),
            {"rope_parameters": {"rope_type": "default", "rope_theta": 50.0, "partial_rotary_factor": 0.25},
             "rotary_pct": 0.25},
        ),
        "relu": ((None,), {"hidden_act": "relu", "layer_norm_eps": 1e-2}),
        "tied": (("causal-lm",), {"tie_word_embeddings": True}),
    },
)  # fmt: skip
OPENAI_GPT = Row(
    family="openai-gpt",
    config=make_goldens.OPENAI_GPT,
    whole="causal-lm",
    brief=True,
    variants={
        "2 heads": ((None,), {"n_head": 2}),
        "relu": ((None,), {"afn": "relu", "layer_norm_epsilon": 1e-2}),
        "untied": (("causal-lm",), {"tie_word_embeddings": False}),
    },
)
CTRL = Row(
    family="ctrl",
    config=make_goldens.CTRL,
    whole="causal-lm",
    brief=True,
    variants={
        "2 heads": ((None,), {"n_head": 2}),
        "epsilon of the last norm": ((None,), {"layer_norm_epsilon": 1e-2}),
        "untied": (("causal-lm",), {"tie_word_embeddings": False}),
    },
)
BART = Row(
    family="bart",
    config=make_goldens.BART,
    whole="seq2seq-lm",
    brief=True,
    variants={
        **TARGETS,
        "sizes of its own": (
            ("seq2seq-lm",),
            {"decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 24},
        ),
        "scaled": (("seq2seq-lm",), {"scale_embedding": True}),
        "relu": ((None,), {"activation_function": "relu"}),
    },
)
MBART = Row(
    family="mbart",
    config=make_goldens.MBART,
    whole="seq2seq-lm",
    brief=True,
    variants={"not scaled": (("seq2seq-lm",), {"scale_embedding": False})},
)
MARIAN = Row(
    family="marian",
    config=make_goldens.MARIAN,
    whole="seq2seq-lm",
    brief=True,
    variants={
        "a vocabulary each": (
            (None, "seq2seq-lm"),
            {"share_encoder_decoder_embeddings": False, "decoder_vocab_size": 48},
        ),
    },
    fixed=TABLES,
)
M2M_100 = Row(
    family="m2m_100",
    config=make_goldens.M2M_100,
    whole="seq2seq-lm",
    brief=True,
    longest=None,
    variants={"not scaled": ((None,), {"scale_embedding": False})},
)
PEGASUS = Row(family="pegasus", config=make_goldens.PEGASUS, whole="seq2seq-lm", brief=True, variants={}, fixed=TABLES)
DECODERS = (GPT2, LLAMA, MISTRAL, QWEN2, QWEN3, GEMMA, GEMMA2, GEMMA3, GPT_NEOX, OPENAI_GPT, CTRL)
TRANSFO_XL = Row(  # transformers 5 has it no more, so there is nothing to be at parity with but its goldens
    family="transfo-xl", config=make_goldens.TRANSFO_XL, whole="causal-lm", longest=None, variants={}
)
ENCODER_DECODERS = (T5, MT5, BART, MBART, MARIAN, M2M_100, PEGASUS)
THEIRS = (
    BERT,
    DISTILBERT,
    ROBERTA,
    XLM_ROBERTA,
    ELECTRA,
    ALBERT,
    DEBERTA,
    MODERNBERT,
    XLM,
    XLNET,
    TAPAS,
    *DECODERS,
    *ENCODER_DECODERS,
    *sight.ROWS,
    *hearing.ROWS,
)
ROWS = (*THEIRS, TRANSFO_XL, sight.VGG)
HEADS = [(row, head) for row in ROWS for head in row.heads]
PLAIN_HEADS = [(row, head) for row in ROWS for head in row.plain_heads]
# What is dear to check: every head of BERT, and of each other lineage the head with the most parts.
LINEAGES = [row for row in ROWS if row.lineage]
LINEAGE_HEADS = [(row, head) for row in LINEAGES for head in (row.heads if row is BERT else [row.whole])]


def name_of(value: Any) -> str | None:
    """How a parameter of a test is called in pytest's list."""
    return value.family if isinstance(value, Row) else str(value) if value is None or isinstance(value, str) else None


def write_checkpoint(
    folder: Path, config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], std: float = 0.2
) -> Path:
    """A folder in Hugging Face layout whose weights are drawn from their names."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(dict(config)))
    save_file({name: draw(name, tuple(shape), std) for name, shape in shapes.items()}, folder / "model.safetensors")
    return folder


@cache
def strong(row: Row, head: str | None) -> Model:
    """The row's model with weights of standard deviation 0.2 and random biases and scales, as a file would bring them."""
    raw, family = row.config_for(head), family_for(row.family)
    declared = family.declare(family.config_from_hf(raw, "config"), head)
    ours, theirs = family.prefix, family.prefix_of(head)  # what the file of this head has in its place
    named = lambda name: theirs + name.removeprefix(ours) if name.startswith(ours) else name  # noqa: E731
    shapes = {named(name): shape for name, _, shape in expected(declared)}
    with tempfile.TemporaryDirectory() as folder:
        return jf.load(write_checkpoint(Path(folder), raw, shapes), head)


def sample(
    config: Mapping[str, Any], head: str | None, batch: int | None = None, length: int = 7
) -> tuple[Arrays, Arrays]:
    """Inputs for a head, and what it learns from them."""
    return make_goldens.sample(dict(config), head, batch, length)


def loss_of(model: Model, output: Output, wanted: Mapping[str, Any]) -> jax.Array:
    """The loss transformers has for this head; for hidden states, beams and cells, these weighted by numbers drawn by name."""
    if model.head in (
        None,
        "text-encoding",
        "question-answering-beam",
        "table-question-answering",
        "image-classification-with-teacher",
        "speech-to-speech",
    ):
        found = {name: output[name] for name in make_goldens.PROBED if output[name] is not None}
        states = (jax.nn.sigmoid(state) if name == "logits" else state for name, state in found.items())
        return sum(((state * draw(f"probe {state.ndim}", state.shape, 1.0)).mean() for state in states), jnp.zeros(()))
    if model.head == "causal-lm" and model.family.name == "xlnet":  # a word is predicted where it stands
        total, count = losses.tokens(output, dict(wanted))
        return total / count
    total, count = losses.default_loss(model.head, model.config)(output, dict(wanted))
    return total if "sampled_negative_indices" in wanted else total / count  # which transformers sums


def forward(model: Model, *, middle: bool = True, **options: Any) -> Callable[[Tree, Any], Output]:
    """`f(params, inputs) -> Output`, with the middle states where `middle` asks for them."""
    return lambda params, given: model.apply(
        params, **given, output_hidden_states=middle, output_attentions=middle, **options
    )


def loss_and_gradient(model: Model, **options: Any) -> Callable[[Tree, Any, Any], Any]:
    """`f(params, inputs, labels) -> ((loss, Output), gradient)`."""

    def loss(params: Tree, given: Any, wanted: Any) -> tuple[jax.Array, Output]:
        output = forward(model, **options)(params, given)
        return loss_of(model, output, {**given, **wanted}), output

    return jax.value_and_grad(loss, has_aux=True)


def flat(output: Output) -> Arrays:
    """Every array of an output by name: `logits`, `hidden_states.0`, ..."""
    found: dict[str, Any] = {}
    for key in {*output.keys()} - {*sounds.FOR_LOSS}:  # which PyTorch keeps to itself
        found |= spread(key, output[key])
    return {key: np.asarray(value) for key, value in found.items()}


def results(model: Model, given: Arrays, wanted: Arrays, *, whole: bool | None = None) -> Arrays:
    """Every output, the loss, and its gradient in every parameter under its checkpoint name, flat.

    By default compiled as a whole where a model reads no words. Over many small configs of the same shapes, compiled single
    operations are reused; convolutions are seldom of the same shapes.
    """
    run = loss_and_gradient(model)
    if whole or (whole is None and "input_ids" not in given):
        run = jax.jit(run, compiler_options={"xla_backend_optimization_level": 0})
    return flat_results(model, *run(model.params, given, wanted))


def flat_results(model: Model, loss_and_output: tuple[jax.Array, Output], gradient: Tree) -> Arrays:
    """What `loss_and_gradient` gave, by name."""
    loss, output = loss_and_output
    by_name = tensors(dataclasses.replace(model, params=gradient))
    return {"loss": np.asarray(loss), **flat(output), **{f"gradient {name}": array for name, array in by_name}}


def assert_same(found: Mapping[str, Any], expected: Mapping[str, Any], tolerance: float = TOLERANCE) -> None:
    """Compares two flat dicts of arrays: the same names, the same shapes, values within `tolerance`.

    A gradient's elements may be small: there the tolerance is on the scale of its largest element, but at least that
    of a gradient of 0.1 (some are zero but for rounding: a key's bias changes no attention weight).
    """
    assert sorted(found) == sorted(expected)
    for name, value in expected.items():
        scale = float(np.clip(np.abs(value).max(), 0.1, 1.0)) if name.startswith("gradient") else 1.0
        np.testing.assert_allclose(found[name], value, rtol=0, atol=tolerance * scale, err_msg=name)
