"""We and PyTorch transformers compute the same: every hidden state, attention map, output, loss and gradient, both ways.

The comparison itself is proved by faults planted in our side, each of which it must see.
"""

import dataclasses
import logging
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxformers as jf
from jaxformers.core import positions, transformer
from jaxformers.core.attention import Mask, padding_mask
from jaxformers.core.layers import ACTIVATIONS, layer_norm, linear
from jaxformers.families import (
    Model,
    bart,
    bert,
    ctrl,
    family_for,
    gpt2,
    llama,
    modernbert,
    segformer,
    swin,
    tapas,
    text_decoder,
    text_encoder,
    text_seq2seq,
    vision_encoder,
    vit_mae,
    xlm,
    xlnet,
)
from tests.families.sight import DEIT, DINOV2, SEGFORMER, SWIN, VIT, VIT_MAE
from tests.families.table import (
    ALBERT,
    BART,
    BERT,
    CTRL,
    DEBERTA,
    DISTILBERT,
    ELECTRA,
    GEMMA,
    GEMMA2,
    GEMMA3,
    GPT2,
    GPT_NEOX,
    LLAMA,
    M2M_100,
    MARIAN,
    MBART,
    MISTRAL,
    MODERNBERT,
    OPENAI_GPT,
    PEGASUS,
    QWEN2,
    QWEN3,
    ROBERTA,
    T5,
    TAPAS,
    THEIRS,
    XLM,
    XLNET,
    Arrays,
    Row,
    assert_same,
    name_of,
    results,
    sample,
    strong,
)
from tests.goldens.make_goldens import draw, integers, torch_model, torch_results

pytestmark = pytest.mark.parity
HEADS = [(row, head) for row in THEIRS for head in row.heads]
VARIANTS = [
    pytest.param(row, head, changes, id=f"{row.family}-{name}-{head}")
    for row in THEIRS
    for name, (heads, changes) in row.variants.items()
    for head in heads
]


@pytest.fixture(scope="module", autouse=True)
def torch():
    """PyTorch on one thread: the models are too small for more."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers").utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    return torch


COUNTS = "num_batches_tracked"  # of batches, which PyTorch keeps beside their statistics
NOT_USED = "in the file but not used: {0}decoder.embed_positions.weight, {0}encoder.embed_positions.weight"


def theirs_loaded(row: Row, head: str | None, config: dict[str, Any], folder: Any) -> tuple[Any, Model]:
    """A PyTorch model, and ours loaded from what it saved."""
    theirs = torch_model(family_for(row.family).architectures[head], config)
    theirs.save_pretrained(folder)
    return theirs, jf.load(folder, head)


@pytest.mark.parametrize(("row", "head"), HEADS, ids=name_of)
def test_what_pytorch_saved_computes_the_same_here(row, head, tmp_path, caplog):
    config = row.config_for(head)
    with caplog.at_level(logging.WARNING, "jaxformers"):
        theirs, ours = theirs_loaded(row, head, config, tmp_path)
    said = [record.getMessage() for record in caplog.records if record.name == "jaxformers"]
    tables = NOT_USED.format(family_for(row.family).prefix_of(head))
    assert len(said) <= 1
    assert not said or COUNTS in said[0] or (row.fixed and said[0].endswith(tables))
    assert not said or "newly" not in said[0]
    assert_same(results(ours, *sample(config, head)), torch_results(theirs, *sample(config, head)))


@pytest.mark.parametrize(("row", "head", "changes"), VARIANTS)
def test_every_variant_of_the_config(row, head, changes, tmp_path):
    config = row.config_for(head) | changes
    theirs, ours = theirs_loaded(row, head, config, tmp_path)
    assert_same(results(ours, *sample(config, head)), torch_results(theirs, *sample(config, head)))


@pytest.mark.parametrize(("row", "head"), HEADS, ids=name_of)
def test_what_we_save_computes_the_same_in_pytorch(row, head, tmp_path):
    transformers = pytest.importorskip("transformers")
    config = row.config_for(head)
    ours = strong(row, head)
    jf.save(ours, tmp_path)
    architecture = getattr(transformers, family_for(row.family).architectures[head])
    theirs, report = architecture.from_pretrained(tmp_path, output_loading_info=True, attn_implementation="eager")
    prefix = family_for(row.family).prefix_of(head)
    missing = {name for name in report.pop("missing_keys") if not name.endswith(COUNTS)}
    assert missing <= {prefix + name for name in row.fixed}
    assert not any(report.values()), report
    assert_same(torch_results(theirs.eval(), *sample(config, head)), results(ours, *sample(config, head)))


def test_words_of_their_own_both_ways(tmp_path):
    """Untied, PyTorch still keeps a second bias that nothing uses: the one tensor we do not write."""
    config = BERT.config | {"tie_word_embeddings": False}
    theirs, ours = theirs_loaded(BERT, "masked-lm", config, tmp_path / "theirs")
    jf.save(ours, tmp_path / "ours")
    again, report = type(theirs).from_pretrained(
        tmp_path / "ours", output_loading_info=True, attn_implementation="eager"
    )
    assert {kind: set(names) for kind, names in report.items() if names} == {"missing_keys": {"cls.predictions.bias"}}
    assert_same(torch_results(again.eval(), *sample(config, "masked-lm")), results(ours, *sample(config, "masked-lm")))


def test_a_file_with_one_table_where_there_may_be_two(tmp_path):
    """transformers 5 ties T5's words and output in every model that is new, and keeps in mind that states are not scaled."""
    transformers = pytest.importorskip("transformers")
    config = T5.config | {"tie_word_embeddings": False, "initializer_factor": 0.2}
    theirs = transformers.T5ForConditionalGeneration(transformers.T5Config(**config)).eval()
    theirs.save_pretrained(tmp_path)
    given = sample(T5.config, "seq2seq-lm")
    found, expected = results(jf.load(tmp_path, "seq2seq-lm"), *given), torch_results(theirs, *given)
    assert_same({"logits": found["logits"]}, {"logits": expected["logits"]})


