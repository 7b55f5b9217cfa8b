"""Optimizers: each beside PyTorch's, and those that look at matrices see the checkpoint's."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxformers.checkpoints.mapping import to_file
from jaxformers.core.params import Param, leaves, zeros
from jaxformers.errors import InputError
from jaxformers.train import TrainingArguments, make_optimizer
from jaxformers.train.arguments import OPTIMIZERS as NAMES
from jaxformers.train.optim import OPTIMIZERS

DECLARED = {
    "table": Param((7, 6), ("vocab", "table"), zeros, "table.weight"),
    "layers": {
        "query": Param((2, 6, 2, 4), ("layers", "embed", "heads", "head_size"), zeros, "{}.q", "(h k) d -> d h k"),
        "bias": Param((2, 2, 4), ("layers", "heads", "head_size"), zeros, "{}.b", "(h k) -> h k", decay=False),
    },
}
RATE = 0.02


def draw(seed):
    generator = np.random.default_rng(seed)
    return jax.tree.map(
        lambda p: jnp.asarray(generator.normal(size=p.shape), jnp.float32),
        DECLARED,
        is_leaf=lambda leaf: isinstance(leaf, Param),
    )


def trained(name, options="", steps=4, **settings):
    args = TrainingArguments(optim=name, optim_args=options, learning_rate=RATE, max_grad_norm=0, **settings)
    optimizer = make_optimizer(args, lambda step: RATE, DECLARED)
    params = draw(0)
    state = optimizer.init(params)
    update = jax.jit(optimizer.update)
    for step in range(steps):
        updates, state = update(jax.tree.map(lambda g: g * 0.1, draw(step + 1)), state, params)
        params = optax.apply_updates(params, updates)
    return params


def test_the_names_are_those_the_arguments_know():
    assert tuple(OPTIMIZERS) == NAMES
    assert TrainingArguments(optim="adamw_torch_fused").optim == "adamw"
    with pytest.raises(InputError, match=r"optim must be one of adamw, .* found 'lomo'"):
        TrainingArguments(optim="lomo")
    with pytest.raises(InputError, match="'sgd' has no option 'mass', only momentum, nesterov"):
        trained("sgd", "mass=1")


def in_file(tree):
    """{path: each layer's array as the checkpoint has it}"""
    declared = dict(leaves(DECLARED))
    return {
        path: [to_file(layer, declared[path].layout) for layer in (leaf if path[0] == "layers" else [leaf])]
        for path, leaf in leaves(jax.tree.map(np.asarray, tree))
    }


THEIRS = [
    ("adamw", "", {"weight_decay": 0.1}, "AdamW", {"weight_decay": 0.1}),
    ("sgd", "", {"weight_decay": 0.1}, "SGD", {"weight_decay": 0.1}),
    ("sgd", "momentum=0.9,nesterov=true", {}, "SGD", {"momentum": 0.9, "nesterov": True}),
    ("adagrad", "", {}, "Adagrad", {}),
    ("rmsprop", "", {}, "RMSprop", {}),
    ("rmsprop", "momentum=0.5,alpha=0.9,centered=true", {}, "RMSprop", {"momentum": 0.5, "alpha": 0.9, "centered": True}),
    ("adafactor", "", {}, "Adafactor", {}),
    ("adafactor", "beta1=0.8,scale_parameter=true", {"weight_decay": 0.1}, "Adafactor",
     {"beta1": 0.8, "scale_parameter": True, "weight_decay": 0.1}),
]  # fmt: skip


@pytest.mark.parity
@pytest.mark.parametrize(("name", "options", "settings", "theirs", "keywords"), THEIRS)
def test_every_optimizer_is_pytorchs(name, options, settings, theirs, keywords):
    torch = pytest.importorskip("torch")
    from transformers.optimization import Adafactor

    if theirs == "Adafactor":
        make, keywords = Adafactor, {"scale_parameter": False, "relative_step": False, **keywords}
    else:
        make = getattr(torch.optim, theirs)
    start = in_file(draw(0))
    params = {key: [torch.nn.Parameter(torch.tensor(a)) for a in arrays] for key, arrays in start.items()}
    plain = [p for (*_, last), group in params.items() if last != "bias" for p in group]
    biases = [p for (*_, last), group in params.items() if last == "bias" for p in group]
    optimizer = make([{"params": plain}, {"params": biases, "weight_decay": 0.0}], lr=RATE, **keywords)
    for step in range(4):
        for key, arrays in in_file(jax.tree.map(lambda g: g * 0.1, draw(step + 1))).items():
            for param, array in zip(params[key], arrays, strict=True):
                param.grad = torch.tensor(array)
        optimizer.step()
    for key, arrays in in_file(trained(name, options, **settings)).items():
        for ours, param in zip(arrays, params[key], strict=True):
            np.testing.assert_allclose(ours, param.detach().numpy(), atol=2e-6)


def test_adafactor_keeps_a_row_and_a_column_of_each_matrix():
    args = TrainingArguments(optim="adafactor", max_grad_norm=0)
    state = make_optimizer(args, lambda step: RATE, DECLARED).init(draw(0))
    assert state.rows["layers"]["query"].shape == (2, 1, 2, 4)
    assert state.columns["layers"]["query"].shape == (2, 6, 1, 1)
    assert state.rows["layers"]["bias"].shape == (2, 2, 4)


def test_a_lamb_step_is_as_long_as_its_tensor():
    args = TrainingArguments(optim="lamb", max_grad_norm=0)
    optimizer = make_optimizer(args, lambda step: 1.0, DECLARED)
    params = draw(0)
    updates, _ = optimizer.update(draw(1), optimizer.init(params), params)
    for key, arrays in in_file(updates).items():
        for update, param in zip(arrays, in_file(params)[key], strict=True):
            assert np.linalg.norm(update) == pytest.approx(np.linalg.norm(param), rel=1e-5)


def test_a_muon_step_of_a_layer_is_nearly_orthogonal_and_the_rest_is_adamw():
    params, updates = draw(0), None
    args = TrainingArguments(optim="muon", max_grad_norm=0)
    optimizer = make_optimizer(args, lambda step: 1.0, DECLARED)
    updates, _ = optimizer.update(draw(1), optimizer.init(params), params)
    for matrix in in_file(updates)[("layers", "query")]:
        values = np.linalg.svd(matrix, compute_uv=False)
        assert values.max() / values.min() < 2.5
        assert np.sqrt(np.square(matrix).mean()) == pytest.approx(0.2, rel=0.3)
    np.testing.assert_allclose(np.abs(updates["table"]), 1.0, rtol=1e-4)  # Adam's first step
    alone = jax.tree.map(lambda leaf: leaf, params)
    alone["layers"] = {**params["layers"], "query": params["layers"]["query"].at[1].set(9.0)}
    other, _ = optimizer.update(draw(1), optimizer.init(alone), alone)
    np.testing.assert_array_equal(other["layers"]["query"][0], updates["layers"]["query"][0])


@pytest.mark.parametrize("name", NAMES)
def test_every_optimizer_goes_down(name):
    """The sum of squares of all parameters, with the gradient itself."""
    args = TrainingArguments(optim=name, learning_rate=RATE)
    optimizer = make_optimizer(args, lambda step: RATE, DECLARED)

    def step(carry, _):
        params, state = carry
        updates, state = optimizer.update(params, state, params)
        return (optax.apply_updates(params, updates), state), None

    params = draw(0)
    (after, _), _ = jax.jit(lambda p: jax.lax.scan(step, (p, optimizer.init(p)), length=10))(params)
    assert float(optax.tree.norm(after)) < float(optax.tree.norm(params))
