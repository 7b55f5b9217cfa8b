"""`fit`: what it writes, how it resumes, what it refuses."""

import dataclasses
import gc
import json
import logging
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxformers.checkpoints import load
from jaxformers.errors import InputError, TrainingError
from jaxformers.train import Callback, EvalPrediction, fit
from jaxformers.train.report import finished


def scores(prediction: EvalPrediction):
    return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}


class StopAfter(Callback):
    """Ends a run early, as a person or a machine might."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, progress):
        progress.stop = progress.step >= self.step


def test_what_a_run_leaves_behind(tiny, data, quiet, one):
    args = quiet.replace(
        per_device_train_batch_size=4, max_steps=-1, num_train_epochs=2, eval_strategy="epoch", logging_steps=3
    )
    trained, result = fit(
        tiny, args, train=data[0], eval=data[1], compute_metrics=scores, mesh=one, facts={"dataset": "toy"}
    )
    assert result.global_step == 10
    results = finished(args.output_dir)
    assert results["dataset"] == "toy"
    assert results["compilations"] <= 12
    assert {"eval_accuracy", "train_loss", "train_runtime", "train_samples_per_second", "compile_seconds"} <= set(
        results
    )
    lines = [json.loads(line) for line in (Path(args.output_dir) / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [3, 6, 9, 10]
    assert [line["step"] for line in lines if "eval_loss" in line] == [5, 10]
    assert not any("runtime" in key for line in lines for key in line)
    assert "toy" in (Path(args.output_dir) / "README.md").read_text()
    again = load(args.output_dir, "sequence-classification")
    for ours, saved in zip(jax.tree.leaves(trained.params), jax.tree.leaves(again.params), strict=True):
        np.testing.assert_array_equal(ours, saved)


def test_a_stopped_run_goes_on_as_if_nothing_had_happened(tiny, data, quiet, one, tmp_path, caplog):
    args = quiet.replace(
        per_device_train_batch_size=4, max_steps=9, logging_steps=2, save_steps=4, eval_strategy="epoch", ema_decay=0.5
    )  # whose average, which is what is compared, tells of every step
    whole, expected = fit(tiny, args, train=data[0], eval=data[1], mesh=one)
    parted = args.replace(output_dir=str(tmp_path / "parted"))
    fit(tiny, parted, train=data[0], eval=data[1], mesh=one, callbacks=[StopAfter(3)])
    with caplog.at_level(logging.WARNING, "jaxformers"):
        resumed, result = fit(tiny, parted, train=data[0], eval=data[1], mesh=one)
    assert "resumed from" in caplog.text
    assert "step 3" in caplog.text
    assert result.training_loss == expected.training_loss
    for left, right in zip(jax.tree.leaves(whole.params), jax.tree.leaves(resumed.params), strict=True):
        np.testing.assert_array_equal(left, right)


def test_changed_arguments_are_named(tiny, data, quiet, one):
    fit(tiny, quiet, train=data[0], mesh=one)
    with pytest.raises(InputError, match=r"learning_rate=5e-05, this one has 0\.1"):
        fit(tiny, quiet.replace(learning_rate=0.1), train=data[0], mesh=one)
    other = dataclasses.replace(tiny, config=tiny.config.replace(hidden_act="relu"))
    with pytest.raises(InputError, match="hidden_act='gelu', this one has 'relu'"):
        fit(other, quiet, train=data[0], mesh=one)
    _, result = fit(tiny, quiet.replace(learning_rate=0.1, overwrite_output_dir=True), train=data[0], mesh=one)
    assert result.global_step == 6


def damage(folder):
    largest = max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])


def test_a_damaged_checkpoint_is_passed_over_and_none_left_is_an_error(tiny, data, quiet, one, caplog, capfd, tmp_path):
    args = quiet.replace(save_steps=2)
    fit(tiny, args, train=data[0], mesh=one)
    checkpoints = tmp_path / "out" / "checkpoints"
    damage(checkpoints / "6")
    with caplog.at_level(logging.WARNING, "jaxformers"):
        fit(tiny, args, train=data[0], mesh=one)
    assert "checkpoint 6 of" in caplog.text
    assert "(step 4)" in caplog.text
    for folder in checkpoints.iterdir():
        damage(folder)
    with pytest.raises(TrainingError, match="none of the checkpoints 2, 4, 6"):
        fit(tiny, args, train=data[0], mesh=one)
    gc.collect()
    assert "Traceback" not in capfd.readouterr().err  # nor do reads under way complain, now or when they are collected


def test_the_best_model_is_kept_and_exported(tiny, data, quiet, one, tmp_path):
    seen = {}

    class Remember(Callback):
        def on_evaluate(self, progress, metrics):
            seen[progress.step] = metrics["eval_loss"]

    args = quiet.replace(eval_strategy="steps", eval_steps=2, save_steps=2, save_total_limit=2, load_best_model_at_end=True,
                         learning_rate=0.3)  # fmt: skip
    _, result = fit(tiny, args, train=data[0], eval=data[1], mesh=one, callbacks=[Remember()])
    assert sorted(seen) == [2, 4, 6]
    assert result.metrics["eval_loss"] == min(seen.values())
    kept = {int(path.name) for path in (tmp_path / "out" / "checkpoints").iterdir()}
    assert min(seen, key=seen.get) in kept
    assert len(kept) <= 2


def test_a_loss_that_is_not_finite_ends_the_run(tiny, data, quiet, one):
    poisoned = lambda output, batch: (output.logits.sum() * np.nan, batch["example_weight"].sum())  # noqa: E731
    with pytest.raises(TrainingError, match="loss is nan at step 1"):
        fit(tiny, quiet, train=data[0], mesh=one, loss_fn=poisoned)
    assert finished(quiet.output_dir) is None


def test_two_runs_do_not_share_a_folder(tiny, data, quiet, one):
    class Intrude(Callback):
        def on_step_end(self, progress):
            if progress.step == 1:
                with pytest.raises(InputError, match="another run is at work"):
                    fit(tiny, quiet, train=data[0], mesh=one)

    fit(tiny, quiet, train=data[0], mesh=one, callbacks=[Intrude()])


def test_evaluation_is_asked_for_without_data(tiny, data, quiet, one):
    with pytest.raises(InputError, match="needs evaluation data"):
        fit(tiny, quiet.replace(eval_strategy="epoch"), train=data[0], mesh=one)


def test_a_weighted_loss_is_a_function_argument(tiny, data, quiet, one):
    import jax.numpy as jnp

    from jaxformers.train.losses import cross_entropy

    def weighted(output, batch):
        weights = jnp.where(batch["labels"] == 1, 3.0, 1.0) * batch["example_weight"]
        return (cross_entropy(output.logits, batch["labels"]) * weights).sum(), weights.sum()

    _, result = fit(tiny, quiet, train=data[0], mesh=one, loss_fn=weighted)
    assert np.isfinite(result.training_loss)


def test_several_sets_are_told_under_their_names(tiny, data, quiet, one):
    train, held_out = data
    args = quiet.replace(max_steps=2, eval_strategy="epoch")
    _, result = fit(tiny, args, train=train, eval={"short": held_out[:4], "long": held_out}, mesh=one)
    assert {"eval_short_loss", "eval_long_loss"} <= set(result.metrics)
    assert "eval_loss" not in result.metrics


def test_a_collator_sees_every_batch_and_export_writes_the_end(tiny, data, quiet, one):
    seen, written = [], []

    def collator(batch, generators):
        seen.append(len(generators))
        return {**batch, "labels": 1 - batch["labels"]}

    def export(model, directory, tokenizer):
        written.append(directory)

    fit(tiny, quiet.replace(max_steps=2), train=data[0], data_collator=collator, export=export, mesh=one)
    assert set(seen) == {1}
    assert len(seen) >= 2
    assert written == [Path(quiet.output_dir)]
    assert not (Path(quiet.output_dir) / "model.safetensors").exists()
