"""Hyperparameter search over any experiment's settings.

    python -m experiments.search mrpc --space learning_rate=log:1e-5:1e-3 per_device_train_batch_size=16,32 --trials 20 \\
        --metric-for-best-model accuracy --model MODEL --data DATA

The first word is an experiment; flags that are not the search's own are its. `--metric-for-best-model` decides (the held-out
loss by default), each run is a trial in `--output-dir`/trial-N, without checkpoints unless these are asked for. A run that is
behind the others is ended early (`--pruner`). The same command goes on where it was ended, with `--trials` the number in all.
Needs Optuna (`pip install 'jaxformers[search]'`); with `--engine ray` trials are spread by Ray Tune (`pip install 'ray[tune]'`)
over the machines of its cluster. In the end it prints the trials and the best one's flags; `search.json` holds them.
"""

import dataclasses
import importlib
from pathlib import Path
from typing import Any

import tyro

from experiments.launch import launch, parse
from jaxformers.errors import InputError
from jaxformers.train.search import Found, Reporter, hyperparameter_search, parse_space


@dataclasses.dataclass(frozen=True)
class Search:
    """How to search; the other flags are the experiment's."""

    space: tuple[str, ...]
    """What is drawn: NAME=LOW:HIGH, NAME=log:LOW:HIGH (whole numbers where both are), NAME=A,B,C."""
    trials: int = 20
    """How many runs in all."""
    pruner: str = "median"
    """Which runs are ended early: none, median or halving."""
    engine: str = "optuna"
    """optuna, or ray for more than one machine."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """A search, and the experiment's own settings."""

    search: Search
    module: Any
    config: Any

    @property
    def distributed(self) -> Any:
        """How processes find each other, as the experiment's flags say."""
        return self.config.distributed


def plan_of(config: type[Search], argv: list[str], doc: str, prog: str) -> Plan:
    """What the words ask for.

    Raises:
      InputError: there is no such experiment, or a name in the space is none of its settings.
    """
    known = sorted(path.stem for path in Path(__file__).parent.glob("*.py"))
    name = argv[0] if argv else "--help"
    if name.startswith("-"):
        tyro.cli(config, args=["--help"], description=doc, prog=f"{prog} EXPERIMENT")
    module = importlib.import_module(f"experiments.{name}") if name in known else None
    if not hasattr(module, "Config") or not hasattr(module, "run"):
        raise InputError(f"there is no experiment {name!r} to search with")
    search, rest = tyro.cli(config, args=argv[1:], description=doc, prog=f"{prog} {name}", return_unknown_args=True)
    settings = parse(module.Config, rest, doc, f"{prog} {name}")  # type: ignore[union-attr]
    for setting in parse_space(search.space):
        if not hasattr(settings, setting):
            raise InputError(f"{name} has no setting {setting!r} to search over")
    return Plan(search, module, settings)


def run(plan: Plan) -> Found:
    """Runs the trials and tells."""
    config, search = plan.config, plan.search
    directory = Path(config.output_dir)
    quiet = {} if {"save_strategy"} & {*config.given} else {"save_strategy": "no"}

    def objective(settings: dict[str, Any], number: int, reporter: Reporter) -> dict[str, Any]:
        print(f"***** Trial {number}: {said(settings)} *****", flush=True)
        trial = config.replace(**quiet, **settings, output_dir=str(directory / f"trial-{number}"), overwrite_output_dir=True,
                               given=(*config.given, *settings))  # fmt: skip
        return dict(plan.module.run(trial, callbacks=[reporter]))

    found = hyperparameter_search(
        objective,
        parse_space(search.space),
        directory=directory,
        metric=config.best_metric,
        more_is_better=config.more_is_better,
        trials=search.trials,
        pruner=search.pruner,
        seed=config.seed,
        engine=search.engine,
    )
    print(f"***** {config.best_metric} of {len(found.trials)} trials *****")
    for trial in found.trials:
        value = trial.state if trial.value is None or trial.state != "complete" else f"{trial.value:.4f}"
        print(f"  {trial.number:3}  {value:>8}  {said(trial.settings)}")
    print(f"  best: {found.value:.4f} with {said(found.settings)}")
    return found


def said(settings: dict[str, Any]) -> str:
    """Settings as flags."""
    return " ".join(f"--{name.replace('_', '-')} {value}" for name, value in settings.items())


if __name__ == "__main__":
    launch(Search, run, __doc__, "python -m experiments.search", plan_of)
