import json
import sys
import types

import pytest

from jaxformers.errors import InputError, TrainingError
from jaxformers.train import Progress, Range, TrainingArguments, hyperparameter_search
from jaxformers.train.search import parse_space

SPACE = {"rate": Range(1e-4, 1.0, log=True), "layers": Range(1, 4), "optim": ["adamw", "lion"]}


def evaluations(reporter, values, metric="eval_loss"):
    """What `fit` tells a callback of a run with these evaluations."""
    progress = Progress(TrainingArguments(), total_steps=len(values), steps_per_epoch=1)
    for step, value in enumerate(values, start=1):
        progress.step = step
        reporter.on_evaluate(progress, {metric: value})
    return {metric: values[-1]}


def bowl(settings, number, reporter):
    """Best at rate 0.01, with few layers of lion."""
    loss = abs(settings["rate"] - 0.01) + settings["layers"] + (settings["optim"] == "adamw")
    return evaluations(reporter, [loss + 1, loss])


def test_a_search_finds_the_best_goes_on_and_refuses_another(tmp_path):
    runs = []

    def counted(settings, number, reporter):
        runs.append(number)
        return bowl(settings, number, reporter)

    first = hyperparameter_search(counted, SPACE, directory=tmp_path, trials=3, pruner="none")
    assert runs == [0, 1, 2]
    for trial in first.trials:
        assert 1e-4 <= trial.settings["rate"] <= 1
        assert trial.settings["layers"] in (1, 2, 3, 4)
        assert trial.settings["optim"] in ("adamw", "lion")
    found = hyperparameter_search(counted, SPACE, directory=tmp_path, trials=7, pruner="none")
    assert runs == list(range(7))
    assert found.trials[:3] == first.trials
    assert len({trial.settings["rate"] for trial in found.trials}) == 7
    assert found.value == min(trial.value for trial in found.trials)
    assert found.settings in [trial.settings for trial in found.trials if trial.value == found.value]
    assert hyperparameter_search(counted, SPACE, directory=tmp_path, trials=7, pruner="none") == found
    assert len(runs) == 7
    assert json.loads((tmp_path / "search.json").read_text())["best"]["settings"] == found.settings
    with pytest.raises(InputError, match="holds a search with metric eval_loss, this one has eval_f1"):
        hyperparameter_search(counted, SPACE, directory=tmp_path, metric="eval_f1")


def test_a_run_behind_the_others_is_ended_and_a_failed_one_counts(tmp_path):
    ended = []

    def objective(settings, number, reporter):
        if number == 2:
            raise TrainingError("loss is nan at step 3")
        best = 0.2 if number == 7 else 0.9
        metrics = evaluations(reporter, [best / 2, best], "eval_accuracy")
        ended.append(number)
        return metrics

    found = hyperparameter_search(
        objective, {"rate": [1, 2]}, directory=tmp_path, metric="eval_accuracy", more_is_better=True, trials=9
    )
    assert ended == [0, 1, 3, 4, 5, 6, 8]
    assert [trial.state for trial in found.trials] == [
        {2: "failed", 7: "pruned"}.get(number, "complete") for number in range(9)
    ]
    assert found.value == 0.9


def test_a_trial_that_was_cut_off_is_begun_anew(tmp_path):
    tried = []

    def objective(settings, number, reporter):
        tried.append(settings["rate"])
        if len(tried) == 2:
            raise KeyboardInterrupt
        return {"eval_loss": settings["rate"]}

    with pytest.raises(KeyboardInterrupt):
        hyperparameter_search(objective, {"rate": Range(0.0, 1.0)}, directory=tmp_path, trials=3)
    found = hyperparameter_search(objective, {"rate": Range(0.0, 1.0)}, directory=tmp_path, trials=3)
    assert len(tried) == 4
    assert tried[1] == tried[2]
    assert [trial.value for trial in found.trials] == [tried[0], tried[2], tried[3]]