@pytest.mark.parametrize("row", THEIRS, ids=name_of)
def test_their_config_reads_ours_as_it_was(row, tmp_path):
    transformers = pytest.importorskip("transformers")
    config = row.config_for("sequence-classification") | {"problem_type": "multi_label_classification"}
    classify = ("sequence-classification", "image-classification")
    head = next((head for head in classify if head in family_for(row.family).heads), row.whole)
    theirs, ours = theirs_loaded(row, head, config, tmp_path / "theirs")
    jf.save(ours, tmp_path / "ours")
    again = transformers.AutoConfig.from_pretrained(tmp_path / "ours")
    assert again.id2label == {0: "no", 1: "maybe", 2: "yes"}
    assert again.problem_type == "multi_label_classification"
    differ = {key for key, value in theirs.config.to_dict().items() if again.to_dict().get(key) != value}
    assert differ <= {"_name_or_path", "transformers_version"}


# -- inputs ------------------------------------------------------------------------------------------------------------


def bare(given: Arrays) -> Arrays:
    return {name: given[name] for name in ("input_ids", "decoder_input_ids") if name in given}


def padded_left(given: Arrays) -> Arrays:
    return given | {"attention_mask": given["attention_mask"][:, ::-1]}


def holes(given: Arrays) -> Arrays:
    return given | {"attention_mask": integers("holes", given["attention_mask"].shape, 0, 2)}


def all_padding(given: Arrays) -> Arrays:
    return given | {"attention_mask": given["attention_mask"] * (np.arange(len(given["attention_mask"])) > 0)[:, None]}


def placed(given: Arrays) -> Arrays:
    return given | {"position_ids": integers("position_ids", given["input_ids"].shape, 0, 24)}


def placed_alike(given: Arrays) -> Arrays:
    return given | {"position_ids": np.arange(given["input_ids"].shape[1])[None] + 5}


