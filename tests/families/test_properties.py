"""What holds for every family, over the table of families and heads: padding, batches, jit, scan, remat, devices, types.

What is dear to check is checked of every head of BERT, and of one head of each other lineage. Of the decoders also that they
look back only, and that a cache changes nothing.
"""

import dataclasses
import logging
from collections.abc import Callable, Iterable
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxformers as jf
from jaxformers.core.cache import empty_cache
from jaxformers.core.params import leaves, shardings
from jaxformers.core.transformer import Execution
from jaxformers.errors import InputError
from jaxformers.families import Model
from jaxformers.parallel import MeshConfig, activate, make_mesh
from tests.families.table import (
    BART,
    BERT,
    DECODERS,
    ENCODER_DECODERS,
    GPT2,
    LINEAGE_HEADS,
    LINEAGES,
    LLAMA,
    M2M_100,
    MBART,
    MISTRAL,
    PLAIN_HEADS,
    ROWS,
    T5,
    Arrays,
    Row,
    assert_same,
    flat,
    flat_results,
    forward,
    loss_and_gradient,
    name_of,
    results,
    sample,
    strong,
)
from tests.goldens import make_goldens

# Half the compile time, where the question is not what the compiler makes of it (that jit changes nothing is asked apart).
QUICK = {"xla_backend_optimization_level": 0}

each_head = pytest.mark.parametrize(("row", "head"), LINEAGE_HEADS, ids=name_of)
each_text = pytest.mark.parametrize(("row", "head"), [pair for pair in LINEAGE_HEADS if pair[0].reads], ids=name_of)
each_row = pytest.mark.parametrize("row", LINEAGES, ids=name_of)
# Cheap enough for every family: what compiles nothing.
every_head = pytest.mark.parametrize(("row", "head"), PLAIN_HEADS, ids=name_of)
every_text = pytest.mark.parametrize("row", [row for row in ROWS if row.reads], ids=name_of)


@cache
def reference(row: Row, head: str | None) -> Arrays:
    """Outputs, loss and gradients on one device, layers in a loop."""
    return results(strong(row, head), *sample(row.config_for(head), head), whole=True)


def of_tokens(named: Arrays, row: Row, mask: np.ndarray) -> Arrays:
    """What is defined: everything, or of a family whose padding looks around, what belongs to real tokens."""
    if not row.padding_looks:
        return named
    mask = mask.reshape(-1, mask.shape[-1]) > 0

    def cut(array: np.ndarray) -> np.ndarray:
        if array.ndim == 4:
            return array * mask[:, None, :, None]
        return array * mask.reshape(mask.shape + (1,) * (array.ndim - 2)) if array.shape[:2] == mask.shape else array

    return {name: cut(array) for name, array in named.items()}


def outputs(named: Arrays) -> Arrays:
    return {name: array for name, array in named.items() if name != "loss" and not name.startswith("gradient")}


def quick(model: Model, **options: Any) -> Callable[..., Any]:
    """`forward`, compiled: in shapes that no other test has, operations one by one take longer."""
    return jax.jit(forward(model, **options), compiler_options=QUICK)


@each_text
def test_more_padding_changes_nothing(row, head):
    model = strong(row, head)
    given, _ = sample(row.config_for(head), head)
    length = given["input_ids"].shape[-1]
    longer = {k: np.pad(v, [(0, 0)] * (v.ndim - 1) + [(0, 5)], constant_values=0) for k, v in given.items()}
    found = flat(quick(model)(model.params, longer))
    cut = {k: v[tuple(slice(length) if n == length + 5 else slice(None) for n in v.shape)] for k, v in found.items()}
    assert_same(*(of_tokens(each, row, given["attention_mask"]) for each in (cut, outputs(reference(row, head)))))


@each_head
def test_a_row_does_not_depend_on_the_others(row, head):
    model = strong(row, head)
    choices = head == "multiple-choice"
    given, _ = sample(row.config_for(head), head, batch=2 if choices else 3)
    other = {name: np.concatenate([rows[:1], rows[:0:-1]]) for name, rows in given.items()}
    if row.reads:
        other["attention_mask"][1:] = 1
    run = quick(model)
    before, found = (flat(run(model.params, each)) for each in (given, other))
    rows = 3 if choices else 1  # choices are rows of the middle states
    first = lambda named: {k: v[: rows if "." in k else 1] for k, v in named.items()}  # noqa: E731
    assert_same(first(found), first(before))
    assert any(np.abs(found[name] - array).max() > 0.1 for name, array in before.items())


