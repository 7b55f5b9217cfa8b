"""Does this pod work? On every host: its devices, a sum over all of them, the rate of matrix products, a write to storage.

    python -m tpu.check --storage bucket/check       # on every worker at once; on a laptop too

The first thing to run on a new pod (tpu/setup.sh does). Each host prints its own lines; status 1 where something is wrong.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxformers.errors import InputError
from jaxformers.parallel import distributed
from tpu.chips import CHIPS

RESTS = 1 / 3  # a chip below this share of its peak is not well


def seconds(function: Callable[[], Any], times: int = 3) -> float:
    """The shortest time of a call, after one that compiles."""
    jax.block_until_ready(function())
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        jax.block_until_ready(function())
        taken.append(time.perf_counter() - start)
    return min(taken)


def devices() -> str:
    """What this host sees of the pod."""
    here = jax.local_devices()
    kinds = ", ".join(sorted({device.device_kind for device in here}))
    return f"{len(here)} of {jax.device_count()} devices ({kinds}), host {jax.process_index()} of {jax.process_count()}"


def all_reduce(size: int) -> str:
    """Every device gives its number, and all learn the sum. Raises `ArithmeticError` where it is another."""
    mesh = Mesh(np.array(jax.devices()), ("all",))
    count = mesh.size
    place = NamedSharding(mesh, PartitionSpec("all"))
    numbers = np.broadcast_to(np.arange(1, count + 1, dtype=np.float32)[:, None], (count, size))
    rows = jax.make_array_from_callback((count, size), place, lambda at: numbers[at])
    add = jax.jit(lambda x: x.sum(0), out_shardings=NamedSharding(mesh, PartitionSpec()))
    found, expected = float(add(rows).addressable_data(0)[0]), count * (count + 1) / 2
    if found != expected:
        raise ArithmeticError(f"the sum over {count} devices is {found:g}, expected {expected:g}")
    taken = seconds(lambda: add(rows))
    return f"all-reduce of {size * 4 / 1e6:.1f} MB over {count} devices in {taken * 1e3:.2f} ms"


def matrix_products(size: int) -> str:
    """bfloat16 products on each of this host's devices. Raises `ArithmeticError` where a chip is far below its peak."""
    repeats = 16
    told = []
    for device in jax.local_devices():
        x = jax.device_put(jnp.full((size, size), 1 / size, jnp.bfloat16), device)
        many = jax.jit(lambda x: jax.lax.fori_loop(0, repeats, lambda _, y: x @ y, x))
        rate = repeats * 2 * size**3 / seconds(partial(many, x))
        chip = CHIPS.get(device.device_kind)
        told.append(f"{rate / 1e12:.4g}" + (f" ({rate / chip.flops:.0%} of peak)" if chip else ""))
        if chip and rate < RESTS * chip.flops:
            raise ArithmeticError(
                f"device {device.id} multiplies at {rate / 1e12:.1f} TFLOP/s of {chip.flops / 1e12:.0f}"
            )
    return f"matrix products of {size}: TFLOP/s {', '.join(told)}"


def storage(folder: str, megabytes: int) -> str:
    """Writes a file, reads it back and removes it. Raises `OSError` where it comes back as another."""
    from etils import epath  # it knows gs:// and plain paths alike, and comes with Orbax

    place = epath.Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    file = place / f"host-{jax.process_index()}"
    content = np.random.default_rng(jax.process_index()).bytes(megabytes << 20)
    start = time.perf_counter()
    file.write_bytes(content)
    wrote = time.perf_counter()
    same = file.read_bytes() == content
    read = time.perf_counter()
    file.unlink()
    if not same:
        raise OSError(f"{file} came back as another than was written")
    return f"{folder}: wrote {megabytes / (wrote - start):.0f} MiB/s, read {megabytes / (read - wrote):.0f} MiB/s"


def main(argv: Sequence[str]) -> int:
    """Runs all checks on this host; gives the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tpu.check", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--storage", default="check", help="a folder or gs:// address that checkpoints could go to")
    parser.add_argument("--size", type=int, default=8192, help="rows of the matrices")
    parser.add_argument("--megabytes", type=int, default=64, help="how much is written")
    asked = parser.parse_args(argv)
    checks: dict[str, Callable[[], str]] = {
        "devices": devices,
        "all-reduce": lambda: all_reduce(asked.size**2 // 4),
        "matrix products": lambda: matrix_products(asked.size),
        "storage": lambda: storage(asked.storage, asked.megabytes),
    }
    status = 0
    for name, check in checks.items():
        try:
            print(f"[host {jax.process_index()}] ok: {check()}", flush=True)
        except Exception as error:  # whatever it is, the other checks say more about the pod
            print(f"[host {jax.process_index()}] FAILED: {name}: {error}", flush=True)
            status = 1
    return status


if __name__ == "__main__":
    try:
        distributed.start()  # joins the other hosts, where JAX finds that there are some (a TPU pod, SLURM, Kubernetes)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    status = main(sys.argv[1:])
    distributed.finish()
    sys.exit(status)
