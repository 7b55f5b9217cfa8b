"""The device mesh and the rules that lay logical axes (`embed`, `heads`, `batch`, …) onto it.

Parameters and activations name their axes in the model's words; which mesh axis each falls on is data, kept here. So going
from data parallel to fully sharded to tensor parallel is a change of mesh shape, not of models.

Devices of one `tensor` group are nearest to each other, then those of `sequence`, of `fsdp`, of `data`: the more often a mesh
axis talks, the shorter its way. Between slices, which a slower network joins, only `data` talks, once a step.
"""

import contextlib
import contextvars
import dataclasses
import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxformers.errors import InputError

MESH_AXES = ("data", "fsdp", "sequence", "tensor")

# Rules: logical axis -> mesh axis, several mesh axes, or None (replicated).
Rules = Mapping[str, str | tuple[str, ...] | None]

PARAMETER_RULES: Rules = {
    "layers": None,
    "embed": "fsdp",
    "heads": "tensor",
    "head_size": None,
    "mlp": "tensor",
    "vocab": None,
    # An embedding table is cut along its width: every width divides where few vocabulary sizes do (30522 = 2·3·5087).
    "table": ("fsdp", "tensor"),
    "positions": None,
    "types": None,
    "parts": None,  # of a projection that a checkpoint keeps as one tensor: query, key and value; gate and input
    "labels": None,
    "window": None,  # of a convolution
    "channels": None,
    "rank": None,
}

ACTIVATION_RULES: Rules = {
    "batch": ("data", "fsdp"),
    "length": "sequence",
    "embed": None,
    "heads": "tensor",
    "heads_apart": ("tensor", "sequence"),  # in attention, where each device has whole texts and some heads of them
    "head_size": None,
    "mlp": "tensor",
    "vocab": None,
    "labels": None,
}


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """How many devices along each mesh axis. Nothing set means data parallel over all devices.

    Args:
      data: copies of the model, each with its share of the batch; None takes the devices the others leave.
      fsdp: parameters, gradients and optimizer state are cut into this many pieces; the batch is split here too.
      sequence: texts are cut along their length into this many pieces; these devices share their examples.
      tensor: heads and feed-forward columns are cut into this many pieces; these devices share their examples too.
      slices: groups of devices that a slower network joins, over which `data` alone goes; None asks the devices (of TPUs).
    """

    data: int | None = None
    fsdp: int = 1
    sequence: int = 1
    tensor: int = 1
    slices: int | None = None


def make_mesh(config: MeshConfig = MeshConfig(), devices: Sequence[Any] | None = None) -> Mesh:
    """Builds the mesh `config` asks for.

    Args:
      config: devices along each axis.
      devices: the devices to use; all of them by default.

    Returns:
      A mesh with the axes `data`, `fsdp`, `sequence` and `tensor`, all in automatic (compiler-partitioned) mode.

    Raises:
      InputError: the axes multiply to another number than there are devices, or another axis than `data` would cross slices.

    >>> dict(make_mesh(MeshConfig(fsdp=2), jax.devices()[:4]).shape)
    {'data': 2, 'fsdp': 2, 'sequence': 1, 'tensor': 1}
    """
    devices = list(jax.devices() if devices is None else devices)
    return Mesh(arrange(config, devices), MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES))


