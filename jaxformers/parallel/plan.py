"""Which mesh suits a model and its devices, where nobody says: a pure function of their sizes."""

import dataclasses
from collections.abc import Collection

from jaxformers.parallel.mesh import MeshConfig

STATE_BYTES = 16  # of a parameter in training: itself, its gradient and Adam's two moments, in float32
SHARE = 0.6  # of a device's memory that these may fill; the rest is for activations


def plan(
    config: MeshConfig,
    *,
    parameters: int,
    widths: Collection[int],
    devices: int,
    memory: int | None,
    slices: int = 1,
    state_bytes: int = STATE_BYTES,
) -> tuple[MeshConfig, str]:
    """The mesh for a model, and why.

    What `config` says holds. Where it says nothing of the axes, a model whose training state fits is data parallel over all
    devices, which talk least so; a larger one is cut (`fsdp`) among as few devices as hold it, all of one slice, and the rest
    is data parallel. Nothing is cut by heads (`tensor`) or along the length (`sequence`) unasked: these talk in every layer, and
    pay where one example is too much for one device, which the sizes here do not tell.

    Args:
      config: what was asked for.
      parameters: scalars of the model.
      widths: sizes of the dimensions that `fsdp` cuts, all of which it must divide.
      devices: how many there are.
      memory: bytes of one device; None where it is not known, or all devices are in one memory.
      slices: groups of devices that a slower network joins.
      state_bytes: bytes held for each parameter.

    Returns:
      The config with what was chosen, and the reason in a few words.

    >>> config, why = plan(MeshConfig(), parameters=7 * 10**9, widths=[4096], devices=16, memory=16 * 10**9)
    >>> config.fsdp, why
    (16, '7.0 B parameters need 112.0 GB in training, 7.0 GB on each of 16 devices of 16.0 GB')
    """
    if dataclasses.replace(config, slices=None) != MeshConfig():
        return config, "as asked"
    if devices == 1:
        return config, "there is one device"
    if memory is None:
        return config, "data parallel, for the devices' memory is not known"
    needed = parameters * state_bytes
    need = f"{parameters / 1e9:.1f} B parameters need {needed / 1e9:.1f} GB in training"
    if needed <= SHARE * memory:
        return config, f"data parallel, for {need}, and a device has {memory / 1e9:.1f} GB"
    inside = devices // slices
    cuts = [n for n in range(2, inside + 1) if inside % n == 0 and all(width % n == 0 for width in widths)]
    if not cuts:
        sizes = ", ".join(map(str, sorted(set(widths))))
        return config, f"data parallel, though {need}, for nothing divides {inside} devices and widths of {sizes}"
    fsdp = next((n for n in cuts if needed / n <= SHARE * memory), cuts[-1])
    each = f"{need}, {needed / fsdp / 1e9:.1f} GB on each of {fsdp} devices of {memory / 1e9:.1f} GB"
    fits = needed / fsdp <= SHARE * memory
    return dataclasses.replace(config, fsdp=fsdp), each if fits else f"{each}, which may be too much"
