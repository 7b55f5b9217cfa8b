"""Any model as a Flax module, so that Linen and NNX code can hold one, and back again.

The parameters keep their structure: Linen's `{"params": …}` and NNX's `module.params` are the tree of `model.params`. What is
computed is `model.apply`. Nothing else is state, so a bridged module has no collection but parameters, and no `train` flag:
dropout is drawn where Flax gives a key for it, and only there.
"""

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import jax

from jaxformers.core.outputs import Output
from jaxformers.core.params import Tree, initialise_leaf, leaves, nested
from jaxformers.errors import InputError
from jaxformers.families import Model

__all__ = ["from_linen", "from_nnx", "to_linen", "to_nnx"]


def to_linen(model: Model) -> Any:
    """The model as a `flax.linen.Module`.

    `module.init(rng)` draws new parameters as the model declares them; those of `model` are `{"params": model.params}`.
    `module.apply(variables, **inputs)` is `model.apply`; with `rngs={"dropout": key}` it draws dropout, from Flax's stream
    of that name (another key than `rng=key` would be: Flax folds the module's path into it).

    Args:
      model: what to bridge; the module keeps its config and head, not its parameters.

    Returns:
      A `flax.linen.Module` whose call takes the model's inputs by keyword and returns `Output`.

    >>> from jaxformers import load
    >>> import jax, numpy as np
    >>> tiny = {"model_type": "bert", "vocab_size": 11, "hidden_size": 8, "num_hidden_layers": 1,
    ...         "num_attention_heads": 2, "intermediate_size": 16, "max_position_embeddings": 32}
    >>> module = to_linen(load(tiny))
    >>> ids = np.ones((1, 4), np.int32)
    >>> variables = module.init(jax.random.key(0), input_ids=ids)
    >>> module.apply(variables, input_ids=ids).last_hidden_state.shape
    (1, 4, 8)
    """
    dtype = jax.tree.leaves(model.params)[0].dtype
    return _linen_class()(model.family, model.head, model.config, dtype)


def from_linen(module: Any, variables: Mapping[str, Any]) -> Model:
    """The model of a module made by `to_linen`, with the parameters in `variables["params"]`.

    Raises:
      InputError: the module is no bridged one, or the parameters have another structure.
    """
    if not isinstance(module, _linen_class()):
        raise InputError(f"from_linen expects a module made by to_linen, found {type(module).__name__}")
    return _model(Model(module.family, module.head, module.config, {}), variables.get("params", {}))


def to_nnx(model: Model) -> Any:
    """The model as a `flax.nnx.Module`, holding the model's parameters.

    `module(**inputs)` is `model.apply`; with `rngs=nnx.Rngs(...)` it draws dropout from the stream `dropout` (or `default`).
    Each parameter is an `nnx.Param`, so `nnx.grad`, `nnx.split`, `nnx.state` and `nnx.Optimizer` see them.

    Args:
      model: what to bridge.

    Returns:
      A `flax.nnx.Module` with the attribute `params`, the tree of `model.params`.

    >>> from jaxformers import load
    >>> import numpy as np
    >>> tiny = {"model_type": "bert", "vocab_size": 11, "hidden_size": 8, "num_hidden_layers": 1,
    ...         "num_attention_heads": 2, "intermediate_size": 16, "max_position_embeddings": 32}
    >>> to_nnx(load(tiny))(input_ids=np.ones((1, 4), np.int32)).pooler_output.shape
    (1, 8)
    """
    return _nnx_class()(model)


def from_nnx(module: Any) -> Model:
    """The model of a module made by `to_nnx`, with the parameters the module has now.

    Raises:
      InputError: the module is no bridged one.
    """
    if not isinstance(module, _nnx_class()):
        raise InputError(f"from_nnx expects a module made by to_nnx, found {type(module).__name__}")
    return _model(Model(module.family, module.head, module.config, {}), module.tree())


def _model(bare: Model, params: Mapping[str, Any]) -> Model:
    """`bare` with these parameters, as plain dicts, checked against what it declares."""
    flat = {path: array for path, array in leaves(_plain(params))}
    wanted = {path: param.shape for path, param in leaves(bare.declare())}
    if {path: array.shape for path, array in flat.items()} != wanted:
        odd = sorted(path for path in {*flat, *wanted} if path not in flat or flat[path].shape != wanted.get(path))
        raise InputError(f"the parameters do not fit {bare.family.name} with head {bare.head!r}: {'/'.join(odd[0])}")
    return Model(bare.family, bare.head, bare.config, nested(flat))


def _plain(tree: Any) -> Any:
    return {key: _plain(value) for key, value in tree.items()} if isinstance(tree, Mapping) else tree


@cache
def _linen_class() -> Any:
    from flax import linen

    class LinenModel(linen.Module):
        """A jaxformers model; made by `jaxformers.flax_bridge.to_linen`."""

        family: Any
        head: str | None
        config: Any
        dtype: Any

        @linen.compact
        def __call__(self, **inputs: Any) -> Output:
            declared = self.family.declare(self.config, self.head)
            # `self.param` takes a whole subtree: one a top-level key gives the structure of model.params.
            params = {key: self.param(key, _drawer(key, tree, self.dtype)) for key, tree in declared.items()}
            rng = self.make_rng("dropout") if self.has_rng("dropout") else None
            return Model(self.family, self.head, self.config, params).apply(params, rng=rng, **inputs)

    return LinenModel


def _drawer(key: str, tree: Tree, dtype: Any) -> Callable[[jax.Array], Tree]:
    def draw(rng: jax.Array) -> Tree:
        drawn = {path: initialise_leaf(path, param, rng, dtype) for path, param in leaves({key: tree})}
        return nested(drawn)[key]

    return draw


@cache
def _nnx_class() -> Any:
    from flax import nnx

    class NnxModel(nnx.Module):
        """A jaxformers model; made by `jaxformers.flax_bridge.to_nnx`."""

        def __init__(self, model: Model) -> None:
            self.family, self.head, self.config = model.family, model.head, model.config
            self.params = nnx.data(jax.tree.map(nnx.Param, model.params))

        def __call__(self, *, rngs: Any = None, **inputs: Any) -> Output:
            params = self.tree()
            rng = None if rngs is None else rngs.dropout()
            return Model(self.family, self.head, self.config, params).apply(params, rng=rng, **inputs)

        def tree(self) -> Tree:
            """The parameters as a plain tree of arrays."""
            return jax.tree.map(lambda p: p[...], self.params, is_leaf=lambda leaf: isinstance(leaf, nnx.Param))

    return NnxModel