@each_head
def test_jit_changes_nothing_and_a_second_call_compiles_nothing(row, head, caplog):
    model = strong(row, head)
    given, _ = sample(row.config_for(head), head)
    traces = []

    @jax.jit
    def run(params, given):
        traces.append(head)
        return forward(model)(params, given)

    assert_same(flat(run(model.params, given)), flat(forward(model)(model.params, given)))
    others = {name: np.ascontiguousarray(rows[::-1]) for name, rows in given.items()}
    params = jax.tree.map(lambda leaf: leaf - leaf, model.params)  # as an optimizer would give them back
    with jax.log_compiles(), caplog.at_level(logging.DEBUG, "jax"):
        jax.block_until_ready(run(params, others))
    assert len(traces) == 1
    assert not [message for message in caplog.messages if "ompil" in message]


EXECUTIONS = {
    "jit": Execution(layers="loop"),
    "scan": Execution(layers="scan"),
    "remat": Execution(layers="loop", remat="full"),
    "scan and remat": Execution(layers="scan", remat="full"),
    "scan and remat of all but products": Execution(layers="scan", remat="dots"),
}


def mostly(names: Iterable[str], *others: str, images: str | None = None) -> pytest.MarkDecorator:
    """Every name with BERT, and those of `others`, which have all that the rest have, with each other lineage; those that take
    images have `images` in their place, if there is one."""
    seen = (images,) if images else others
    pairs = [(row, name) for row in LINEAGES for name in (names if row is BERT else others if row.reads else seen)]
    return pytest.mark.parametrize(("row", "how"), pairs, ids=name_of)


@mostly(EXECUTIONS, "jit", "scan and remat")
def test_how_it_is_run_changes_no_output_and_no_gradient(row, how):
    model = strong(row, row.whole)
    options = None if how == "jit" else QUICK
    run = jax.jit(loss_and_gradient(model, execution=EXECUTIONS[how]), compiler_options=options)
    found = flat_results(model, *run(model.params, *sample(row.config, row.whole)))
    assert_same(found, reference(row, row.whole))


@pytest.mark.parametrize("layers", ["scan", "loop"])
@each_row
def test_remat_recomputes(row, layers):
    """It is not enough that remat changes nothing: the backward pass must really hold a layer's computation again."""
    model = strong(row, row.whole)
    given = (model.params, *sample(row.config, row.whole))

    def products(jaxpr):
        inner = jax.tree.leaves([eqn.params for eqn in jaxpr.eqns], is_leaf=lambda value: hasattr(value, "eqns"))
        here = sum(eqn.primitive.name == "dot_general" for eqn in jaxpr.eqns)
        return here + sum(products(value) for value in inner if hasattr(value, "eqns"))

    def held(remat):
        run = loss_and_gradient(model, middle=False, execution=Execution(layers=layers, remat=remat))
        return products(jax.make_jaxpr(run)(*given))

    assert held("full") > held("dots") > held(None)


@each_row
def test_dropout_is_drawn_from_rng_alone(row):
    model = strong(row, row.whole)
    given, _ = sample(row.config, row.whole)

    def run(rng, model=model, **options):
        return flat(forward(model, rng=rng, **options)(model.params, given))

    once = run(jax.random.key(1))
    assert_same(run(jax.random.key(1)), once, tolerance=0)
    assert_same(run(jax.random.key(1), execution=Execution(layers="scan")), once)
    for other in (run(jax.random.key(2)), outputs(reference(row, row.whole))):
        for name, array in other.items():
            if (row, name) == (LLAMA, "hidden_states.0"):  # drops attention weights alone
                continue
            assert np.abs(array - once[name]).max() > 1e-3, name
    none = {name: 0.0 for name in vars(model.config) if "dropout" in name}
    undropped = dataclasses.replace(model, config=model.config.replace(**none))
    assert_same(run(jax.random.key(1), undropped), outputs(reference(row, row.whole)))


