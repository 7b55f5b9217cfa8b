"""Attention, and the one place that picks the kernel for the device.

Masks are boolean, True where a query may look, and broadcast to [B, H, L, S]. What a decoder remembers is in `core.cache`.

On a mesh that cuts texts along their length (`sequence`), attention trades that cut for one by heads and back: four all-to-alls
(Jacobs et al. 2023, arXiv:2309.14509). Of the two usual ways it is the one in which every kernel, mask, bias and dropout stays
what it is on one device; passing keys around a ring would need a kernel of its own, which joins softmaxes, for each of these.
"""

import math
import operator
from functools import partial, reduce
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from jaxformers.core.layers import dropout
from jaxformers.errors import InputError
from jaxformers.parallel.mesh import ACTIVATION_RULES, active_mesh, platform, specification

LANES = 128  # of a TPU's registers: its kernels take lengths that are multiples of it
# Queries × keys from which a training step keeps no attention weights outside of a fused kernel, but computes them twice: of all
# that it could keep they are the most, and the cheapest to compute again (Korthikanti et al. 2022, arXiv:2205.05198).
LONG = 512 * 512


@flax.struct.dataclass
class Mask:
    """Where queries may look, in words that a kernel understands: what several of them allow.

    Args:
      keys: [B, S], not 0 where a key may be looked at; None means everywhere.
      pairs: booleans that broadcast to [B, H, L, S], for what the other words cannot say; None means everywhere.
      causal: whether query n looks at the first n + 1 keys alone.
      window: how many keys a query sees, its own included, if it is causal; None means all before it.
    """

    keys: jax.Array | None = None
    pairs: jax.Array | None = None
    causal: bool = flax.struct.field(pytree_node=False, default=False)
    window: int | None = flax.struct.field(pytree_node=False, default=None)

    def booleans(self, length: int, keys: int) -> jax.Array | None:
        """The same, True where a query may look, of a shape that broadcasts to [B, H, L, S]; None where that is everywhere."""
        parts = [] if self.keys is None else [self.keys[:, None, None, :].astype(bool)]
        if self.pairs is not None:
            parts.append(self.pairs)
        if self.causal:
            parts.append(causal_mask(length, keys, window=self.window))
        return reduce(operator.and_, parts) if parts else None


def padding_mask(attention_mask: jax.Array | None) -> Mask | None:
    """The mask that hides padding.

    Args:
      attention_mask: [B, S] (or [B, L, S] for one mask a query), 1 for real tokens and 0 for padding; None hides nothing.
    """
    if attention_mask is None:
        return None
    if attention_mask.ndim == 2:
        return Mask(keys=attention_mask)
    if attention_mask.ndim == 3:
        return Mask(pairs=attention_mask[:, None, :, :].astype(bool))
    raise InputError(
        f"attention_mask must be [batch, length] or [batch, query, key], found shape {attention_mask.shape}"
    )


def looking_back(attention_mask: jax.Array | None, window: int | None = None) -> Mask:
    """The mask of a decoder that reads a text from its start: `padding_mask`, and what comes later, or is farther back than
    `window` keys, is hidden too."""
    return (padding_mask(attention_mask) or Mask()).replace(causal=True, window=window)  # type: ignore[attr-defined]


def causal_mask(length: int, keys: int, start: jax.Array | int = 0, window: int | None = None) -> jax.Array:
    """The mask that hides what comes later, and what is farther back than a window.

    Args:
      length: L, the queries.
      keys: S, the keys; the first stands at 0.
      start: where the first query stands.
      window: how many keys a query sees, its own included; None means all before it.

    Returns:
      Booleans [1, 1, L, S].
    """
    steps_LS = start + jnp.arange(length)[:, None] - jnp.arange(keys)[None]
    seen_LS = steps_LS >= 0
    return (seen_LS if window is None else seen_LS & (steps_LS < window))[None, None]


