"""What the fine-tuning experiments share: their flags, what they run on, and the run. An experiment is a `Recipe`."""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro

from jaxformers.checkpoints import load, lora, save
from jaxformers.checkpoints.files import hub_reachable
from jaxformers.checkpoints.load import describe
from jaxformers.checkpoints.save import write_text
from jaxformers.data import Table, load_dataset, mix
from jaxformers.data.loader import Collator
from jaxformers.data.table import RowSource
from jaxformers.errors import DataError, InputError
from jaxformers.families import Model
from jaxformers.parallel.distributed import DistributedConfig, agree
from jaxformers.parallel.mesh import MeshConfig, make_mesh
from jaxformers.preprocess import load_tokenizer, train_wordpiece
from jaxformers.train import Callback, Curves, TrainingArguments, evaluate, fit, predict
from jaxformers.train.evaluation import ComputeMetrics, Preprocess
from jaxformers.train.folder import folder_of
from jaxformers.train.losses import LossFn
from jaxformers.train.placement import suited_mesh
from jaxformers.train.report import finished

BUNDLED = Path(__file__).parent / "bundled"
WEIGHED = re.compile(r"\d+(\.\d+)?\*[^,]+(,\d+(\.\d+)?\*[^,]+)+")  # 3*A,1*B
FILES = re.compile(r"(train|validation|test)=")  # train=FILE,validation=FILE
# heads with one class (or score) for an example
CLASSIFIED = ("sequence-classification", "multiple-choice", "image-classification")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(TrainingArguments):
    """Flags of a fine-tuning experiment, and every field of TrainingArguments."""

    model: str | None = None
    """A local folder or hub id; the experiment's own by default."""
    data: str | None = None
    """tfds:NAME/CONFIG, hf:NAME/CONFIG, a folder or file, or bundled; the experiment's own by default. 3*A,1*B mixes A and B."""
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
    """Devices along each mesh axis; by default data parallel over all, and cut (fsdp) where the model is too large for one."""
    distributed: DistributedConfig = dataclasses.field(default_factory=DistributedConfig)
    """How several processes find each other; nothing is needed where JAX detects it: a TPU pod, GKE, SLURM, Open MPI."""
    tiny: bool = False
    """A small model and little data, for a look in well under a minute."""
    max_length: int = 128
    """Longer texts are cut to this many tokens."""
    max_train_samples: int | None = None
    """Only the first so many training examples."""
    max_eval_samples: int | None = None
    """Only the first so many evaluation examples."""
    on_bad_record: str = "raise"
    """What a record of the data that cannot be read does: raise ends the run, skip leaves it out (output_dir/bad_records.txt)."""
    preprocessing_num_workers: int | None = None
    """Processes that tokenize; one by default."""
    max_predict_samples: int | None = None
    """Only the first so many examples to predict."""
    validation_split_percentage: int = 10
    """How much of the training data is held out where the data has no validation split."""
    ignore_mismatched_sizes: bool = False
    """A head of another size than the data asks for begins anew; else it is refused."""
    lora_rank: int = 0
    """Train low-rank adapters (LoRA) of this rank and the head, in place of all parameters; what is saved is the adapter."""
    lora_alpha: float = 16
    """They are multiplied with this over their rank."""
    lora_dropout: float = 0.0
    """The dropout of what they read."""
    lora_targets: tuple[str, ...] = ("all-linear",)
    """The linear layers that have them, by the ends of their names in a checkpoint, such as query value."""
    plot: bool = False
    """Draw the loss and the metrics into training.png (needs matplotlib)."""
    eval_strategy: str = "epoch"
    """When to evaluate while training: no, steps or epoch."""
    given: tyro.conf.Suppress[tuple[str, ...]] = ()
    """The names of the flags that were given, which hold even where they say what is the default."""


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A task's examples as its model takes them.

    Args:
      examples: split name -> rows of numbers.
      metrics: the numbers told at each evaluation, where the loss is not all.
      overrides: config keys the model is loaded with: `num_labels`, `id2label`, `problem_type`.
      loss: the task's loss where it is not the head's own.
      collator: what is done to each batch on the host, such as masking.
      build: makes the model, on a mesh, where it is not loaded as it is.
      trainable: a regular expression found in the paths of what learns; all by default.
      generation: what the model generates by, beside what its files say.
      export: writes the final model, where that is not `save`.
      facts: what was found out before the training, to stand among the results.
      kept: `(logits, labels) -> logits`, done to each batch on the device before it is kept for the metrics.
    """

    examples: Mapping[str, RowSource]
    metrics: ComputeMetrics | None = None
    overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    loss: LossFn | None = None
    collator: Collator | None = None
    build: Callable[[Any], Model] | None = None
    trainable: str | None = None
    generation: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    export: Callable[[Model, Any, Any], Any] = save
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    kept: Preprocess | None = None


# The small BERT of a first run without network, and how it is trained.
SMALL = {"model_type": "bert", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
         "intermediate_size": 128, "max_position_embeddings": 128, "initializer_range": 0.1,
         "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}  # fmt: skip
SETTINGS: dict[str, Any] = {"learning_rate": 1e-3, "num_train_epochs": 5.0, "warmup_steps": 100, "logging_steps": 250,
                            "per_device_train_batch_size": 32, "per_device_eval_batch_size": 64}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Start:
    """A model that learns from nothing.

    Args:
      called: what it is, after "a".
      sizes: the flags -> its config.json, but for what `learn` finds out.
      learn: what the recipe hands it of the training rows -> what prepares its inputs, a tokenizer of their texts.
      found: what prepares its inputs -> the rest of its config.json.
      settings: training arguments of its run, where the flags leave them at their defaults.
      head: its head, where it is not the recipe's.
    """

    called: str = "small BERT"
    sizes: Callable[[Any], Mapping[str, Any]] = lambda config: SMALL
    learn: Callable[[list[Any]], Any] = lambda texts: train_wordpiece(texts, vocab_size=600)
    found: Callable[[Any], Mapping[str, Any]] = lambda tokenizer: {"vocab_size": len(tokenizer)}
    settings: Mapping[str, Any] = dataclasses.field(default_factory=lambda: SETTINGS)
    head: str | None = None


@dataclasses.dataclass(frozen=True)
class Recipe:
    """One fine-tuning experiment.

    Args:
      name: how it is called, in capitals where it is spoken of.
      head: its model's head.
      model: the model it starts from where no flag says otherwise, a hub id.
      data: the dataset it trains on, a source.
      bundled: the folder under `experiments/bundled` with the data of a run without network.
      bundled_is: what that is.
      read: splits as the source has them -> splits with the columns `prepare` reads.
      prepare: (splits, tokenizer or image processor, config) -> what is trained and evaluated on.
      texts: what a tokenizer (or an image processor) is learned from of the training rows, where the model starts from nothing.
      told: names of the metrics that are printed in the end.
      small: what learns from the bundled data.
      own: what learns from data that --data names, where --model names nothing; None goes on from `model`.
      open: (a folder or source, the flags) -> its splits, where that is not `load_dataset`'s work alone.
      column_names: the columns of its own files where these have no header line.
      prepares: the model's name -> what prepares its inputs, where the model is there.
      shuffled: whether rows are put into random order before some are held out; not where neighbours belong together.
    """

    name: str
    head: str
    model: str
    data: str
    bundled: str
    bundled_is: str
    read: Callable[[dict[str, Table], Any], dict[str, Table]]
    prepare: Callable[[dict[str, Table], Any, Any], Prepared]
    texts: Callable[[Table], list[Any]]
    told: tuple[str, ...]
    small: Start = Start()
    own: Start | None = None
    open: Callable[[Any, Any], dict[str, Table]] | None = None
    column_names: tuple[str, ...] | None = None
    prepares: Callable[[str], Any] = load_tokenizer
    shuffled: bool = True


def run(config: Any, recipe: Recipe, callbacks: Sequence[Callback] = ()) -> dict[str, Any]:
    """Trains, evaluates and saves; returns the results."""
    flags = {key: value for key, value in dataclasses.asdict(config).items() if key != "distributed"}
    agree({f"the flag {key}": value for key, value in flags.items()})
    agree({"whether output_dir holds a finished run": finished(config.output_dir) is not None})
    if config.do_train and (results := finished(config.output_dir)) and not config.overwrite_output_dir:
        print(f"{config.output_dir} holds a finished run; --overwrite-output-dir starts anew.")
        tell(recipe, results["dataset"], results, config.output_dir)
        return results
    if config.do_predict and recipe.head not in CLASSIFIED:
        raise InputError(f"do_predict writes classes, which {recipe.name} has not: use a pipeline over the saved model")
    config, source, start = choose(config, recipe)
    if source == "bundled":
        config = config.replace(data=source)
    make_mesh(config.mesh)  # what does not fit the devices is said before anything is read
    splits = read(config, source, recipe)
    started_from = f"random parameters (a {start.called})" if start else config.model or recipe.model
    preparer = start.learn(recipe.texts(learned(splits["train"]))) if start else recipe.prepares(started_from)
    prepared = recipe.prepare(splits, preparer, config)
    if prepared.build is not None:
        mesh = make_mesh(config.mesh)
        model = prepared.build(mesh)
    else:
        origin = {**start.sizes(config), **start.found(preparer)} if start else started_from
        head = (start.head if start else None) or recipe.head
        family, numbers = describe(origin, head, **prepared.overrides)
        mesh = suited_mesh(family.declare(numbers, head), config.mesh)
        anew = config.ignore_mismatched_sizes
        model = load(origin, head, mesh=mesh, seed=config.seed, ignore_mismatched_sizes=anew, **prepared.overrides)
    if config.lora_rank:
        model = lora(
            model,
            rank=config.lora_rank,
            alpha=config.lora_alpha,
            dropout=config.lora_dropout,
            targets="all-linear" if config.lora_targets == ("all-linear",) else config.lora_targets,
            base=None if start else started_from,
            seed=config.seed,
        )
    if prepared.generation:
        model = dataclasses.replace(model, generation={**model.generation, **prepared.generation})
    dataset = f"{recipe.bundled_is} bundled with jaxformers (not {recipe.name})" if source == "bundled" else source
    examples = prepared.examples
    common: dict[str, Any] = {"loss_fn": prepared.loss, "data_collator": prepared.collator, "mesh": mesh,
                              "preprocess_logits_for_metrics": prepared.kept}  # fmt: skip
    others = {
        name.removeprefix("validation_"): part for name, part in examples.items() if name.startswith("validation_")
    }
    held_out = {"matched": examples["validation"], **others} if others else examples["validation"]
    metrics: dict[str, Any] = {}
    if config.do_train:
        model, result = fit(
            model,
            config,
            train=examples["train"],
            eval=held_out if config.do_eval or config.eval_strategy != "no" else None,
            tokenizer=preparer,
            trainable=prepared.trainable,
            compute_metrics=prepared.metrics,
            callbacks=[*callbacks, *[Curves()] * config.plot],
            export=prepared.export,
            facts={"dataset": dataset, "model": started_from, **prepared.facts},
            **common,
        )
        metrics = {**result.metrics, **prepared.facts}
    elif config.do_eval:
        metrics = evaluate(model, examples["validation"], config, compute_metrics=prepared.metrics, **common)
    if config.do_predict:
        said = predict(model, examples["test"], config, mesh=mesh).predictions
        if jax.process_index() == 0:
            write_predictions(said, config.output_dir, recipe)
    tell(recipe, dataset, metrics, config.output_dir)
    return metrics


def learned(table: Table) -> Table:
    """The rows a tokenizer is learned from: all, or 100,000 of what is too large for memory."""
    return table.shuffle(0)[:100_000] if table.on_disk else table


def write_predictions(logits_BC: np.ndarray, output_dir: str, recipe: Recipe) -> None:
    """The test split's classes (or the score, of one class) as GLUE wants them: a row's number and what was said of it."""
    said = logits_BC[:, 0] if logits_BC.shape[-1] == 1 else np.argmax(logits_BC, -1)
    lines = ["index\tprediction", *(f"{row}\t{value}" for row, value in enumerate(said))]
    folder = folder_of(output_dir)
    folder.here.mkdir(parents=True, exist_ok=True)
    write_text(folder.here / f"predict_results_{recipe.name.lower()}.txt", "\n".join(lines) + "\n")
    folder.send()


def tell(recipe: Recipe, dataset: str, metrics: dict[str, Any], output_dir: str) -> None:
    """Prints the results."""
    print(f"***** {dataset} *****")
    if told := [f"{name} {metrics[f'eval_{name}']:.4f}" for name in recipe.told if f"eval_{name}" in metrics]:
        print("  " + "  ".join(told))
    if "train_loss" in metrics:
        print(
            f"  train loss {metrics['train_loss']:.4f}\n  {metrics['train_runtime']:.1f} s of training, "
            f"{metrics['compile_seconds']:.1f} s of compiling {metrics['compilations']} programs\n  saved to {output_dir}"
        )


def choose(config: Any, recipe: Recipe) -> tuple[Any, str, Start | None]:
    """What to run on, and what learns it where it learns from nothing.

    Only with neither --model nor --data, and no hub in reach, does it fall back to the bundled data.
    """
    source = config.data
    if source is None:
        source = recipe.data
        if config.tiny and config.model is None:
            source = "bundled"
        elif config.model is None and not hub_reachable():
            print(f"!!! The hub cannot be reached: this is NOT {recipe.name}. A {recipe.small.called} is trained from random "
                  f"parameters on {recipe.bundled_is} bundled in bundled/{recipe.bundled}. !!!", flush=True)  # fmt: skip
            source = "bundled"
    start = None
    if config.model is None and (source == "bundled" or (config.data is not None and recipe.own is not None)):
        start = recipe.small if source == "bundled" or config.tiny else recipe.own
    if start is not None:
        default = type(config)()
        free = {name for name in start.settings if getattr(config, name) == getattr(default, name)} - {*config.given}
        chosen = {name: start.settings[name] for name in free}
        config = config.replace(**chosen)
    if config.tiny:
        config = config.replace(
            max_train_samples=config.max_train_samples or 64,
            max_eval_samples=config.max_eval_samples or 32,
            num_train_epochs=1.0,
        )
    return config, source, start


def read(config: Any, source: str, recipe: Recipe) -> dict[str, Table]:
    """The splits with the columns the recipe reads, cut to the numbers of examples the flags ask for."""
    parts = WEIGHED.fullmatch(source) and [part.split("*", 1) for part in source.split(",")]
    if parts:
        splits = mixed([(float(weight), read_one(config, part, recipe)) for weight, part in parts], config.seed)
    else:
        splits = read_one(config, source, recipe)
    limits = {name: config.max_eval_samples for name in splits} | {
        "train": config.max_train_samples,
        "test": config.max_predict_samples,
    }
    return {name: table[: limits[name] or len(table)] for name, table in splits.items()}


def mixed(parts: list[tuple[float, dict[str, Table]]], seed: int) -> dict[str, Table]:
    """Weights and splits as one: the training splits by their weights, of each other split all rows."""
    (weights, splits) = zip(*parts, strict=True)
    names = [name for name in splits[0] if all(name in part for part in splits)]
    joined = {name: splits[0][name].concat(*(part[name] for part in splits[1:])) for name in names if name != "train"}
    return {"train": mix([part["train"] for part in splits], weights, seed=seed), **joined}


def reading(config: Any) -> dict[str, Any]:
    """What `load_dataset` is to do with records that cannot be read."""
    report = folder_of(config.output_dir).here / "bad_records.txt" if jax.process_index() == 0 else None
    return {"on_bad_record": config.on_bad_record, "bad_records": report}


def mapped(splits: dict[str, Table], encode: Callable[..., Any], config: Any) -> dict[str, Table]:
    """The splits' rows as `encode` makes them of parts of columns, and nothing else of them."""
    return {
        name: table.map(encode, remove_columns=table.column_names, num_proc=config.preprocessing_num_workers)
        for name, table in splits.items()
    }