MESHES = {
    "data": MeshConfig(),
    "fsdp": MeshConfig(fsdp=8),
    "data, fsdp and tensor": MeshConfig(fsdp=2, tensor=2),
    "fsdp, sequence and tensor": MeshConfig(fsdp=2, sequence=2, tensor=2),
}


@cache
def reference_of_eight(row: Row) -> Arrays:
    model = strong(row, row.whole)
    run = jax.jit(loss_and_gradient(model), compiler_options=QUICK)
    return flat_results(model, *run(model.params, *sample(row.config, row.whole, batch=8, length=8)))


@mostly(MESHES, "fsdp, sequence and tensor", images="data, fsdp and tensor")  # an odd number of tokens is cut nowhere
def test_eight_devices_compute_what_one_does(row, how):
    model = strong(row, row.whole)
    mesh = make_mesh(MESHES[how])
    rows = jax.NamedSharding(mesh, jax.P(("data", "fsdp")))

    def run(*arguments):
        with activate(mesh):
            return loss_and_gradient(model)(*arguments)

    places = shardings(model.declare(), mesh)
    params = jax.device_put(model.params, places)
    batch = jax.device_put(sample(row.config, row.whole, batch=8, length=8), rows)
    found = jax.jit(run, out_shardings=(None, places), compiler_options=QUICK)(params, *batch)
    assert_same(flat_results(model, *found), reference_of_eight(row))


@every_head
def test_saved_and_loaded_every_bit_is_the_same(row, head, tmp_path, caplog):
    model = strong(row, head)
    jf.save(model, tmp_path)
    again = jf.load(tmp_path, head)
    assert not caplog.messages
    assert again.config == model.config
    assert jax.tree.structure(again.params) == jax.tree.structure(model.params)
    for (path, found), (_, expected) in zip(leaves(again.params), leaves(model.params), strict=True):
        assert found.dtype == expected.dtype, path
        assert np.array_equal(found, expected), path


@each_row
def test_half_precision_stays_near(row):
    """bfloat16 keeps 8 bits: 0.4 % a rounding. Over two layers of this width every output stays within 0.1."""
    model = strong(row, row.whole)
    given, _ = sample(row.config, row.whole)
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), model.params)
    found = quick(model)(params, given)
    assert {array.dtype for array in jax.tree.leaves(found)} == {jnp.dtype(jnp.bfloat16)}
    assert_same({k: v.astype(np.float32) for k, v in flat(found).items()}, outputs(reference(row, row.whole)), 0.1)


@each_text
def test_middle_states_have_their_shapes(row, head):
    found = reference(row, head)
    given, _ = sample(row.config_for(head), head)
    *rows, L = given["input_ids"].shape
    config = strong(row, None).config
    B, N = int(np.prod(rows)), config.num_hidden_layers
    which = "encoder_" if row in ENCODER_DECODERS else ""
    states = [found[f"{which}hidden_states.{n}"] for n in range(N + 1)]
    maps = [found[f"{which}attentions.{n}"] for n in range(N)]
    assert f"{which}hidden_states.{N + 1}" not in found
    assert f"{which}attentions.{N}" not in found
    assert {state.shape for state in states} == {(B, L, config.hidden_size)}
    assert {each.shape for each in maps} == {(B, config.num_attention_heads, L, L)}
    maps = of_tokens(dict(enumerate(maps)), row, given["attention_mask"]).values()
    for each in maps:
        seen = of_tokens({"": np.ones_like(each)}, row, given["attention_mask"])[""].max(-1)
        np.testing.assert_allclose(each.sum(-1), seen, atol=1e-6)
        assert not each[np.broadcast_to(given["attention_mask"].reshape(B, 1, 1, L) == 0, each.shape)].any()
    if row in ENCODER_DECODERS:
        assert np.array_equal(states[-1], found["encoder_last_hidden_state"])
    elif head is None:
        assert np.array_equal(states[-1], found["last_hidden_state"])


