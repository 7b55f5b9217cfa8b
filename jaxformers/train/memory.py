"""Memory: how much a run has used, and the search for a batch that fits."""

import logging
import resource
import sys
from collections.abc import Iterator
from types import TracebackType

import jax

from jaxformers.errors import TrainingError
from jaxformers.train.arguments import TrainingArguments

LOG = logging.getLogger("jaxformers")


def memory_used() -> dict[str, int]:
    """The most bytes in use so far: of this process, and of its first device where the device counts them."""
    unit = 1 if sys.platform == "darwin" else 1024
    used = {"train_mem_host_peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
    stats = jax.local_devices()[0].memory_stats() or {}
    return used | ({"train_mem_device_peak": stats["peak_bytes_in_use"]} if "peak_bytes_in_use" in stats else {})


class Attempt:
    """A run with these arguments. As a context it notes that memory ran out, where a smaller batch can be tried."""

    def __init__(self, args: TrainingArguments) -> None:
        self.args, self.failed = args, False

    def __enter__(self) -> "Attempt":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> bool:
        if not isinstance(error, jax.errors.JaxRuntimeError) or "RESOURCE_EXHAUSTED" not in str(error):
            return False
        size = self.args.per_device_train_batch_size
        if not self.args.auto_find_batch_size or size % 2:
            first = str(error).splitlines()[0][:200]
            raise TrainingError(
                f"memory ran out with per_device_train_batch_size={size}; halve it and double gradient_accumulation_steps "
                f"(auto_find_batch_size does), or set gradient_checkpointing ({first})"
            ) from error
        self.failed = True
        return True


def attempts(args: TrainingArguments) -> Iterator[Attempt]:
    """Runs with smaller and smaller batches and the more accumulation, until memory suffices; the step stays the same."""
    while True:
        attempt = Attempt(args)
        yield attempt
        if not attempt.failed:
            return
        size, parts = args.per_device_train_batch_size // 2, args.gradient_accumulation_steps * 2
        LOG.warning("memory ran out: going on with batches of %d, %d to a step", size, parts)
        args = args.replace(per_device_train_batch_size=size, gradient_accumulation_steps=parts)
