"""Kernels in 8 bits: how near they are, what they weigh, and what works with them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxformers as jf
from jaxformers.checkpoints.int8 import quantise
from jaxformers.core.params import leaves
from jaxformers.errors import InputError
from jaxformers.generate import generate
from jaxformers.parallel.mesh import MeshConfig, make_mesh
from jaxformers.train import TrainingArguments, make_train_step
from tests.families.table import BERT, LLAMA, MODERNBERT, sample, strong

CLASSIFY = "sequence-classification"


def said(model, given):
    return np.asarray(model.apply(model.params, **given).logits)


def test_it_computes_with_the_rounded_kernels():
    """The product with whole numbers, scaled after, is the product with the rounded kernel; that is half a step from its own."""
    row, head = MODERNBERT, "token-classification"  # whose projections' parts come first in their results
    plain = strong(row, head)
    model = quantise(plain)
    rounded = {}
    flat = dict(leaves(model.params))
    for path, leaf in leaves(plain.params):
        if flat[path].dtype == jnp.int8:
            axes = tuple(range(1, 1 + leaf.ndim - flat[*path[:-1], "kernel_scale"].ndim))
            scale = np.expand_dims(flat[*path[:-1], "kernel_scale"], axes)
            rounded[path] = np.asarray(flat[path], np.float32) * scale
            assert (np.abs(rounded[path] - leaf) <= scale / 2 * 1.001).all(), path
            assert np.abs(flat[path]).max() == 127
    assert len(rounded) == sum(
        path[-1] == "kernel" and path[0] in plain.family.trunk for path, _ in leaves(plain.params)
    )
    same = jf.Model(plain.family, head, plain.config, jax.tree.map(jnp.asarray, _put(plain.params, rounded)))
    given = sample(row.config_for(head), head)[0]
    np.testing.assert_allclose(said(model, given), said(same, given), atol=2e-5)


def _put(tree, new, path=()):
    return {k: _put(v, new, (*path, k)) if isinstance(v, dict) else new.get((*path, k), v) for k, v in tree.items()}


def test_a_file_loads_in_8_bits_and_generates(tmp_path):
    plain = strong(LLAMA, "causal-lm")
    jf.save(plain, tmp_path)
    mesh = make_mesh(MeshConfig(data=2, tensor=2), jax.devices()[:4])
    cut = jf.load(tmp_path, "causal-lm", dtype="int8", mesh=mesh)
    model = jf.load(tmp_path, "causal-lm", dtype="int8")
    jax.tree.map(np.testing.assert_array_equal, model.params, quantise(plain).params)
    jax.tree.map(np.testing.assert_array_equal, cut.params, model.params)
    assert cut.params["layers"]["up"]["kernel_scale"].sharding.spec[1] == "tensor"
    found = generate(model, [[5, 9, 7]], max_new_tokens=5).sequences
    likeliest = said(model, {"input_ids": found})[0].argmax(-1)
    np.testing.assert_array_equal(found[0, 3:], likeliest[2:-1])
    with pytest.raises(InputError, match="nothing of this model learns: in 8 bits"):
        make_train_step(quantise(strong(BERT, None)), TrainingArguments(max_steps=1))
    with pytest.raises(InputError, match="save the one it was made of"):
        jf.save(model, tmp_path / "again")
    with pytest.raises(InputError, match="before anything else"):
        quantise(model)


def test_an_adapter_learns_on_8_bits():
    plain = strong(BERT, CLASSIFY)
    model = jf.lora(quantise(plain), rank=2, targets=("query",))
    batch = {**sample(BERT.config_for(CLASSIFY), CLASSIFY)[0], "labels": np.array([0, 1, 2])}
    step = make_train_step(
        model, TrainingArguments(max_steps=9, learning_rate=1e-2), mesh=make_mesh(devices=jax.devices()[:1])
    )
    state = step.init()
    state, _ = step(state, step.put(batch))
    moved = {
        path for (path, a), (_, b) in zip(leaves(state.params), leaves(model.params), strict=True) if (a != b).any()
    }
    assert moved == {("classifier", "bias"), ("classifier", "kernel"), ("layers", "attention", "query", "lora_b")}
    with pytest.raises(InputError, match="in 8 bits: load it in full"):
        jf.merge(model)
