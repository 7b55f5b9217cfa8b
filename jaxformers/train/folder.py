"""Where a run writes: `output_dir`, or for one in a bucket (`gs://…`) a local folder whose files are sent there.

Checkpoints go to a bucket directly, each process writing its own parts. Everything else is small, is appended to or read again,
and is written by process 0 alone: it is kept here and sent with each save, and with the end of the run.
"""

import dataclasses
import os
import shutil
from pathlib import Path
from typing import Any

from jaxformers.checkpoints.bucket import own_folder, remote_path
from jaxformers.errors import InputError

RESULTS = "all_results.json"  # the last file of a run


@dataclasses.dataclass(frozen=True)
class Folder:
    """The places of one run.

    Args:
      here: a local folder.
      there: `output_dir` itself, a path that knows buckets; `here` where it is local.
    """

    here: Path
    there: Any

    @property
    def remote(self) -> bool:
        return self.here is not self.there

    @property
    def checkpoints(self) -> Any:
        """Where checkpoints are."""
        return self.there / "checkpoints"

    def fetch(self, name: str) -> None:
        """Brings a file here as it is there, or takes it away here where there is none."""
        if not self.remote:
            return
        self.here.mkdir(parents=True, exist_ok=True)
        if (self.there / name).exists():
            (self.here / name).write_bytes((self.there / name).read_bytes())
        else:
            (self.here / name).unlink(missing_ok=True)

    def send(self) -> None:
        """Sends what was written here; `RESULTS` last."""
        if not self.remote:
            return
        files = [path for path in self.here.rglob("*") if path.is_file() and not path.name.startswith(".")]
        try:
            for path in sorted(files, key=lambda path: path.name == RESULTS):
                place = self.there / path.relative_to(self.here).as_posix()
                place.parent.mkdir(parents=True, exist_ok=True)
                with open(path, "rb") as source, place.open("wb") as target:
                    shutil.copyfileobj(source, target, 1 << 24)
        except OSError as error:
            raise InputError(f"cannot write to output_dir {self.there}: {error}") from None

    def clear(self) -> None:
        """Removes an earlier run: the files a run writes, nothing else."""
        for place in {self.here, self.there}:
            (place / RESULTS).unlink(missing_ok=True)  # first: without it the run does not count as finished
            for name in ("checkpoints", "runs"):
                if place is self.here:
                    shutil.rmtree(place / name, ignore_errors=True)
                elif (place / name).exists():
                    (place / name).rmtree()
            (place / "metrics.jsonl").unlink(missing_ok=True)


def folder_of(output_dir: str | os.PathLike[str]) -> Folder:
    """The places of a run with this `output_dir`.

    Raises:
      InputError: it is neither a local path nor in a bucket that can be written to.
    """
    name = os.fspath(output_dir)
    scheme, found, _ = name.partition("://")
    if not found:
        return Folder(here := Path(name), here)
    if scheme != "gs":
        raise InputError(f"output_dir must be a local folder or gs://BUCKET/…, found {name!r}")
    return Folder(own_folder("runs", name), remote_path(name, "output_dir"))
