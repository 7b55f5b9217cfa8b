"""What the experiments that answer a text with a text share: pairs as examples, scores of generated texts, a small BART."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from experiments import finetune
from experiments.finetune import Prepared, Start
from jaxformers.data import Table
from jaxformers.preprocess import Tokenizer, train_byte_level
from jaxformers.preprocess.languages import has_languages, in_language, language_id
from jaxformers.train import EvalPrediction

Scores = Callable[[Sequence[str], Sequence[str]], Mapping[str, float]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(finetune.Config):
    """Flags of the experiment, and every field of TrainingArguments."""

    max_source_length: int = 1024
    """Longer texts are cut to this many tokens."""
    max_target_length: int = 128
    """Longer answers are cut to this many tokens."""
    generation_max_length: int | None = 128
    """The most tokens of a generated answer."""
    source_prefix: str | None = None
    """What is put before each text; by default T5's words for this task where the tokenizer has T5's sentinels, else nothing."""
    predict_with_generate: bool = True
    """Score texts that the model generates; without it, the loss alone."""


def prepare(
    splits: dict[str, Table],
    tokenizer: Tokenizer,
    config: Any,
    *,
    prefix: str,
    scores: Scores,
    languages: tuple[str, str] | None = None,
) -> Prepared:
    """The columns `source` and `target` as `input_ids` and `labels`, from which the decoder's inputs are made.

    Args:
      splits: with these columns.
      tokenizer: of both sides.
      config: the flags.
      prefix: T5's words for the task.
      scores: (texts, references) -> numbers.
      languages: of both sides, as a model of many languages names them; its texts then say which they are in.
    """
    if config.source_prefix is not None:
        prefix = config.source_prefix
    elif "<extra_id_0>" not in tokenizer.get_vocab():
        prefix = ""

    named = languages if languages and has_languages(tokenizer) else None

    def encode_side(texts: list[str], most: int, side: int) -> list[list[int]]:
        if named is None:
            return list(tokenizer(texts, truncation=True, max_length=most)["input_ids"])
        bare = tokenizer(texts, truncation=True, max_length=most - 2, add_special_tokens=False)["input_ids"]
        return [in_language(tokenizer, ids, named[side]) for ids in bare]

    def encode(table: Table) -> Table:
        source = encode_side([prefix + text for text in table["source"]], config.max_source_length, 0)
        target = encode_side(list(table["target"]), config.max_target_length, 1)
        return Table({"input_ids": source, "labels": target}, table.name)

    def metrics(prediction: EvalPrediction) -> dict[str, float]:
        ids = prediction.predictions
        said = tokenizer.batch_decode(np.where(ids < 0, tokenizer.pad_token_id, ids), skip_special_tokens=True)
        return dict(scores([text.strip() for text in said], splits["validation"]["target"]))

    if config.predict_with_generate:
        scores(["a"], ["a"])  # so that a package that is missing is named now, not when all is trained
    examples = {name: encode(table) for name, table in splits.items()}
    generation = {}
    if named is not None:  # the language is what the decoder begins with, or what it is made to write first
        behind = tokenizer.tokenizer_class == "MBartTokenizer"
        generation["decoder_start_token_id" if behind else "forced_bos_token_id"] = language_id(tokenizer, named[1])
    return Prepared(examples, metrics if config.predict_with_generate else None, generation=generation)


def texts(table: Table) -> list[str]:
    """Both sides, for the tokenizer they share."""
    return [*table["source"], *table["target"]]


def bart(longest: int, *, layers: int, width: int, dropout: float) -> dict[str, Any]:
    """A BART with heads of 32 and positions for the longest text; the ids are those of `train_byte_level`."""
    sides = {
        f"{side}_{name}": value
        for side in ("encoder", "decoder")
        for name, value in (("layers", layers), ("attention_heads", width // 32), ("ffn_dim", 4 * width))
    }
    return {"model_type": "bart", "d_model": width, **sides, "dropout": dropout, "scale_embedding": True,
            "max_position_embeddings": longest, "bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2,
            "decoder_start_token_id": 2, "forced_eos_token_id": 2}  # fmt: skip


def sizes(config: Any, **options: Any) -> dict[str, Any]:
    """A BART for the texts and answers that the flags let in."""
    return bart(max(config.max_source_length, config.max_target_length), **options)


def small(**settings: Any) -> Start:
    """The BART of a first run without network, with a tokenizer learned from the bundled texts."""
    return Start(
        called="small BART",
        sizes=partial(sizes, layers=1, width=64, dropout=0.0),
        learn=partial(train_byte_level, vocab_size=500, layout="roberta"),
        settings={
            **finetune.SETTINGS,
            "max_source_length": 96,
            "max_target_length": 32,
            "generation_max_length": 32,
            **settings,
        },
    )


def own(vocab_size: int, **settings: Any) -> Start:
    """A BART of 3 + 3 layers that learns from data of one's own, with a tokenizer learned from the same texts."""
    return Start(
        called="BART of 3 + 3 layers and width 256",
        sizes=partial(sizes, layers=3, width=256, dropout=0.1),
        learn=partial(train_byte_level, vocab_size=vocab_size, layout="roberta"),
        settings=settings,
    )
