import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx

import jaxformers as jf
from jaxformers.errors import InputError
from jaxformers.flax_bridge import from_linen, from_nnx, to_linen, to_nnx

TINY = {"model_type": "bert", "vocab_size": 11, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
        "intermediate_size": 16, "max_position_embeddings": 32, "initializer_range": 0.2}  # fmt: skip
INPUTS = {"input_ids": np.array([[2, 5, 7, 3], [2, 9, 3, 0]], np.int32),
          "attention_mask": np.array([[1, 1, 1, 1], [1, 1, 1, 0]], np.int32)}  # fmt: skip
LABELS = np.array([0, 1])


@pytest.fixture(scope="module")
def model():
    return jf.load(TINY, head="sequence-classification")


def loss_of(logits):
    return optax.softmax_cross_entropy_with_integer_labels(logits, LABELS).mean()


def close(a, b, atol=1e-6):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=atol), a, b)


def reference_gradient(model):
    return jax.jit(jax.grad(lambda params: loss_of(model.apply(params, **INPUTS).logits)))(model.params)


# -- Linen -------------------------------------------------------------------------------------------------------------


def test_linen_init_has_the_models_structure_and_is_drawn_by_its_declarations(model):
    init = jax.jit(to_linen(model).init)
    variables = init(jax.random.key(1), **INPUTS)
    assert list(variables) == ["params"]
    shapes = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)  # noqa: E731
    assert shapes(variables["params"]) == shapes(model.params)
    assert 0.15 < np.std(variables["params"]["embeddings"]["word"]) < 0.25
    assert not np.any(variables["params"]["classifier"]["bias"])
    other = init(jax.random.key(2), **INPUTS)
    assert not np.allclose(other["params"]["embeddings"]["word"], variables["params"]["embeddings"]["word"])


def test_linen_apply_is_the_models_apply(model):
    output = jax.jit(to_linen(model).apply)({"params": model.params}, **INPUTS)
    close(output, model.apply(model.params, **INPUTS))
    deep = jax.eval_shape(partial(to_linen(model).apply, output_hidden_states=True), {"params": model.params}, **INPUTS)
    assert len(deep.hidden_states) == 2


def test_linen_draws_dropout_from_its_stream_only(model):
    apply, variables = jax.jit(to_linen(model).apply), {"params": model.params}
    calm = apply(variables, **INPUTS).logits
    drawn = [apply(variables, **INPUTS, rngs={"dropout": jax.random.key(n)}).logits for n in (0, 0, 1)]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert not np.allclose(drawn[0], drawn[2])
    assert not np.allclose(drawn[0], calm)


def test_linen_within_a_larger_module_learns(model):
    class Larger(linen.Module):
        trunk: linen.Module

        @linen.compact
        def __call__(self, **inputs):
            return linen.Dense(2)(self.trunk(**inputs).pooler_output)

    module = Larger(to_linen(dataclasses.replace(model, head=None)))
    params = jax.jit(module.init)(jax.random.key(0), **INPUTS)["params"]
    assert set(params) == {"trunk", "Dense_0"}
    assert set(params["trunk"]) == {"embeddings", "layers", "pooler"}
    optimizer = optax.adam(1e-2)

    @jax.jit
    def step(params, state, rng):
        def loss(params):
            return loss_of(module.apply({"params": params}, **INPUTS, rngs={"dropout": rng}))

        value, gradient = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(params, updates), state, value

    state, losses = optimizer.init(params), []
    for n in range(15):
        params, state, value = step(params, state, jax.random.key(n))
        losses.append(value)
    assert np.mean(losses[-3:]) < np.mean(losses[:3])


def test_linen_gradient(model):
    module = to_linen(model)
    gradient = jax.jit(jax.grad(lambda params: loss_of(module.apply({"params": params}, **INPUTS).logits)))(
        model.params
    )
    close(gradient, reference_gradient(model))


def test_from_linen(model):
    module = to_linen(model)
    variables = {"params": jf.load(TINY, head="sequence-classification", seed=1).params}
    back = from_linen(module, variables)
    assert (back.family, back.head, back.config) == (model.family, model.head, model.config)
    close(back.params, variables["params"])
    with pytest.raises(InputError, match="found Dense"):
        from_linen(linen.Dense(2), variables)
    broken = {**model.params, "classifier": {"bias": model.params["classifier"]["bias"]}}
    with pytest.raises(InputError, match="classifier/kernel"):
        from_linen(module, {"params": broken})


# -- NNX ---------------------------------------------------------------------------------------------------------------


@nnx.jit
def call(module, rngs=None):
    return module(**INPUTS, rngs=rngs)


def test_nnx_call_is_the_models_apply(model):
    close(call(to_nnx(model)), model.apply(model.params, **INPUTS))


def test_nnx_parameters_are_params(model):
    module = to_nnx(model)
    graph, state = nnx.split(module, nnx.Param)
    close(nnx.to_pure_dict(state)["params"], model.params)
    hash(graph)
    close(call(nnx.merge(graph, state)), model.apply(model.params, **INPUTS))
    assert isinstance(module.params["classifier"]["bias"], nnx.Param)


def test_nnx_draws_dropout_from_its_stream_only(model):
    module = to_nnx(model)
    calm = call(module).logits
    rngs = nnx.Rngs(dropout=0)
    first, second = (call(module, rngs).logits for _ in range(2))
    expected = model.apply(model.params, **INPUTS, rng=nnx.Rngs(dropout=0).dropout()).logits
    np.testing.assert_allclose(first, expected, atol=1e-6)
    assert not np.allclose(first, second)
    assert not np.allclose(first, calm)


def test_nnx_gradient(model):
    gradient = nnx.jit(nnx.grad(lambda module: loss_of(module(**INPUTS).logits)))(to_nnx(model))
    close(nnx.to_pure_dict(gradient)["params"], reference_gradient(model))


def test_nnx_learns_and_gives_the_model_back(model):
    module = to_nnx(model)
    before = jax.tree.map(np.array, model.params)
    optimizer = nnx.Optimizer(module, optax.adam(1e-2), wrt=nnx.Param)

    @nnx.jit
    def step(module, optimizer):
        value, gradient = nnx.value_and_grad(lambda module: loss_of(module(**INPUTS).logits))(module)
        optimizer.update(module, gradient)
        return value

    losses = [step(module, optimizer) for _ in range(10)]
    assert losses[-1] < losses[0]
    back = from_nnx(module)
    assert (back.family, back.head, back.config) == (model.family, model.head, model.config)
    assert type(back.params["layers"]) is dict
    np.testing.assert_allclose(loss_of(back.apply(back.params, **INPUTS).logits), step(module, optimizer), atol=1e-5)
    close(model.params, before)  # the model it came from is as it was
    with pytest.raises(InputError, match="found Rngs"):
        from_nnx(nnx.Rngs(0))


def test_nnx_within_a_larger_module(model):
    class Larger(nnx.Module):
        def __init__(self, rngs):
            self.trunk = to_nnx(dataclasses.replace(model, head=None))
            self.top = nnx.Linear(8, 3, rngs=rngs)

        def __call__(self, **inputs):
            return self.top(self.trunk(**inputs).pooler_output)

    gradient = nnx.jit(nnx.grad(lambda module: module(**INPUTS).sum()))(Larger(nnx.Rngs(0)))
    assert jnp.any(gradient["trunk"]["params"]["pooler"]["kernel"][...] != 0)
