"""Compiled functions that can be counted: one program a batch shape, its compile time kept apart from its run time."""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax

LOG = logging.getLogger("jaxformers")


def enable_cache() -> None:
    """Switches JAX's persistent compilation cache on, unless the user has set one (or has switched it off).

    Programs are kept under `JAXFORMERS_CACHE`, or `~/.cache/jaxformers/xla`; an unwritable place leaves the cache off.
    """
    if jax.config.values["jax_compilation_cache_dir"] or os.environ.get("JAX_ENABLE_COMPILATION_CACHE", "").lower() in (
        "0",
        "false",
    ):
        return
    place = cache_folder() / "xla"
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        LOG.warning("the compilation cache is off: cannot write %s (%s)", place, error.strerror)
        return
    jax.config.update("jax_compilation_cache_dir", str(place))
    # JAX's own threshold of one second would leave most of a small model's programs out.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def cache_folder() -> Path:
    """`JAXFORMERS_CACHE`, or `~/.cache/jaxformers`."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jaxformers"
    return Path(os.environ.get("JAXFORMERS_CACHE") or default)


class Compiled:
    """A jitted function, compiled ahead once for each shape of its batch.

    Args:
      function: `function(first, batch) -> result`, pure.
      **options: passed to `jax.jit`.

    `compilations` counts programs, `seconds` is the time spent tracing, lowering and compiling them.
    """

    def __init__(self, function: Callable[[Any, Any], Any], **options: Any) -> None:
        self.function = function
        self.jitted = jax.jit(function, **options)
        self.compilations = 0
        self.seconds = 0.0
        self._programs: dict[Any, Any] = {}
        self._lock = threading.Lock()

    def __call__(self, first: Any, batch: Any) -> Any:
        return self.program(first, batch)(first, batch)

    def program(self, first: Any, batch: Any) -> Any:
        """The compiled program for this batch's shapes, compiling it if it is the first of its kind."""
        key = self._key(batch)
        if key not in self._programs:
            start = time.perf_counter()
            self._compile(key, first, batch)
            self.seconds += time.perf_counter() - start
        return self._programs[key]

    def prepare(self, first: Any, batches: Iterable[Any]) -> None:
        """Compiles the programs of all these batches ahead, several at a time: most of a compile runs on one core."""
        new = {key: batch for batch in batches if (key := self._key(batch)) not in self._programs}
        if not new:
            return
        start = time.perf_counter()
        with ThreadPoolExecutor(min(len(new), os.cpu_count() or 1, 8)) as pool:
            for done in [pool.submit(self._compile, key, first, batch) for key, batch in new.items()]:
                done.result()
        self.seconds += time.perf_counter() - start

    def _compile(self, key: Any, first: Any, batch: Any) -> None:
        self._programs[key] = self.jitted.lower(first, batch).compile()
        with self._lock:
            self.compilations += 1

    def memory(self) -> int:
        """The most bytes that one device takes for any of the programs so far, as the compiler counts them."""
        return max(map(program_bytes, self._programs.values()), default=0)

    @staticmethod
    def _key(batch: Any) -> Any:
        return tuple((name, array.shape, array.dtype) for name, array in batch.items())


def program_bytes(program: Any) -> int:
    """What a compiled program takes of one device at its fullest: arguments, results that do not replace them, what is between,
    and its code. 0 where the compiler does not say."""
    stats = program.memory_analysis()
    if stats is None:
        return 0
    return int(
        stats.argument_size_in_bytes
        + stats.output_size_in_bytes
        - stats.alias_size_in_bytes
        + stats.temp_size_in_bytes
        + stats.generated_code_size_in_bytes
    )
