"""The encoder blocks, post-norm and pre-norm, and the stack that runs blocks over stacked parameters.

One layout, two executions: parameters are stacked on a leading `layers` axis, and a stack runs by `lax.scan` (deep, sharded
or rematerialised: one layer is compiled) or by a Python loop over slices of the same tree (shallow on one device, where XLA
makes a faster step of it). The results are equal.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from jaxformers.core.attention import Mask, attend
from jaxformers.core.layers import (
    ACTIVATIONS,
    declare_linear,
    declare_norm,
    drop_path,
    dropout,
    layer_norm,
    linear,
    product,
    split_rng,
)
from jaxformers.core.params import Initialiser, Param, Tree, zeros
from jaxformers.errors import InputError
from jaxformers.parallel.mesh import active_mesh, shard

LOOP_UP_TO = 12  # layers; beyond this a loop's compile time outweighs what it saves

REMAT_POLICIES: dict[str, Any] = {
    "full": None,  # keep nothing of a layer but its input
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,  # keep matrix products, recompute the rest
}


@dataclasses.dataclass(frozen=True)
class Execution:
    """How a stack is run; what it computes does not depend on it.

    Args:
      layers: `"scan"` or `"loop"`; None picks by depth and device.
      remat: `"full"` or `"dots"`: what is recomputed in the backward pass to save memory; None recomputes nothing.
      kernel: the attention kernel (`core.attention.attend`); None picks for the device.
      trace_once: trace one layer of a loop for all, which are alike: half the time to trace a program that is compiled as a
        whole, and a compilation with each call outside of one.
    """

    layers: str | None = None
    remat: str | None = None
    kernel: str | None = None
    trace_once: bool = False

    def __post_init__(self) -> None:
        if self.layers not in (None, "scan", "loop"):
            raise InputError(f"layers must be 'scan', 'loop' or None, found {self.layers!r}")
        if self.remat not in (None, *REMAT_POLICIES):
            raise InputError(f"remat must be one of {', '.join(REMAT_POLICIES)} or None, found {self.remat!r}")


class BlockConfig(Protocol):
    """What the post-norm block reads of a family's config."""

    @property
    def hidden_size(self) -> int: ...
    @property
    def num_attention_heads(self) -> int: ...
    @property
    def intermediate_size(self) -> int: ...
    @property
    def hidden_act(self) -> str: ...
    @property
    def layer_norm_eps(self) -> float: ...
    @property
    def hidden_dropout_prob(self) -> float: ...
    @property
    def attention_probs_dropout_prob(self) -> float: ...


@dataclasses.dataclass(frozen=True)
class BlockNames:
    """Where a post-norm block's parameters live in a checkpoint; the prefix holds `{}` for the layer's number."""

    query: str
    key: str
    value: str
    out: str
    attention_norm: str
    up: str
    down: str
    output_norm: str


def declare_post_norm(config: BlockConfig, names: BlockNames, init: Initialiser, bias: bool = True) -> Tree:
    """The parameters of one block, also of a pre-norm one. Heads are a real axis of the projections: [D, H, K].

    `bias` says whether queries, keys and values have one.
    """
    D, H, F = config.hidden_size, config.num_attention_heads, config.intermediate_size
    K = D // H
    return {
        "attention": {
            "query": declare_heads_in(D, H, K, names.query, init, bias),
            "key": declare_heads_in(D, H, K, names.key, init, bias),
            "value": declare_heads_in(D, H, K, names.value, init, bias),
            "out": declare_heads_out(D, H, K, names.out, init),
        },
        "attention_norm": declare_norm(D, names.attention_norm),
        "up": declare_linear(D, F, names.up, init, ("embed", "mlp")),
        "down": declare_linear(F, D, names.down, init, ("mlp", "embed")),
        "output_norm": declare_norm(D, names.output_norm),
    }


