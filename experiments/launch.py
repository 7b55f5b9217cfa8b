"""How an experiment is started: flags into a config, the probe for the hub, one sentence and an exit status for what fails."""

import contextlib
import dataclasses
import json
import logging
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import tyro

from experiments.flags import ours
from jaxformers.core.messages import show_lines
from jaxformers.errors import InputError, TrainingError
from jaxformers.parallel import distributed
from jaxformers.train.foreign import FOREIGN, translate

C = TypeVar("C")

FILES = (".json", ".yaml", ".yml")


def parse(config: type[C], argv: Sequence[str], doc: str, prog: str) -> C:
    """The config that the flags describe.

    `-` and `_` are the same, `--flag`, `--no-flag` and `--flag true` are all understood, and transformers' names are
    accepted for ours. A first word that ends in .json, .yaml or .yml is a file of settings under the same names. A flag
    that does not exist ends the program with status 2 and the nearest name.
    """
    if argv and argv[0].endswith(FILES):
        argv = [*_from_file(Path(argv[0])), *argv[1:]]
    words = _ours(argv, config)
    found = tyro.cli(config, args=words, description=doc, prog=prog, console_outputs=True)
    if not hasattr(found, "given"):
        return found
    names = (word[2:].partition("=")[0].replace("-", "_") for word in words if word.startswith("--"))
    return dataclasses.replace(found, given=tuple(name.removeprefix("no_") for name in names))  # type: ignore[type-var]


def _from_file(path: Path) -> list[str]:
    """A JSON or YAML file of settings as flags. Those that follow it on the command line win."""
    import yaml

    try:
        settings = yaml.safe_load(path.read_text("utf-8"))  # JSON is YAML
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"cannot read the settings in {path}: {str(error).splitlines()[0]}") from None
    if not isinstance(settings, dict):
        raise InputError(f"the settings in {path} must be names and values, found {type(settings).__name__}")
    return [word for name, value in settings.items() for word in _flag(str(name), value)]


def _flag(name: str, value: Any) -> list[str]:
    if value is None:
        return []
    if isinstance(value, dict) and name == "mesh":
        return [word for key, size in value.items() for word in _flag(f"mesh.{key}", size)]
    words = value if isinstance(value, list) else [json.dumps(value) if isinstance(value, dict) else value]
    return [f"--{name}", *(str(word).lower() if isinstance(word, bool) else str(word) for word in words)]


def _ours(argv: Sequence[str], config: type) -> list[str]:
    """The words as our flags: one spelling, our names, and what only PyTorch knows settled (`train.foreign`)."""
    switches = {field.name for field in dataclasses.fields(config) if field.type in (bool, "bool")}
    flags: list[tuple[str, list[str]]] = []
    for word in argv:
        if word.startswith("--"):
            flag, equals, value = word.partition("=")
            flag = flag.replace("_", "-")
            flags.append((flag, [value] if equals else []))
        elif flags:
            flags[-1][1].append(word)
        else:
            flags.append(("", [word]))
    words: list[str] = []
    for flag, values in ours(flags):
        name = flag.removeprefix("--").replace("-", "_")
        if name in FOREIGN:
            meant = translate({name: _value(values)})
            words += [part for key, value in meant.items() for part in _ours(_flag(key, _plain(value)), config)]
        elif name in switches and len(values) == 1 and values[0].lower() in ("true", "false"):
            words.append(flag if values[0].lower() == "true" else flag.replace("--", "--no-", 1))
        else:
            words += [flag, *values] if flag else values
    return words


def _value(words: list[str]) -> Any:
    """What the words after a foreign flag say: nothing says yes."""
    if len(words) > 1:
        return words
    return {"true": True, "false": False, "none": None}.get(words[0].lower(), words[0]) if words else True


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def launch(
    config: type[Any],
    run: Callable[[Any], Any],
    doc: str | None,
    prog: str,
    read: Callable[[type[Any], list[str], str, str], Any] = parse,
) -> None:
    """Parses the command line, runs, and turns what a user can cause into one sentence and a status.

    Status 2: something handed to us is wrong. 1: the run could not go on. 130, 143: it was interrupted; what there was to
    save is saved (`train.guard`; before training `experiments/__init__.py` has Ctrl-C). Of several processes, each of which is
    started with the same command (`parallel.distributed`), the first alone prints, and all end where one cannot go on.
    """
    show_lines()
    with contextlib.ExitStack() as stack:
        try:
            flags = read(config, sys.argv[1:], doc or "", prog)
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