@pytest.mark.parametrize("given", [{}, {"input_ids": np.ones((1, 2), int), "inputs_embeds": np.ones((1, 2, 32))}])
@every_text
def test_ids_or_vectors_but_not_both_and_not_none(row, given):
    model = strong(row, None)
    if row in ENCODER_DECODERS:
        given = {**given, "decoder_input_ids": np.ones((1, 2), int)}
    with pytest.raises(InputError, match="give either input_ids or inputs_embeds"):
        model.apply(model.params, **given)


@every_text
def test_a_text_longer_than_the_model_is_refused(row):
    model = strong(row, None)
    ids = np.full((1, 25 if row.longest is None else row.longest + 1), 5, np.int32)
    more = {"decoder_input_ids": ids[:, :1]} if row in ENCODER_DECODERS else {}
    run = lambda ids: jax.eval_shape(lambda: model.apply(model.params, input_ids=ids, **more))  # noqa: E731
    if row.longest is None:
        run(ids)
        return
    with pytest.raises(InputError, match=f"the input is {row.longest + 1} tokens long, this model has positions for"):
        run(ids)
    run(ids[:, 1:])


@every_head
def test_middle_states_are_given_only_when_asked_for(row, head):
    model = strong(row, head)
    given, _ = sample(row.config_for(head), head)
    shapes = jax.eval_shape(forward(model, middle=False), model.params, given)
    assert not [name for name in shapes.keys() if name.endswith(("hidden_states", "attentions"))]  # noqa: SIM118


# -- decoders ----------------------------------------------------------------------------------------------------------

each_decoder = pytest.mark.parametrize("row", DECODERS, ids=name_of)


@each_decoder
def test_a_token_sees_nothing_that_comes_later(row):
    model = strong(row, "causal-lm")
    ids = sample(row.config, "causal-lm")[0]["input_ids"]
    later = np.concatenate([ids[:, :4], (ids[:, 4:] + 1) % 64], axis=1)
    before, after = (np.asarray(model.apply(model.params, input_ids=each).logits) for each in (ids, later))
    np.testing.assert_allclose(after[:, :4], before[:, :4], rtol=0, atol=1e-6)
    assert np.abs(after[:, 4:] - before[:, 4:]).max() > 0.1


# Llama's kin whose layers look at near tokens only; all the others generate as transformers does, in the parity suite.
CACHED = (GPT2, LLAMA, MISTRAL)


