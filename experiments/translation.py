"""Translation, scored by sacrebleu's BLEU of what the model generates (beam search with `--generation-num-beams 4`).

    python -m experiments.translation --data multi30k            # a small BART and its tokenizer, from nothing
    python -m experiments.translation --model t5-small --data multi30k

With no flags t5-small goes on training on `hf:wmt16/de-en`, from `--source-lang en` to `--target-lang de`. `--data` takes a
folder of parallel text files (train.en and train.de, val.en and val.de, each also as .gz), or rows with a column for each
language, or with `translation` as on the hub. T5 is told the task in words (`--source-prefix`), models of many languages by
theirs (`--source-lang en_XX --target-lang de_DE` for mBART). Labels are smoothed with `--label-smoothing-factor 0.1`. Where
--data is given and no --model, a BART of 3 + 3 layers and width 256 learns from nothing. Without a network a smaller one learns
from bundled sentences. Needs the [metrics] extra.

The first command with `--num-train-epochs 3` came to a BLEU of 30.3 on multi30k's 1,014 held-out pairs, greedily (seed 42, on two
CPU cores); transformers' Seq2SeqTrainer from the same parameters to 30.8 (`experiments.benchmarks.seq2seq`).
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments import finetune, seq2seq
from experiments.finetune import Prepared, Recipe, rename
from experiments.launch import launch
from jaxformers.data import Table, load_dataset
from jaxformers.data.files import read_lines
from jaxformers.data.sources import SPLIT_NAMES
from jaxformers.errors import DataError
from jaxformers.preprocess import Tokenizer
from jaxformers.train import Callback
from jaxformers.train.metrics import bleu

LANGUAGES = {"cs": "Czech", "de": "German", "en": "English", "es": "Spanish", "fi": "Finnish", "fr": "French", "it": "Italian",
             "nl": "Dutch", "pl": "Polish", "pt": "Portuguese", "ro": "Romanian", "ru": "Russian"}  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(seq2seq.Config):
    """Flags of the experiment, and every field of TrainingArguments."""

    source_lang: str = "en"
    """The language that is translated, as the model names it; "en" of "en_XX" is its column, or the end of its files' names."""
    target_lang: str = "de"
    """The language it is translated into."""
    output_dir: str = "out/translation"
    """Where checkpoints, metrics, the model card and the final model go."""


def columns(config: Any) -> tuple[str, str]:
    """What the data calls the two languages."""
    return config.source_lang.split("_")[0], config.target_lang.split("_")[0]


def open_data(place: Any, config: Any) -> dict[str, Table]:
    """The splits: parallel text files of a folder, or whatever `load_dataset` opens."""
    if isinstance(place, dict):  # of files by their splits
        return load_dataset(place, **finetune.reading(config))
    folder, languages = Path(place), columns(config)
    splits: dict[str, Table] = {}
    for stem, split in SPLIT_NAMES.items() if folder.is_dir() else ():
        files = [folder / f"{stem}.{language}{end}" for language in languages for end in ("", ".gz")]
        found = [path for path in files if path.is_file()]
        if len(found) == 2 and split not in splits:
            sides = [read_lines(path) for path in found]
            if len(sides[0]) != len(sides[1]):
                lines = " and ".join(f"{path.name} {len(side)}" for path, side in zip(found, sides, strict=True))
                raise DataError(f"parallel files must have equally many lines, in {folder} {lines}")
            splits[split] = Table(dict(zip(languages, sides, strict=True)), f"{folder.name}/{split}")
    return splits or load_dataset(place, **finetune.reading(config))


def read(splits: dict[str, Table], config: Any) -> dict[str, Table]:
    """The columns `source` and `target`."""
    source, target = columns(config)
    return {name: rename(_flat(table), {"source": (source,), "target": (target,)}) for name, table in splits.items()}


def _flat(table: Table) -> Table:
    """A column of translations, one dict a row, as a column for each language."""
    if "translation" not in table.column_names:
        return table
    rows = list(table["translation"])
    return Table({language: [row[language] for row in rows] for language in rows[0]}, table.name)


def prepare(splits: dict[str, Table], tokenizer: Tokenizer, config: Any) -> Prepared:
    """Pairs of texts, scored by BLEU."""
    source, target = (LANGUAGES.get(code, code) for code in columns(config))
    prefix, codes = f"translate {source} to {target}: ", (config.source_lang, config.target_lang)
    scores = lambda said, right: {"bleu": bleu(said, right)}  # noqa: E731
    return seq2seq.prepare(splits, tokenizer, config, prefix=prefix, scores=scores, languages=codes)


RECIPE = Recipe(
    name="WMT16 en-de",
    head="seq2seq-lm",
    model="t5-small",
    data="hf:wmt16/de-en",
    bundled="translation",
    bundled_is="synthetic translations",
    open=open_data,
    read=read,
    prepare=prepare,
    texts=seq2seq.texts,
    told=("bleu", "loss"),
    small=seq2seq.small(),
    own=seq2seq.own(
        6000,
        learning_rate=1e-3,
        warmup_steps=400,
        num_train_epochs=6.0,
        per_device_train_batch_size=64,
        per_device_eval_batch_size=64,
        label_smoothing_factor=0.1,
        max_source_length=128,
        logging_steps=100,
    ),
)


def run(config: Config, callbacks: Sequence[Callback] = ()) -> dict[str, Any]:
    """Trains, evaluates and saves; returns the results."""
    return finetune.run(config, RECIPE, callbacks)


if __name__ == "__main__":
    launch(Config, run, __doc__, "python -m experiments.translation")