def read_one(config: Any, source: str, recipe: Recipe) -> dict[str, Table]:
    """The splits of one source with the columns the recipe reads."""
    place: Any = BUNDLED / recipe.bundled if source == "bundled" else source
    if FILES.match(source):
        place = dict(part.split("=", 1) for part in source.split(","))
    splits = (
        recipe.open(place, config)
        if recipe.open
        else load_dataset(place, column_names=recipe.column_names, **reading(config))
    )
    splits = hold_out(splits, config, recipe)
    wanted = ["train", "validation", *["test"] * config.do_predict]
    for name in wanted:
        if name not in splits:
            raise DataError(f"{source} has no {name} split, only {', '.join(sorted(splits))}")
    wanted += [name for name in splits if name.startswith("validation_")]
    return recipe.read({name: splits[name] for name in wanted}, config)


def hold_out(splits: dict[str, Table], config: Any, recipe: Recipe) -> dict[str, Table]:
    """The splits with a validation split: the data's own, or the last part of its training rows."""
    if "validation" in splits or "train" not in splits:
        return splits
    whole = splits["train"].shuffle(0) if recipe.shuffled else splits["train"]
    kept = round(len(whole) * (1 - config.validation_split_percentage / 100))
    if not 0 < kept < len(whole):
        raise DataError(
            f"{whole.name} has no validation split, and {config.validation_split_percentage} % of its {len(whole)} rows "
            "cannot be held out; set validation_split_percentage"
        )
    return {**splits, "train": whole[:kept], "validation": whole[kept:]}


def named_classes(column: Any) -> Callable[[Any], Any]:
    """A function that says the class of a cell: the name where a source names its numbers, else the cell itself.

    >>> named_classes([3, 5])(3)
    3
    """
    names = getattr(column, "class_names", None)
    # what no name is of (-1 or None: it is not told) stays as it is
    return lambda cell: names[cell] if names and cell is not None and 0 <= cell < len(names) else cell


def rename(table: Table, columns: Mapping[str, tuple[str, ...]]) -> Table:
    """The columns under their own names, found by the names that the known sources give them.

    Args:
      table: with columns as a source has them.
      columns: own name -> names it is known by.

    Raises:
      DataError: a column is not there under any name.
    """
    found = {}
    for ours, theirs in columns.items():
        there = next((name for name in (ours, *theirs) if name in table.column_names), None)
        if there is None:
            names = " or ".join(map(repr, dict.fromkeys((ours, *theirs))))
            raise DataError(f"{table.name} has no column {names}, only {', '.join(table.column_names)}")
        found[ours] = table[there]
    return Table(found, table.name)