def embedded(given: Arrays) -> Arrays:
    E = {"electra": 16, "albert": 16, "gemma": 16}.get(given.pop("family", ""), 32)
    vectors = draw("inputs_embeds", (*given["input_ids"].shape, E), 1.0)
    vectors = {"inputs_embeds": vectors, "attention_mask": given["attention_mask"]}
    if "decoder_input_ids" in given:
        vectors["decoder_inputs_embeds"] = draw("decoder_inputs_embeds", (*given["decoder_input_ids"].shape, E), 1.0)
    return vectors


def padded_with_ids(given: Arrays) -> Arrays:
    """As tokenizers pad: with RoBERTa's padding token, which moves its positions; one is inside a text."""
    ids = np.where(given["attention_mask"] > 0, given["input_ids"], 1)
    ids[0, 3] = 1
    return given | {"input_ids": ids}


def typed(given: Arrays) -> Arrays:
    """Token types, where PyTorch looks them up among the words."""
    return given | {"token_type_ids": integers("token_type_ids", given["input_ids"].shape, 0, 2)}


def padded_by_ids(given: Arrays) -> Arrays:
    """Without a mask: padding is what has the padding token's id (XLM's here)."""
    ids = np.where(given.pop("attention_mask") > 0, given["input_ids"], 2)
    return given | {"input_ids": ids}


OF_BERT = (bare, padded_left, holes, all_padding, placed, placed_alike, embedded)
INPUTS = [
    *((BERT, change) for change in OF_BERT),
    *((ROBERTA, change) for change in (bare, placed, embedded, padded_with_ids)),
    *((DISTILBERT, change) for change in (placed, embedded)),
    (ELECTRA, embedded),
    (ALBERT, embedded),
    *((DEBERTA, change) for change in (bare, padded_left, holes, embedded)),
    *((MODERNBERT, change) for change in (bare, padded_left, placed, embedded)),
    *((XLM, change) for change in (bare, padded_left, holes, placed, embedded, typed, padded_by_ids)),
    *((XLNET, change) for change in (bare, padded_left, holes, all_padding, embedded)),
    *((TAPAS, change) for change in (bare, padded_left, placed, embedded)),
    *((GPT2, change) for change in (bare, padded_left, holes, placed, embedded, typed)),
    *((LLAMA, change) for change in (bare, padded_left, holes, placed, embedded)),
    (MISTRAL, bare),
    (QWEN2, bare),
    (GEMMA, embedded),
    *((OPENAI_GPT, change) for change in (bare, placed, embedded, typed)),
    *((CTRL, change) for change in (bare, padded_left, placed, embedded, typed)),
    *((GPT_NEOX, change) for change in (bare, placed, embedded)),
    *((row, change) for row in (T5, BART) for change in (bare, padded_left, holes, embedded)),
    *((row, embedded) for row in (MARIAN, M2M_100, PEGASUS)),
    (M2M_100, padded_with_ids),
]


@cache
def bare_model(row: Row) -> Any:
    return torch_model(family_for(row.family).architectures[None], dict(row.config))


@pytest.mark.parametrize(("row", "change"), INPUTS, ids=lambda value: name_of(value) or value.__name__)
def test_every_kind_of_input(row, change):
    given = sample(row.config, None)[0]
    given = change(given | {"family": row.family} if change is embedded else given)
    found, expected = results(strong(row, None), given, {}), torch_results(bare_model(row), given, {})
    unused = found.keys() - expected.keys()
    if change is embedded or row in (XLM, XLNET):  # an unused table has a gradient of zeros here, none there
        tables = ("embedding", "embed_tokens", "embed_in", "tokens_embed", "wte", "shared", "gradient w.weight")
        assert any(table in name for name in unused for table in tables) == (
            change is embedded or (row, change) == (XLM, bare)
        )
        assert not any(found.pop(name).any() for name in unused)
    if change is padded_with_ids:  # PyTorch keeps the padding token's rows from learning
        for side in (found, expected):
            for name in side.keys() & {
                "gradient embeddings.word_embeddings.weight",
                "gradient embeddings.position_embeddings.weight",
                "gradient shared.weight",
            }:
                side[name] = side[name] * (np.arange(len(side[name])) != 1)[:, None]
    if change is padded_by_ids:
        for side in (found, expected):
            side["gradient embeddings.weight"] = np.delete(side["gradient embeddings.weight"], 2, axis=0)
    if change is all_padding or (row in (GPT2, LLAMA, CTRL) and change in (padded_left, holes)):
        # With nothing to look at, both look everywhere alike; but PyTorch adds a huge negative number to every weight,
        # through which gradients pass, and we put it in their place. No loss asks for such a row.
        found, expected = ({k: v for k, v in side.items() if "gradient" not in k} for side in (found, expected))
    assert_same(found, expected)


