"""Ray Tune as the engine of `search.hyperparameter_search`: trials side by side, on the machines of a cluster or on this one.

Settings are drawn at random; which runs are ended early is Ray's schedulers' to say. `directory` must be seen by all machines.
"""

import math
from pathlib import Path
from typing import Any

from jaxformers.errors import InputError
from jaxformers.train.search import Objective, Range, Reporter, Space, Trial, outcome


def search(
    objective: Objective,
    space: Space,
    folder: Path,
    metric: str,
    more_is_better: bool,
    trials: int,
    pruner: str,
    seed: int,
) -> list[Trial]:
    """Runs `trials`, or what is missing of them where `folder` has some; arguments as for `hyperparameter_search`."""
    try:
        from ray import tune
    except ImportError as error:
        raise InputError("the engine ray needs the package Ray Tune: pip install 'ray[tune]'") from error

    def trainable(settings: dict[str, Any]) -> None:
        number = int(tune.get_context().get_trial_id().rpartition("_")[2])

        def report(value: float, step: int) -> bool:
            tune.report({"value": value, "step": step, "state": "pruned"})  # the last word, where Ray ends the run here
            return False

        state, value = outcome(objective, settings, number, Reporter(metric, report))
        tune.report({"value": math.nan if value is None else value, "state": state})

    mode = "max" if more_is_better else "min"
    schedulers = {
        "none": tune.schedulers.FIFOScheduler,
        "median": lambda: tune.schedulers.MedianStoppingRule(metric="value", mode=mode, min_samples_required=5),
        "halving": lambda: tune.schedulers.ASHAScheduler(metric="value", mode=mode),
    }
    place = folder / "ray"
    if tune.Tuner.can_restore(str(place)):
        tuner = tune.Tuner.restore(str(place), trainable, resume_unfinished=True, restart_errored=True)
    else:
        tuner = tune.Tuner(
            trainable,
            param_space={name: _drawn(tune, choice) for name, choice in space.items()},
            tune_config=tune.TuneConfig(num_samples=trials, scheduler=schedulers[pruner]()),
            run_config=tune.RunConfig(name="ray", storage_path=str(folder)),
        )
    found = []
    for number, result in enumerate(tuner.fit()):
        metrics = result.metrics or {}
        state = "failed" if result.error else metrics.get("state", "failed")
        value = metrics.get("value")
        found.append(Trial(number, dict(result.config or {}), value if state == "complete" else None, state))
    return found


def _drawn(tune: Any, choice: Any) -> Any:
    if not isinstance(choice, Range):
        return tune.choice(list(choice))
    if choice.whole:
        return (tune.lograndint if choice.log else tune.randint)(choice.low, choice.high + 1)
    return (tune.loguniform if choice.log else tune.uniform)(choice.low, choice.high)
