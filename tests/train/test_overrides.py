"""What a Trainer lets one override, as arguments of `fit`; callbacks; and the options that change a step."""

import json
import logging
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxformers.checkpoints import load
from jaxformers.data import Batches
from jaxformers.errors import InputError, TrainingError
from jaxformers.train import (
    Callback,
    Curves,
    EarlyStopping,
    Progress,
    Streaming,
    TrainingArguments,
    evaluate,
    fit,
    make_optimizer,
    make_train_step,
    predict,
    scaled_rates,
)
from jaxformers.train.memory import attempts
from jaxformers.train.precision import with_loss_scale
from jaxformers.train.record import due, multiplied
from tests.train.conftest import make_examples


@pytest.fixture(scope="module")
def batch():
    return Batches(make_examples(4), batch_size=4, buckets=(16,))[0]


EVENTS = [name for name in vars(Callback) if name.startswith("on_") and name not in ("on_predict", "on_push_begin")]


class Listening(Callback):
    def __init__(self):
        self.heard = []

    def state(self):
        return {"steps": sum(name == "on_step_end" for name, _ in self.heard)}


for _name in EVENTS:
    setattr(Listening, _name, lambda self, progress, *told, n=_name: self.heard.append((n, progress.step)))


class Wanting(Callback):
    """Asks for a save after step 2: it is a custom callback in ten lines."""

    def on_step_end(self, progress):
        if progress.step == 2:
            progress.ask("save")


@pytest.fixture(scope="module")
def run(tiny, data, one, tmp_path_factory):
    """One run with everything on that does not change the step, made of batches of its own."""
    where = tmp_path_factory.mktemp("run")
    listening = Listening()
    args = TrainingArguments(
        output_dir=str(where), disable_tqdm=True, report_to="none", max_steps=6, per_device_eval_batch_size=4,
        eval_strategy="steps", eval_steps=0.3, logging_steps=2, save_strategy="best", skip_memory_metrics=False,
        include_num_input_tokens_seen="non_padding", lr_scheduler_type="reduce_lr_on_plateau", learning_rate=1e-3,
        lr_scheduler_kwargs={"patience": 0, "threshold": 1e9, "threshold_mode": "abs", "factor": 0.5},
        dataloader_num_workers=2, data_seed=3, optim="sgd", eval_on_start=True,
    )  # fmt: skip
    batches = Batches(data[0], batch_size=5, buckets=(16,), shuffle=True, seed=1)
    _, result = fit(
        tiny, args, train=batches, eval=data[1], mesh=one, callbacks=[listening, Wanting(), Curves()],
        log=lambda progress, logs: {**logs, "twice": 2 * progress.step},
    )  # fmt: skip
    return where, listening.heard, result, batches


def test_every_event_is_told_when_it_happens(run):
    heard = run[1]
    assert {name for name, _ in heard} == set(EVENTS)
    assert heard[0] == ("on_init_end", 0)
    steps = [entry for entry in heard if entry[0] in ("on_epoch_begin", "on_step_begin", "on_step_end", "on_epoch_end")]
    assert steps[:3] == [("on_epoch_begin", 0), ("on_step_begin", 0), ("on_step_end", 1)]
    assert [step for name, step in heard if name == "on_epoch_end"] == [4, 6]  # four steps an epoch, and the end
    assert [step for name, step in heard if name == "on_log"] == [2, 4, 6]
    assert [step for name, step in heard if name == "on_evaluate"] == [0, 2, 4, 6]
    assert sum(name == "on_prediction_step" for name, _ in heard) == 12  # three batches each
    assert 2 in [step for name, step in heard if name == "on_save"]


