"""What a TPU chip can do, by the kind that JAX calls it."""

import dataclasses

from jaxformers.errors import InputError


@dataclasses.dataclass(frozen=True)
class Chip:
    """One device as JAX sees it, which on these chips is the whole chip.

    Args:
      name: as people call it.
      memory: bytes of HBM that a program may use: what the TPU compiler says where one does not fit.
      flops: bfloat16, per second.
      memory_bandwidth: bytes per second.
      ring_bandwidth: bytes per second that a chip sends along one axis of the torus, both ways together: two of its links.
    """

    name: str
    memory: float
    flops: float
    memory_bandwidth: float
    ring_bandwidth: float


# Peak, HBM and interconnect as in docs.cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e}, read in November 2026. The interconnect
# stands there for a chip: 2,400, 1,600, 4,800 and 3,584 Gbit/s over 6, 4, 6 and 4 links.
CHIPS = {
    "TPU v4": Chip("v4", 30.75 * 2**30, 275e12, 1228e9, 2400e9 / 8 / 6 * 2),
    "TPU v5 lite": Chip("v5e", 15.75 * 2**30, 197e12, 819e9, 1600e9 / 8 / 4 * 2),
    "TPU v5": Chip("v5p", 95.74 * 2**30, 459e12, 2765e9, 4800e9 / 8 / 6 * 2),
    "TPU v6 lite": Chip("v6e", 31.25 * 2**30, 918e12, 1638e9, 3584e9 / 8 / 4 * 2),
}


def chip_of(kind: str) -> Chip:
    """The chip of a `device.device_kind`. Raises `InputError` where it is not in the table."""
    if kind not in CHIPS:
        raise InputError(f"nothing is known of the chip {kind!r}; tpu/chips.py has {', '.join(CHIPS)}")
    return CHIPS[kind]