def test_a_search_of_several_processes_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("jax.process_count", lambda: 4)
    with pytest.raises(InputError, match="a search is one process's, found 4"):
        hyperparameter_search(bowl, SPACE, directory=tmp_path / "search")
    assert not (tmp_path / "search").exists()


def test_what_cannot_be_searched(tmp_path):
    for options, message in (
        ({"pruner": "mean"}, "pruner must be one of none, median, halving, found 'mean'"),
        ({"engine": "x"}, "engine must be one of optuna, ray, found 'x'"),
        ({"trials": 0}, "at least 1 trial, found 3 names and 0 trials"),
        ({"metric": "eval_f1"}, "there is no metric 'eval_f1' among eval_loss"),
    ):
        with pytest.raises(InputError, match=message):
            hyperparameter_search(bowl, SPACE, directory=tmp_path / message[:6], **options)

    def failing(settings, number, reporter):
        raise TrainingError("no")

    with pytest.raises(TrainingError, match=r"none of 2 trials in .* came to an end"):
        hyperparameter_search(failing, SPACE, directory=tmp_path / "failing", trials=2)
    for word, message in (
        ("rate", "must be NAME=LOW:HIGH"),
        ("rate=a:b", "the ends of a range must be numbers"),
        ("rate=2:1", "low < high, found 2 and 1"),
        ("rate=log:0:1", "0 < low < high"),
    ):
        with pytest.raises(InputError, match=message):
            parse_space([word])
    assert parse_space(["--weight-decay=0:0.5", "bf16=true,false"]) == {
        "weight_decay": Range(0, 0.5),
        "bf16": [True, False],
    }


def test_ray_is_asked_for_the_same(tmp_path, monkeypatch):
    """Of Ray, which the tests do not install, stands the part that we call: an adapter's test, no test of Ray."""
    drawn, reported, asked = [], [], {}

    class Tuner:
        def __init__(self, trainable, param_space, tune_config, run_config):
            asked.update(space=param_space, tune=tune_config, run=run_config)
            self.trainable = trainable

        @staticmethod
        def can_restore(place):
            return False

        def fit(self):
            for number in range(asked["tune"].num_samples):
                drawn.append(number)
                settings = {"rate": 0.5 + number, "layers": 2, "optim": "lion"}
                self.trainable(settings)
                yield types.SimpleNamespace(metrics=reported[-1], config=settings, error=None)

    def kind(name):
        return lambda *args, **kwargs: (name, *args, *kwargs.values())

    tune = types.ModuleType("ray.tune")
    tune.Tuner, tune.report = Tuner, reported.append
    for name in ("choice", "randint", "lograndint", "uniform", "loguniform"):
        setattr(tune, name, kind(name))
    tune.TuneConfig = tune.RunConfig = lambda **options: types.SimpleNamespace(**options)
    names = ("FIFOScheduler", "MedianStoppingRule", "ASHAScheduler")
    tune.schedulers = types.SimpleNamespace(**{name: kind(name) for name in names})
    tune.get_context = lambda: types.SimpleNamespace(get_trial_id=lambda: f"a1b2_{drawn[-1]:05}")
    ray = types.ModuleType("ray")
    ray.tune = tune
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setitem(sys.modules, "ray.tune", tune)

    found = hyperparameter_search(bowl, SPACE, directory=tmp_path, trials=3, engine="ray", pruner="halving")
    assert asked["space"] == {
        "rate": ("loguniform", 1e-4, 1.0),
        "layers": ("randint", 1, 5),
        "optim": ("choice", ["adamw", "lion"]),
    }
    assert asked["tune"].scheduler == ("ASHAScheduler", "value", "min")
    assert asked["run"].storage_path == str(tmp_path)
    assert [trial.state for trial in found.trials] == ["complete"] * 3
    assert found.settings["rate"] == 0.5
    assert found.value == pytest.approx(2.49)
    assert [report["value"] for report in reported[:3]] == pytest.approx([3.49, 2.49, 2.49])
