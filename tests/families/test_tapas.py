"""What TAPAS has of its own: positions and logits of cells, padding that is no cell of the question, seven types a token."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxformers.core.params import shardings
from jaxformers.core.transformer import Execution
from jaxformers.errors import ConfigError, InputError
from jaxformers.families import family_for, tapas
from jaxformers.parallel import MeshConfig, activate, make_mesh
from tests.families.table import (
    TAPAS,
    assert_same,
    flat,
    flat_results,
    forward,
    loss_and_gradient,
    sample,
    strong,
)
from tests.goldens.make_goldens import integers, torch_model

CELLS = "table-question-answering"


def call(given, **changes):
    """Our outputs, flat; `changes` are fields of the config."""
    model = strong(TAPAS, CELLS)
    model = dataclasses.replace(model, config=model.config.replace(**changes))
    return flat(forward(model, middle=False)(model.params, given))


def test_positions_begin_anew_in_every_cell():
    column, row = np.array([[0, 0, 1, 1, 2, 1, 0]]), np.array([[0, 0, 0, 1, 1, 1, 0]])
    same = tapas.same_cell(column, row)
    assert tapas.positions_in_cells(same, 99).tolist() == [[0, 1, 0, 0, 0, 2, 6]]
    assert tapas.positions_in_cells(same, 3).tolist() == [[0, 1, 0, 0, 0, 2, 3]]


def test_cells_share_a_logit_and_one_column_is_chosen():
    given, _ = sample(TAPAS.config, CELLS)
    logits, types = call(given)["logits"], given["token_type_ids"]
    for text, (logit_L, column_L, row_L) in enumerate(zip(logits, types[..., 1], types[..., 2], strict=True)):
        shown = logit_L > tapas.LOG_ZERO / 2
        assert len({*column_L[shown]}) == 1, text
        assert 0 not in column_L[shown]
        cells = {(c, r): logit_L[(column_L == c) & (row_L == r)] for c, r in zip(column_L, row_L, strict=True)}
        assert all(np.ptp(each) == 0 for each in cells.values())
        assert max(map(len, cells.values())) > 1
    none = call(given, temperature=0.25)["logits"]
    assert_same({"": none[none > -5000]}, {"": 2 * logits[logits > -5000]})


def test_only_where_it_is_allowed_no_column_is_chosen():
    """All columns score alike here, the question among them, which is the first."""
    model = strong(TAPAS, CELLS)
    params = {**model.params, "columns": jax.tree.map(jnp.zeros_like, model.params["columns"])}
    given, _ = sample(TAPAS.config, CELLS)
    for allowed in (True, False):
        config = model.config.replace(allow_empty_column_selection=allowed)
        logits = dataclasses.replace(model, config=config).apply(params, **given).logits
        assert (np.asarray(logits).max(axis=1) < -5000).all() == allowed


@pytest.mark.parametrize("changes", [{}, {"allow_empty_column_selection": True}, {"select_one_column": False}], ids=str)
def test_padding_is_of_no_cell(changes):
    """A tokenizer pads with zeros, the column and row of the question; but its mean is not the question's."""
    given, _ = sample(TAPAS.config, CELLS)
    given["token_type_ids"] = given["token_type_ids"] * given["attention_mask"][..., None]
    found = call(given, **changes)
    longer = {name: np.pad(rows, [(0, 0), (0, 5), (0, 0)][: rows.ndim]) for name, rows in given.items()}
    again = call(longer, **changes)
    real = given["attention_mask"] > 0
    np.testing.assert_allclose(again["logits"][:, : real.shape[1]][real], found["logits"][real], rtol=0, atol=1e-3)
    chosen = found["logits"] > -5000
    np.testing.assert_allclose(
        again["logits"][:, : real.shape[1]][chosen & real], found["logits"][chosen & real], atol=1e-5
    )