def pick_kernel(
    platform: str,
    dtype: jnp.dtype,
    head_size: int,
    lengths: tuple[int, int] = (LANES, LANES),
    *,
    dropout: bool = False,
    maps: bool = False,
    bias: bool = False,
    cap: bool = False,
    pairs: bool = False,
) -> str:
    """The kernel for this device: a fused one where it does all that is asked, else `xla`.

    No fused kernel returns the attention maps, and each draws its dropout in its own way, which would make a run depend on
    the device: so with dropout none is used.

    * `cudnn` (GPU) takes half precision, and head sizes that are multiples of 8 up to 128; it caps nothing.
    * `splash` (TPU, of Pallas) takes lengths that are multiples of 128, and masks in words (`Mask`): no pairs, no bias.
    """
    if dropout or maps:
        return "xla"
    if platform == "gpu":
        fits = jnp.dtype(dtype).itemsize == 2 and head_size % 8 == 0 and head_size <= 128
        return "cudnn" if fits and not cap else "xla"
    if platform == "tpu":
        return "xla" if bias or pairs or any(length % LANES for length in lengths) else "splash"
    return "xla"


def attend(
    q_BLHK: jax.Array,
    k_BSGK: jax.Array,
    v_BSGK: jax.Array,
    mask: Mask | jax.Array | None = None,
    *,
    bias: jax.Array | None = None,
    scale: float | None = None,
    cap: float | None = None,
    dropout_rate: float = 0.0,
    rng: jax.Array | None = None,
    maps: bool = False,
    kernel: str | None = None,
) -> tuple[jax.Array, jax.Array | None]:
    """Scaled dot-product attention (Vaswani et al. 2017).

    Args:
      q_BLHK: queries [B, L, H, K].
      k_BSGK: keys [B, S, G, K]; where there are fewer than H heads, H / G queries share one (Ainslie et al. 2023).
      v_BSGK: values [B, S, G, K].
      mask: a `Mask`, or booleans that broadcast to [B, H, L, S], True where a query may look; None lets it look everywhere.
      bias: added to the scaled logits, of a shape that broadcasts to [B, H, L, S]; None adds nothing.
      scale: multiplies the logits; 1/√K by default.
      cap: what the scaled logits come near and never pass, by a tanh (Bello et al. 2016); None lets them be.
      dropout_rate: share of attention weights dropped when `rng` is given.
      rng: key for dropout; None means none.
      maps: also return the attention weights.
      kernel: one that `pick_kernel` knows; None lets it pick for the device. Where no TPU is, splash is interpreted.

    Returns:
      The attended values [B, L, H, K], and the weights after dropout [B, H, L, S] if `maps` asks for them, else None.

    Raises:
      InputError: the mesh cuts texts along their length, and the heads do not divide among the same devices; or a kernel was
        asked for that cannot do what is asked.
    """
    scale = q_BLHK.shape[-1] ** -0.5 if scale is None else scale
    q_BLHK, k_BSGK, v_BSGK = _by_heads(q_BLHK, k_BSGK, v_BSGK)
    L, S, K = q_BLHK.shape[1], k_BSGK.shape[1], q_BLHK.shape[-1]
    mask = mask if mask is None or isinstance(mask, Mask) else Mask(pairs=mask)
    asked = {
        "dropout": rng is not None and dropout_rate > 0,
        "maps": maps,
        "bias": bias is not None,
        "cap": cap is not None,
        "pairs": mask is not None and mask.pairs is not None,
    }
    if kernel is None:
        kernel = pick_kernel(platform(), q_BLHK.dtype, K, (L, S), **asked)
    if kernel == "cudnn" and not asked["cap"]:
        return _by_length(_cudnn(q_BLHK, k_BSGK, v_BSGK, mask, bias, scale)), None
    if kernel == "splash":
        if pick_kernel("tpu", q_BLHK.dtype, K, (L, S), **asked) != kernel:
            wanted = ", ".join(name for name, there in asked.items() if there and name != "cap")
            raise InputError(f"the splash kernel cannot attend [{L} × {S}] tokens{wanted and ' with ' + wanted}")
        return _by_length(_splash(q_BLHK, k_BSGK, v_BSGK, mask or Mask(), scale, cap)), None
    seen = None if mask is None else mask.booleans(L, S)
    weigh: Any = partial(_plain, scale=scale, cap=cap, dropout_rate=dropout_rate)
    if L * S >= LONG and not maps:
        weigh = jax.checkpoint(weigh)
    out_BLHK, weights_BHLS = weigh(q_BLHK, k_BSGK, v_BSGK, seen, bias, rng)
    return _by_length(out_BLHK), weights_BHLS if maps else None


