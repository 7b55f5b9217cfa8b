"""What a model says of every word of a large vocabulary, and what it loses by it, without holding all of it at once.

Logits [B, L, V] are the largest array of a language model's training step by far, and nothing but a sum over them is wanted.
`Words` are these logits before they are multiplied out; `Words.cross_entropy` goes through them some tokens at a time, and
through those tokens alone that the loss asks for: of masked language modelling, every seventh.

A head gives `Words` only inside of `unmultiplied`, where the train step asks for them on behalf of its own losses. Everywhere
else a head gives an array.
"""

import contextlib
import contextvars
from collections.abc import Iterator
from functools import partial
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from jaxformers.parallel.mesh import active_mesh, shard

LARGE = 4096  # words; below this all logits are cheaper than going through them in pieces
AT_ONCE = 2**25  # logits: 128 MB of float32

_unmultiplied: contextvars.ContextVar[bool] = contextvars.ContextVar("jaxformers_words", default=False)


@flax.struct.dataclass
class Words:
    """Logits that are not multiplied out: `cap · tanh((states · table + bias) / cap)`.

    Args:
      states: [B, L, D].
      table: [V, D].
      bias: [V], or [1, V]; None adds nothing.
      cap: what a logit comes near and never passes; None lets them be.
    """

    states: jax.Array
    table: jax.Array
    bias: jax.Array | None = None
    cap: float | None = flax.struct.field(pytree_node=False, default=None)

    def logits(self) -> jax.Array:
        """All of them, [B, L, V], in the dtype of the states."""
        logits_BLV = jnp.einsum("BLD,VD->BLV", self.states, self.table)
        if self.bias is not None:
            logits_BLV = logits_BLV + jnp.broadcast_to(self.bias, logits_BLV.shape)
        logits_BLV = shard(logits_BLV, "batch", "length", "vocab")
        return logits_BLV if self.cap is None else self.cap * jnp.tanh(logits_BLV / self.cap)

    def cross_entropy(self, labels_BL: jax.Array, weights_BL: jax.Array, smoothing: float = 0.0) -> jax.Array:
        """The weighted sum of all tokens' cross-entropies in nats, float32; tokens of weight 0 cost nothing.

        Its gradient is computed with it, as the products that it needs are there: three in all, as many as where all logits
        are kept. It reaches states, table and bias; weights are taken for constants. Products are of the states' dtype and are
        summed in float32, as is all else. Each device of a mesh goes through its own tokens with the whole table, those of a
        `tensor` group through every so many of them.
        """
        bias_V = None if self.bias is None else self.bias.reshape(-1)
        return _cross_entropy(self.states, self.table, bias_V, labels_BL, weights_BL, self.cap, smoothing)


@contextlib.contextmanager
def unmultiplied(asked: bool = True) -> Iterator[None]:
    """While tracing inside, heads over at least `LARGE` words give `Words`, if `asked`."""
    token = _unmultiplied.set(asked)
    try:
        yield
    finally:
        _unmultiplied.reset(token)


def against(states_BLD: jax.Array, table_VD: jax.Array, bias: jax.Array | None = None) -> Any:
    """Every state against every word: logits [B, L, V], or `Words` inside of `unmultiplied`."""
    words = Words(states_BLD, table_VD, bias)
    return words if _unmultiplied.get() and table_VD.shape[0] >= LARGE else words.logits()


def capped(logits: Any, cap: float) -> Any:
    """Logits, or `Words`, that come near `cap` and never pass it."""
    return logits.replace(cap=cap) if isinstance(logits, Words) else cap * jnp.tanh(logits / cap)  # type: ignore[attr-defined]


@partial(jax.custom_vjp, nondiff_argnums=(5, 6))
def _cross_entropy(
    states_BLD: jax.Array, table_VD: jax.Array, bias_V: jax.Array | None, labels_BL: jax.Array, weights_BL: jax.Array,
    cap: float | None, smoothing: float,
) -> jax.Array:  # fmt: skip
    return _over_mesh(states_BLD, table_VD, bias_V, labels_BL, weights_BL, cap, smoothing, gradients=False)[0]


def _with_gradients(*arguments: Any) -> tuple[jax.Array, Any]:
    loss, *gradients = _over_mesh(*arguments, True)  # type: ignore[call-arg]
    return loss, gradients


def _scaled(cap: float | None, smoothing: float, gradients: Any, by: jax.Array) -> tuple[Any, ...]:
    return (*jax.tree.map(lambda each: (each * by).astype(each.dtype), gradients), None, None)


_cross_entropy.defvjp(_with_gradients, _scaled)


