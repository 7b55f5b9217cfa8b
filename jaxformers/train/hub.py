"""Uploads to the Hugging Face hub while a run goes on, in the background."""

import logging
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from jaxformers.checkpoints.push import first_line, open_repository
from jaxformers.train.arguments import TrainingArguments
from jaxformers.train.folder import folder_of

LOG = logging.getLogger("jaxformers")
# what stays here: checkpoints, but for those that `hub_strategy` asks for, and what begins with _ or .
HOME = ("checkpoints/*", "checkpoints/**", "profile/*", "profile/**", "wandb/*", "wandb/**", "_*", ".*")


class Hub:
    """The repository of a run. As a context it waits for the upload under way when it is left.

    Raises:
      InputError: no token, no access, or no network; the sentence says which.
    """

    def __init__(self, args: TrainingArguments) -> None:
        self.args = args
        name = args.hub_model_id or Path(args.output_dir).resolve().name
        self._api, self.repo = open_repository(name, args.hub_token, args.hub_private_repo, args.hub_revision)
        self._pool = ThreadPoolExecutor(1)
        self._under_way: Future[Any] | None = None

    def push(self, message: str, checkpoint: Path | None = None) -> None:
        """Starts the upload of output_dir, or leaves it out where one is under way (not so with `hub_always_push`)."""
        if self._under_way is not None and not self._under_way.done() and not self.args.hub_always_push:
            return
        self.wait()
        with_checkpoint = checkpoint is not None and self.args.hub_strategy in ("checkpoint", "all_checkpoints")
        if with_checkpoint:
            last = self.args.hub_strategy == "checkpoint"
            place = "last-checkpoint" if last else f"checkpoints/{checkpoint.name}"  # type: ignore[union-attr]
            self._upload(checkpoint, message, path_in_repo=place, delete_patterns="*" if last else None)
            self.wait()
        self._upload(folder_of(self.args.output_dir).here, message, ignore_patterns=list(HOME))

    def _upload(self, folder: Any, message: str, **options: Any) -> None:
        where = {"repo_id": self.repo, "revision": self.args.hub_revision}
        upload = partial(self._api.upload_folder, folder_path=folder, commit_message=message, **where, **options)
        self._under_way = self._pool.submit(upload)

    def wait(self) -> None:
        """Returns when nothing is under way. A failed upload is told in one line: the run itself is well."""
        if self._under_way is not None:
            try:
                self._under_way.result()
            except Exception as error:  # as above
                LOG.warning("could not push to %s: %s", self.repo, first_line(error))
            self._under_way = None

    def __enter__(self) -> "Hub":
        return self

    def __exit__(self, *_: Any) -> None:
        self.wait()
        self._pool.shutdown()
