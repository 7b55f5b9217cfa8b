"""Training checkpoints by Orbax: the whole state and, as JSON, where the run stood. Written asynchronously, committed atomically.

Layout: `checkpoints/STEP/{state,meta}`. A checkpoint that cannot be read is passed over with one line, never silently.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

from jaxformers.errors import InputError, TrainingError
from jaxformers.train.state import TrainState

LOG = logging.getLogger("jaxformers")


class _PatientLoop(asyncio.SelectorEventLoop):
    """An event loop that closes only when its tasks have ended.

    When one read fails, Orbax closes its loop over the others; each would complain on stderr, now or when it is collected.
    """

    def close(self) -> None:
        if not self.is_closed() and (left := asyncio.all_tasks(self)):
            self.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        super().close()


class Checkpoints:
    """The checkpoints of one run. A context manager: leaving it waits for the last save and tells of its failure.

    Args:
      directory: where they are kept, a local folder or an `epath.Path` to a bucket; made when first saved to.
      limit: keep only this many; None keeps all.
    """

    def __init__(self, directory: Any, limit: int | None = None) -> None:
        import orbax.checkpoint as ocp

        # Orbax tells of every save at length; and, of several processes, of another's death, which is told elsewhere.
        logging.getLogger("absl").setLevel(logging.ERROR if jax.process_count() == 1 else logging.CRITICAL)
        self.directory = directory if "://" in str(directory) else Path(directory).absolute()
        self.limit = limit
        self._ocp = ocp
        options = ocp.CheckpointManagerOptions(enable_async_checkpointing=True, create=True)
        try:
            self._manager = ocp.CheckpointManager(self.directory, options=options)
        except OSError as error:
            raise InputError(f"cannot write checkpoints to {directory}: {error.strerror or error}") from None

    def save(self, step: int, state: TrainState, meta: Mapping[str, Any], keep: int | None = None) -> None:
        """Saves in the background; the step that follows may start at once.

        Args:
          step: the step the checkpoint is named for.
          state: the state; copied before this returns.
          meta: plain JSON: where the run stood.
          keep: a step whose checkpoint is not to be deleted (the best).

        Raises:
          TrainingError: this save, or the one before it, could not be written.
        """
        ocp = self._ocp
        self.wait()  # a failure of the save before comes out here, not never
        self._retire(1, keep, {step})
        try:
            args = ocp.args.Composite(state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(dict(meta)))
            self._manager.save(step, args=args, force=True)
        except (OSError, ValueError, RuntimeError) as error:
            raise self._failure(step, error) from error
        self._pending = step

    _pending: int | None = None

    def wait(self) -> None:
        """Returns when no save is under way. Raises `TrainingError` if one failed."""
        try:
            self._manager.wait_until_finished()
            self._manager.check_for_errors()
        except Exception as error:  # what Orbax raises here is whatever its writer thread met
            raise self._failure(self._pending, error) from error

    def newest(self) -> int | None:
        """The step of the newest checkpoint, None where there is none."""
        return max(self._manager.all_steps(), default=None)

    def restore(
        self, like: TrainState, check: Callable[[Mapping[str, Any]], None] = lambda meta: None
    ) -> tuple[TrainState, dict[str, Any]] | None:
        """The newest checkpoint that can be read, laid out as `like`; None where there is none at all.

        Args:
          like: a state of the same structure, whose places on the mesh are taken.
          check: told of a checkpoint's `meta` before its state is read; raises `InputError` if it is another run's.

        Raises:
          TrainingError: there are checkpoints and none can be read; of several processes, one cannot read the newest.
        """
        steps = sorted(self._manager.all_steps(), reverse=True)
        for step in steps:
            try:
                check(
                    self._manager.restore(step, args=self._ocp.args.Composite(meta=self._ocp.args.JsonRestore())).meta
                )
                return self.restore_step(step, like)
            except InputError:
                raise
            except Exception as error:  # damage shows as almost anything; what matters is that it is told
                if jax.process_count() > 1:  # what one cannot read another may have read: here they would part
                    raise TrainingError(
                        f"checkpoint {step} of {self.directory} is damaged ({_first_line(error)}); "
                        f"remove {self.directory / str(step)} to go on from the one before it"
                    ) from error
                LOG.warning("checkpoint %s of %s is damaged (%s)", step, self.directory, _first_line(error))
        if steps:
            raise TrainingError(
                f"none of the checkpoints {', '.join(map(str, sorted(steps)))} in {self.directory} can be read; "
                "restore one from a copy, or start anew with --overwrite-output-dir"
            )
        return None

    def restore_step(self, step: int, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """The checkpoint of one step, laid out as `like`."""
        ocp = self._ocp
        target = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), like)
        args = ocp.args.Composite(state=ocp.args.StandardRestore(target), meta=ocp.args.JsonRestore())
        new_event_loop, asyncio.new_event_loop = asyncio.new_event_loop, _PatientLoop
        try:
            found = self._manager.restore(step, args=args)
        finally:
            asyncio.new_event_loop = new_event_loop
        return found.state, found.meta

    def tidy(self, keep: int | None = None) -> None:
        """Waits for the last save and deletes what is beyond `limit`; `keep` stays."""
        self.wait()
        self._retire(0, keep, set())

    def _retire(self, coming: int, keep: int | None, replaced: set[int]) -> None:
        """Deletes the oldest checkpoints to make room for `coming` more, and those about to be written again.

        One that is finished always stays, for the coming one may fail.
        """
        steps = sorted(self._manager.all_steps())
        for step in replaced.intersection(steps):  # left damaged by an earlier process
            self._manager.delete(step)
        if self.limit is None:
            return
        others = [step for step in steps if step != keep and step not in replaced]
        room = max(self.limit - coming - (keep in steps), 0 if keep in steps else 1)
        for step in others[: max(0, len(others) - room)]:
            self._manager.delete(step)

    def _failure(self, step: int | None, error: Exception) -> TrainingError:
        good = [found for found in self._manager.all_steps() if found != step]
        last = f"last good: step {max(good)}" if good else "there is no earlier one"
        return TrainingError(f"could not save step {step} to {self.directory}: {_first_line(error)}; {last}")

    def close(self) -> None:
        """Waits for the last save and ends the writer. Raises `TrainingError` if that save failed."""
        try:
            self.wait()
        finally:
            self._manager.close()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        if kind is None:
            self.close()
        else:
            with contextlib.suppress(Exception):  # what is already being told of is the cause
                self._manager.close()


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:300]
