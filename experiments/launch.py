"""How an experiment is started: flags into a config, the probe for the hub, one sentence and an exit status for what fails."""

import contextlib
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import tyro

from jaxformers.errors import InputError, TrainingError
from jaxformers.parallel import distributed

C = TypeVar("C")

# transformers' script flags that mean what one of ours means.
ALIASES = {
    "--model-name-or-path": "--model",
    "--dataset-name": "--data",
    "--max-seq-length": "--max-length",
    "--block-size": "--max-length",
    "--evaluation-strategy": "--eval-strategy",
    "--train-batch-size": "--per-device-train-batch-size",
    "--eval-batch-size": "--per-device-eval-batch-size",
}


def parse(config: type[C], argv: Sequence[str], doc: str, prog: str) -> C:
    """The config that the flags describe.

    `-` and `_` are the same, `--flag`, `--no-flag` and `--flag true` are all understood, and transformers' names are
    accepted for ours. A flag that does not exist ends the program with status 2 and the nearest name.
    """
    return tyro.cli(config, args=_ours(argv), description=doc, prog=prog, console_outputs=True)


def _ours(argv: Sequence[str]) -> list[str]:
    args: list[str] = []
    for word in argv:
        if word.startswith("--"):
            flag, equals, value = word.partition("=")
            flag = flag.replace("_", "-")
            args += [ALIASES.get(flag, flag), *([value] if equals else [])]
        else:
            args.append(word)
    merged: list[str] = []
    for word in args:  # `--bf16 true` as `--bf16`, `--bf16 false` as `--no-bf16`
        if word.lower() in ("true", "false") and merged and merged[-1].startswith("--"):
            if word.lower() == "false":
                merged[-1] = re.sub(r"^--(.*?)([^.]+)$", r"--\1no-\2", merged[-1])
        else:
            merged.append(word)
    return merged


def launch(config: type[C], run: Callable[[C], Any], doc: str | None, prog: str) -> None:
    """Parses the command line, runs, and turns what a user can cause into one sentence and a status.

    Status 2: something handed to us is wrong. 1: the run could not go on. 130, 143: it was interrupted; what there was to
    save is saved (`train.guard`; before training `experiments/__init__.py` has Ctrl-C). Of several processes, each of which is
    started with the same command (`parallel.distributed`), the first alone prints, and all end where one cannot go on.
    """
    logging.getLogger("jaxformers").addHandler(_Lines())
    with contextlib.ExitStack() as stack:
        try:
            flags: Any = parse(config, sys.argv[1:], doc or "", prog)
            distributed.start(flags.distributed)
            if distributed.number() != 0:
                logging.getLogger("jaxformers").setLevel(logging.ERROR)
                stack.enter_context(contextlib.redirect_stdout(stack.enter_context(open(os.devnull, "w"))))
            run(flags)
        except InputError as error:
            sys.exit(_say(error, 2))
        except TrainingError as error:
            sys.exit(_say(error, 1))
        except Exception as error:
            distributed.fail(f"{type(error).__name__}: {error}", 1, traceback.format_exc())
            raise
        finally:
            distributed.finish()


def _say(error: object, status: int) -> int:
    distributed.fail(str(error), status, f"error: {error}\n")
    print(f"error: {error}", file=sys.stderr, flush=True)
    return status


class _Lines(logging.Handler):
    """Log lines as plain lines that do not tear the progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        tqdm.write(f"{record.levelname.lower()}: {record.getMessage()}", file=sys.stderr)