def declare_heads_in(width: int, heads: int, size: int, name: str, init: Initialiser, bias: bool = True) -> Tree:
    """A projection onto heads, [D, H, K]."""
    axes = ("embed", "heads", "head_size")
    tree: Tree = {"kernel": Param((width, heads, size), axes, init, f"{name}.weight", "(h k) d -> d h k")}
    if bias:
        tree["bias"] = Param((heads, size), axes[1:], zeros, f"{name}.bias", "(h k) -> h k", decay=False)
    return tree


def declare_heads_out(width: int, heads: int, size: int, name: str, init: Initialiser, bias: bool = True) -> Tree:
    """The projection back from heads, [H, K, D]."""
    axes = ("heads", "head_size", "embed")
    tree: Tree = {"kernel": Param((heads, size, width), axes, init, f"{name}.weight", "d (h k) -> h k d")}
    if bias:
        tree["bias"] = Param((width,), ("embed",), zeros, f"{name}.bias", decay=False)
    return tree


def heads_in(params: Tree, x_BLD: jax.Array) -> jax.Array:
    """Projects onto heads: [B, L, D] -> [B, L, H, K]."""
    y_BLHK = product("BLD,DHK->BLHK", x_BLD, params["kernel"])
    if "bias" in params:
        y_BLHK = y_BLHK + jnp.broadcast_to(params["bias"], y_BLHK.shape)
    return shard(y_BLHK, "batch", "length", "heads", "head_size")


def heads_out(params: Tree, x_BLHK: jax.Array) -> jax.Array:
    """Projects back from heads: [B, L, H, K] -> [B, L, D]."""
    y_BLD = product("BLHK,HKD->BLD", x_BLHK, params["kernel"])
    return y_BLD + jnp.broadcast_to(params["bias"], y_BLD.shape) if "bias" in params else y_BLD


def post_norm(
    params: Tree,
    x_BLD: jax.Array,
    *,
    config: BlockConfig,
    mask: Mask | jax.Array | None,
    rng: jax.Array | None,
    maps: bool,
    kernel: str | None,
    drop_attention: bool = True,
    drop_feed_forward: bool = True,
) -> tuple[jax.Array, jax.Array | None]:
    """One post-norm encoder block (Vaswani et al. 2017; Devlin et al. 2018): norm(x + attention), norm(x + feed-forward).

    `drop_attention` and `drop_feed_forward` say whether the two sums' right sides have dropout; in some families one has not.

    Returns:
      The block's output [B, L, D] and, if `maps`, the attention weights [B, H, L, S].
    """
    rng_maps, rng_attention, rng_output = split_rng(rng, 3)
    attention = params["attention"]
    with jax.named_scope("attention"):
        q_BLHK, k_BSHK, v_BSHK = (heads_in(attention[name], x_BLD) for name in ("query", "key", "value"))
        a_BLHK, weights_BHLS = attend(
            q_BLHK,
            k_BSHK,
            v_BSHK,
            mask,
            dropout_rate=config.attention_probs_dropout_prob,
            rng=rng_maps,
            maps=maps,
            kernel=kernel,
        )
        a_BLD = heads_out(attention["out"], a_BLHK)
        if drop_attention:
            a_BLD = dropout(a_BLD, config.hidden_dropout_prob, rng_attention)
        x_BLD = layer_norm(params["attention_norm"], x_BLD + a_BLD, config.layer_norm_eps)
    with jax.named_scope("feed_forward"):
        h_BLF = shard(ACTIVATIONS[config.hidden_act](linear(params["up"], x_BLD)), "batch", "length", "mlp")
        h_BLD = linear(params["down"], h_BLF)
        if drop_feed_forward:
            h_BLD = dropout(h_BLD, config.hidden_dropout_prob, rng_output)
        x_BLD = layer_norm(params["output_norm"], x_BLD + h_BLD, config.layer_norm_eps)
    return shard(x_BLD, "batch", "length", "embed"), weights_BHLS


