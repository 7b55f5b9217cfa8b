"""A config.json is read strictly: every key is known, ignored for a reason, or refused in one sentence that names it."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxformers as jf
from jaxformers.errors import ConfigError, InputError
from jaxformers.families import MODULES, config, family_for
from jaxformers.families.bert import BertConfig, config_from_hf, config_to_hf
from tests.families.table import (
    ALBERT,
    BERT,
    CTRL,
    DEBERTA,
    DISTILBERT,
    ELECTRA,
    GEMMA2,
    GEMMA3,
    GPT2,
    GPT_NEOX,
    LLAMA,
    MISTRAL,
    MODERNBERT,
    OPENAI_GPT,
    QWEN2,
    ROBERTA,
    ROWS,
    TRANSFO_XL,
    XLM,
    XLNET,
    name_of,
)

each_row = pytest.mark.parametrize("row", ROWS, ids=name_of)
HUGE = 10**400


def refused(changes, words, row=BERT):
    with pytest.raises(ConfigError) as caught:
        family_for(row.family).config_from_hf(row.config | changes, "config.json")
    sentence = str(caught.value)
    assert all(word in sentence for word in ("config.json", *words)), sentence
    assert "\n" not in sentence
    assert len(sentence) < 400
    return sentence


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hidden_size": "32"}, ["hidden_size must be int", "'32'"]),
        ({"hidden_size": 32.0}, ["hidden_size must be int", "32.0"]),
        ({"hidden_size": True}, ["hidden_size must be int", "True"]),
        ({"hidden_size": [32]}, ["hidden_size must be int"]),
        ({"hidden_size": 0}, ["hidden_size must be at least 1"]),
        ({"hidden_size": -32}, ["hidden_size must be at least 1"]),
        ({"hidden_size": HUGE}, ["hidden_size must fit into 64 bits"]),
        ({"num_hidden_layers": 0}, ["num_hidden_layers must be at least 1"]),
        ({"vocab_size": {}}, ["vocab_size must be int"]),
        ({"num_attention_heads": 5}, ["hidden_size 32 does not divide into 5 heads"]),
        ({"hidden_dropout_prob": 1.5}, ["hidden_dropout_prob must be at least 0 and below 1"]),
        ({"attention_probs_dropout_prob": -0.1}, ["attention_probs_dropout_prob must be at least 0"]),
        ({"classifier_dropout": 1}, ["classifier_dropout must be at least 0 and below 1"]),
        ({"something_new": list(range(10**5))}, ["unknown key 'something_new' = [0, 1, 2,"]),
        ({"hidden_dropout_prob": HUGE}, ["hidden_dropout_prob must fit into 64 bits"]),
        ({"layer_norm_eps": "small"}, ["layer_norm_eps must be float"]),
        ({"layer_norm_eps": -1}, ["layer_norm_eps must not be negative"]),
        ({"initializer_range": -1}, ["initializer_range must not be negative"]),
        ({"tie_word_embeddings": 1}, ["tie_word_embeddings must be bool"]),
        ({"hidden_act": "gelu2"}, ["unknown hidden_act 'gelu2'", "gelu_new"]),
        ({"hidden_act": ["gelu"]}, ["hidden_act must be str"]),
        ({"is_decoder": True}, ["is_decoder=True", "decoder"]),
        ({"position_embedding_type": "relative_key"}, ["position_embedding_type='relative_key'", "absolute"]),
        ({"problem_type": "regresion"}, ["problem_type must be one of", "'regresion'"]),
        ({"problem_type": ["regression"]}, ["problem_type must be one of"]),
        ({"num_labels": "3"}, ["num_labels must be a whole number from 1", "'3'"]),
        ({"num_labels": 0}, ["num_labels must be a whole number from 1"]),
        ({"num_labels": -1}, ["num_labels must be a whole number from 1"]),
        ({"num_labels": True}, ["num_labels must be a whole number from 1"]),
        ({"num_labels": 10**9}, ["num_labels must be a whole number from 1 to"]),
        ({"id2label": ["a"]}, ["id2label must be an object", "list"]),
        ({"id2label": {}}, ["id2label must name the ids 0 to n-1"]),
        ({"id2label": {"0": "a", "2": "b"}}, ["id2label must name the ids 0 to n-1", "[0, 2]"]),
        ({"id2label": {"0": "a", "00": "b"}}, ["id2label must name the ids 0 to n-1"]),
        ({"id2label": {"x": "a"}}, ["id2label must have whole numbers", "'x'"]),
        ({"id2label": {"0": None}}, ["id2label must have texts as names", "None"]),
        ({"id2label": {"0": ["a"]}}, ["id2label must have texts as names"]),
        ({"label2id": [1]}, ["label2id must be an object"]),
        ({"label2id": {"a": [0]}}, ["label2id must have whole numbers"]),
        ({"label2id": {"a": 0.5}}, ["label2id must have whole numbers"]),
        ({"label2id": {"a": 0, "b": 0}}, ["label2id must name the ids 0 to n-1"]),
        ({"hiden_size": 64}, ["unknown key 'hiden_size' = 64", "did you mean 'hidden_size'?"]),
        ({"num_label": 3}, ["unknown key 'num_label'", "did you mean 'num_labels'?"]),
        ({"pruned_heads": {"0": [1]}}, ["unknown key 'pruned_heads'"]),
        ({"adapters": {"adapters": {"x": 1}}}, ["unknown key 'adapters'"]),
        ({"quantization_config": {"bits": 4}}, ["unknown key 'quantization_config'"]),
    ],
    ids=lambda value: json.dumps(value)[:50] if isinstance(value, dict) else "",
)
def test_what_cannot_be_read_is_one_sentence(changes, words):
    refused(changes, words)


ROPE = {"rope_type": "default", "rope_theta": 5.0}


@pytest.mark.parametrize(
    ("row", "changes", "words"),
    [
        (DISTILBERT, {"dim": "32"}, ["dim must be int", "'32'"]),
        (DISTILBERT, {"hidden_size": 32}, ["unknown key 'hidden_size' = 32"]),
        (DISTILBERT, {"qa_dropout": 2}, ["qa_dropout must be at least 0 and below 1"]),
        (ROBERTA, {"is_decoder": True}, ["is_decoder=True", "decoder"]),
        (ROBERTA, {"type_vocab_size": 0}, ["type_vocab_size must be at least 1"]),
        (ELECTRA, {"embedding_size": 0}, ["embedding_size must be at least 1"]),
        (ELECTRA, {"summary_type": "attn"}, ["unknown summary_type 'attn'", "first"]),
        (ELECTRA, {"summary_activation": "gelu2"}, ["unknown summary_activation 'gelu2'"]),
        (ALBERT, {"num_hidden_groups": 4}, ["num_hidden_groups must not exceed", "4 groups, 3 layers"]),
        (ALBERT, {"inner_group_num": 0}, ["inner_group_num must be at least 1"]),
        (DEBERTA, {"pos_att_type": "c2p|p2p"}, ["pos_att_type must be of 'c2p' and 'p2c'", "p2p"]),
        (DEBERTA, {"pos_att_type": [1]}, ["pos_att_type must be a list of texts"]),
        (DEBERTA, {"norm_rel_ebd": "rms"}, ["norm_rel_ebd must be 'none' or 'layer_norm'", "'rms'"]),
        (DEBERTA, {"position_buckets": 64}, ["position_buckets must be below 1, or", "64"]),
        (DEBERTA, {"position_buckets": 3}, ["position_buckets must be below 1, or", "3"]),
        (DEBERTA, {"attention_head_size": 64}, ["attention_head_size must be hidden_size over heads, found 64"]),
        (DEBERTA, {"pooler_hidden_size": 64}, ["pooler_hidden_size must be hidden_size, found 64"]),
        (DEBERTA, {"conv_kernel_size": 2}, ["conv_kernel_size must be odd"]),
        (DEBERTA, {"conv_kernel_size": -1}, ["must not be negative"]),
        (DEBERTA, {"legacy": False, "embedding_size": 16}, ["legacy=False needs an embedding_size"]),
        (DEBERTA, {"num_attention_heads": 0}, ["num_attention_heads must be at least 1"]),
        (MODERNBERT, {"layer_types": ["full_attention"]}, ["layer_types must say", "each of 2 layers"]),
        (MODERNBERT, {"layer_types": ["full_attention", "other"]}, ["layer_types must say", "other"]),
        (MODERNBERT, {"classifier_pooling": "max"}, ["classifier_pooling must be 'cls' or 'mean'", "'max'"]),
        (MODERNBERT, {"rope_parameters": [1]}, ["rope_parameters must hold an object"]),
        (MODERNBERT, {"rope_parameters": {"full_attention": {**ROPE, "rope_type": "yarn"}}}, ["only plain rotations"]),
        (MODERNBERT, {"rope_parameters": {"full_attention": {**ROPE, "factor": 2.0}}}, ["only plain rotations"]),
        (
            MODERNBERT,
            {"rope_parameters": {"full_attention": {**ROPE, "rope_theta": "x"}}},
            ["global_rope_theta must be"],
        ),
        (
            MODERNBERT,
            {"rope_parameters": {"full_attention": ROPE}, "global_rope_theta": 6.0},
            ["global_rope_theta=6.0"],
        ),
        (XLM, {"asm": True}, ["asm=True (the adaptive softmax) is not supported"]),
        (XLM, {"is_encoder": False}, ["is_encoder=False (the decoder) is not supported"]),
        (XLM, {"summary_use_proj": False}, ["summary_use_proj=False", "not supported"]),
        (XLM, {"summary_proj_to_labels": False}, ["summary_proj_to_labels=False", "not supported"]),
        (XLM, {"summary_type": "attn"}, ["unknown summary_type 'attn'", "first"]),
        (XLM, {"summary_activation": "gelu2"}, ["unknown summary_activation 'gelu2'"]),
        (XLM, {"emb_dim": 30}, ["hidden_size 30 does not divide into 4 heads"]),
        (XLM, {"n_langs": 0}, ["n_langs must be at least 1"]),
        (XLM, {"embed_init_std": -1}, ["embed_init_std must not be negative"]),
        (XLM, {"intermediate_size": 128}, ["unknown key 'intermediate_size' = 128"]),
        (XLNET, {"attn_type": "uni"}, ["attn_type='uni' (looking back only", "only 'bi' is"]),
        (XLNET, {"bi_data": True}, ["bi_data=True (half of a batch read backwards)"]),
        (XLNET, {"untie_r": False}, ["untie_r=False (biases"]),
        (XLNET, {"d_head": 16}, ["d_head must be d_model over n_head, found 16"]),
        (XLNET, {"n_head": 0}, ["num_attention_heads must be at least 1"]),
        (XLNET, {"summary_type": "attn"}, ["unknown summary_type 'attn'", "last"]),
        (XLNET, {"start_n_top": 0}, ["start_n_top must be at least 1"]),
        (XLNET, {"hidden_size": 32}, ["unknown key 'hidden_size' = 32"]),
        (GPT2, {"hidden_size": 32}, ["unknown key 'hidden_size' = 32"]),
        (GPT2, {"n_inner": 0}, ["intermediate_size must be at least 1"]),
        (GPT2, {"n_head": 5}, ["hidden_size 32 does not divide into 5 heads"]),
        (GPT2, {"add_cross_attention": True}, ["add_cross_attention=True (cross-attention) is not supported"]),
        (GPT_NEOX, {"rotary_pct": 0.0}, ["rotary_pct must leave pairs of a head's 8 numbers to turn", "0.0"]),
        (GPT_NEOX, {"rotary_pct": 0.4}, ["rotary_pct must leave pairs", "0.4"]),
        (GPT_NEOX, {"rotary_emb_base": -1.0}, ["rotary_emb_base must be above 0"]),
        (GPT_NEOX, {"rope_scaling": {"type": "linear", "factor": 2.0}}, ["unknown key 'rope_scaling'"]),
        (GPT_NEOX, {"rope_parameters": {"rope_type": "linear", "factor": 2.0}}, ["only plain rotations"]),
        (GPT_NEOX, {"rope_parameters": ROPE, "rotary_emb_base": 6.0}, ["rotary_emb_base=6.0", "5.0"]),
        (OPENAI_GPT, {"afn": "gelu_new"}, ["unknown afn 'gelu_new'", "gelu, relu"]),
        (OPENAI_GPT, {"n_inner": 48}, ["unknown key 'n_inner' = 48"]),
        (CTRL, {"dff": 0}, ["intermediate_size must be at least 1"]),
        (CTRL, {"n_head": 5}, ["hidden_size 32 does not divide into 5 heads"]),
        (TRANSFO_XL, {"div_val": 1}, ["div_val must be at least 2", "found 1"]),
        (TRANSFO_XL, {"cutoffs": [20, 20]}, ["cutoffs must rise from above 0 to below vocab_size 64", "(20, 20)"]),
        (TRANSFO_XL, {"cutoffs": [20, 64]}, ["cutoffs must rise"]),
        (TRANSFO_XL, {"cutoffs": "20"}, ["cutoffs must be a list of whole numbers"]),
        (TRANSFO_XL, {"div_val": 8}, ["d_embed 32 is too narrow for 3 groups of words"]),
        (TRANSFO_XL, {"mem_len": 0}, ["mem_len must be at least 1"]),
        (TRANSFO_XL, {"pre_lnorm": True}, ["pre_lnorm=True (norms before"]),
        (TRANSFO_XL, {"same_length": False}, ["same_length=False"]),
        (TRANSFO_XL, {"untie_r": False}, ["untie_r=False"]),
        (TRANSFO_XL, {"tie_projs": [False, False, True]}, ["tie_projs=[False, False, True] is not supported"]),
        (LLAMA, {"num_key_value_heads": 3}, ["4 heads cannot share 3 heads of keys"]),
        (LLAMA, {"num_key_value_heads": 0}, ["num_key_value_heads must be at least 1"]),
        (LLAMA, {"head_dim": 3}, ["head_dim must be even", "3"]),
        (LLAMA, {"rope_scaling": [1]}, ["rope_scaling must be an object"]),
        (LLAMA, {"rope_scaling": {"type": "yarn", "factor": 2.0}}, ["rope_scaling has the rope_type 'yarn'", "llama3"]),
        (LLAMA, {"rope_scaling": {"type": "linear"}}, ["rope_scaling lacks factor"]),
        (LLAMA, {"rope_scaling": {"type": "linear", "factor": -1.0}}, ["rope_parameters must be positive"]),
        (LLAMA, {"rope_parameters": {"rope_type": "default", "faktor": 2.0}}, ["rope_parameters holds 'faktor' = 2.0"]),
        (LLAMA, {"rope_parameters": ROPE, "rope_theta": 6.0}, ["rope_theta=6.0", "5.0"]),
        (LLAMA, {"sliding_window": 4}, ["unknown key 'sliding_window' = 4"]),
        (MISTRAL, {"sliding_window": -1}, ["sliding_window must not be negative"]),
        (QWEN2, {"layer_types": ["full_attention"]}, ["layer_types must say", "each of 2 layers"]),
        (GEMMA2, {"sliding_window": None}, ["layer_types name 'sliding_attention'", "needs a sliding_window"]),
        (GEMMA2, {"attn_logit_softcapping": -1.0}, ["attn_logit_softcapping must not be negative"]),
        (GEMMA2, {"use_bidirectional_attention": True}, ["use_bidirectional_attention=True (looking ahead)"]),
        (GEMMA3, {"attn_logit_softcapping": 5.0}, ["unknown key 'attn_logit_softcapping' = 5.0"]),
        (GEMMA3, {"sliding_window_pattern": 0}, ["sliding_window_pattern must be above 0"]),
        (GEMMA3, {"rope_parameters": [1]}, ["rope_parameters must hold an object a kind of layer"]),
        (GEMMA3, {"rope_parameters": {"full_attention": ROPE, "other": ROPE}}, ["only plain rotations of near tokens"]),
        (
            GEMMA3,
            {"rope_parameters": {"sliding_attention": {"rope_type": "linear", "factor": 2.0}}},
            ["only plain rotations of near tokens"],
        ),
        (
            GEMMA3,
            {"rope_parameters": {"sliding_attention": ROPE}, "rope_local_base_freq": 6.0},
            ["rope_local_base_freq=6.0 and rope_parameters (5.0) differ"],
        ),
    ],
    ids=lambda value: json.dumps(value)[:60] if isinstance(value, dict) else name_of(value) or "",
)
def test_what_a_family_cannot_read_is_one_sentence(row, changes, words):
    refused(changes, words, row)


def test_rotations_are_read_from_older_and_newer_files():
    read = family_for("modernbert").config_from_hf
    old = read(MODERNBERT.config | {"global_rope_theta": 5.0}, "")
    assert old == read(MODERNBERT.config | {"rope_parameters": {"full_attention": ROPE}}, "")
    assert (old.global_rope_theta, old.local_rope_theta) == (5.0, 10_000.0)
    written = family_for("modernbert").config_to_hf(old, "ModernBertModel")
    assert written["rope_parameters"]["full_attention"] == ROPE
    assert read(written, "") == old


def test_rotations_of_llama_are_read_from_older_and_newer_files():
    read = family_for("llama").config_from_hf
    long = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
    old = read(LLAMA.config | {"rope_theta": 5.0, "rope_scaling": {"rope_type": "llama3", **long}}, "")
    new = {"rope_parameters": {"rope_theta": 5.0, "rope_type": "llama3", **long}}
    assert old == read(LLAMA.config | new, "")
    assert (old.rope_theta, old.rope_type, old.rope_factor, old.rope_length) == (5.0, "llama3", 8.0, 64)
    written = family_for("llama").config_to_hf(old, "LlamaModel")
    assert written["rope_parameters"] == new["rope_parameters"]
    assert "rope_scaling" not in written
    assert read(written, "") == old


def test_rotations_of_gemma_3_are_read_from_older_and_newer_files():
    family = family_for("gemma3_text")
    raw = {key: value for key, value in GEMMA3.config.items() if key != "rope_parameters"}
    long = {"rope_type": "linear", "factor": 8.0}
    old = {"rope_theta": 5.0, "rope_local_base_freq": 7.0, "rope_scaling": long}
    near = {"rope_type": "default", "rope_theta": 7.0}
    new = {"rope_parameters": {"full_attention": {"rope_theta": 5.0, **long}, "sliding_attention": near}}
    read = family.config_from_hf(raw | old, "")
    assert read == family.config_from_hf(raw | new, "")
    assert (read.rope_theta, read.rope_type, read.rope_factor, read.rope_local_base_freq) == (5.0, "linear", 8.0, 7.0)
    assert family.config_to_hf(read, "Some")["rope_parameters"] == new["rope_parameters"]


def test_no_window_is_null():
    read, write = family_for("mistral").config_from_hf, family_for("mistral").config_to_hf
    none = read(MISTRAL.config | {"sliding_window": None}, "")
    assert none.layer_types == ("full_attention",) * 2
    assert write(none, "MistralModel")["sliding_window"] is None
    assert read(MISTRAL.config, "").layer_types == ("sliding_attention",) * 2


def test_distances_are_read_as_a_list_and_as_one_text():
    read = family_for("deberta-v2").config_from_hf
    assert read(DEBERTA.config, "") == read(DEBERTA.config | {"pos_att_type": ["p2c", "c2p"]}, "")


@pytest.mark.parametrize(
    ("row", "old"), [(XLM, {"n_words": 80, "pad_index": 7}), (XLNET, {"n_token": 80})], ids=lambda value: name_of(value)
)
def test_older_names_of_keys(row, old):
    """Alone they are read, beside the present name they are not, and they are not written."""
    family = family_for(row.family)
    now = {"n_words": "vocab_size", "pad_index": "pad_token_id", "n_token": "vocab_size"}
    without = {key: value for key, value in row.config.items() if key not in map(now.get, old)}
    read = family.config_from_hf(without | old, "")
    assert read == family.config_from_hf(without | {now[key]: value for key, value in old.items()}, "")
    assert read.vocab_size == 80
    assert family.config_from_hf(row.config | old, "") == family.config_from_hf(row.config, "")
    assert not {*old} & {*family.config_to_hf(read, "Some")}


@each_row
@pytest.mark.parametrize("value", [None, False, "", [], {}])
def test_an_unknown_key_that_asks_for_nothing_is_ignored(row, value):
    read = family_for(row.family).config_from_hf
    assert read(row.config | {"something_new": value}, "") == read(row.config, "")


@each_row
def test_a_private_key_is_ignored_and_any_other_is_refused(row):
    read = family_for(row.family).config_from_hf
    assert read(row.config | {"_attn_implementation_internal": "some/code"}, "") == read(row.config, "")
    refused({"something_new": 3}, ["unknown key 'something_new' = 3"], row)


@each_row
def test_every_key_that_is_ignored_says_why(row):
    assert all(isinstance(why, str) and why for why in config.IGNORED.values())
    read = family_for(row.family).config_from_hf
    ignored = config.IGNORED.keys() - family_for(row.family).config_keys.keys()  # TAPAS' temperature is no generation's
    assert read(row.config | dict.fromkeys(ignored, "anything"), "") == read(row.config, "")


def test_custom_code_is_named_and_never_run(caplog):
    code = {"auto_map": {"AutoModel": "modeling.Evil"}}
    assert config_from_hf(BERT.config | code, "x/config.json") == config_from_hf(BERT.config)
    assert caplog.messages == ["x/config.json names custom code (auto_map); it is never run"]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
KEYS = [
    *BERT.config,
    "num_labels",
    "id2label",
    "label2id",
    "problem_type",
    "hidden_act",
    "layer_norm_eps",
    "is_decoder",
]


@settings(max_examples=400, deadline=None)
@given(st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=8), json_values, max_size=4))
def test_anything_is_a_config_or_a_sentence(changes):
    """Never another error, and never a config that cannot be hashed or written."""
    raw = BERT.config | changes
    try:
        read = config_from_hf(raw)
    except ConfigError:
        refused(changes, [])
    else:
        hash(read)
        assert config_from_hf(json.loads(json.dumps(config_to_hf(read, "BertModel")))) == read


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ({"model_type": "brt"}, ["'brt'", "did you mean 'bert'?", "supported: "]),
        ({"model_type": 3}, ["unknown model_type 3"]),
        ({"model_type": ["bert"]}, ["unknown model_type ['bert']"]),
        ({}, ["has no model_type", "supported: albert, audio-spectrogram-transformer, bart"]),
    ],
)
def test_a_family_that_is_not_there(raw, words, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(raw))
    for source in (raw, tmp_path):
        with pytest.raises(ConfigError) as caught:
            jf.load(source)
        assert all(word in str(caught.value) for word in words)
    assert "config.json" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{", ["config.json line 1 is not JSON"]),
        (b"[]", ["config.json holds a list"]),
        (b"\xff{}", ["config.json is not UTF-8"]),
        (b'{"hidden_size": NaN}', ["config.json holds the number NaN"]),
        (b'{"a": ' * 100 + b"1" + b"}" * 100, ["config.json is nested deeper"]),
        (b'{"hidden_size": ' + b"1" * 5000 + b"}", ["config.json holds a number that is too long"]),
    ],
)
def test_a_file_that_is_no_config(content, words, tmp_path):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ConfigError, match=words[0]):
        jf.load(tmp_path)


def test_a_byte_order_mark_is_no_matter(tmp_path):
    (tmp_path / "config.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(BERT.config | {"hidden_size": 0}).encode())
    with pytest.raises(ConfigError, match=f"{tmp_path}: config.json: hidden_size must be at least 1"):
        jf.load(tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_size": 10**9, "num_attention_heads": 10},
        {"num_hidden_layers": 10**9},
        {"vocab_size": 10**12},
        dict.fromkeys(("hidden_size", "intermediate_size", "vocab_size"), 2**62),
    ],
)
def test_a_model_larger_than_the_machine_is_refused_before_memory_is_taken(changes, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(BERT.config | changes))
    (tmp_path / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    for source in (BERT.config | changes, tmp_path):
        with pytest.raises(InputError, match=r"the parameters need [\d,.]+ GB as float32, this machine has [\d,.]+ GB"):
            jf.load(source)


# -- overrides ---------------------------------------------------------------------------------------------------------


def overridden(raw=BERT.config, **overrides):
    family = family_for("bert")
    return family.config_from_hf(config.merge_overrides(raw, overrides, family.config_keys), "config.json")


NAMED = BERT.config | {"id2label": {"0": "no", "1": "yes"}, "label2id": {"no": 0, "yes": 1}}


def test_overrides_are_written_over_the_file():
    changed = overridden(NAMED, hidden_act="relu", num_hidden_layers=1)
    assert changed == dataclasses.replace(config_from_hf(NAMED), hidden_act="relu", num_hidden_layers=1)


def test_the_number_of_labels():
    assert overridden(NAMED, num_labels=3).labels == ("LABEL_0", "LABEL_1", "LABEL_2")
    assert overridden(NAMED, num_labels=2).labels == ("no", "yes")
    assert overridden(num_labels=1).labels == ("LABEL_0",)
    assert overridden(NAMED, id2label={0: "a", 1: "b", 2: "c"}).label2id == {"a": 0, "b": 1, "c": 2}
    assert overridden(NAMED, label2id={"b": 1, "a": 0, "c": 2}).labels == ("a", "b", "c")
    assert overridden(NAMED, problem_type="regression").problem_type == "regression"


def test_labels_come_from_whichever_key_is_there():
    read = lambda **raw: config_from_hf(BERT.config | raw).labels  # noqa: E731
    assert read() == read(num_labels=None) == ("LABEL_0", "LABEL_1")
    assert read(num_labels=3) == ("LABEL_0", "LABEL_1", "LABEL_2")
    assert read(label2id={"b": 1, "a": 0}) == ("a", "b")
    assert read(id2label={str(i): f"{i}" for i in range(12)}) == tuple(f"{i}" for i in range(12))
    assert read(id2label={"1": "b", "0": "a"}, label2id={"other": 0}) == ("a", "b")


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"num_lables": 3}, "unknown override 'num_lables'; did you mean 'num_labels'"),
        ({"zzz": 3}, "unknown override 'zzz'"),
        ({"num_labels": 0}, "num_labels must be a whole number from 1"),
        ({"num_labels": "3"}, "num_labels must be a whole number from 1"),
        ({"hidden_size": "3"}, "hidden_size must be int"),
    ],
)
def test_an_override_that_cannot_be(overrides, words):
    with pytest.raises(ConfigError, match=words):
        jf.load(BERT.config, **overrides)


# -- what a config is --------------------------------------------------------------------------------------------------


@each_row
def test_it_is_a_static_argument_of_jit(row):
    read = lambda **raw: family_for(row.family).config_from_hf({**row.config, **raw}, "")  # noqa: E731
    traces = []

    @jax.jit(static_argnames="config")
    def times(x, config):
        traces.append(config)
        return x * config.num_labels

    assert times(jnp.ones(()), config=read(num_labels=2)) == 2
    assert times(jnp.ones(()), config=read(num_labels=2, _comment="read from elsewhere")) == 2
    assert times(jnp.ones(()), config=read(num_labels=3)) == 3
    assert len(traces) == 2
    assert len({read(), read(_comment="read from elsewhere"), read(id2label={"0": "a", "1": "b"})}) == 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        read().labels = ()


@each_row
def test_writing_and_reading_give_the_same(row):
    family = family_for(row.family)
    for changes in ({}, {"num_labels": 3}, {"id2label": {"0": "a"}, "problem_type": "regression"}):
        read = family.config_from_hf({**row.config, **changes}, "")
        written = family.config_to_hf(read, "Some")
        assert family.config_from_hf(json.loads(json.dumps(written)), "") == read
        assert written["model_type"] == row.family
        assert written["architectures"] == ["Some"]
        assert {*written} >= {*family.config_keys}


def test_writing_keeps_what_the_file_said_besides():
    raw = BERT.config | {"directionality": "bidi", "finetuning_task": "mrpc", "torch_dtype": "float16", "num_labels": 3}
    written = config_to_hf(config_from_hf(raw).replace(problem_type="regression"), "BertModel")
    assert written["directionality"] == "bidi"
    assert written["finetuning_task"] == "mrpc"
    assert written["problem_type"] == "regression"
    assert written["id2label"] == {"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"}
    assert not {"torch_dtype", "num_labels"} & {*written}
    again = config_to_hf(config_from_hf(written).replace(problem_type=None), "BertModel")
    assert again.get("problem_type") is None


def test_the_defaults_are_bert_base():
    assert config_from_hf({"model_type": "bert"}) == BertConfig()


def test_families_and_heads_that_are_not_there_are_named():
    assert sorted(MODULES) == sorted(row.family for row in ROWS)
    with pytest.raises(InputError, match="bert has no head 'mask-lm' \\(did you mean 'masked-lm'\\?\\); it has None, "):
        jf.load(BERT.config, head="mask-lm")
