"""TrainingArguments: transformers' names, settled, translated or refused, from Python, flags and files."""

import inspect
import json
import logging

import pytest

from experiments.finetune import Config
from experiments.launch import parse
from jaxformers.errors import InputError
from jaxformers.train import TrainingArguments
from jaxformers.train.foreign import FOREIGN


def flags(*words):
    return parse(Config, words, "", "test")


def test_old_names_and_names_that_say_it_otherwise():
    args = TrainingArguments(evaluation_strategy="epoch", train_sampling_strategy="random", adafactor=True)
    assert (args.eval_strategy, args.group_by_length, args.optim) == ("epoch", False, "adafactor")
    assert args.replace(evaluation_strategy="no").eval_strategy == "no"
    with pytest.raises(InputError, match="evaluation_strategy is the old name of eval_strategy"):
        TrainingArguments(evaluation_strategy="no", eval_strategy="no")
    with pytest.raises(TypeError, match="evaluation_stratgy"):
        TrainingArguments(evaluation_stratgy="no")


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"fsdp": "full_shard"}, r"fsdp is PyTorch's: .*--mesh\.fsdp N"),
        ({"deepspeed": "zero3.json"}, r"--mesh\.fsdp"),
        ({"no_cuda": True}, "JAX_PLATFORMS=cpu"),
        ({"debug": "underflow_overflow"}, "JAX_DEBUG_NANS"),
        ({"eval_do_concat_batches": False}, "batch_eval_metrics"),
        ({"save_safetensors": False}, "safetensors"),
        ({"train_sampling_strategy": "sequential"}, "random or group_by_length"),
        ({"bf16": True, "fp16": True}, "exclude each other"),
        ({"logging_steps": 1.5}, "whole number of at least 1, or a share"),
        ({"save_strategy": "best"}, "needs evaluations while training"),
        ({"lr_scheduler_kwargs": "{"}, "lr_scheduler_kwargs is not JSON"),
        ({"report_to": ("tensorboard", "mlflow")}, "report_to must be one of tensorboard, wandb"),
    ],
)
def test_what_cannot_be_had_is_refused_in_one_sentence(given, sentence):
    with pytest.raises(InputError, match=sentence):
        TrainingArguments(**given)


def test_what_is_so_anyway_is_accepted_and_said(caplog):
    with caplog.at_level(logging.WARNING, "jaxformers"):
        TrainingArguments(torch_compile=True, fsdp="", use_cpu=False, ddp_backend=None, eval_do_concat_batches=True)
    assert [record.getMessage() for record in caplog.records] == [
        "torch_compile has no effect: every step is compiled by XLA"
    ]


def test_flags_may_be_theirs():
    config = flags("--evaluation_strategy", "steps", "--eval_steps=0.25", "--torch_compile", "--bf16", "true",
                   "--lr_scheduler_kwargs", '{"num_cycles": 2}', "--report_to", "tensorboard", "wandb",
                   "--include_num_input_tokens_seen", "true", "--fsdp", "", "--optim", "adamw_torch")  # fmt: skip
    assert (config.eval_strategy, config.eval_steps, config.bf16, config.optim) == ("steps", 0.25, True, "adamw")
    assert (config.lr_scheduler_kwargs, config.trackers) == ({"num_cycles": 2}, ("tensorboard", "wandb"))
    assert config.include_num_input_tokens_seen == "all"
    with pytest.raises(InputError, match="fsdp is PyTorch's"):
        flags("--fsdp", "full_shard auto_wrap")


@pytest.mark.parametrize("kind", ["json", "yaml"])
def test_a_file_in_place_of_flags(tmp_path, kind):
    settings = {"learning_rate": 1e-3, "evaluation_strategy": "steps", "mesh": {"data": 2}, "fp16": False, "tiny": True,
                "lr_scheduler_kwargs": {"num_cycles": 2}, "max_train_samples": None, "report_to": ["wandb"]}  # fmt: skip
    path = tmp_path / f"run.{kind}"
    lines = json.dumps(settings) if kind == "json" else "\n".join(f"{k}: {json.dumps(v)}" for k, v in settings.items())
    path.write_text(lines)
    config = flags(str(path), "--learning-rate", "0.5")
    assert (config.learning_rate, config.eval_strategy, config.mesh.data, config.tiny) == (0.5, "steps", 2, True)
    assert (config.lr_scheduler_kwargs, config.trackers) == ({"num_cycles": 2}, ("wandb",))
    path.write_text("[1]")
    with pytest.raises(InputError, match="must be names and values, found list"):
        flags(str(path))
    with pytest.raises(InputError, match="cannot read the settings"):
        flags("nowhere.json")


def test_a_share_of_all_steps():
    args = TrainingArguments(logging_steps=0.1, save_steps=7)
    assert [args.every(name, 95) for name in ("logging_steps", "eval_steps", "save_steps")] == [10, 10, 7]


def test_no_name_is_both_ours_and_foreign():
    assert not FOREIGN.intersection(TrainingArguments.__dataclass_fields__)


@pytest.mark.parity
def test_every_argument_of_theirs_is_known_and_has_their_default():
    Theirs = pytest.importorskip("transformers").TrainingArguments

    ours = {name: field.default for name, field in TrainingArguments.__dataclass_fields__.items()}
    theirs = {name: p.default for name, p in inspect.signature(Theirs).parameters.items()}
    assert set(theirs) <= set(ours) | FOREIGN
    differ = {name for name in set(ours) & set(theirs) if (ours[name] or None) != (theirs[name] or None)}
    # said in --help or of another kind: output_dir, whether to train and evaluate at once, the fused AdamW, the trackers
    assert differ - {"include_for_metrics"} == {"output_dir", "do_train", "do_eval", "optim", "report_to"}