def arrange(config: MeshConfig, devices: Sequence[Any]) -> np.ndarray:
    """The devices as an array [data, fsdp, sequence, tensor]; those of a slice next to each other. Raises as `make_mesh`."""
    for axis, size in dataclasses.asdict(config).items():
        if size is not None and size < 1:
            raise InputError(f"mesh.{axis} must be at least 1, found {size}")
    inner = (config.fsdp, config.sequence, config.tensor)
    share = int(np.prod(inner))
    data = config.data if config.data is not None else max(1, len(devices) // share)
    sizes = " × ".join(f"{axis}={size}" for axis, size in zip(MESH_AXES, (data, *inner), strict=True))
    if data * share != len(devices):
        raise InputError(f"the mesh {sizes} needs {data * share} devices, found {len(devices)} ({devices[0].platform})")
    slices = slices_of(devices, config.slices)
    if data % len(slices):
        raise InputError(
            f"the mesh {sizes} does not fit {len(slices)} slices of {len(slices[0])} devices: only data goes over several "
            f"slices, so it must be a multiple of {len(slices)} (mesh.slices=1 takes all devices for one slice)"
        )
    shape = (data // len(slices), *inner)
    return np.concatenate(
        [mesh_utils.create_device_mesh(shape, each, allow_split_physical_axes=True) for each in slices]
    )


def slices_of(devices: Sequence[Any], slices: int | None = None) -> list[list[Any]]:
    """The devices, slice by slice.

    Args:
      devices: with `slice_index` where they have slices.
      slices: how many there are; None asks the devices, if they are TPUs: of GPUs each host would be a slice.

    Raises:
      InputError: slices of unequal sizes, or another number than asked for.
    """
    found: dict[int, list[Any]] = {}
    for device in devices:
        found.setdefault(getattr(device, "slice_index", None) or 0, []).append(device)
    if slices is None and devices[0].platform != "tpu":
        slices = 1
    if slices == 1:
        return [list(devices)]
    if slices is not None and len(found) == 1:  # as one: what they do not say is taken on trust, in their order
        if len(devices) % slices:
            raise InputError(f"{len(devices)} devices do not divide into {slices} slices")
        each = len(devices) // slices
        return [list(devices[start : start + each]) for start in range(0, len(devices), each)]
    groups = [found[index] for index in sorted(found)]
    if slices not in (None, len(groups)):
        raise InputError(f"mesh.slices={slices}, but the devices stand in {len(groups)} slices")
    if len({len(group) for group in groups}) > 1:
        raise InputError(f"slices of unequal sizes: {', '.join(str(len(group)) for group in groups)} devices")
    return groups


def specification(
    axes: Sequence[str | None], shape: Sequence[int], mesh: Mesh, rules: Rules, name: str = "array"
) -> PartitionSpec:
    """The partition of one array: each of its logical axes looked up in `rules`.

    Args:
      axes: a logical axis (or None) for each dimension.
      shape: the array's shape.
      mesh: the mesh; axes of size 1 are left out of the result.
      rules: logical axis -> mesh axis or axes.
      name: what to call the array in an error.

    Raises:
      InputError: an unknown logical axis, two dimensions on one mesh axis, or a dimension that does not divide.
    """
    taken: dict[str, str] = {}
    parts: list[str | tuple[str, ...] | None] = []
    for axis, size in zip(axes, shape, strict=True):
        if axis is None:
            parts.append(None)
            continue
        if axis not in rules:
            close = difflib.get_close_matches(axis, rules, 1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise InputError(f"{name}: unknown logical axis {axis!r}, known are {', '.join(sorted(rules))}{hint}")
        rule = rules[axis]
        wanted = () if rule is None else (rule,) if isinstance(rule, str) else rule
        on = tuple(mesh_axis for mesh_axis in wanted if mesh.shape[mesh_axis] > 1)
        for mesh_axis in on:
            if mesh_axis in taken:
                raise InputError(f"{name}: axes {taken[mesh_axis]!r} and {axis!r} both fall on mesh axis {mesh_axis!r}")
            taken[mesh_axis] = axis
        pieces = int(np.prod([mesh.shape[mesh_axis] for mesh_axis in on], dtype=int))
        if size % pieces:
            raise InputError(
                f"{name}: axis {axis!r} of size {size} does not divide into {pieces} pieces (mesh axis {' × '.join(on)})"
            )
        parts.append(on if len(on) > 1 else on[0] if on else None)
    while parts and parts[-1] is None:
        parts.pop()
    return PartitionSpec(*parts)


def sharding_for(axes: Sequence[str | None], shape: Sequence[int], mesh: Mesh, name: str = "array") -> NamedSharding:
    """Where a parameter with these logical axes lives on `mesh`. Raises as `specification` does."""
    return NamedSharding(mesh, specification(axes, shape, mesh, PARAMETER_RULES, name))


_active: contextvars.ContextVar[Mesh | None] = contextvars.ContextVar("jaxformers_mesh", default=None)


@contextlib.contextmanager
def activate(mesh: Mesh | None) -> Iterator[None]:
    """While tracing inside, `shard` constrains activations to `mesh`. Enter it inside the function that is jitted."""
    token = _active.set(mesh)
    try:
        yield
    finally:
        _active.reset(token)


def active_mesh() -> Mesh | None:
    """The mesh of the surrounding `activate`, or None."""
    return _active.get()


def platform() -> str:
    """Of the devices that run it: the active mesh's, which may be those of a machine that is only compiled for."""
    mesh = _active.get()
    return jax.default_backend() if mesh is None else str(mesh.devices.flat[0].platform)


def shard(x: jax.Array, *axes: str | None) -> jax.Array:
    """Constrains an activation to its place on the active mesh; without one (or on one device) returns it as it is."""
    mesh = _active.get()
    if mesh is None or mesh.size == 1:
        return x
    spec = specification(axes, x.shape, mesh, ACTIVATION_RULES, "activation")
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec))
