"""Schedules: each of transformers' names, beside transformers' own; and the one that looks at evaluations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxformers.errors import InputError
from jaxformers.train import TrainingArguments, make_schedule
from jaxformers.train.arguments import SCHEDULES as NAMES
from jaxformers.train.schedules import SCHEDULES, Plateau

TOTAL, PEAK = 40, 3e-3
CASES = {
    "linear": {},
    "cosine": {},
    "cosine waves": {"num_cycles": 1.5},
    "cosine_with_restarts": {"num_cycles": 3},
    "polynomial": {},
    "polynomial squared": {"power": 2.0, "lr_end": 1e-4},
    "constant": {},
    "constant_with_warmup": {},
    "inverse_sqrt": {},
    "inverse_sqrt slow": {"timescale": 30},
    "cosine_with_min_lr": {"min_lr": 1e-4},
    "cosine_with_min_lr rate": {"min_lr_rate": 0.25},
    "cosine_warmup_with_min_lr": {"min_lr_rate": 0.1},
    "cosine_warmup_with_min_lr risen": {"min_lr": 1e-4, "warmup_lr_rate": 0.2},
    "warmup_stable_decay": {"num_decay_steps": 12},
    "warmup_stable_decay shapes": {"num_decay_steps": 9, "num_stable_steps": 11, "warmup_type": "1-sqrt",
                                   "decay_type": "1-sqrt", "min_lr_ratio": 0.1},
    "warmup_stable_decay linear": {"num_decay_steps": 9, "warmup_type": "cosine", "decay_type": "linear"},
}  # fmt: skip


def rates(name, options, warmup):
    args = TrainingArguments(
        learning_rate=PEAK, lr_scheduler_type=name, lr_scheduler_kwargs=options, warmup_steps=warmup
    )
    return np.asarray(jax.vmap(make_schedule(args, TOTAL))(jnp.arange(TOTAL)))


def test_the_names_are_those_the_arguments_know():
    assert tuple(SCHEDULES) == NAMES
    assert {case.split()[0] for case in CASES} | {"reduce_lr_on_plateau"} == set(NAMES)


# rates at steps 0, 5, 10, 25 and 39 of 40 with 10 of warmup, in shares of the peak, worked out by hand
@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("linear", {}, (0, 0.5, 1, 0.5, 1 / 30)),
        ("cosine", {}, (0, 0.5, 1, 0.5, 0.5 + 0.5 * np.cos(29 / 30 * np.pi))),
        ("cosine_with_restarts", {"num_cycles": 2}, (0, 0.5, 1, 1, 0.5 + 0.5 * np.cos(28 / 30 * np.pi))),
        ("polynomial", {"power": 2, "lr_end": 0}, (0, 0.5, 1, 0.25, 1 / 900)),
        ("inverse_sqrt", {}, (0, 0.5, 1, np.sqrt(0.4), np.sqrt(10 / 39))),
        ("cosine_with_min_lr", {"min_lr_rate": 0.5}, (0, 0.5, 1, 0.75, 0.75 + 0.25 * np.cos(29 / 30 * np.pi))),
        ("warmup_stable_decay", {"num_decay_steps": 10, "decay_type": "linear"}, (0, 0.5, 1, 1, 0.1)),
    ],
)
def test_rates_worked_out_by_hand(name, options, expected):
    np.testing.assert_allclose(rates(name, options, 10)[[0, 5, 10, 25, 39]] / PEAK, expected, atol=1e-6)


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore:Both num_training_steps")
@pytest.mark.parametrize("warmup", [0, 7])
@pytest.mark.parametrize("case", CASES)
def test_every_schedule_is_theirs(case, warmup):
    torch = pytest.importorskip("torch")
    from transformers import get_scheduler

    name, options = case.split()[0], CASES[case]
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=PEAK)
    theirs = get_scheduler(name, optimizer, warmup, TOTAL, scheduler_specific_kwargs=options)
    expected = []
    for _ in range(TOTAL):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step()
    np.testing.assert_allclose(rates(name, options, warmup), expected, rtol=2e-5, atol=1e-9)


def test_an_option_it_has_not_is_named():
    args = TrainingArguments(max_steps=4, lr_scheduler_type="cosine", lr_scheduler_kwargs={"cycles": 2})
    with pytest.raises(InputError, match="'cosine' has no option 'cycles', only num_cycles"):
        make_schedule(args)
    with pytest.raises(InputError, match="needs the option 'num_decay_steps'"):
        make_schedule(args.replace(lr_scheduler_type="warmup_stable_decay", lr_scheduler_kwargs=None))
    with pytest.raises(InputError, match="one of min_lr and min_lr_rate"):
        make_schedule(args.replace(lr_scheduler_type="cosine_with_min_lr", lr_scheduler_kwargs=None))(0)


def test_warmup_is_a_number_of_steps_or_a_share_of_them():
    for given in ({"warmup_steps": 0.1}, {"warmup_ratio": 0.1}, {"warmup_steps": 4}):
        assert TrainingArguments(**given).warmup_in(40) == 4
    assert TrainingArguments(warmup_ratio=0.1).warmup_in(41) == 5
    assert TrainingArguments(warmup_ratio=1.0).warmup_in(40) == 40


VALUES = [5.0, 4.0, 4.1, 4.2, 4.3, 3.0, 3.1, 2.9999, 3.3, 3.2, 3.4, 1.0, 2.0, 2.0, 2.0, 2.0]
PLATEAUS = [
    {"patience": 1, "factor": 0.5},
    {"patience": 1, "cooldown": 2, "min_lr": 1e-3},
    {"patience": 0, "mode": "max", "threshold_mode": "abs", "threshold": 0.05, "factor": 0.9},
]


def scales(options):
    plateau = Plateau(
        TrainingArguments(
            learning_rate=PEAK,
            lr_scheduler_type="reduce_lr_on_plateau",
            eval_strategy="epoch",
            lr_scheduler_kwargs=options,
        )
    )
    state, found = plateau.transformation().init({}), []
    for value in VALUES:
        state = plateau.after(state, value)
        found.append(float(state.plateau_scale))
    return found


def test_a_rate_falls_when_evaluations_get_no_better():
    expected = [1, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25, 0.125, 0.125, 0.125, 0.125, 0.0625, 0.0625, 0.03125]
    assert scales(PLATEAUS[0]) == expected


@pytest.mark.parity
@pytest.mark.parametrize("options", PLATEAUS)
def test_a_plateau_is_pytorchs(options):
    torch = pytest.importorskip("torch")

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=PEAK)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, **options)
    for value, scale in zip(VALUES, scales(options), strict=True):
        theirs.step(value)
        assert scale * PEAK == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-6)