def test_what_is_logged_and_counted(run):
    where, _, result, batches = run
    rows = [json.loads(line) for line in (where / "metrics.jsonl").read_text().splitlines()]
    logs = [row for row in rows if "loss" in row]
    assert [row["twice"] for row in logs] == [4, 8, 12]
    # no value is better by 1e9 than that of step 2: half the rate after step 4
    assert [row["learning_rate"] for row in logs] == pytest.approx([1e-3, 1e-3, 5e-4])
    assert result.metrics["num_input_tokens_seen"] == sum(
        batches.repeated(2)[n]["attention_mask"].sum() for n in range(6)
    )
    assert result.metrics["total_flos"] == 6 * 6 * 5 * 16 * multiplied(load(str(where), "sequence-classification"))
    assert result.metrics["train_mem_host_peak"] > 1e8


def test_curves_are_drawn_or_the_missing_package_is_named(run, caplog, monkeypatch):
    import importlib.util

    where = run[0]
    if importlib.util.find_spec("matplotlib"):
        assert (where / "training.png").read_bytes()[:4] == b"\x89PNG"
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with caplog.at_level(logging.WARNING, "jaxformers"):
        Curves().on_train_end(Progress(TrainingArguments(output_dir=str(where)), 6, 4, 6))
    assert "no training.png: matplotlib is not installed" in caplog.text


def test_events_inside_the_step_and_unknown_ones_are_refused(tiny, data, quiet, one):
    for event, sentence in (("on_substep_end", "inside the compiled step"), ("on_epoch_ends", "no such event")):
        wrong = type("Wrong", (Callback,), {event: lambda self, progress: None})
        with pytest.raises(InputError, match=f"Wrong.{event}.*{sentence}"):
            evaluate(tiny, data[1], quiet, mesh=one, callbacks=[wrong()])


def test_early_stopping_waits_and_remembers():
    args = TrainingArguments(eval_strategy="epoch", metric_for_best_model="f1")
    progress = Progress(args, 100, 10)
    stopping = EarlyStopping(patience=2, threshold=0.01)
    for value in (0.5, 0.6, 0.605):
        stopping.on_evaluate(progress, {"eval_f1": value})
        assert not progress.stop
    resumed = EarlyStopping(patience=2, threshold=0.01)
    resumed.restore(json.loads(json.dumps(stopping.state())))
    resumed.on_evaluate(progress, {"eval_f1": 0.6})
    assert progress.stop
    with pytest.raises(InputError, match="'eval_f1' is not among the metrics eval_loss"):
        resumed.on_evaluate(progress, {"eval_loss": 0.6})


@pytest.mark.parametrize(
    ("settings", "step", "expected"),
    [
        ({"eval_strategy": "steps", "eval_steps": 2, "eval_delay": 3}, 2, set()),
        ({"eval_strategy": "steps", "eval_steps": 2, "eval_delay": 3}, 4, {"evaluate"}),
        ({"eval_strategy": "epoch", "eval_delay": 2}, 5, set()),
        ({"eval_strategy": "epoch", "eval_delay": 2}, 10, {"evaluate"}),
        ({"logging_first_step": True}, 1, {"log"}),
        ({"save_steps": 0.25}, 5, {"save"}),
        ({}, 20, {"log", "evaluate", "save"}),
        ({"do_eval": False, "save_strategy": "no", "logging_strategy": "no"}, 20, set()),
    ],
)
def test_what_is_due(settings, step, expected):
    assert due(TrainingArguments(**settings), step, 20, 5, True) == expected


def test_metrics_of_a_stream_are_those_of_the_whole_set(still, data, one):
    def whole(prediction):
        return {"accuracy": float((prediction.predictions == prediction.label_ids).mean())}

    seen = []

    def batchwise(prediction, compute_result):
        seen.append((prediction.predictions == prediction.label_ids, len(prediction.inputs), len(prediction.losses)))
        return {"accuracy": float(np.concatenate([each for each, *_ in seen]).mean())} if compute_result else None

    streaming = Streaming(list, lambda found, p: [*found, p.predictions == p.label_ids],
                          lambda found: {"accuracy": float(np.concatenate(found).mean())})  # fmt: skip
    args = TrainingArguments(per_device_eval_batch_size=4, include_for_metrics=("inputs", "loss"))
    options = {"mesh": one, "preprocess_logits_for_metrics": lambda logits, labels: logits.argmax(-1)}
    expected = evaluate(still, data[1], args, compute_metrics=whole, **options)["eval_accuracy"]
    told = []

    class Told(Callback):
        def on_predict(self, progress, metrics):
            told.append(metrics["test_accuracy"])

    out = predict(still, data[1], args, compute_metrics=streaming, callbacks=[Told()], **options)
    assert out.predictions is None
    assert told == [expected]
    batched = args.replace(batch_eval_metrics=True)
    assert evaluate(still, data[1], batched, compute_metrics=batchwise, **options)["eval_accuracy"] == expected
    assert [count for _, count, _ in seen] == [4, 4, 1]


