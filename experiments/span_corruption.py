"""Span corruption: T5's pretraining (Raffel et al. 2020). Spans of a text are hidden, and the model writes what they were.

    python -m experiments.span_corruption --data corpus.txt          # a small T5 and its tokenizer, from nothing
    python -m experiments.span_corruption --model t5-small --data corpus.txt

With no flags t5-small goes on with `hf:wikitext/wikitext-2-raw-v1`. Texts are joined and cut into blocks of which at most
`--max-length` tokens are left to read once 15 % are hidden, in spans of 3 on average, drawn anew in each epoch. Scored by the
loss of a token of what is written, and its perplexity. Where --data is given and no --model, a T5 (v1.1) of 4 + 4 layers and
width 256 learns from nothing. Without a network a smaller one learns from bundled sentences.
"""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from experiments import clm, finetune, mlm
from experiments.finetune import Prepared, Recipe, Start
from experiments.launch import launch
from jaxformers.data import Table
from jaxformers.data.corruption import SpanCorruption
from jaxformers.errors import InputError
from jaxformers.preprocess import Tokenizer, train_byte_level
from jaxformers.train import Callback


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(finetune.Config):
    """Flags of the experiment, and every field of TrainingArguments."""

    max_length: int = 512
    """Tokens that are read, sentinels and the end included."""
    mlm_probability: float = 0.15
    """The share of tokens that are hidden."""
    mean_noise_span_length: float = 3.0
    """Tokens of a hidden span on average."""
    output_dir: str = "out/span_corruption"
    """Where checkpoints, metrics, the model card and the final model go."""


def prepare(splits: dict[str, Table], tokenizer: Tokenizer, config: Any) -> Prepared:
    """Blocks of tokens, spans of which are hidden in each batch anew."""
    vocabulary = tokenizer.get_vocab()
    names = [f"<extra_id_{number}>" for number in range(len(vocabulary))]
    sentinels = [vocabulary[name] for name in names if name in vocabulary]
    if not sentinels or tokenizer.eos_token_id is None or tokenizer.pad_token_id is None:
        raise InputError(
            "span corruption needs a tokenizer with <extra_id_0>, …, an end-of-text and a padding token, as T5's"
        )
    collator = SpanCorruption(np.array(sentinels), tokenizer.eos_token_id, tokenizer.pad_token_id, config.mlm_probability,
                              config.mean_noise_span_length)  # fmt: skip
    length = collator.room(config.max_length)
    examples = {name: clm.blocks(table, tokenizer, length).drop(["labels"]) for name, table in splits.items()}
    return Prepared(examples, collator=collator)


def sizes(config: Any, *, layers: int, width: int, dropout: float) -> dict[str, Any]:
    """A T5 (v1.1) with heads of 32; the ids are those of `train_byte_level`."""
    return {"model_type": "t5", "d_model": width, "d_kv": 32, "num_heads": width // 32, "d_ff": 2 * width, "num_layers": layers,
            "num_decoder_layers": layers, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False,
            "dropout_rate": dropout, "pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0}  # fmt: skip


RECIPE = Recipe(
    name="WikiText-2",
    head="seq2seq-lm",
    model="t5-small",
    data="hf:wikitext/wikitext-2-raw-v1",
    bundled="text",
    bundled_is="synthetic sentences",
    read=mlm.read,
    prepare=prepare,
    texts=mlm.RECIPE.texts,
    told=("loss", "perplexity"),
    small=Start(
        called="small T5",
        sizes=partial(sizes, layers=1, width=64, dropout=0.0),
        learn=partial(train_byte_level, vocab_size=420, layout="t5", extra_ids=20),
        settings={**finetune.SETTINGS, "max_length": 64},
    ),
    own=Start(
        called="T5 of 4 + 4 layers and width 256",
        sizes=partial(sizes, layers=4, width=256, dropout=0.0),
        learn=partial(train_byte_level, vocab_size=4096, layout="t5", extra_ids=100),
        settings=mlm.FROM_NOTHING,
    ),
    shuffled=False,
)


def run(config: Config, callbacks: Sequence[Callback] = ()) -> dict[str, Any]:
    """Trains, evaluates and saves; returns the results."""
    return finetune.run(config, RECIPE, callbacks)


if __name__ == "__main__":
    launch(Config, run, __doc__, "python -m experiments.span_corruption")
