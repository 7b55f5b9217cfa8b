"""What XLNet and XLM have of their own: two streams, search by beams, summaries wherever padding stands, languages."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxformers.core.transformer import Execution
from jaxformers.errors import InputError
from jaxformers.families import family_for
from jaxformers.train import losses
from tests.families.table import (
    XLM,
    XLNET,
    Arrays,
    assert_same,
    flat,
    flat_results,
    forward,
    name_of,
    results,
    sample,
    strong,
)
from tests.goldens.make_goldens import draw, integers, torch_model, torch_results

BEAM = "question-answering-beam"


@pytest.fixture
def torch():
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers").utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    return torch


def theirs(row, head, **changes):
    return torch_model(family_for(row.family).architectures[head], row.config_for(head) | changes)


def call(row, head, given, **changes):
    """Our outputs, flat; `changes` are fields of the config."""
    model = strong(row, head)
    model = dataclasses.replace(model, config=model.config.replace(**changes))
    return flat(forward(model, middle=False)(model.params, given))


# -- two streams -------------------------------------------------------------------------------------------------------


def targets(attention: bool = True) -> Arrays:
    """Texts in a drawn order of prediction, whose last two tokens are the targets."""
    given, _ = sample(XLNET.config, None)
    B, L = given["input_ids"].shape
    if attention:
        given["attention_mask"][:, -3:] = 1
    else:
        del given["attention_mask"]
    order = np.argsort(draw("order", (B, L)), axis=1)
    rank = np.argsort(order, axis=1)
    given["perm_mask"] = (rank[:, None, :] >= rank[:, :, None]).astype(np.float32)
    given["target_mapping"] = np.eye(L, dtype=np.float32)[order[:, -2:]]
    return given


@pytest.mark.parity
@pytest.mark.parametrize("attention", [True, False], ids=["padded", "whole"])
@pytest.mark.parametrize("head", [None, "causal-lm"])
def test_targets_see_what_pytorchs_see(head, attention, torch):
    given = targets(attention)
    wanted = {} if head is None else {"labels": integers("labels", (3, 2), 0, XLNET.config["vocab_size"])}
    found = results(strong(XLNET, head), given, wanted)
    assert found["attentions.1.1"].shape == (3, 4, 7, 7)
    assert found["last_hidden_state" if head is None else "logits"].shape[:2] == (3, 2)
    assert np.abs(found[f"gradient {'' if head is None else 'transformer.'}mask_emb"]).max() > 1e-3
    assert_same(found, torch_results(theirs(XLNET, head), given, wanted))


@pytest.mark.parity
@pytest.mark.parametrize("left_out", ["perm_mask", "target_mapping"])
def test_an_order_without_targets_and_targets_without_an_order(left_out, torch):
    given = targets()
    del given[left_out]
    found, expected = results(strong(XLNET, None), given, {}), torch_results(theirs(XLNET, None), given, {})
    assert_same(found, expected)


def test_a_target_does_not_see_its_own_word():
    """Unlike its token: what stands where a target does changes it in no way."""
    given = targets()
    other = {**given, "input_ids": given["input_ids"].copy()}
    last = given["target_mapping"][:, 1].argmax(-1)
    other["input_ids"][np.arange(3), last] = 1
    before, after = (call(XLNET, None, each)["last_hidden_state"] for each in (given, other))
    np.testing.assert_array_equal(after[:, 1], before[:, 1])


def test_two_streams_in_a_scan():
    given, model = targets(), strong(XLNET, "causal-lm")
    loop, scan = (
        flat(forward(model, execution=Execution(layers=layers))(model.params, given)) for layers in ("loop", "scan")
    )
    assert_same(scan, loop)


# -- summaries ---------------------------------------------------------------------------------------------------------


@pytest.mark.parity
@pytest.mark.parametrize("kind", ["first", "last", "mean", "cls_index"])
@pytest.mark.parametrize("head", ["sequence-classification", "multiple-choice"])
@pytest.mark.parametrize("row", [XLM, XLNET], ids=name_of)
def test_summaries_of_texts_without_padding(row, head, kind, torch):
    given, _ = sample(row.config_for(head), head)
    given["attention_mask"][:] = 1
    found = call(row, head, given, summary_type=kind)
    wanted = sample(row.config_for(head), head)[1]
    expected = torch_results(theirs(row, head, summary_type=kind), given, wanted)
    assert_same(found, {"logits": expected["logits"]})
    assert_same(found, call(row, head, {k: v for k, v in given.items() if k != "attention_mask"}, summary_type=kind))


def moved(given: Arrays) -> Arrays:
    """The same texts with their padding on the other side."""
    lengths = given["attention_mask"].sum(-1)
    roll = lambda rows: np.stack([np.roll(row, length, axis=0) for row, length in zip(rows, lengths, strict=True)])  # noqa: E731
    return {name: roll(rows) for name, rows in given.items()}


@pytest.mark.parametrize("kind", ["first", "last", "mean"])
def test_xlnet_does_not_mind_where_padding_stands(kind):
    given, _ = sample(XLNET.config, None)
    assert not given["attention_mask"][1, 0]
    right = moved(given)
    assert right["attention_mask"][1, 0]
    assert not right["attention_mask"][1, -1]
    head = "sequence-classification"
    assert_same(call(XLNET, head, right, summary_type=kind), call(XLNET, head, given, summary_type=kind))


@pytest.mark.parametrize("kind", ["first", "last", "mean"])
@pytest.mark.parametrize("row", [XLM, XLNET], ids=name_of)
def test_a_summary_does_not_see_padding(row, kind):
    head = "sequence-classification"
    given, _ = sample(row.config_for(head), head)
    if row is XLNET:
        given = moved(given)
    longer = {name: np.pad(rows, [(0, 0), (0, 4)]) for name, rows in given.items()}
    assert_same(call(row, head, longer, summary_type=kind), call(row, head, given, summary_type=kind))


@pytest.mark.parametrize("head", ["sequence-classification", BEAM, "multiple-choice"])
def test_xlm_finds_padding_by_its_token(head):
    given, _ = sample(XLM.config_for(head), head)
    given["input_ids"] = np.where(given["attention_mask"] > 0, given["input_ids"], XLM.config["pad_token_id"])
    given.pop("p_mask", None)
    said = call(XLM, head, given, summary_type="last")
    del given["attention_mask"]
    assert_same(call(XLM, head, given, summary_type="last"), said)


# -- beams -------------------------------------------------------------------------------------------------------------


@pytest.mark.parity
@pytest.mark.parametrize("answerable", [True, False], ids=["is_impossible", "always possible"])
@pytest.mark.parametrize("row", [XLM, XLNET], ids=name_of)
def test_learning_from_true_starts(row, answerable, torch):
    given, _ = sample(row.config, BEAM)
    start, end = np.array([6, 5, 4], np.int32), np.array([6, 6, 4], np.int32)
    if row is XLM:
        start, end = np.array([2, 0, 1], np.int32), np.array([6, 4, 2], np.int32)
    wanted = {"start_positions": start, "end_positions": end}
    if answerable:
        wanted["is_impossible"] = np.array([0, 1, 0], np.float32)
    model = strong(row, BEAM)

    def loss(params):
        output = forward(model)(params, given | {"start_positions": start})
        total, count = losses.default_loss(BEAM, model.config)(output, wanted)
        return total / count, output

    (value, output), gradient = jax.value_and_grad(loss, has_aux=True)(model.params)
    found = flat_results(model, (value, output), gradient)
    assert {"start_logits", "end_logits", "cls_logits"} < found.keys()
    expected = torch_results(theirs(row, BEAM), given, wanted)
    if not answerable:  # what no loss asks for has a gradient of zeros here, none there
        unused = [name for name in found if "answer_class" in name]
        assert len(unused) == 3
        assert not any(found.pop(name).any() for name in unused)
    assert_same({name: array for name, array in found.items() if not name.endswith("_logits")}, expected)


@pytest.mark.parametrize("row", [XLM, XLNET], ids=name_of)
def test_padding_is_never_an_answer(row):
    given, _ = sample(row.config, BEAM)
    mask = given["attention_mask"]
    last = {"cls_index": mask.shape[1] - 1 - mask[:, ::-1].argmax(-1)}
    said = call(row, BEAM, given | last)
    left_out = call(row, BEAM, {name: array for name, array in given.items() if name not in ("p_mask", "cls_index")})
    assert_same(left_out, said)
    assert mask[np.arange(3)[:, None], said["start_top_index"]].all()
    assert (said["start_top_log_probs"] > 0).all()
    anywhere = call(row, BEAM, given | last | {"p_mask": mask * 0})
    assert np.abs(anywhere["start_top_log_probs"] - said["start_top_log_probs"]).max() > 1e-3


def test_an_end_is_judged_given_its_start():
    given, _ = sample(XLNET.config, BEAM)
    found = call(XLNET, BEAM, given)
    assert found["end_top_index"].shape == (3, 6)
    for n in range(2):  # by rank, then by start
        after = call(XLNET, BEAM, given | {"start_positions": found["start_top_index"][:, n]})
        probabilities = np.asarray(jax.nn.softmax(after["end_logits"], axis=-1))
        np.testing.assert_allclose(found["end_top_log_probs"][:, n], probabilities.max(-1), atol=1e-6)
        np.testing.assert_array_equal(found["end_top_index"][:, n], probabilities.argmax(-1))


# -- refused -----------------------------------------------------------------------------------------------------------

IDS = np.ones((2, 4), np.int32)
MAPPING = np.ones((2, 1, 4), np.float32)


@pytest.mark.parametrize(
    ("row", "head", "given", "words"),
    [
        (XLNET, None, {"mems": [IDS]}, r"memories of earlier texts \(mems\) are not supported"),
        (XLNET, None, {"perm_mask": IDS}, r"perm_mask must be of shape \(2, 4, 4\), found \(2, 4\)"),
        (XLNET, None, {"target_mapping": MAPPING[..., :3]}, r"target_mapping must be of shape \(2, 1, 4\), found"),
        (XLNET, None, {"attention_mask": IDS[:, :3]}, r"attention_mask must be of shape \(2, 4\), found \(2, 3\)"),
        (XLNET, "sequence-classification", {"target_mapping": MAPPING}, "leave target_mapping out"),
        (XLNET, "token-classification", {"target_mapping": MAPPING}, "leave target_mapping out"),
        (XLNET, BEAM, {"input_ids": IDS[:, :2]}, "a search of 3 beams needs at least as many tokens, the input has 2"),
        (XLM, None, {"attention_mask": MAPPING}, r"attention_mask must be \[batch, length\], found shape \(2, 1, 4\)"),
    ],
)
def test_what_cannot_be_computed_is_one_sentence(row, head, given, words):
    model = strong(row, head)
    with pytest.raises(InputError, match=words):
        model.apply(model.params, **{"input_ids": IDS, **given})


def test_languages_given_to_a_model_without():
    family = family_for("xlm")
    config = family.config_from_hf(XLM.config | {"n_langs": 1}, "")
    params = strong(XLM, None).params
    params = params | {"embeddings": {name: leaf for name, leaf in params["embeddings"].items() if name != "lang"}}
    assert "lang" not in family.declare(config)["embeddings"]
    with pytest.raises(InputError, match="this model has no languages: leave langs out"):
        family.forward(None)(params, input_ids=IDS, langs=IDS, config=config)