def step_once(model, batch, one, steps=1, **options):
    args = TrainingArguments(max_steps=10, learning_rate=1e-2, **options.pop("settings", {}))
    step = make_train_step(model, args, mesh=one, **options)
    state, losses = step.init(), []
    for _ in range(steps):
        state, metrics = step(state, step.put(batch))
        losses.append(float(metrics["loss_sum"] / metrics["loss_count"]))
    return state, losses


def test_only_the_head_learns_and_only_it_has_an_optimizer_state(still, batch, one):
    state, _ = step_once(still, batch, one, trainable="^classifier")
    before, after = still.params, state.params
    assert not np.array_equal(before["classifier"]["kernel"], after["classifier"]["kernel"])
    for key in set(before) - {"classifier"}:
        jax.tree.map(np.testing.assert_array_equal, before[key], after[key])
    held = sum(leaf.size for leaf in jax.tree.leaves(state.opt_state))
    assert held < 2.1 * sum(leaf.size for leaf in jax.tree.leaves(before["classifier"])) + 10
    with pytest.raises(InputError, match="paths are such as classifier/"):
        make_train_step(still, TrainingArguments(max_steps=1), mesh=one, trainable="heads?$")


def test_layers_learn_the_more_slowly_the_lower_they_are(still):
    declared = still.declare()
    updates = jax.tree.map(jnp.ones_like, still.params)
    scale = scaled_rates(declared, {"pooler": 0.0}, layer_decay=0.5)
    found, _ = scale.update(updates, scale.init(updates))
    assert {float(leaf.max()) for leaf in jax.tree.leaves(found["embeddings"])} == {0.125}
    assert np.asarray(found["layers"]["up"]["kernel"])[:, 0, 0].tolist() == [0.25, 0.5]
    assert {float(leaf.max()) for leaf in jax.tree.leaves(found["pooler"])} == {0.0}
    assert {float(leaf.max()) for leaf in jax.tree.leaves(found["classifier"])} == {1.0}


def test_float16_keeps_masters_and_learns(still, batch, one):
    state, losses = step_once(still, batch, one, steps=8, settings={"fp16": True, "gradient_accumulation_steps": 2})
    _, expected = step_once(still, batch, one, settings={"gradient_accumulation_steps": 2})
    assert losses[0] == pytest.approx(expected[0], rel=0.01)
    assert losses[-1] < 0.8 * losses[0]  # though the first steps may be left out, until the scale fits
    assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {jnp.dtype("float32")}
    assert 2.0**10 <= float(state.opt_state.loss_scale) <= 2.0**16


def test_a_step_whose_gradient_is_not_finite_is_left_out_and_the_scale_halves():
    optimizer = with_loss_scale(optax.adam(0.1))
    params = {"a": jnp.ones(3)}
    state = optimizer.init(params)
    updates, after = optimizer.update({"a": jnp.array([1.0, jnp.inf, 0.0])}, state, params)
    assert not np.any(updates["a"])
    assert float(after.loss_scale) == 2.0**15
    jax.tree.map(np.testing.assert_array_equal, after.inner, state.inner)
    after = after._replace(finite_steps=jnp.asarray(1999))
    updates, after = optimizer.update({"a": jnp.ones(3)}, after, params)
    assert np.all(updates["a"])
    assert float(after.loss_scale) == 2.0**16


