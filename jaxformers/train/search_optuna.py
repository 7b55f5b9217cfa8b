"""Optuna as the engine of `search.hyperparameter_search`."""

from pathlib import Path
from typing import Any

from jaxformers.errors import InputError
from jaxformers.train.search import Objective, Range, Reporter, Space, Trial, outcome

STATES = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}


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
    """Runs what is missing of `trials` and gives all that ended; arguments as for `hyperparameter_search`."""
    try:
        import optuna
    except ImportError as error:
        raise InputError("a search needs the package optuna: pip install 'jaxformers[search]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    pruners = {
        "none": optuna.pruners.NopPruner,
        "median": optuna.pruners.MedianPruner,
        "halving": optuna.pruners.SuccessiveHalvingPruner,
    }
    study = optuna.create_study(
        storage=f"sqlite:///{folder / 'study.db'}",
        study_name="search",
        direction="maximize" if more_is_better else "minimize",
        pruner=pruners[pruner](),
        load_if_exists=True,
    )
    for cut in study.get_trials(states=(optuna.trial.TrialState.RUNNING,)):  # of a process that is no more
        study.tell(cut.number, state=optuna.trial.TrialState.FAIL)
        study.set_user_attr(f"cut off {cut.number}", True)
        study.enqueue_trial(cut.params)

    def ended() -> list[Any]:
        begun_anew = {int(name.split()[-1]) for name in study.user_attrs if name.startswith("cut off ")}
        return [trial for trial in study.get_trials() if trial.state.is_finished() and trial.number not in begun_anew]

    # a sampler begins anew with each process: the seed says how much was drawn before
    study.sampler = optuna.samplers.TPESampler(seed=seed + len(study.get_trials()))
    while len(ended()) < trials:
        trial = study.ask()
        settings = {name: _drawn(trial, name, choice) for name, choice in space.items()}

        def report(value: float, step: int, trial: Any = trial) -> bool:
            trial.report(value, step)
            return bool(trial.should_prune())

        state, value = outcome(objective, settings, trial.number, Reporter(metric, report))
        number = {ours: getattr(optuna.trial.TrialState, theirs) for theirs, ours in STATES.items()}[state]
        study.tell(trial, value, state=number)
    return [Trial(trial.number, trial.params, trial.value, STATES[trial.state.name]) for trial in ended()]


def _drawn(trial: Any, name: str, choice: Any) -> Any:
    if not isinstance(choice, Range):
        return trial.suggest_categorical(name, list(choice))
    suggest = trial.suggest_int if choice.whole else trial.suggest_float
    return suggest(name, choice.low, choice.high, log=choice.log)