def feed_forward(params: Tree, x_BLD: jax.Array, activation: str) -> jax.Array:
    """Two dense layers and an activation between them: [B, L, D] -> [B, L, F] -> [B, L, D]."""
    h_BLF = shard(ACTIVATIONS[activation](linear(params["up"], x_BLD)), "batch", "length", "mlp")
    return linear(params["down"], h_BLF)


def pre_norm(
    params: Tree,
    x_BLD: jax.Array,
    *,
    config: BlockConfig,
    mask: Mask | jax.Array | None = None,
    bias: jax.Array | None = None,
    rng: jax.Array | None,
    maps: bool,
    kernel: str | None,
    widen: Callable[[Tree, jax.Array, str], jax.Array] = feed_forward,
) -> tuple[jax.Array, jax.Array | None]:
    """One pre-norm encoder block (Dosovitskiy et al. 2020): x + attention(norm(x)), x + feed-forward(norm(x)).

    Where the parameters have `attention_scale` and `output_scale`, what is added is first multiplied by them, channel by channel
    (Touvron et al. 2021, layer scale); where they have `path_rate`, it is dropped as a whole at that rate (stochastic depth).

    Args:
      params: the tree of `declare_post_norm`, and what is named above.
      x_BLD: [B, L, D].
      config: the model's numbers.
      mask: where queries may look.
      bias: added to the attention's logits, of a shape that broadcasts to [B, H, L, S].
      rng: key for dropout; None means none.
      maps: whether to return the attention weights.
      kernel: the attention's kernel.
      widen: the feed-forward layers, (params, x_BLD, activation) -> [B, L, D].

    Returns:
      The block's output [B, L, D] and, if `maps`, the attention weights [B, H, L, S].
    """
    rng_maps, rng_attention, rng_output, *rng_paths = split_rng(rng, 5)

    def add(x_BLD: jax.Array, a_BLD: jax.Array, scale: str, rngs: tuple[Any, Any]) -> jax.Array:
        a_BLD = dropout(a_BLD, config.hidden_dropout_prob, rngs[0])
        if scale in params:
            a_BLD = a_BLD * jnp.broadcast_to(params[scale], a_BLD.shape)
        return x_BLD + (drop_path(a_BLD, params["path_rate"], rngs[1]) if "path_rate" in params else a_BLD)

    attention = params["attention"]
    with jax.named_scope("attention"):
        y_BLD = layer_norm(params["attention_norm"], x_BLD, config.layer_norm_eps)
        q_BLHK, k_BSHK, v_BSHK = (heads_in(attention[name], y_BLD) for name in ("query", "key", "value"))
        a_BLHK, weights_BHLS = attend(
            q_BLHK, k_BSHK, v_BSHK, mask, bias=bias, dropout_rate=config.attention_probs_dropout_prob, rng=rng_maps,
            maps=maps, kernel=kernel,
        )  # fmt: skip
        x_BLD = add(x_BLD, heads_out(attention["out"], a_BLHK), "attention_scale", (rng_attention, rng_paths[0]))
    with jax.named_scope("feed_forward"):
        y_BLD = layer_norm(params["output_norm"], x_BLD, config.layer_norm_eps)
        x_BLD = add(x_BLD, widen(params, y_BLD, config.hidden_act), "output_scale", (rng_output, rng_paths[1]))
    return shard(x_BLD, "batch", "length", "embed"), weights_BHLS