def test_noise_on_the_words_changes_the_loss_a_little_and_is_refused_where_words_are_scaled(still, batch, one):
    plain, noisy = (
        step_once(still, batch, one, settings={"neftune_noise_alpha": alpha})[1][0] for alpha in (None, 0.1)
    )
    assert noisy == pytest.approx(plain, rel=1e-2)
    assert noisy != plain
    gemma = load({"model_type": "gemma", "vocab_size": 9, "hidden_size": 8, "num_hidden_layers": 1, "head_dim": 4,
                  "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 8}, "causal-lm")  # fmt: skip
    with pytest.raises(InputError, match="gemma cannot be given embeddings"):
        make_train_step(gemma, TrainingArguments(max_steps=1, neftune_noise_alpha=5.0), mesh=one)


def out_of_memory():
    return jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes")


def test_a_batch_that_does_not_fit_is_halved_and_the_step_stays_the_same(caplog):
    tried = []
    for attempt in attempts(TrainingArguments(per_device_train_batch_size=8, auto_find_batch_size=True)):
        with attempt:
            size, parts = attempt.args.per_device_train_batch_size, attempt.args.gradient_accumulation_steps
            tried.append((size, parts))
            if size > 2:
                raise out_of_memory()
    assert tried == [(8, 1), (4, 2), (2, 4)]
    assert "going on with batches of 2, 4 to a step" in caplog.text
    with pytest.raises(TrainingError, match=r"memory ran out with per_device_train_batch_size=8; .*auto_find"):
        try_and_fail(*attempts(TrainingArguments()))


def try_and_fail(attempt):
    with attempt:
        raise out_of_memory()


def test_checkpoints_of_the_model_alone(tiny, data, quiet, one):
    args = quiet.replace(save_only_model=True, eval_strategy="steps", eval_steps=3, save_steps=3, learning_rate=0.3,
                         load_best_model_at_end=True)  # fmt: skip
    seen = []

    class Remember(Callback):
        def on_evaluate(self, progress, metrics):
            seen.append(metrics["eval_loss"])

    def my_step(model, args, **options):
        return make_train_step(model, args, **options)

    _, result = fit(tiny, args, train=data[0], eval=data[1], mesh=one, callbacks=[Remember()], make_step=my_step)
    assert result.metrics["eval_loss"] == min(seen)
    size = sum(path.stat().st_size for path in (Path(args.output_dir) / "checkpoints").rglob("*"))
    assert size < 2 * 2 * 4 * sum(leaf.size for leaf in jax.tree.leaves(tiny.params))  # of the 3 with moments
    with pytest.raises(InputError, match="have no optimizer state to resume from"):
        fit(tiny, args, train=data[0], eval=data[1], mesh=one)


def test_transformers_counts_the_same_operations():
    sizes = {
        "vocab_size": 30,
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
    }
    model = load({"model_type": "bert", "max_position_embeddings": 9, **sizes}, "sequence-classification")
    tables = 8 * (30 + 9 + 2)
    assert multiplied(model) == sum(leaf.size for leaf in jax.tree.leaves(model.params)) - tables


def test_a_wrapped_optimizer_takes_the_same_arguments(still, batch, one):
    args = TrainingArguments(max_steps=10, learning_rate=1e-2)
    declared = still.declare()
    slower = optax.chain(make_optimizer(args, lambda step: 1e-2, declared), scaled_rates(declared, layer_decay=0.9))
    state, losses = step_once(still, batch, one, steps=2, optimizer=slower)
    assert losses[1] < losses[0]
    del state


def test_determinism_and_the_log_are_settled_first(monkeypatch):
    from jaxformers.train.guard import settle_process

    settle_process(TrainingArguments(full_determinism=True))  # a CPU's kernels always repeat
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    with pytest.raises(InputError, match="needs XLA_FLAGS=--xla_gpu_deterministic_ops=true"):
        settle_process(TrainingArguments(full_determinism=True))
    log = logging.getLogger("jaxformers")
    before = log.level
    settle_process(TrainingArguments(log_level="error"))
    assert log.level == logging.ERROR
    log.setLevel(before)
