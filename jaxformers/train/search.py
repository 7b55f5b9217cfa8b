"""Search for settings: `hyperparameter_search` draws them, runs an objective with them, and ends hopeless runs early.

Optuna decides what is tried next (`pip install 'jaxformers[search]'`); its study is a file, so the same call goes on where it was
ended. Ray Tune does the same over the machines of a cluster (`engine="ray"`, `pip install 'ray[tune]'`).
"""

import dataclasses
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from jaxformers.checkpoints.save import write_text
from jaxformers.errors import InputError, TrainingError
from jaxformers.train.callbacks import Callback, Progress

LOG = logging.getLogger("jaxformers")
PRUNERS = ("none", "median", "halving")
ENGINES = ("optuna", "ray")


@dataclasses.dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included; whole ones where both are; evenly spread in the logarithm with `log`."""

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        if not self.low < self.high or (self.log and self.low <= 0):
            least = "0 < low < high" if self.log else "low < high"
            raise InputError(f"a range must have {least}, found {self.low} and {self.high}")

    @property
    def whole(self) -> bool:
        """Whether its numbers are whole ones."""
        return isinstance(self.low, int) and isinstance(self.high, int)


Space = Mapping[str, Range | Sequence[Any]]


@dataclasses.dataclass(frozen=True)
class Trial:
    """One run: its settings, its metric (None where it failed), and `complete`, `pruned` or `failed`."""

    number: int
    settings: dict[str, Any]
    value: float | None
    state: str


@dataclasses.dataclass(frozen=True)
class Found:
    """What a search gives: the best settings, their metric, and all trials in order."""

    settings: dict[str, Any]
    value: float
    trials: tuple[Trial, ...]


class Pruned(Exception):  # noqa: N818
    """A run that goes on no more: others had got further by then."""


class Reporter(Callback):
    """Tells the search of each evaluation, and ends the run, by `Pruned`, where the search has seen enough.

    Args:
      metric: which number of an evaluation is told.
      report: (value, step) -> whether the run is to end.
    """

    def __init__(self, metric: str, report: Callable[[float, int], bool]):
        self.metric, self.report = metric, report

    def on_evaluate(self, progress: Progress, metrics: dict[str, float]) -> None:
        if self.metric in metrics and self.report(metrics[self.metric], progress.step):
            raise Pruned(f"at step {progress.step} its {self.metric} was {metrics[self.metric]:.4g}")


Objective = Callable[[dict[str, Any], int, Reporter], Mapping[str, Any]]


def hyperparameter_search(
    objective: Objective,
    space: Space,
    *,
    directory: str | Path,
    metric: str = "eval_loss",
    more_is_better: bool = False,
    trials: int = 20,
    pruner: str = "median",
    seed: int = 42,
    engine: str = "optuna",
) -> Found:
    """Tries settings out of `space`, the next ones near those that did well.

    Args:
      objective: `(settings, number, reporter) -> metrics`: a run, told its number for a folder of its own; `reporter` goes among
        the callbacks of `fit`, which then is ended early where that is due. A `TrainingError` counts as a failed trial.
      space: name -> `Range`, or a sequence of values.
      directory: where `study.db` (Ray's own files) and `search.json` are. A study that is there is gone on with.
      metric: the number of the objective's metrics that decides.
      more_is_better: whether more of it is better.
      trials: how many in all, those of an earlier call among them. One that was cut off is begun anew.
      pruner: `none`; `median` ends a run that is worse than the median of the others at that step (after five trials);
        `halving` lets the better quarter go on at each of steps 1, 4, 16, ... times the least (asynchronously).
      seed: for what is drawn.
      engine: `optuna`, in this process; `ray`, over a cluster or the processes of this machine.

    Returns:
      The best settings and all trials.

    Raises:
      InputError: a package is missing, names do not fit, `directory` holds another search, or several processes run it.
      TrainingError: no trial came to an end.
    """
    for name, value, known in (("pruner", pruner, PRUNERS), ("engine", engine, ENGINES)):
        if value not in known:
            raise InputError(f"{name} must be one of {', '.join(known)}, found {value!r}")
    if trials < 1 or not space:
        raise InputError(f"a search needs a space and at least 1 trial, found {len(space)} names and {trials} trials")
    if jax.process_count() > 1:
        raise InputError(
            f"a search is one process's, found {jax.process_count()}: search on one machine, or over several with engine='ray'"
        )
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    what = {"space": {name: repr(choice) for name, choice in space.items()}, "metric": metric, "engine": engine}
    _check_same(folder / "search.json", what)
    if engine == "ray":
        from jaxformers.train.search_ray import search
    else:
        from jaxformers.train.search_optuna import search
    found = search(objective, space, folder.resolve(), metric, more_is_better, trials, pruner, seed)
    done = [trial for trial in found if trial.state == "complete" and trial.value is not None]
    if not done:
        raise TrainingError(f"none of {len(found)} trials in {folder} came to an end")
    best = (max if more_is_better else min)(done, key=lambda trial: trial.value or 0.0)
    assert best.value is not None
    told = {**what, "best": dataclasses.asdict(best), "trials": [dataclasses.asdict(trial) for trial in found]}
    write_text(folder / "search.json", json.dumps(told, indent=2) + "\n")
    return Found(best.settings, best.value, tuple(found))


def _check_same(place: Path, what: Mapping[str, Any]) -> None:
    """Refuses the folder of another search; writes down what this one is."""
    if place.is_file():
        found = json.loads(place.read_text("utf-8"))
        for key, value in what.items():
            if found.get(key) != value:
                raise InputError(f"{place.parent} holds a search with {key} {found.get(key)}, this one has {value}")
        return
    write_text(place, json.dumps(what, indent=2) + "\n")


def outcome(
    objective: Objective, settings: dict[str, Any], number: int, reporter: Reporter
) -> tuple[str, float | None]:
    """Runs a trial: its state and its metric."""
    try:
        metrics = objective(settings, number, reporter)
    except Pruned as reason:
        LOG.info("trial %d is ended: %s", number, reason)
        return "pruned", None
    except TrainingError as error:
        LOG.warning("trial %d failed: %s", number, error)
        return "failed", None
    if reporter.metric not in metrics:
        raise InputError(f"there is no metric {reporter.metric!r} among {', '.join(sorted(map(str, metrics)))}")
    return "complete", float(metrics[reporter.metric])


def parse_space(words: Sequence[str]) -> dict[str, Range | list[Any]]:
    """A space as a command line says it.

    Raises:
      InputError: a word is no NAME=WHAT.

    >>> parse_space(["learning_rate=log:1e-5:1e-3", "num_train_epochs=1:4", "optim=adamw,lion"])
    {'learning_rate': Range(low=1e-05, high=0.001, log=True), 'num_train_epochs': Range(low=1, high=4, log=False), 'optim': ['adamw', 'lion']}
    """  # noqa: E501
    space: dict[str, Range | list[Any]] = {}
    for word in words:
        name, equals, said = word.partition("=")
        if not equals or not said:
            raise InputError(
                f"a part of the space must be NAME=LOW:HIGH, NAME=log:LOW:HIGH or NAME=A,B,..., found {word!r}"
            )
        bounds = said.removeprefix("log:").split(":")
        name = name.strip("-").replace("-", "_")
        if len(bounds) == 2:
            low, high = map(_value, bounds)
            if isinstance(low, str) or isinstance(high, str):
                raise InputError(f"the ends of a range must be numbers, found {word!r}")
            space[name] = Range(low, high, said.startswith("log:"))
        else:
            space[name] = [_value(part) for part in said.split(",")]
    return space


def _value(word: str) -> Any:
    for kind in (int, float):
        try:
            return kind(word)
        except ValueError:
            continue
    return {"true": True, "false": False, "none": None}.get(word.lower(), word)
