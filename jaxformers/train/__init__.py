"""Training: arguments, state, step, loop, optimizer, losses, metrics, callbacks, checkpoints.

`fit` does it all; everything `fit` uses (`make_train_step`, `TrainState`, `make_optimizer`, …) can be used without it.
"""

import importlib
from typing import Any

_HOMES = {
    "Callback": "callbacks",
    "Curves": "trackers",
    "EarlyStopping": "callbacks",
    "EvalPrediction": "evaluation",
    "PredictionOutput": "evaluation",
    "Profile": "callbacks",
    "Progress": "callbacks",
    "Streaming": "evaluation",
    "TrainOutput": "loop",
    "TrainState": "state",
    "TrainingArguments": "arguments",
    "Range": "search",
    "evaluate": "evaluation",
    "fit": "loop",
    "hyperparameter_search": "search",
    "make_eval_step": "step",
    "make_optimizer": "optim",
    "make_schedule": "schedules",
    "make_train_step": "step",
    "predict": "evaluation",
    "scaled_rates": "groups",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'jaxformers.train' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(f"jaxformers.train.{_HOMES[name]}"), name)
