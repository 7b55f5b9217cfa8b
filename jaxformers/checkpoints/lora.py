"""Low-rank adapters (LoRA, Hu et al. 2021, arXiv:2106.09685): a pure transform of a model into one with a few parameters more.

An adapted model is a `Model` like any other. Its tree has `lora_a` and `lora_b` beside each adapted `kernel`, its declarations
say that these and the head learn and the rest does not, so that `fit`, meshes, pipelines and `generate` need not know of it.
`merge` gives the plain model back. How PEFT's files are read and written is `peft.py`.
"""

import dataclasses
import functools
import re
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding

from jaxformers.checkpoints.mapping import file_names, file_shape, is_stacked, layer_shape, letters_of
from jaxformers.core.kernels import Adapted
from jaxformers.core.outputs import Output
from jaxformers.core.params import Initialiser, Param, Tree, initialise_leaf, leaves, nested, shardings, zeros
from jaxformers.errors import InputError
from jaxformers.families import Family, Model

PRETRAINED_HEADS = (None, "masked-lm", "causal-lm", "seq2seq-lm", "pretraining", "next-sentence-prediction",
                    "text-encoding")  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Adapter:
    """What is adapted and how, in the words of PEFT's adapter_config.json.

    Args:
      rank: R, `r` there.
      alpha: the correction is multiplied with alpha / R.
      targets: modules by the ends of their names, or a regular expression of their whole names.
      modules_to_save: modules that are trained whole, by the ends of their names.
      dropout: of what the correction reads.
      rslora: divide by √R in place of R (Kalajdzievski 2023, arXiv:2312.03732).
      base: the folder or hub id of the model it stands on, if known.
    """

    rank: int = 8
    alpha: float = 8
    targets: tuple[str, ...] | str = ()
    modules_to_save: tuple[str, ...] = ()
    dropout: float = 0.0
    rslora: bool = False
    base: str | None = None

    @property
    def scale(self) -> float:
        """What a·b is multiplied with."""
        return self.alpha / (self.rank**0.5 if self.rslora else self.rank)

    def adapts(self, module: str) -> bool:
        """Whether the linear layer of this name is adapted."""
        if self.saves(module):
            return False
        if isinstance(self.targets, str):
            return re.fullmatch(self.targets, module) is not None
        return any(module == target or module.endswith(f".{target}") for target in self.targets)

    def saves(self, module: str) -> bool:
        """Whether this module, or one that it is part of, is trained whole."""
        parts = module.split(".")
        return any(".".join(parts[: n + 1]).endswith(self.modules_to_save) for n in range(len(parts)))


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class AdaptedFamily(Family):
    """A family whose kernels are adapted; see `Family`.

    Args:
      plain: the family itself.
      adapter: what is adapted and how.
    """

    plain: Family
    adapter: Adapter


def lora(
    model: Model,
    *,
    rank: int = 8,
    alpha: float = 8,
    targets: str | Sequence[str] = "all-linear",
    modules_to_save: Sequence[str] | None = None,
    dropout: float = 0.0,
    rslora: bool = False,
    base: str | None = None,
    seed: int = 0,
) -> Model:
    """The model with low-rank adapters, which alone learn, with the head. It computes as before until it has been trained.

    Args:
      model: what to adapt; it stays as it is, and shares its arrays.
      rank: R, of `lora_a` [inputs…, R] and `lora_b` [R, outputs…].
      alpha: the correction is multiplied with alpha / rank.
      targets: linear layers by their names in a checkpoint as PEFT takes them: their ends (`("query", "value")`), a regular
        expression of whole names, or `"all-linear"`: all but the head.
      modules_to_save: modules that are trained whole, by the ends of their names; by default a head that is no language model's.
      dropout: of what the correction reads, in training.
      rslora: multiply with alpha / √rank.
      base: the folder or hub id of `model`, which adapter_config.json then names, so that `load` finds it.
      seed: for `lora_a`; `lora_b` begins with zeros.

    Returns:
      The adapted model. `save` writes its adapter alone, in PEFT's files; `merge` makes a plain model of it.

    Raises:
      InputError: a target or a module is not there, or is only in some layers, or there is an adapter already.

    >>> from jaxformers.checkpoints import load
    >>> tiny = {"model_type": "bert", "vocab_size": 11, "hidden_size": 8, "num_hidden_layers": 2,
    ...         "num_attention_heads": 2, "intermediate_size": 16, "max_position_embeddings": 32}
    >>> model = lora(load(tiny, "sequence-classification"), rank=4, targets=("query", "value"))
    >>> model.params["layers"]["attention"]["query"]["lora_b"].shape
    (2, 4, 2, 4)
    """
    if isinstance(model.family, AdaptedFamily):
        raise InputError("the model has an adapter already: merge(model) first")
    if rank < 1 or not 0 <= dropout < 1:
        raise InputError(f"rank must be at least 1 and dropout from 0 to below 1, found rank={rank}, dropout={dropout}")
    declared = model.declare()
    if modules_to_save is None:
        modules_to_save = () if model.head in PRETRAINED_HEADS else _own_modules(model)
    saved = tuple(modules_to_save)
    for module in saved:
        if not any(Adapter(modules_to_save=(module,)).saves(_module(param)) for _, param in leaves(declared)):
            own = _listed(_own_modules(model))
            raise InputError(f"modules_to_save: there is no module {module!r}; the head's are {own}")
    if targets == "all-linear":
        plain = dict(leaves(model.family.declare(model.config, None)))
        rest = Adapter(modules_to_save=saved)
        found = [param for path, param in leaves(declared) if path in plain and linear_letters(path, param)]
        targets = sorted({_ending(model.family, param) for param in found if not rest.saves(_module(param))})
    names = targets if isinstance(targets, str) else tuple(targets)
    adapter = Adapter(rank, alpha, names, saved, dropout, rslora, base)
    for target in (names,) if isinstance(names, str) else names:
        alone = dataclasses.replace(adapter, targets=target if isinstance(names, str) else (target,))
        if not any(_chosen(model.family, alone, model.head, *each) for each in leaves(declared)):
            known = {_ending(model.family, param) for path, param in leaves(declared) if linear_letters(path, param)}
            raise InputError(f"targets: no linear layer is called {target!r}; there are {_listed(sorted(known))}")
    return adapted(model, adapter, seed)