def test_eight_devices_jit_scan_and_remat_change_nothing():
    model = strong(TAPAS, CELLS)
    given, wanted = sample(TAPAS.config, CELLS, batch=8)
    mesh = make_mesh(MeshConfig(fsdp=2, tensor=2))

    def run(*arguments):
        with activate(mesh):
            return loss_and_gradient(model, execution=Execution(layers="scan", remat="full"))(*arguments)

    places = shardings(model.declare(), mesh)
    batch = jax.device_put((given, wanted), jax.NamedSharding(mesh, jax.P(("data", "fsdp"))))
    quick = {"xla_backend_optimization_level": 0}
    found = jax.jit(run, out_shardings=(None, places), compiler_options=quick)(
        jax.device_put(model.params, places), *batch
    )
    one = jax.jit(loss_and_gradient(model), compiler_options=quick)(model.params, given, wanted)
    assert_same(flat_results(model, *found), flat_results(model, *one))


@pytest.mark.parity
@pytest.mark.parametrize("average", [False, True])
def test_cells_of_every_column_as_in_pytorch(average):
    """PyTorch gives them only where it is given labels, too."""
    torch = pytest.importorskip("torch")
    given, _ = sample(TAPAS.config, CELLS)
    changes = {"select_one_column": False, "average_logits_per_cell": average}
    theirs = torch_model("TapasForQuestionAnswering", {**TAPAS.config, **changes})
    labels = integers("labels", given["input_ids"].shape, 0, 2).astype(np.float32)
    named = {name: torch.from_numpy(rows.astype(np.int64)) for name, rows in given.items()}
    output = theirs(**named, labels=torch.from_numpy(labels), aggregation_labels=torch.zeros(3, dtype=torch.int64))
    expected = {name: output[name].detach().numpy() for name in ("logits", "logits_aggregation")}
    assert_same(call(given, **changes), expected)


def test_half_precision_stays_half():
    model = strong(TAPAS, CELLS)
    half = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, "bfloat16"), model.params)
    found = jax.eval_shape(forward(model), half, sample(TAPAS.config, CELLS)[0])
    assert {each.dtype for each in jax.tree.leaves(found)} == {np.dtype("bfloat16")}


# -- config and inputs -------------------------------------------------------------------------------------------------


def test_types_of_another_shape_are_refused():
    given, _ = sample(TAPAS.config, CELLS)
    with pytest.raises(
        InputError, match=r"token_type_ids must have the shape \(3, 7, 7\), seven a token, found \(3, 7\)"
    ):
        call(given | {"token_type_ids": given["token_type_ids"][..., 0]})


def test_an_old_config_and_its_operators_both_ways():
    """As published: the types' sizes by two names, and a key that nothing reads."""
    family = family_for("tapas")
    raw = {**TAPAS.config, "type_vocab_size": TAPAS.config["type_vocab_sizes"], "softmax_temperature": 1.0,
           "huber_loss_delta": 0.12, "use_answer_as_supervision": True}  # fmt: skip
    config = family.config_from_hf(raw, "config.json")
    assert config == family.config_from_hf(TAPAS.config, "config.json")
    assert config.aggregation_labels == ("NONE", "SUM", "AVERAGE", "COUNT")
    saved = family.config_to_hf(config, "TapasForQuestionAnswering")
    assert saved["aggregation_labels"] == TAPAS.config["aggregation_labels"]
    assert saved["huber_loss_delta"] == 0.12
    assert family.config_from_hf(saved, "config.json") == config
    del raw["type_vocab_sizes"]
    assert family.config_from_hf(raw, "config.json") == config


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"type_vocab_sizes": [3, 4]}, r"type_vocab_sizes must be 7 positive numbers, found \(3, 4\)"),
        ({"type_vocab_sizes": ["3"]}, "type_vocab_sizes must be a list of whole numbers"),
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"aggregation_labels": {"0": "NONE"}}, "aggregation_labels must name 4 operators, found 1"),
        ({"aggregation_labels": {"0": "NONE", "2": "SUM"}}, "aggregation_labels must name the ids 0 to n-1"),
        ({"max_num_rows": 0}, "max_num_rows must be at least 1"),
        ({"is_decoder": True}, "is_decoder=True"),
    ],
)
def test_what_a_config_may_not_say(changes, sentence):
    with pytest.raises(ConfigError, match=sentence):
        family_for("tapas").config_from_hf({**TAPAS.config, **changes}, "config.json")