def test_choices_from_vectors():
    config = BERT.config
    given, wanted = sample(config, "multiple-choice")
    ours, theirs = strong(BERT, "multiple-choice"), torch_model("BertForMultipleChoice", config)
    given["inputs_embeds"] = np.asarray(ours.params["embeddings"]["word"])[given.pop("input_ids")]
    given["position_ids"] = integers("position_ids", given["attention_mask"].shape, 0, 24)
    found = results(ours, given, wanted)
    assert not found.pop("gradient bert.embeddings.word_embeddings.weight").any()
    assert_same(found, torch_results(theirs, given, wanted))


# -- planted faults ----------------------------------------------------------------------------------------------------


def with_config(**changes: Any) -> Any:
    return lambda model, patch: dataclasses.replace(model, config=model.config.replace(**changes))


def patched(module: Any, name: str, fault: Any) -> Any:
    def plant(model: Model, patch: pytest.MonkeyPatch) -> Model:
        patch.setattr(module, name, fault)
        return model

    return plant


def without(name: str) -> Any:
    def plant(model: Model, patch: pytest.MonkeyPatch) -> Model:
        encode = bert.HEADS[None]
        heads = {None: lambda *args, **named: encode(*args, **{**named, name: None})}
        return dataclasses.replace(model, family=dataclasses.replace(model.family, heads=heads))

    return plant


def transposed_query(model: Model, patch: pytest.MonkeyPatch) -> Model:
    params = jax.tree.map(lambda leaf: leaf, model.params)
    query = params["layers"]["attention"]["query"]
    N, D, H, K = query["kernel"].shape
    query["kernel"] = query["kernel"].reshape(N, D, H * K).swapaxes(1, 2).reshape(N, D, H, K)
    return dataclasses.replace(model, params=params)


def pre_norm(params: Any, x: jax.Array, *, config: Any, mask: Any, rng: Any, maps: Any, kernel: Any) -> Any:
    """The same parts in the other order: x + attention(norm(x)), x + feed-forward(norm(x))."""
    y = layer_norm(params["attention_norm"], x, config.layer_norm_eps)
    q, k, v = (transformer.heads_in(params["attention"][name], y) for name in ("query", "key", "value"))
    a, weights = transformer.attend(q, k, v, mask, maps=maps)
    x = x + transformer.heads_out(params["attention"]["out"], a)
    y = layer_norm(params["output_norm"], x, config.layer_norm_eps)
    return x + linear(params["down"], ACTIVATIONS[config.hidden_act](linear(params["up"], y))), weights


right_positions, positions_of = positions.learned, positions.after_padding
FAULTS = {
    "position off by one": patched(
        positions, "learned", lambda table, *args: right_positions(jnp.roll(table, -1, axis=0), *args)
    ),
    "epsilon": with_config(layer_norm_eps=1e-4),
    "gelu by tanh": with_config(hidden_act="gelu_new"),
    "mask ignored": without("attention_mask"),
    "token types ignored": without("token_type_ids"),
    "scaled by the width of the model": patched(
        transformer, "attend", partial(transformer.attend, scale=BERT.config["hidden_size"] ** -0.5)
    ),
    "norm before": patched(text_encoder, "post_norm", pre_norm),
    "query transposed": transposed_query,
}