def adapted(model: Model, adapter: Adapter, seed: int = 0) -> Model:
    """The model with this adapter, newly drawn."""
    family = adapted_family(model.family, adapter)
    new = Model(family, model.head, model.config, {}, model.generation)
    there, declared = dict(leaves(model.params)), new.declare()
    first: Any = next(iter(there.values()))
    placed: dict[tuple[str, ...], Any] = {}
    if (
        isinstance(first, jax.Array)
        and isinstance(first.sharding, NamedSharding)
        and isinstance(first.sharding.mesh, Mesh)
    ):
        placed = dict(leaves(shardings(declared, first.sharding.mesh)))
    key = jax.random.key(seed)
    for path, param in leaves(declared):
        if path not in there:
            like = there.get(
                (*path[:-1], "kernel_scale"), there[*path[:-1], "kernel"]
            )  # a kernel in 8 bits has a scale beside it
            drawn = initialise_leaf(path, param, key, like.dtype)
            there[path] = jax.device_put(drawn, placed.get(path))
    return dataclasses.replace(new, params=nested(there))


def merge(model: Model) -> Model:
    """The plain model that computes what the adapted one does: each correction is added to its kernel.

    There is no way back to be undone: the adapted model stays as it is, and `unload` gives the one it stands on.

    Raises:
      InputError: the model has no adapter, or its kernels are in 8 bits.
    """
    family, declared = _adapted_family(model), model.declare()
    if type(family.plain) is not Family:
        raise InputError("the model is in 8 bits: load it in full, with adapter=…, and merge that")

    def join(params: Tree) -> Tree:
        flat = dict(leaves(params))
        for path, kernel in leaves(params):
            beside = path[:-1]
            if path[-1] == "kernel" and (*beside, "lora_a") in flat:
                pair = flat.pop((*beside, "lora_a")), flat.pop((*beside, "lora_b"))
                whole = Adapted.whole
                if is_stacked(_at(declared, path)):
                    whole = jax.vmap(whole)
                flat[path] = whole(Adapted(kernel, *pair, scale=family.adapter.scale))
        return nested(flat)

    return dataclasses.replace(model, family=family.plain, params=jax.jit(join)(model.params))


def unload(model: Model) -> Model:
    """The plain model that an adapted one stands on, without its corrections. Raises as `merge` does."""
    family = _adapted_family(model)
    params = nested({path: leaf for path, leaf in leaves(model.params) if path[-1] not in ("lora_a", "lora_b")})
    return dataclasses.replace(model, family=family.plain, params=params)


@functools.lru_cache(maxsize=64)  # one family for equal adapters, so that programs compiled for it serve all
def adapted_family(plain: Family, adapter: Adapter) -> AdaptedFamily:
    """The family of models with this adapter."""
    parts = {field.name: getattr(plain, field.name) for field in dataclasses.fields(Family)}
    parts["declare"] = functools.partial(_declare, plain, adapter)
    parts["heads"] = {head: _forward(plain, adapter, head, forward) for head, forward in plain.heads.items()}
    return AdaptedFamily(**parts, plain=plain, adapter=adapter)


def _declare(plain: Family, adapter: Adapter, config: Any, head: str | None = None) -> Tree:
    """The family's declarations, which learn only where the adapter says so, and those of the corrections."""
    flat: dict[tuple[str, ...], Param] = {}
    for path, param in leaves(plain.declare(config, head)):
        flat[path] = dataclasses.replace(param, learns=adapter.saves(_module(param)))
        letters = linear_letters(path, param)
        if letters and _chosen(plain, adapter, head, path, param):
            flat |= _pair(path, param, *letters[:2], adapter.rank)
    return nested(flat)


