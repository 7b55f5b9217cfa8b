"""The mesh a model is trained on, where nobody says."""

from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import Mesh

from jaxformers.core.params import Tree, count, leaves
from jaxformers.parallel.mesh import PARAMETER_RULES, MeshConfig, make_mesh, slices_of
from jaxformers.parallel.plan import plan


def suited_mesh(
    tree: Tree,
    config: MeshConfig = MeshConfig(),  # noqa: B008 (frozen)
    devices: Sequence[Any] | None = None,
    memory: int | None = None,
) -> Mesh:
    """The mesh that `config` asks for; where it asks for nothing, one that suits the model (`parallel.plan`).

    With several devices the first process prints one line: the mesh and the reason.

    Args:
      tree: the model's declarations.
      config: what was asked for.
      devices: the devices to use; all of them by default.
      memory: bytes of one device; by default what the first of this process's says it has.
    """
    devices = list(jax.devices() if devices is None else devices)
    if memory is None and devices[0].platform != "cpu":  # a machine's pretended CPU devices share its memory
        memory = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")
    cut = {
        axis for axis, rule in PARAMETER_RULES.items() if "fsdp" in ((rule,) if isinstance(rule, str) else rule or ())
    }
    widths = {
        size for _, param in leaves(tree) for axis, size in zip(param.axes, param.shape, strict=True) if axis in cut
    }
    config, why = plan(
        config,
        parameters=count(tree),
        widths=widths,
        devices=len(devices),
        memory=memory,
        slices=len(slices_of(devices, config.slices)),
    )
    mesh = make_mesh(config, devices)
    if len(devices) > 1 and jax.process_index() == 0:
        print(f"mesh: {' × '.join(f'{axis} {n}' for axis, n in mesh.shape.items() if n > 1)}: {why}", flush=True)
    return mesh
