"""Denoising: BART's pretraining (Lewis et al. 2019). Sentences change places, spans are hidden, the model writes the whole text.

    python -m experiments.denoising --data corpus.txt          # a small BART and its tokenizer, from nothing
    python -m experiments.denoising --model facebook/bart-base --data corpus.txt

With no flags bart-base goes on with `hf:wikitext/wikitext-2-raw-v1`. Texts are joined and cut into blocks of `--max-length`
tokens; 30 % of them are hidden in spans whose lengths are Poisson's with mean 3, each behind one mask token, drawn anew in each
epoch. Scored by the loss of a token and its perplexity. Where --data is given and no --model, a BART of 3 + 3 layers and width
256 learns from nothing. Without a network a smaller one learns from bundled sentences.
"""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from experiments import finetune, mlm, seq2seq
from experiments.finetune import Prepared, Recipe, Start
from experiments.launch import launch
from jaxformers.data import Table
from jaxformers.data.corruption import Denoising
from jaxformers.errors import InputError
from jaxformers.preprocess import Tokenizer, train_byte_level
from jaxformers.train import Callback


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(mlm.Config):
    """Flags of the experiment, and every field of TrainingArguments."""

    mlm_probability: float = 0.3
    """The share of tokens that are hidden."""
    poisson_lambda: float = 3.0
    """Tokens of a hidden span on average."""
    permute_sentences: bool = True
    """Sentences change places."""
    output_dir: str = "out/denoising"
    """Where checkpoints, metrics, the model card and the final model go."""


def prepare(splits: dict[str, Table], tokenizer: Tokenizer, config: Any) -> Prepared:
    """Blocks of tokens (or lines), made worse in each batch anew."""
    if config.whole_word_mask:
        raise InputError("denoising hides spans of tokens, not whole words: leave whole_word_mask out")
    if tokenizer.mask_token_id is None or tokenizer.pad_token_id is None:
        raise InputError("denoising needs a tokenizer with a mask and a padding token, as BART's")
    vocabulary = tokenizer.get_vocab()
    ends = np.zeros(max(vocabulary.values()) + 1, bool)
    ends[[number for token, number in vocabulary.items() if token.endswith((".", "!", "?"))]] = True
    before, after = mlm.around(tokenizer)
    collator = Denoising(tokenizer.mask_token_id, tokenizer.pad_token_id, ends, (len(before), len(after)),
                         config.mlm_probability, config.poisson_lambda, config.permute_sentences)  # fmt: skip
    return Prepared({name: mlm.blocks(table, tokenizer, config) for name, table in splits.items()}, collator=collator)


def sizes(config: Any, **options: Any) -> dict[str, Any]:
    """A BART with positions for a block."""
    return seq2seq.bart(config.max_length, **options)


RECIPE = Recipe(
    name="WikiText-2",
    head="seq2seq-lm",
    model="facebook/bart-base",
    data="hf:wikitext/wikitext-2-raw-v1",
    bundled="text",
    bundled_is="synthetic sentences",
    read=mlm.read,
    prepare=prepare,
    texts=mlm.RECIPE.texts,
    told=("loss", "perplexity"),
    small=Start(
        called="small BART",
        sizes=partial(sizes, layers=1, width=64, dropout=0.0),
        learn=partial(train_byte_level, vocab_size=400, layout="roberta"),
        settings={**finetune.SETTINGS, "max_length": 64},
    ),
    own=Start(
        called="BART of 3 + 3 layers and width 256",
        sizes=partial(sizes, layers=3, width=256, dropout=0.1),
        learn=partial(train_byte_level, vocab_size=4096, layout="roberta"),
        settings=mlm.FROM_NOTHING,
    ),
    shuffled=False,
)


def run(config: Config, callbacks: Sequence[Callback] = ()) -> dict[str, Any]:
    """Trains, evaluates and saves; returns the results."""
    return finetune.run(config, RECIPE, callbacks)


if __name__ == "__main__":
    launch(Config, run, __doc__, "python -m experiments.denoising")
