"""How much is told, and where: everything here speaks through the logger `jaxformers` of Python's `logging`."""

import logging
import sys

from jaxformers.errors import InputError

LOG = logging.getLogger("jaxformers")
LEVELS = ("debug", "info", "warning", "error", "critical")


class Lines(logging.Handler):
    """Messages as plain lines on stderr that do not tear a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        tqdm.write(f"{record.levelname.lower()}: {record.getMessage()}", file=sys.stderr)


def show_lines() -> None:
    """Messages go to stderr as lines, unless the program that uses us has a handler of its own."""
    if not LOG.hasHandlers():
        LOG.addHandler(Lines())


def set_verbosity(level: str) -> None:
    """Sets the least level that is told; the environment's `JAXFORMERS_VERBOSITY` does the same from the start.

    Args:
      level: "debug", "info", "warning" (what holds where nobody says), "error" or "critical".

    Raises:
      InputError: there is no such level.

    >>> set_verbosity("warning")
    """
    if str(level).lower() not in LEVELS:
        raise InputError(f"verbosity must be one of {', '.join(LEVELS)}, found {level!r}")
    LOG.setLevel(level.upper())
    show_lines()