@pytest.fixture(scope="module")
def right():
    given, _ = sample(BERT.config, None)
    return given, torch_results(bare_model(BERT), given, {})


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_seen(fault, right, monkeypatch):
    given, expected = right
    assert_same(results(strong(BERT, None), given, {}), expected)
    wrong = results(FAULTS[fault](strong(BERT, None), monkeypatch), given, {})
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        assert_same(wrong, expected)
    # Not by the first thing alone: hidden states, the pooled text, and gradients each show it.
    for part in ("last_hidden_state", "pooler_output", "gradient embeddings.word_embeddings.weight"):
        with pytest.raises(AssertionError, match="Not equal to tolerance"):
            assert_same({part: wrong[part]}, {part: expected[part]})


def norms_swapped(model: Model, patch: pytest.MonkeyPatch) -> Model:
    layers = model.params["layers"]
    other = layers | {"attention_after": layers["output_norm"], "output_norm": layers["attention_after"]}
    return dataclasses.replace(model, params=model.params | {"layers": other})


def every_step(length: int, *args: Any) -> np.ndarray:
    return np.arange(length)[:, None] - np.arange(length)[None]


right_together, right_distances = swin.together, positions.distances_of_places
OF_FAMILIES = {
    "distilbert: epsilon": (DISTILBERT, with_config(layer_norm_eps=1e-4)),
    "roberta: positions from 1": (ROBERTA, with_config(pad_token_id=0)),
    "electra: gelu by tanh": (ELECTRA, with_config(hidden_act="gelu_new")),
    "albert: one group": (ALBERT, with_config(num_hidden_groups=1)),
    "deberta: no buckets": (DEBERTA, patched(positions, "log_buckets", every_step)),
    "deberta: the sign of a distance": (
        DEBERTA,
        patched(positions, "log_buckets", lambda *args, right=positions.log_buckets: -right(*args)),
    ),
    "deberta: p2c forgotten": (DEBERTA, with_config(pos_att_type=("c2p",))),
    "deberta: epsilon": (DEBERTA, with_config(layer_norm_eps=1e-4)),
    "modernbert: a window one too narrow": (MODERNBERT, with_config(local_attention=6)),
    "modernbert: rotations of the other kind": (MODERNBERT, with_config(local_rope_theta=160_000.0)),
    "modernbert: kinds in the other order": (
        MODERNBERT,
        with_config(layer_types=("sliding_attention", "full_attention")),
    ),
    "xlm: relu": (XLM, with_config(gelu_activation=False)),
    "xlm: epsilon": (XLM, with_config(layer_norm_eps=1e-4)),
    "xlm: looking back": (XLM, with_config(causal=True)),
    "xlm: padding stays": (XLM, patched(xlm, "without_padding", lambda x, mask: x)),
    "xlm: languages forgotten": (
        XLM,
        patched(xlm, "embed", lambda *args, right=xlm.embed, langs: right(*args)),
    ),
    "xlnet: gelu by tanh": (XLNET, with_config(hidden_act="gelu_new")),
    "xlnet: epsilon": (XLNET, with_config(layer_norm_eps=1e-4)),
    "xlnet: distances up to 3": (XLNET, with_config(clamp_len=3)),
    "xlnet: every distance one off": (
        XLNET,
        patched(xlnet, "distances", lambda *args, right=xlnet.distances: jnp.roll(right(*args), 1, axis=0)),
    ),
    "xlnet: no shift": (XLNET, patched(xlnet, "shift", lambda x, keys: x[..., :keys])),
    "xlnet: segments the other way": (
        XLNET,
        patched(
            xlnet,
            "look",
            lambda *args, right=xlnet.look, differ_BLS, **named: right(*args, differ_BLS=~differ_BLS, **named),
        ),
    ),
    "xlnet: padding seen": (XLNET, patched(xlnet, "visible", lambda *args: None)),
    "tapas: positions of the text": (TAPAS, with_config(reset_position_index_per_cell=False)),
    "tapas: columns for cells": (TAPAS, patched(tapas, "same_cell", lambda c, r: c[:, :, None] == c[:, None])),
    "tapas: types in another order": (
        TAPAS,
        patched(tapas, "_types", lambda *args, right=tapas._types: right(*args)[..., ::-1]),
    ),
    "gpt2: positions off by one": (
        GPT2,
        patched(
            positions, "learned", lambda table, *args, right=right_positions: right(jnp.roll(table, -1, axis=0), *args)
        ),
    ),
    "gpt2: gelu by erf": (GPT2, with_config(hidden_act="gelu")),
    "gpt2: epsilon": (GPT2, with_config(layer_norm_eps=1e-3)),
    "gpt2: looking ahead": (
        GPT2,
        patched(text_decoder, "looking_back", lambda mask, window: padding_mask(mask) or Mask()),
    ),
    "llama: heads of keys in the other order": (
        LLAMA,
        patched(
            text_decoder,
            "attend",
            lambda q, k, v, *args, right=text_decoder.attend, **named: right(
                q, k[:, :, ::-1], v[:, :, ::-1], *args, **named
            ),
        ),
    ),
    "llama: rotations by one place more": (
        LLAMA,
        patched(positions, "rotate", lambda x, c, s, right=positions.rotate: right(x, c, s) if x.shape[2] == 2 else x),
    ),
    "llama: another base": (LLAMA, with_config(rope_theta=9_000.0)),
    "llama: epsilon": (LLAMA, with_config(layer_norm_eps=1e-3)),
    "llama: gate and input": (
        LLAMA,
        patched(llama, "linear", lambda params, x, right=llama.linear: right(params, x) * (1 + 1e-4)),
    ),
    "mistral: a window one too wide": (MISTRAL, with_config(sliding_window=6)),
    "qwen2: kinds in the other order": (QWEN2, with_config(layer_types=("sliding_attention", "full_attention"))),
    "qwen3: heads not normalised": (
        QWEN3,
        patched(
            llama,
            "rms_norm",
            lambda params, x, *args, right=llama.rms_norm, **named: (
                x if x.ndim == 4 else right(params, x, *args, **named)
            ),
        ),
    ),
    "t5: attention scaled": (
        T5,
        patched(
            text_seq2seq,
            "attend",
            lambda *args, right=text_seq2seq.attend, **named: right(*args, **named | {"scale": None}),
        ),
    ),
    "t5: distances the other way": (
        T5,
        patched(
            positions, "relative_buckets", lambda steps, *args, right=positions.relative_buckets: right(-steps, *args)
        ),
    ),
    "t5: one bucket less": (T5, with_config(relative_attention_num_buckets=7)),
    "bart: positions from 1": (BART, patched(bart, "FIRST", 1)),
    "bart: epsilon": (BART, with_config(layer_norm_eps=1e-4)),
    "bart: words scaled": (BART, with_config(scale_embedding=True)),
    "mbart: no norm at either end": (MBART, patched(bart, "layer_norm", lambda params, x, epsilon: x)),
    "marian: cosines before sines": (
        MARIAN,
        patched(positions, "sinusoids", lambda *sizes, right=positions.sinusoids: right(*sizes)[:, ::-1]),
    ),
    "m2m_100: positions one further": (
        M2M_100,
        patched(positions, "after_padding", lambda ids, pad: positions_of(ids, pad) + 1),
    ),
    "t5: epsilon": (T5, with_config(layer_norm_eps=1e-3)),
    "neox: one sum after the other": (GPT_NEOX, with_config(use_parallel_residual=False)),
    "neox: whole heads turn": (GPT_NEOX, with_config(rotary_pct=1.0)),
    "neox: epsilon": (GPT_NEOX, with_config(layer_norm_eps=1e-4)),
    "openai: gelu by erf": (OPENAI_GPT, with_config(hidden_act="gelu")),
    "openai: no scale": (
        OPENAI_GPT,
        patched(
            gpt2, "look_back", lambda *args, right=gpt2.look_back, **named: right(*args, **{**named, "scale": 1.0})
        ),
    ),
    "ctrl: sines and cosines by turns": (
        CTRL,
        patched(positions, "half_sinusoids", lambda *shape: positions.sinusoids(*shape).astype(np.float32)),
    ),
    "ctrl: epsilon of layers": (CTRL, patched(ctrl, "EPSILON", 1e-4)),
    "gemma2: no cap": (GEMMA2, with_config(attn_logit_softcapping=0.0)),
    "gemma2: scaled by the size of heads": (GEMMA2, with_config(query_pre_attn_scalar=8)),
    "gemma2: a norm before for one after": (GEMMA2, norms_swapped),
    "gemma3: one kind of rotations": (GEMMA3, with_config(rope_local_base_freq=1000.0)),
    "gemma3: kinds in the other order": (GEMMA3, with_config(layer_types=("full_attention", "sliding_attention"))),
    "vit: epsilon": (VIT, with_config(layer_norm_eps=1e-4)),
    "vit: gelu by tanh": (VIT, with_config(hidden_act="gelu_new")),
    "vit: rows of pixels for columns": (
        VIT,
        patched(
            vision_encoder,
            "conv",
            lambda params, x, *args, right=vision_encoder.conv: right(params, x.swapaxes(1, 2), *args),
        ),
    ),
    "vit: norm after": (VIT, patched(vision_encoder, "pre_norm", partial(transformer.post_norm, mask=None))),
    "deit: tokens before the patches swapped": (
        DEIT,
        patched(vision_encoder, "FIRST", ("distillation", "class")),
    ),
    "dinov2: epsilon": (DINOV2, with_config(layer_norm_eps=1e-4)),
    "vit_mae: the others are hidden": (
        VIT_MAE,
        patched(vit_mae, "hide", lambda x, noise, share, right=vit_mae.hide: right(x, -noise, share)),
    ),
    "swin: no shift": (
        SWIN,
        patched(swin, "together", lambda *args: np.ones_like(right_together(*args))),
    ),
    "swin: distances the other way": (
        SWIN,
        patched(positions, "distances_of_places", lambda *size: right_distances(*size)[::-1, ::-1]),
    ),
    "segformer: epsilon": (SEGFORMER, patched(segformer, "EPSILON", 1e-3)),
    "modernbert: input and gate": (
        MODERNBERT,
        patched(modernbert, "project", lambda *args, right=modernbert.project: right(*args)[::-1]),
    ),
}