def stack(
    params: Tree | Sequence[Tree],
    block: Callable[..., tuple[Any, Any]],
    x_BLD: Any,
    *,
    beside: Tree | None = None,
    rng: jax.Array | None = None,
    output_hidden_states: bool = False,
    output_attentions: bool = False,
    execution: Execution = Execution(),
) -> tuple[Any, tuple[jax.Array, ...] | None, tuple[Any, ...] | None]:
    """Runs `block(layer_params, x_BLD, rng=…, maps=…, kernel=…)` over the leading `layers` axis of `params`.

    Args:
      params: a tree whose leaves all start with the `layers` axis; or its layers, one tree each, which run in a loop.
      block: one layer; returns its output and its attention weights (an array, several in a tuple, or None).
      x_BLD: the input [B, L, D]; or a tuple that starts with it, and whose rest the layers hand on.
      beside: arrays that start with the `layers` axis and that a layer finds among its parameters: what kind it is.
      rng: key for dropout; each layer gets its own.
      output_hidden_states: also return the input and every layer's output.
      output_attentions: also return every layer's attention weights.
      execution: how to run it.

    Returns:
      The last output, all hidden states (N + 1) or None, all attention weights (N) or None.
    """
    stacked = params if isinstance(params, dict) else None
    depth = depth_of(params)
    keys = None if rng is None else jax.random.split(rng, depth)
    beside = beside or {}

    def layer(x_BLD: Any, inputs: tuple[Tree, jax.Array | None]) -> tuple[Any, Any]:
        y_BLD, maps = block(inputs[0], x_BLD, rng=inputs[1], maps=output_attentions, kernel=execution.kernel)
        return y_BLD, (_states(y_BLD) if output_hidden_states else None, maps if output_attentions else None)

    scans = stacked is not None and _scans(depth, execution)
    if execution.remat is not None:
        layer = jax.checkpoint(layer, policy=REMAT_POLICIES[execution.remat], prevent_cse=not scans)
    first = (_states(x_BLD),)
    if stacked is not None and scans:
        x_BLD, (states, maps) = jax.lax.scan(layer, x_BLD, (stacked | beside, keys))
        states, maps = (
            None if kept is None else tuple(jax.tree.map(lambda leaf, n=n: leaf[n], kept) for n in range(depth))
            for kept in (states, maps)
        )
    else:
        each = []
        layer = jax.jit(layer) if execution.trace_once else layer
        for n, tree in enumerate(params if stacked is None else unstack(stacked, depth)):
            own = jax.tree.map(lambda leaf, n=n: leaf[n], beside)
            x_BLD, kept = layer(x_BLD, (tree | own, None if keys is None else keys[n]))
            each.append(kept)
        states, maps = zip(*each, strict=True)
    return x_BLD, first + states if output_hidden_states else None, maps if output_attentions else None


def depth_of(layers: Tree | Sequence[Tree]) -> int:
    """The number of layers, stacked or one by one."""
    return int(jax.tree.leaves(layers)[0].shape[0]) if isinstance(layers, dict) else len(layers)


def _states(x: Any) -> jax.Array:
    return x[0] if isinstance(x, tuple) else x


def _scans(depth: int, execution: Execution) -> bool:
    if execution.layers is not None:
        return execution.layers == "scan"
    mesh = active_mesh()
    one_device = mesh is None or mesh.size == 1
    platform = jax.default_backend() if mesh is None else mesh.devices.flat[0].platform
    return not (one_device and depth <= LOOP_UP_TO and platform != "tpu")


def apart(params: Tree) -> Tree:
    """A model's tree with every stack of `layers` one by one, where `stack` would run them in a loop; else as it is."""

    def one_by_one(name: str, tree: Any) -> Any:
        if name != "layers":
            return apart(tree) if isinstance(tree, dict) else tree
        depth = depth_of(tree)
        return tree if _scans(depth, Execution()) else tuple(unstack(tree, depth))

    return {name: one_by_one(name, tree) for name, tree in params.items()}


def unstack(params: Tree, depth: int) -> list[Tree]:
    """The stacked tree as a list of layers. One split a leaf: its gradient is one concatenation, not a sum of paddings."""
    pieces = jax.tree.map(lambda leaf: jax.lax.split(leaf, (1,) * depth, axis=0), params)
    is_split = lambda node: isinstance(node, (list, tuple))  # noqa: E731
    return [jax.tree.map(lambda split, n=n: split[n][0], pieces, is_leaf=is_split) for n in range(depth)]