def _plain(
    q_BLHK: jax.Array,
    k_BSGK: jax.Array,
    v_BSGK: jax.Array,
    seen: jax.Array | None,
    bias: jax.Array | None,
    rng: jax.Array | None,
    *,
    scale: float,
    cap: float | None,
    dropout_rate: float,
) -> tuple[jax.Array, jax.Array]:
    """In XLA's operations: the attended values [B, L, H, K] and the weights [B, H, L, S]."""
    (B, L, H, K), (S, G) = q_BLHK.shape, k_BSGK.shape[1:3]
    q_BLHK = q_BLHK * jnp.asarray(scale, q_BLHK.dtype)
    if G == H:
        logits_BHLS = jnp.einsum("BLHK,BSHK->BHLS", q_BLHK, k_BSGK)
    else:
        q_BLGRK = q_BLHK.reshape(B, L, G, H // G, K)
        logits_BHLS = jnp.einsum("BLGRK,BSGK->BGRLS", q_BLGRK, k_BSGK).reshape(B, H, L, S)
    logits_BHLS = logits_BHLS.astype(jnp.float32)
    if cap is not None:
        logits_BHLS = cap * jnp.tanh(logits_BHLS / cap)
    if bias is not None:
        logits_BHLS = logits_BHLS + bias.astype(jnp.float32)
    if seen is not None:
        # A large finite number, not -inf: a row with nothing to look at must stay free of NaN.
        logits_BHLS = jnp.where(seen, logits_BHLS, jnp.finfo(jnp.float32).min)
    weights_BHLS = jax.nn.softmax(logits_BHLS, axis=-1).astype(q_BLHK.dtype)
    weights_BHLS = dropout(weights_BHLS, dropout_rate, rng)
    if G == H:
        # Turned afterwards: asked for [B, L, H, K], XLA on CPUs multiplies into [B, H, K, L], which is many times as slow.
        out_BLHK = jnp.einsum("BHLS,BSHK->BHLK", weights_BHLS, v_BSGK).swapaxes(1, 2)
    else:
        weights_BGRLS = weights_BHLS.reshape(B, G, H // G, L, S)
        out_BGRLK = jnp.einsum("BGRLS,BGSK->BGRLK", weights_BGRLS, v_BSGK.swapaxes(1, 2))
        out_BLHK = jnp.moveaxis(out_BGRLK, 3, 1).reshape(B, L, H, K)
    return out_BLHK, weights_BHLS


def _cudnn(
    q_BLHK: jax.Array, k_BSGK: jax.Array, v_BSGK: jax.Array, mask: Mask | None, bias: jax.Array | None, scale: float
) -> jax.Array:
    """cuDNN's fused attention. What it can be told in words need not be written out as [L, S] numbers."""
    words = mask is not None and mask.keys is None and mask.pairs is None
    options: dict[str, Any] = {
        "mask": None if mask is None or words else mask.booleans(q_BLHK.shape[1], k_BSGK.shape[1])
    }
    if mask is not None and words:
        options |= {"is_causal": mask.causal}
        options |= {} if mask.window is None else {"local_window_size": (mask.window - 1, 0)}
    return jax.nn.dot_product_attention(
        q_BLHK, k_BSGK, v_BSGK, bias=bias, scale=scale, implementation="cudnn", **options
    )


def _splash(
    q_BLHK: jax.Array, k_BSGK: jax.Array, v_BSGK: jax.Array, mask: Mask, scale: float, cap: float | None
) -> jax.Array:
    """Pallas's splash attention for TPUs, on each device of the mesh for its rows and heads alone."""
    # Here, for it brings in all of Pallas, which takes a good part of a second that nobody waits for without need.
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel, splash_attention_mask

    (L, H), (S, G) = q_BLHK.shape[1:3], k_BSGK.shape[1:3]
    mesh = active_mesh()
    if mesh is not None and G < H and G % (mesh.shape["tensor"] * mesh.shape["sequence"]):
        k_BSGK, v_BSGK = (jnp.repeat(each, H // G, axis=2) for each in (k_BSGK, v_BSGK))
    keys_BS = jnp.ones((q_BLHK.shape[0], S), jnp.int32) if mask.keys is None else (mask.keys != 0).astype(jnp.int32)

    def run(q_BLHK: jax.Array, k_BSGK: jax.Array, v_BSGK: jax.Array, keys_BS: jax.Array) -> jax.Array:
        shape, heads = (L, S), q_BLHK.shape[2]
        where: Any = splash_attention_mask.FullMask(shape)
        if mask.causal:
            where = splash_attention_mask.CausalMask(shape)
            if mask.window is not None:
                where = splash_attention_mask.LocalMask(shape, (mask.window - 1, 0), offset=0)
        tile = {length: next(n for n in (512, 256, LANES) if length % n == 0) for length in shape}
        q, s = tile[L], tile[S]
        attention = splash_attention_kernel.make_splash_mha(
            splash_attention_mask.MultiHeadMask([where] * heads),
            block_sizes=splash_attention_kernel.BlockSizes(
                block_q=q, block_kv=s, block_q_dkv=q, block_kv_dkv=s, block_q_dq=q, block_kv_dq=s
            ),
            head_shards=1,
            q_seq_shards=1,
            attn_logits_soft_cap=cap,
            interpret=platform() != "tpu",
        )
        # Every query is of the text that the real keys are of: padding, which is of none, is seen by nobody.
        ids = splash_attention_kernel.SegmentIds(jnp.ones((q_BLHK.shape[0], L), jnp.int32), keys_BS)
        by_head = (jnp.moveaxis(each, 2, 1) for each in (q_BLHK * jnp.asarray(scale, q_BLHK.dtype), k_BSGK, v_BSGK))
        return jnp.moveaxis(jax.vmap(attention)(*by_head, ids), 1, 2)

    if mesh is None or mesh.size == 1:
        return run(q_BLHK, k_BSGK, v_BSGK, keys_BS)
    # A kernel is opaque to the compiler, which cannot divide its work: it is said outright what each device has.
    heads, rows = ("batch", None, "heads_apart", None), ("batch", None)
    spec = [
        specification(axes, each.shape, mesh, ACTIVATION_RULES, "attention")
        for axes, each in ((heads, q_BLHK), (heads, k_BSGK), (heads, v_BSGK), (rows, keys_BS))
    ]
    return jax.shard_map(run, mesh=mesh, in_specs=tuple(spec), out_specs=spec[0], check_vma=False)(
        q_BLHK, k_BSGK, v_BSGK, keys_BS
    )


def _cuts() -> tuple[int, int]:
    """The pieces that the mesh cuts texts into, along their length, and heads."""
    mesh = active_mesh()
    return (1, 1) if mesh is None else (mesh.shape["sequence"], mesh.shape["tensor"])


def _by_heads(q_BLHK: jax.Array, k_BSGK: jax.Array, v_BSGK: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Whole texts of some heads on each device, where there were pieces of texts; keys that several devices need are repeated."""
    sequence, tensor = _cuts()
    if sequence == 1:
        return q_BLHK, k_BSGK, v_BSGK
    H, G, pieces = q_BLHK.shape[2], k_BSGK.shape[2], sequence * tensor
    if H % pieces:
        raise InputError(
            f"{H} attention heads do not divide among {pieces} devices (mesh sequence {sequence} × tensor {tensor}): where "
            "texts are cut along their length, each device attends to whole texts with some of the heads"
        )
    if G % pieces:
        each = pieces // math.gcd(G, pieces)
        each = each if H // G % each == 0 else H // G
        k_BSGK, v_BSGK = (jnp.repeat(x, each, axis=2) for x in (k_BSGK, v_BSGK))
    return _exchanged(q_BLHK), _exchanged(k_BSGK), _exchanged(v_BSGK)


def _by_length(x_BLHK: jax.Array) -> jax.Array:
    """The way back: pieces of texts on each device."""
    return x_BLHK if _cuts()[0] == 1 else _exchanged(x_BLHK, back=True)


def _exchanged(x_BLHK: jax.Array, back: bool = False) -> jax.Array:
    """Length for heads, or back: one all-to-all, and one in the backward pass. Left to itself XLA makes half as many again."""
    mesh = active_mesh()
    assert mesh is not None
    ways = [("batch", "length", "heads", "head_size"), ("batch", None, "heads_apart", "head_size")]
    before, after = (
        specification(axes, x_BLHK.shape, mesh, ACTIVATION_RULES, "attention")
        for axes in (ways[::-1] if back else ways)
    )
    cut, joined = (1, 2) if back else (2, 1)
    return jax.shard_map(
        partial(jax.lax.all_to_all, axis_name="sequence", split_axis=cut, concat_axis=joined, tiled=True),
        mesh=mesh, in_specs=before, out_specs=after, check_vma=False,
    )(x_BLHK)  # fmt: skip