@pytest.mark.parametrize("fault", OF_FAMILIES)
def test_a_fault_planted_in_a_family_is_seen(fault, monkeypatch):
    row, plant = OF_FAMILIES[fault]
    given, _ = sample(row.config, None)
    wrong = results(plant(strong(row, None), monkeypatch), given, {})
    expected = torch_results(bare_model(row), given, {})
    for part in (
        "last_hidden_state",
        max(name for name in expected if "attentions" in name and "gradient" not in name),
    ):
        with pytest.raises(AssertionError, match="Not equal to tolerance"):
            assert_same({part: wrong[part]}, {part: expected[part]})


@pytest.mark.parametrize("both_ways", [True, False])
@pytest.mark.parametrize("sizes", [(32, 128), (64, 1024), (8, 6), (7, 9)])
def test_buckets_of_distances_are_pytorch_s(both_ways, sizes):
    torch = pytest.importorskip("torch")
    theirs = pytest.importorskip("transformers.models.t5.modeling_t5").T5Attention._relative_position_bucket
    steps = np.arange(-1500, 1501)[None]
    found = positions.relative_buckets(jnp.asarray(steps), *sizes, both_ways)
    np.testing.assert_array_equal(found, theirs(torch.from_numpy(steps), both_ways, *sizes).numpy())


def test_far_distances_share_rows_as_in_pytorch():
    """Whole numbers, at the published sizes: a rounding in the logarithm would be a wrong row."""
    torch = pytest.importorskip("torch")
    theirs = pytest.importorskip("transformers.models.deberta_v2.modeling_deberta_v2")
    for buckets, farthest in ((256, 512), (32, 128), (8, 24), (-1, 512)):
        steps = theirs.build_relative_position(torch.zeros(700, 1), torch.zeros(700, 1), buckets, farthest)[0]
        np.testing.assert_array_equal(positions.log_buckets(700, buckets, farthest), steps.numpy())