def _pair(
    path: tuple[str, ...], param: Param, inputs: Sequence[str], outputs: Sequence[str], rank: int
) -> dict[tuple[str, ...], Param]:
    """The declarations of `lora_a` and `lora_b` beside a kernel, laid over a mesh as the kernel is."""
    lead = int(is_stacked(param))
    cut = lead + len(inputs)
    fan_in = 1
    for size in param.shape[lead:cut]:
        fan_in *= size
    ins, outs = " ".join(inputs), " ".join(outputs)
    a = dataclasses.replace(
        param, shape=(*param.shape[:cut], rank), axes=(*param.axes[:cut], "rank"), init=_uniform(fan_in**-0.5),
        name=_module(param) + ".lora_A.weight", layout=f"rank ({ins}) -> {ins} rank", learns=True,
    )  # fmt: skip
    b = dataclasses.replace(
        param, shape=(*param.shape[:lead], rank, *param.shape[cut:]),
        axes=(*param.axes[:lead], "rank", *param.axes[cut:]), init=zeros,
        name=_module(param) + ".lora_B.weight", layout=f"({outs}) rank -> rank {outs}", learns=True,
    )  # fmt: skip
    return {(*path[:-1], "lora_a"): a, (*path[:-1], "lora_b"): b}


def _uniform(bound: float) -> Initialiser:
    return lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -bound, bound)


def _forward(
    plain: Family, adapter: Adapter, head: str | None, forward: Callable[..., Output]
) -> Callable[..., Output]:
    def run(params: Tree, *inputs: Any, config: Any, rng: jax.Array | None = None, **named: Any) -> Output:
        keys: dict[tuple[str, ...], jax.Array] = {}
        if rng is not None and adapter.dropout:
            rng, own = jax.random.split(rng)
            for path, param in leaves(_declare(plain, adapter, config, head)):
                if path[-1] == "lora_a":
                    key = jax.random.fold_in(own, zlib.crc32("/".join(path).encode()))
                    each = jax.random.split(key, param.shape[0]) if is_stacked(param) else key
                    keys[path[:-1]] = jax.random.key_data(each)
        return forward(_in_place(params, adapter, keys), *inputs, config=config, rng=rng, **named)

    return run


def _in_place(tree: Any, adapter: Adapter, keys: dict[tuple[str, ...], jax.Array], path: tuple[str, ...] = ()) -> Any:
    """The tree with every kernel and its correction as one `Adapted`; layers may stand apart, in a tuple."""
    if isinstance(tree, tuple | list):
        return type(tree)(_in_place(each, adapter, keys, path) for each in tree)
    if not isinstance(tree, dict):
        return tree
    tree = {name: _in_place(each, adapter, keys, (*path, name)) for name, each in tree.items()}
    if "lora_a" in tree:
        pair = tree.pop("lora_a"), tree.pop("lora_b")
        tree["kernel"] = Adapted(tree["kernel"], *pair, keys.get(path), adapter.scale, adapter.dropout)
    return tree


def linear_letters(path: tuple[str, ...], param: Param) -> tuple[Sequence[str], Sequence[str], bool] | None:
    """The letters of a linear layer's inputs, those of its outputs, and whether a file has the inputs first; None for what is
    no kernel of a linear layer.

    A file of PyTorch's Linear has the outputs first, one of GPT-2's Conv1D the inputs, as we do always.
    """
    if path[-1] != "kernel" or len(file_shape(param.layout, layer_shape(param))) != 2:
        return None
    (first, second), ours = letters_of(param)
    inputs_first = ours[: len(first)] == first
    return (first, second, True) if inputs_first else (second, first, False)


def _chosen(family: Family, adapter: Adapter, head: str | None, path: tuple[str, ...], param: Param) -> bool:
    """Whether this parameter is the kernel of an adapted layer. Raises `InputError` where that holds for some layers only."""
    if linear_letters(path, param) is None:
        return False
    found = [adapter.adapts(family.name_in(head, name).removesuffix(".weight")) for name in file_names(param)]
    if any(found) and not all(found):
        raise InputError(
            f"targets={adapter.targets!r} fits only some layers of {_module(param)}: the layers of a stack are adapted together"
        )
    return all(found)


def _module(param: Param) -> str:
    """The module that a parameter belongs to; `{}` stands for the layer's number."""
    return param.name.rpartition(".")[0]


def _ending(family: Family, param: Param) -> str:
    """A module's name after the layer's number, or after the family's prefix."""
    return _module(param).rpartition("{}.")[2].removeprefix(family.prefix)


def _own_modules(model: Model) -> list[str]:
    """The modules of a model's head."""
    trunk = {path for path, _ in leaves(model.family.declare(model.config, None))}
    own = [param.name for path, param in leaves(model.declare()) if path not in trunk]
    return sorted({name.removeprefix(model.family.prefix).split(".")[0] for name in own})


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"


def _at(tree: Tree, path: tuple[str, ...]) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def _adapted_family(model: Model) -> AdaptedFamily:
    if not isinstance(model.family, AdaptedFamily):
        raise InputError("the model has no adapter")
    return model.family