def _over_mesh(
    states_BLD: jax.Array, table_VD: jax.Array, bias_V: jax.Array | None, labels_BL: jax.Array, weights_BL: jax.Array,
    cap: float | None, smoothing: float, gradients: bool,
) -> tuple[Any, ...]:  # fmt: skip
    """The loss, and with `gradients` those of states, table and bias."""
    mesh = active_mesh()
    run = partial(_own, cap=cap, smoothing=smoothing, gradients=gradients)
    if mesh is None or mesh.size == 1:
        return run(states_BLD, table_VD, bias_V, labels_BL, weights_BL)
    everywhere, tokens, columns = PartitionSpec(), PartitionSpec(("data", "fsdp"), "sequence"), ("fsdp", "tensor")

    def own(*arrays: Any) -> tuple[Any, ...]:
        number, of = jax.lax.axis_index("tensor"), mesh.shape["tensor"]
        loss, *found = run(*arrays, number=number, of=of)
        loss = jax.lax.psum(loss, mesh.axis_names)
        if not found:
            return (loss,)
        states, table, bias = found
        # Each device keeps those columns of the table's gradient that it has of the table.
        table = jax.lax.psum(
            jax.lax.psum_scatter(table, columns, scatter_dimension=1, tiled=True), ("data", "sequence")
        )
        bias = None if bias is None else jax.lax.psum(bias, mesh.axis_names)
        return loss, jax.lax.psum(states, "tensor"), table, bias

    out = (everywhere, tokens, PartitionSpec(None, columns), everywhere) if gradients else (everywhere,)
    return jax.shard_map(
        own, mesh=mesh, in_specs=(tokens, everywhere, everywhere, tokens, tokens), out_specs=out, check_vma=False
    )(states_BLD, table_VD, bias_V, labels_BL, weights_BL)


def _own(
    states_BLD: jax.Array, table_VD: jax.Array, bias_V: jax.Array | None, labels_BL: jax.Array, weights_BL: jax.Array, *,
    cap: float | None, smoothing: float, gradients: bool, number: jax.Array | int = 0, of: int = 1,
) -> tuple[Any, ...]:  # fmt: skip
    """One device's share: every `of`-th of the tokens that are asked for, from the `number`-th on."""
    D, V = states_BLD.shape[-1], table_VD.shape[0]
    x_TD = jnp.asarray(states_BLD).reshape(-1, D)
    labels_T, weights_T = (jnp.asarray(each_BL).reshape(-1) for each_BL in (labels_BL, weights_BL))
    T = len(x_TD)
    C = min(max(128, AT_ONCE // V // 128 * 128), -(-T // of))
    pieces = -(-T // (C * of))
    # Those with a weight first; what is beyond the last token has none, and is read as zeros.
    order_T = jnp.argsort(weights_T == 0, stable=True)
    order_T = jnp.pad(order_T, (0, pieces * C * of - T), constant_values=T).reshape(pieces * C, of)[:, number]
    asked = ((weights_T != 0).sum() - number + of - 1) // of

    def piece(carry: Any) -> Any:
        n, loss, found = carry
        at_C = jax.lax.dynamic_slice(order_T, (n * C,), (C,))
        x_CD, label_C, weight_C = (each.at[at_C].get(mode="fill", fill_value=0) for each in (x_TD, labels_T, weights_T))
        logits_CV = jnp.einsum("CD,VD->CV", x_CD, table_VD, preferred_element_type=jnp.float32)
        if bias_V is not None:
            logits_CV = logits_CV + jnp.broadcast_to(bias_V.astype(jnp.float32), logits_CV.shape)
        bent_CV = None if cap is None else jnp.tanh(logits_CV / cap)
        logits_CV = logits_CV if cap is None or bent_CV is None else cap * bent_CV
        log_sum_C1 = jax.nn.logsumexp(logits_CV, axis=-1, keepdims=True)
        right_CV = jax.lax.broadcasted_iota(jnp.int32, (C, V), 1) == label_C[:, None]
        wanted_CV = jnp.where(right_CV, 1 - smoothing + smoothing / V, smoothing / V)
        each_C = log_sum_C1[:, 0] - (wanted_CV * logits_CV).sum(-1)
        loss = loss + (each_C * weight_C).sum()
        if not gradients:
            return n + 1, loss, found
        g_CV = (jnp.exp(logits_CV - log_sum_C1) - wanted_CV) * weight_C[:, None]
        g_CV = g_CV if bent_CV is None else g_CV * (1 - jnp.square(bent_CV))
        states, table, bias = found
        bias = None if bias is None else bias + g_CV.sum(0)
        g_CV = g_CV.astype(x_CD.dtype)
        g_CD = jnp.einsum("CV,VD->CD", g_CV, table_VD, preferred_element_type=jnp.float32)
        states = states.at[at_C].set(g_CD.astype(states.dtype), mode="drop")
        table = table + jnp.einsum("CV,CD->VD", g_CV, x_CD, preferred_element_type=jnp.float32)
        return n + 1, loss, (states, table, bias)

    start: Any = ()
    if gradients:
        start = (
            jnp.zeros_like(x_TD),
            jnp.zeros(table_VD.shape, jnp.float32),
            None if bias_V is None else jnp.zeros(bias_V.shape, jnp.float32),
        )
    carry = (jnp.int32(0), jnp.float32(0), start)

    def more(carry: Any) -> jax.Array:
        n = carry[0]
        return (n < pieces) & (
            n * C < asked
        )  # the first is always so: it tells readers of the program how long it can take

    _, loss, found = jax.lax.while_loop(more, piece, carry)
    if not gradients:
        return (loss,)
    states, table, bias = found
    bias = None if bias is None else bias.astype(bias_V.dtype)  # type: ignore[union-attr]
    return loss, states.reshape(states_BLD.shape), table.astype(table_VD.dtype), bias
