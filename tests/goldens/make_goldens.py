"""Makes the goldens: what PyTorch transformers computes for tiny models, so that plain `pytest` needs no PyTorch.

    python -m tests.goldens.make_goldens [family …]

Here: those of texts; of images `tests.goldens.pixels`, of sounds `tests.goldens.sounds`. Imports nothing of jaxformers. No weight
file is kept: every weight is drawn from its own name, here and in the tests. A golden changes only when a case is added or
changed below, or when transformers itself computes something else; never because a test fails.
"""

import json
import math
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from tests.goldens import pixels, sounds
from tests.goldens.drawing import draw, integers

HERE = Path(__file__).parent
WHOLE = 256  # numbers; of a larger result only a probe is kept

TINY = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 24,
}
BERT = {"model_type": "bert", **TINY, "type_vocab_size": 2, "hidden_act": "gelu", "layer_norm_eps": 1e-12}
OTHER = {**BERT, "num_attention_heads": 2, "hidden_act": "gelu_new", "layer_norm_eps": 1e-3, "type_vocab_size": 3}
DISTILBERT = {
    "model_type": "distilbert",
    "vocab_size": 64,
    "dim": 32,
    "n_layers": 2,
    "n_heads": 4,
    "hidden_dim": 48,
    "max_position_embeddings": 24,
}
ROBERTA = {"model_type": "roberta", **TINY, "type_vocab_size": 1, "layer_norm_eps": 1e-5, "pad_token_id": 1}
XLM_ROBERTA = {**ROBERTA, "model_type": "xlm-roberta"}
ELECTRA = {"model_type": "electra", **TINY, "type_vocab_size": 2, "embedding_size": 16}
ALBERT = {
    "model_type": "albert",
    **TINY,
    "num_hidden_layers": 3,
    "num_hidden_groups": 2,
    "type_vocab_size": 2,
    "embedding_size": 16,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
}
DEBERTA = {  # of version 3
    "model_type": "deberta-v2",
    **TINY,
    "type_vocab_size": 0,
    "relative_attention": True,
    "position_buckets": 8,
    "position_biased_input": False,
    "pos_att_type": "p2c|c2p",
    "share_att_key": True,
    "norm_rel_ebd": "layer_norm",
    "layer_norm_eps": 1e-7,
}
MODERNBERT = {
    "model_type": "modernbert",
    **TINY,
    "global_attn_every_n_layers": 2,
    "local_attention": 8,
    "pad_token_id": 0,
    "attention_dropout": 0.1,
    "embedding_dropout": 0.1,
    "mlp_dropout": 0.1,
}
XLM = {
    "model_type": "xlm",
    "vocab_size": 64,
    "emb_dim": 32,
    "n_layers": 2,
    "n_heads": 4,
    "n_langs": 3,
    "max_position_embeddings": 24,
    "start_n_top": 2,
    "end_n_top": 3,
    "pad_token_id": 2,
}
XLNET = {
    "model_type": "xlnet",
    "vocab_size": 64,
    "d_model": 32,
    "n_layer": 2,
    "n_head": 4,
    "d_inner": 48,
    "start_n_top": 2,
    "end_n_top": 3,
    "pad_token_id": 0,
    "use_mems_eval": False,  # else PyTorch returns its memories too
}
TAPAS = {
    "model_type": "tapas",
    **TINY,
    "type_vocab_sizes": [3, 3, 4, 2, 6, 6, 10],
    "max_num_rows": 4,
    "max_num_columns": 3,
    "num_aggregation_labels": 4,
    "aggregation_labels": {str(i): name for i, name in enumerate(("NONE", "SUM", "AVERAGE", "COUNT"))},
    "no_aggregation_label_index": 0,
    "temperature": 0.5,
}
WRITES = {
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "use_cache": False,
}  # with it, PyTorch returns its cache
GPT2 = {
    "model_type": "gpt2",
    "vocab_size": 64,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_inner": 48,
    "n_positions": 24,
    **WRITES,
}
LLAMA = {
    "model_type": "llama",
    **TINY,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    **WRITES,
    "attention_dropout": 0.1,
}
MISTRAL = {**LLAMA, "model_type": "mistral", "head_dim": 16, "sliding_window": 5}
QWEN2 = {**LLAMA, "model_type": "qwen2", "use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1}
QWEN3 = {**QWEN2, "model_type": "qwen3", "head_dim": 16}
GEMMA = {  # narrow, for its norms count from 1, which makes large numbers of weights drawn as others' are
    **LLAMA,
    "model_type": "gemma",
    "hidden_size": 16,
    "num_attention_heads": 2,
    "head_dim": 8,
    "intermediate_size": 16,
}
GEMMA2 = {**GEMMA, "model_type": "gemma2", "sliding_window": 5, "query_pre_attn_scalar": 5, "attn_logit_softcapping": 3.0,
          "final_logit_softcapping": 2.0}  # fmt: skip
GEMMA3 = {
    **GEMMA,
    "model_type": "gemma3_text",
    "rms_norm_eps": 1e-2,  # with less, rounding grows in two layers to what a fault would be
    "sliding_window": 5,
    "sliding_window_pattern": 2,
    "query_pre_attn_scalar": 5,
    "rope_parameters": {
        "full_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1000.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
    },
}
GPT_NEOX = {
    "model_type": "gpt_neox",
    **TINY,
    "rotary_pct": 0.5,
    **WRITES,
    "attention_dropout": 0.1,
    "hidden_dropout": 0.1,
}
OPENAI_GPT = {key: value for key, value in GPT2.items() if key != "n_inner"} | {"model_type": "openai-gpt"}
CTRL = {**OPENAI_GPT, "model_type": "ctrl", "dff": 48}
T5 = {  # four buckets each way, of which half grow: seven tokens meet all
    "model_type": "t5",
    "vocab_size": 64,
    "d_model": 32,
    "d_kv": 6,
    "d_ff": 48,
    "num_layers": 2,
    "num_heads": 4,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 6,
    "eos_token_id": 1,
    "pad_token_id": 0,
    "decoder_start_token_id": 0,
    "use_cache": False,
}
MT5 = {  # narrow, for its attention is not scaled, nor are its states
    **T5,
    "model_type": "mt5",
    "d_model": 16,
    "num_heads": 2,
    "d_ff": 16,
    "num_decoder_layers": 1,  # transformers cannot generate where the decoder is the deeper one
    "feed_forward_proj": "gated-gelu",
}
BART = {
    "model_type": "bart",
    "vocab_size": 64,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 24,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": None,
    "attention_dropout": 0.1,
    "use_cache": False,
}
MBART = {**BART, "model_type": "mbart", "decoder_start_token_id": 5, "scale_embedding": True}
MARIAN = {**BART, "model_type": "marian", "pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0,
          "activation_function": "swish", "scale_embedding": True}  # fmt: skip
M2M_100 = {**BART, "model_type": "m2m_100", "activation_function": "relu", "scale_embedding": True}
PEGASUS = {**MARIAN, "model_type": "pegasus", "activation_function": "relu"}
ENCODER_DECODERS = {"T5": T5, "MT5": MT5, "Bart": BART, "MBart": MBART, "Marian": MARIAN, "M2M100": M2M_100,
                    "Pegasus": PEGASUS}  # fmt: skip
READ_BOTH = [config["model_type"] for config in ENCODER_DECODERS.values()]
TRANSFO_XL = {  # its goldens are made by make_transfo_xl, with an older transformers
    "model_type": "transfo-xl",
    "vocab_size": 64,
    "d_model": 32,
    "d_embed": 32,
    "n_layer": 2,
    "n_head": 4,
    "d_head": 8,
    "d_inner": 48,
    "cutoffs": [20, 40],
    "div_val": 2,
    "mem_len": 5,
    "clamp_len": 3,
    "pad_token_id": 0,
}
# One config a family is what its row in tests/families/table.py is about; what varies it stands there.
TINIES = {
    "DistilBert": DISTILBERT,
    "Roberta": ROBERTA,
    "Electra": ELECTRA,
    "Albert": ALBERT,
    "DebertaV2": DEBERTA,
    "ModernBert": MODERNBERT,
}
# model_type -> config and classes of further decoders: their heads are GPT-2's and Llama's, so two of each are enough
KIN = {
    "mistral": (MISTRAL, "MistralModel", "MistralForCausalLM"),
    "qwen2": (QWEN2, "Qwen2Model", "Qwen2ForCausalLM"),
    "qwen3": (QWEN3, "Qwen3Model", "Qwen3ForCausalLM"),
    "gemma": (GEMMA, "GemmaModel", "GemmaForCausalLM"),
    "gemma2": (GEMMA2, "Gemma2Model", "Gemma2ForCausalLM"),
    "gemma3_text": (GEMMA3, "Gemma3TextModel", "Gemma3ForCausalLM"),
    "gpt_neox": (GPT_NEOX, "GPTNeoXModel", "GPTNeoXForCausalLM"),
    "openai-gpt": (OPENAI_GPT, "OpenAIGPTModel", "OpenAIGPTLMHeadModel"),
    "ctrl": (CTRL, "CTRLModel", "CTRLLMHeadModel"),
}
LOOK_BACK = ["gpt2", "llama", *KIN, "transfo-xl"]
LABELS = {str(i): name for i, name in enumerate(("no", "maybe", "yes"))}


def every_head(name: str, config: dict[str, Any]) -> dict[str, tuple[str, Any, Any]]:
    """A case for each head of a family that others have too."""
    family, labelled = config["model_type"], {**config, "id2label": LABELS}
    cases: dict[str, tuple[str, str | None, dict[str, Any]]] = {
        family: (f"{name}Model", None, config),
        f"{family}-classify": (f"{name}ForSequenceClassification", "sequence-classification", labelled),
        f"{family}-tokens": (f"{name}ForTokenClassification", "token-classification", labelled),
        f"{family}-span": (f"{name}ForQuestionAnswering", "question-answering", config),
        f"{family}-words": (f"{name}ForMaskedLM", "masked-lm", config),
        f"{family}-choose": (f"{name}ForMultipleChoice", "multiple-choice", config),
    }
    if name in ("Bert", "Electra", "Albert"):
        cases[f"{family}-pretrain"] = (f"{name}ForPreTraining", "pretraining", config)
    return cases


def every_head_of_older(name: str, config: dict[str, Any], words: str) -> dict[str, tuple[str, Any, Any]]:
    """A case for each head of the families that have question answering twice, and one kind of words by another name."""
    cases, family = every_head(name, config), config["model_type"]
    return {
        **cases,
        f"{family}-span": (f"{name}ForQuestionAnsweringSimple", *cases[f"{family}-span"][1:]),
        f"{family}-beams": (f"{name}ForQuestionAnswering", "question-answering-beam", config),
        f"{family}-words": (words, "masked-lm" if name == "XLM" else "causal-lm", config),
    }


def every_head_of_decoders(name: str, config: dict[str, Any]) -> dict[str, tuple[str, Any, Any]]:
    """A case for each head of a decoder."""
    cases, family = every_head(name, config), config["model_type"]
    words = "GPT2LMHeadModel" if name == "GPT2" else f"{name}ForCausalLM"
    cases[f"{family}-words"] = (words, "causal-lm", config)
    del cases[f"{family}-choose"]
    return cases


def heads_of_encoder_decoders(name: str, config: dict[str, Any]) -> dict[str, tuple[str, Any, Any]]:
    """Cases for an encoder-decoder's states, and its words."""
    return {
        config["model_type"]: (f"{name}Model", None, config),
        f"{config['model_type']}-words": (
            "MarianMTModel" if name == "Marian" else f"{name}ForConditionalGeneration",
            "seq2seq-lm",
            config,
        ),
    }


CASES: dict[str, tuple[str, str | None, dict[str, Any]]] = {  # name -> (class, head, config)
    **every_head("Bert", BERT),
    "bert-other": ("BertModel", None, OTHER),
    "bert-regress": (
        "BertForSequenceClassification",
        "sequence-classification",
        {**BERT, "id2label": {"0": "score"}, "problem_type": "regression"},
    ),
    "bert-multi-label": (
        "BertForSequenceClassification",
        "sequence-classification",
        {**BERT, "id2label": LABELS, "problem_type": "multi_label_classification"},
    ),
    "bert-words-untied": ("BertForMaskedLM", "masked-lm", {**OTHER, "tie_word_embeddings": False}),
    "bert-next": ("BertForNextSentencePrediction", "next-sentence-prediction", BERT),
    **{case: what for name, config in TINIES.items() for case, what in every_head(name, config).items()},
    "xlm-roberta": ("XLMRobertaModel", None, XLM_ROBERTA),  # RoBERTa by another name
    "xlm-roberta-words": ("XLMRobertaForMaskedLM", "masked-lm", XLM_ROBERTA),
    **every_head_of_older("XLM", XLM, "XLMWithLMHeadModel"),
    **every_head_of_older("XLNet", XLNET, "XLNetLMHeadModel"),
    "tapas": ("TapasModel", None, TAPAS),
    "tapas-words": ("TapasForMaskedLM", "masked-lm", TAPAS),
    "tapas-classify": ("TapasForSequenceClassification", "sequence-classification", {**TAPAS, "id2label": LABELS}),
    "tapas-cells": ("TapasForQuestionAnswering", "table-question-answering", TAPAS),
    **every_head_of_decoders("GPT2", GPT2),
    **every_head_of_decoders("Llama", LLAMA),
    **{family: (trunk, None, config) for family, (config, trunk, _) in KIN.items()},
    **{f"{family}-words": (words, "causal-lm", config) for family, (config, _, words) in KIN.items()},
    **{
        case: what
        for name, config in ENCODER_DECODERS.items()
        for case, what in heads_of_encoder_decoders(name, config).items()
    },
    **pixels.CASES,
    **sounds.CASES,
}
NOT_TEXTS = {
    family: module for module in (pixels, sounds) for family in module.FAMILIES
}  # model_type -> whose `sample` it is
PROBED = ("last_hidden_state", "pooler_output", "start_top_log_probs", "end_top_log_probs", "cls_logits",
          "logits_aggregation", "logits", "logits_per_image", "text_embeds", "spectrogram", "waveform")  # fmt: skip
# XLNet's, of targets, which these inputs lack; TAPAS', by which a column is chosen and not how surely, and its pooler where
# there are no operators.
UNLEARNT = ("final_logits_bias", "mask_emb", "transformer.mask_emb", "column_output_weights", "column_output_bias",
            "tapas.pooler.dense.weight", "tapas.pooler.dense.bias", *pixels.FIXED, *sounds.UNLEARNT)  # fmt: skip
STILL = {**pixels.STILL, **sounds.STILL}  # model_type -> parameters that PyTorch teaches and we do not
SHAPES = {"bert-base": ("BertForPreTraining", {"model_type": "bert"})}


def sample(
    config: dict[str, Any], head: str | None, batch: int | None = None, length: int = 7
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Inputs for a head, and what it learns from them."""
    if config["model_type"] in NOT_TEXTS:
        return NOT_TEXTS[config["model_type"]].sample(config, head, batch, length)
    given = inputs(config, head, batch, length)
    return given, labels(config, head, given["attention_mask"])


def inputs(
    config: dict[str, Any], head: str | None, batch: int | None = None, length: int = 7
) -> dict[str, np.ndarray]:
    """A whole text and ragged ones, three unless `batch` says otherwise: ids, mask, token types.

    For multiple choice each text is three, so one is three again: the layers see the shapes of every other head.

    There are ids under the padding too, so that a forgotten mask shows; none is the padding token's, whose embedding
    PyTorch keeps from learning. XLNet's padding is on the left, as its tokenizer puts it: PyTorch summarises a text by
    the last column.
    """
    L = length
    batch = (1 if head == "multiple-choice" else 3) if batch is None else batch
    full = (batch, 3, L) if head == "multiple-choice" else (batch, L)
    types = 3 if config["model_type"] == "xlnet" else config.get("type_vocab_size")
    lengths = np.maximum(L - 2 * np.arange(math.prod(full[:-1])) % L, 1).reshape(full[:-1])
    mask = (np.arange(L) < lengths[..., None]).astype(np.int32)
    if config["model_type"] == "xlnet":
        mask = np.ascontiguousarray(mask[..., ::-1])
    given = {
        "input_ids": integers("input_ids", full, config.get("pad_token_id", 0) + 1, config["vocab_size"]),
        "attention_mask": mask,
        **({"token_type_ids": integers("token_type_ids", full, 0, types)} if types else {}),
        **({"token_type_ids": table_types(config["type_vocab_sizes"], mask)} if "type_vocab_sizes" in config else {}),
        **({"langs": integers("langs", full, 0, config["n_langs"])} if "n_langs" in config else {}),
    }
    if head == "sequence-classification" and config["model_type"] in LOOK_BACK:  # PyTorch knows padding by its id alone
        given["input_ids"] = np.where(mask > 0, given["input_ids"], config["pad_token_id"]).astype(np.int32)
    if config["model_type"] in READ_BOTH:
        given |= decoder_inputs(config, head, given)
    if head == "question-answering-beam":  # left alone, PyTorch finds answers in the padding
        given |= {"p_mask": 1 - mask, "cls_index": integers("cls_index", full[:1], 0, L)}
    return given


def decoder_inputs(config: dict[str, Any], head: str | None, given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What an encoder-decoder's decoder reads, where it is not the encoder's text again (each with one end, by which it is
    classified)."""
    ids, mask = given["input_ids"], given["attention_mask"]
    if head in ("text-encoding", "token-classification"):
        return {}
    if head in ("sequence-classification", "question-answering"):
        end = config["eos_token_id"]
        ids = np.where(ids == end, end + 1, ids)
        last = np.arange(ids.shape[1]) == mask.sum(1, keepdims=True) - 1
        return {"input_ids": np.where(last, end, ids).astype(np.int32)}
    low = max(config["pad_token_id"], config["eos_token_id"]) + 1
    high = config.get("decoder_vocab_size", config["vocab_size"])
    lengths = np.maximum(ids.shape[1] - np.arange(len(ids)) % ids.shape[1], 1)
    return {
        "decoder_input_ids": integers("decoder_input_ids", ids.shape, low, high),
        "decoder_attention_mask": (np.arange(ids.shape[1]) < lengths[:, None]).astype(np.int32),
    }


def table_types(sizes: list[int], mask: np.ndarray) -> np.ndarray:
    """The seven types of a table's tokens, [B, L, 7]. As in a table, what is in no column is in no row; but padding is not of
    one cell with the question, as PyTorch has it whose mean then depends on how much there is."""
    types = np.stack([integers(f"token_type_ids {i}", mask.shape, 0, size) for i, size in enumerate(sizes)], -1)
    real, last = mask > 0, sizes[2] - 1
    types[..., 1] = np.where(real, types[..., 1], 0)
    types[..., 2] = np.where(real, np.where(types[..., 1] > 0, types[..., 2] % last, 0), last)
    return types


def labels(config: dict[str, Any], head: str | None, mask: np.ndarray) -> dict[str, np.ndarray]:
    """What a head learns from, under transformers' names; -100 asks for nothing."""
    B, L = mask.shape[0], mask.shape[-1]
    classes = len(config.get("id2label") or "ab")

    def some(name: str, high: int) -> np.ndarray:
        return np.where(mask * integers(f"{name} asked", (B, L), 0, 2) > 0, integers(name, (B, L), 0, high), -100)

    match head:
        case "sequence-classification" if config.get("problem_type") == "regression":
            return {"labels": draw("labels", (B,) if classes == 1 else (B, classes), 1.0)}
        case "sequence-classification" if config.get("problem_type") == "multi_label_classification":
            return {"labels": integers("labels", (B, classes), 0, 2).astype(np.float32)}
        case "sequence-classification":
            return {"labels": integers("labels", (B,), 0, classes)}
        case "token-classification":
            return {"labels": some("labels", classes)}
        case "question-answering":  # the last answer was cut off: a position beyond the text asks for nothing
            start, end = (np.minimum(integers(name, (B,), 0, L), mask.sum(-1) - 1) for name in ("start", "end"))
            start[-1] = end[-1] = L
            return {"start_positions": start, "end_positions": end}
        case "seq2seq-lm":
            return {"labels": some("labels", config.get("decoder_vocab_size", config["vocab_size"]))}
        case "masked-lm" | "causal-lm":  # of XLNet a word is predicted where it stands, of decoders one place before
            return {"labels": some("labels", config["vocab_size"])}
        case "next-sentence-prediction":
            return {"labels": integers("labels", (B,), 0, 2)}
        case "pretraining" if config["model_type"] == "electra":
            return {"labels": np.where(mask > 0, integers("labels", (B, L), 0, 2), -100)}
        case "pretraining" if config["model_type"] == "albert":
            words = some("labels", config["vocab_size"])
            return {"labels": words, "sentence_order_label": integers("order", (B,), 0, classes)}
        case "pretraining":
            return {"labels": some("labels", config["vocab_size"]), "next_sentence_label": integers("next", (B,), 0, 2)}
        case "multiple-choice":
            return {"labels": integers("labels", (B,), 0, mask.shape[1])}
        case _:
            return {}


def torch_model(architecture: str, config: dict[str, Any]) -> Any:
    """transformers' model of that class, in evaluation mode, its weights drawn from their names."""
    import torch
    import transformers

    labels = {int(i): name for i, name in config.get("id2label", {0: "LABEL_0", 1: "LABEL_1"}).items()}
    settings = {**config, "id2label": labels, "label2id": {name: i for i, name in labels.items()}}
    model = getattr(transformers, architecture)._from_config(
        transformers.AutoConfig.for_model(**settings), attn_implementation="eager"
    )
    if getattr(model, "lm_head", None) is not None and words_apart(config):
        model.lm_head.weight = torch.nn.Parameter(torch.empty_like(model.lm_head.weight))
        model.all_tied_weights_keys.pop("lm_head.weight")
    files = {name: draw(name, tuple(p.shape)) for name, p in as_in_file(model, parameters_of(model)).items()}
    if files.keys() == parameters_of(model).keys():
        with torch.no_grad():
            for name, parameter in parameters_of(model).items():
                parameter.copy_(torch.from_numpy(files[name]))
        return model.eval()
    from safetensors.numpy import save_file  # where its names are others than the file's, it reads a file

    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        save_file(files, f"{folder}/model.safetensors", metadata={"format": "pt"})
        return type(model).from_pretrained(folder, attn_implementation="eager").eval()


def as_in_file(model: Any, named: dict[str, Any]) -> dict[str, Any]:
    """Tensors of a model's parameters under the names, and in the shapes, in which they are saved (of texts: the same)."""
    if model.config.model_type not in NOT_TEXTS:
        return named
    from transformers.core_model_loading import revert_weight_conversion

    found = revert_weight_conversion(model, named)
    return {name.replace(*pixels.MISNAMED): tensor for name, tensor in found.items()}


def words_apart(config: dict[str, Any]) -> bool:
    """Whether T5's words and its output have two tables. PyTorch ties them in a new model, and unties them where a file holds
    two, as every published one of this kind does."""
    return config["model_type"] == "mt5" or (
        config["model_type"] == "t5" and not config.get("tie_word_embeddings", True)
    )


def parameters_of(model: Any) -> dict[str, Any]:
    """Every parameter once: one that is tied to another under the other's name, as it is saved. And a bias of the logits that
    is none to PyTorch, for nothing learns it; but not the tables of positions that are fixed."""
    repeated = set(model.all_tied_weights_keys)
    found = {name: p for name, p in model.named_parameters(remove_duplicate=False) if name not in repeated}
    kept = ("final_logits_bias", "running_mean", "running_var")
    found |= {name: b for name, b in model.named_buffers() if name.endswith(kept) or name in sounds.BUFFERS}
    return {
        name: p
        for name, p in found.items()
        if p.requires_grad or name == "final_logits_bias" or model.config.model_type in NOT_TEXTS
    }


def torch_results(model: Any, inputs: dict[str, np.ndarray], labels: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Every output, the loss, and its gradient in every parameter, flat. A model without a loss of its own gets one:
    its last hidden states (or what it found by beams, or how likely cells are the answer), weighted by numbers drawn by
    name."""
    import torch

    def tensor(array: np.ndarray, name: str = "") -> Any:
        kind = np.float32 if array.dtype == np.float32 else np.bool_ if name.startswith("bool_") else np.int64
        array = np.moveaxis(array, -1, 1) if name == "pixel_values" else array
        return torch.from_numpy(np.ascontiguousarray(array, kind))

    def channels_last(key: str, value: Any) -> Any:
        """PyTorch's images and maps of features have their channels first, ours last."""
        if isinstance(value, tuple):
            return tuple(channels_last(key, each) for each in value)
        return value.movedim(1, -1) if value.ndim == 4 and "attentions" not in key else value

    model.zero_grad()
    given = sounds.as_pytorch(type(model).__name__, inputs | labels)
    named = {name: tensor(array, name) for name, array in given.items()}
    if model.config.model_type == "beit" and "bool_masked_pos" in named and "labels" in named:
        named["labels"] = named["labels"][named["bool_masked_pos"]]
    output = sounds.by_name(sounds.without_drops(model)(**named, output_hidden_states=True, output_attentions=True))
    if "pixel_values" in inputs:  # towers have outputs of their own
        output = {
            key: channels_last(key, value)
            for key, value in output.items()
            if value is not None and "model_output" not in key
        }
    loss = output.get("loss")
    if loss is None:
        states = (output[key].sigmoid() if key == "logits" else output[key] for key in PROBED if key in output)
        loss = sum((state * tensor(draw(f"probe {state.ndim}", tuple(state.shape), 1.0))).mean() for state in states)
    loss.backward()
    found = {"loss": loss}
    for key, value in output.items():
        found |= {} if key in sounds.PARTS_OF_LOSS else spread(key, value)
    for name, parameter in parameters_of(model).items():
        unlearnt = name in UNLEARNT or name.endswith(("running_mean", "running_var"))
        if (parameter.grad is None and unlearnt) or name in STILL.get(model.config.model_type, ()):
            parameter.grad = torch.zeros_like(parameter)
    gradients = {name: p.grad for name, p in parameters_of(model).items() if p.grad is not None}
    found |= {f"gradient {name}": gradient for name, gradient in as_in_file(model, gradients).items()}
    return {key: value.detach().numpy() for key, value in found.items()}


def spread(name: str, value: Any) -> dict[str, Any]:
    """An array by its name; those of a tuple, and of tuples in it, by theirs: `hidden_states.0`, `attentions.0.1`."""
    if not isinstance(value, tuple):
        return {name: value}
    return {inner: array for n, each in enumerate(value) for inner, array in spread(f"{name}.{n}", each).items()}


def kept(name: str, array: np.ndarray) -> Any:
    """What is stored of a result: all of a small one, of a large one or a gradient its norm and its product with a
    random direction drawn from its name."""
    if array.size <= WHOLE and not name.startswith("gradient"):
        return _short(array)
    array = array.astype(np.float64)
    return _short(np.array([np.linalg.norm(array), (array * draw(f"probe {name}", array.shape, 1.0)).sum()]))


def golden(architecture: str, head: str | None, config: dict[str, Any]) -> dict[str, Any]:
    """One case: config, inputs, the shape of each tensor, and what came out."""
    model = torch_model(architecture, config)
    given, wanted = sample(config, head)
    return {
        "head": head,
        "config": config,
        "shapes": {name: list(p.shape) for name, p in as_in_file(model, parameters_of(model)).items()},
        "inputs": {name: array.tolist() for name, array in given.items()},
        "labels": {name: _short(array) for name, array in wanted.items()},
        "results": {name: kept(name, array) for name, array in torch_results(model, given, wanted).items()},
    }


def shapes(architecture: str, config: dict[str, Any]) -> dict[str, list[int]]:
    """Name and shape of every parameter of a published size, without its memory."""
    import torch
    import transformers

    with torch.device("meta"):
        model = getattr(transformers, architecture)(transformers.AutoConfig.for_model(**config))
    return {name: list(parameter.shape) for name, parameter in parameters_of(model).items()}


def _short(array: np.ndarray) -> Any:
    """Nested lists of numbers cut to eight significant digits, which is all a float32 has."""
    if array.ndim:
        return [_short(part) for part in array]
    return int(array) if array.dtype.kind == "i" else float(f"{array:.8g}")


def main() -> None:
    for family in set(sys.argv[1:]) or {config["model_type"] for _, _, config in CASES.values()}:
        cases = {name: golden(*case) for name, case in CASES.items() if case[2]["model_type"] == family}
        lines = ",\n".join(
            f"{json.dumps(name)}: {json.dumps(case, separators=(',', ':'))}" for name, case in cases.items()
        )
        (HERE / f"{family}.json").write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")
    for name, size in SHAPES.items():
        lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(shape)}" for key, shape in shapes(*size).items())
        (HERE / f"{name}.shapes.json").write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