@pytest.mark.parametrize(("row", "layers"), [*((row, "loop") for row in CACHED), (LLAMA, "scan")], ids=name_of)
def test_decoding_with_a_cache_is_the_whole_forward(row, layers):
    """In parts of 3, 1, 2 and 1 tokens, into a cache with room to spare: whole, padded left, padded right, with a hole."""
    model, config = strong(row, "causal-lm"), strong(row, "causal-lm").config
    ids = make_goldens.integers("cached", (4, 7), 1, 64)
    mask = np.array([[1] * 7, [0] * 2 + [1] * 5, [1] * 6 + [0], [1, 1, 0, 1, 1, 1, 1]])
    positions = np.maximum(mask.cumsum(1) - 1, 0)
    whole = model.apply(model.params, input_ids=ids, attention_mask=mask, position_ids=positions).logits
    heads = getattr(config, "num_key_value_heads", config.num_attention_heads)
    size = getattr(config, "head_dim", config.hidden_size // config.num_attention_heads)
    cache = empty_cache(config.num_hidden_layers, 4, heads, 9, size, jnp.float32)
    run = jax.jit(lambda cache, **given: model.apply(model.params, cache=cache, execution=Execution(layers), **given))
    found, start = [], 0
    for length in (3, 1, 2, 1):
        part = slice(start, start + length)
        output = run(cache, input_ids=ids[:, part], attention_mask=mask[:, part])
        found.append(output.logits)
        cache, start = output.cache, start + length
    assert int(cache.length) == 7
    assert_same({"logits": np.concatenate(found, 1) * mask[..., None]}, {"logits": np.asarray(whole) * mask[..., None]})
    last = model.apply(model.params, input_ids=ids, attention_mask=mask, position_ids=positions, logits_to_keep=1)
    assert_same({"logits": np.asarray(last.logits)}, {"logits": np.asarray(whole)[:, -1:]})


# -- encoder-decoders --------------------------------------------------------------------------------------------------

each_encoder_decoder = pytest.mark.parametrize("row", ENCODER_DECODERS, ids=name_of)


# Of the others parity with transformers' generate shows it; these differ in what a position is.
@pytest.mark.parametrize(
    ("row", "layers"), [(T5, "loop"), (T5, "scan"), (BART, "loop"), (M2M_100, "loop")], ids=name_of
)
def test_decoding_with_what_was_read_kept_is_the_whole_forward(row, layers):
    """The decoder in parts of 3, 1, 2 and 1 tokens, whole and padded right; the encoder runs with the first alone."""
    model = strong(row, "seq2seq-lm")
    given = sample(row.config, "seq2seq-lm")[0]
    ids, mask = given.pop("decoder_input_ids"), given.pop("decoder_attention_mask")
    whole = model.apply(model.params, **given, decoder_input_ids=ids, decoder_attention_mask=mask)
    cache = model.family.cache(model.config, 3, 9, jnp.float32)
    run = jax.jit(lambda cache, **given: model.apply(model.params, cache=cache, execution=Execution(layers), **given))
    found, start = [], 0
    for length in (3, 1, 2, 1):
        part = slice(start, start + length)
        output = run(cache, **given, decoder_input_ids=ids[:, part], decoder_attention_mask=mask[:, part])
        found.append(output.logits)
        cache, start, given = output.cache, start + length, {}
    assert int(cache.length) == 7
    found = np.concatenate(found, 1)
    assert_same({"logits": found * mask[..., None]}, {"logits": np.asarray(whole.logits) * mask[..., None]})
    given = {"attention_mask": sample(row.config, None)[0]["attention_mask"], "decoder_input_ids": ids}
    again = model.apply(model.params, **given, decoder_attention_mask=mask, logits_to_keep=1,
                        encoder_outputs=whole.encoder_last_hidden_state)  # fmt: skip
    assert_same({"logits": np.asarray(again.logits)}, {"logits": np.asarray(whole.logits)[:, -1:]})


def test_rows_of_one_text_share_what_was_read():
    """Beams: six rows over three texts, two each, are what three texts given twice are; weights and all."""
    model = strong(T5, "seq2seq-lm")
    given = sample(T5.config, "seq2seq-lm")[0]
    source = {name: given[name] for name in ("input_ids", "attention_mask")}
    twice = {name: np.repeat(array, 2, axis=0) for name, array in source.items()}
    tokens = make_goldens.integers("beams", (6, 2), 2, 64)
    run = jax.jit(partial(model.apply, output_attentions=True), compiler_options=QUICK)
    expected = run(model.params, **twice, decoder_input_ids=tokens)
    cache = model.family.cache(model.config, 3, 4, jnp.float32)
    cache = run(model.params, **source, decoder_input_ids=tokens[:3, :1], cache=cache).cache
    rows = dataclasses.replace(model.family.cache(model.config, 6, 4, jnp.float32), cross=cache.cross)
    found = run(model.params, decoder_input_ids=tokens, cache=rows)
    for name in ("logits", "cross_attentions"):
        assert_same(*({name: np.asarray(jax.tree.leaves(side[name])[-1])} for side in (found, expected)))


@each_encoder_decoder
def test_a_decoder_reads_its_labels_shifted(row):
    family, config = strong(row, "seq2seq-lm").family, strong(row, "seq2seq-lm").config
    shifted = family.decoder_inputs(np.array([[7, 8, 9, 1, -100, -100]]), config)
    pad, first = config.pad_token_id, config.decoder_start_token_id
    last = 9 if pad == 1 else 1
    np.testing.assert_array_equal(shifted, [[last if row is MBART else first, 7, 8, 9, 1, pad]])


def test_inputs_that_say_too_little_or_too_much_are_refused():
    model = strong(T5, None)
    ids = np.ones((1, 2), np.int32)
    for given, words in (
        ({"input_ids": ids}, "give either decoder_input_ids or decoder_inputs_embeds"),
        ({"decoder_input_ids": ids}, "give either input_ids or inputs_embeds"),
        ({"input_ids": ids, "decoder_input_ids": ids, "encoder_outputs": np.ones((1, 2, 32))}, "states are known"),
    ):
        with pytest.raises(InputError, match=words):
            model.apply(model.params, **given)
