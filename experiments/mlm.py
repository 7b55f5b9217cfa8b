"""MLM: BERT's masked language modelling (Devlin et al. 2018) on one's own text, with masks drawn anew in each epoch.

    python -m experiments.mlm --data corpus.txt

With no flags bert-base-uncased goes on training on `hf:wikitext/wikitext-2-raw-v1`. `--data` takes text (a .txt file, or rows
with `text`), which is joined and cut into blocks of `--max-length` tokens (`--line-by-line`: each line is an example). It is
scored by perplexity, e to the mean loss over hidden tokens. Without a network a small BERT learns from bundled sentences.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

from experiments import finetune
from experiments.finetune import Prepared, Recipe, rename
from experiments.launch import launch
from jaxformers.data import Table
from jaxformers.data.masking import MaskTokens
from jaxformers.preprocess import Tokenizer
from jaxformers.train import Callback


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(finetune.Config):
    """Flags of the experiment, and every field of TrainingArguments."""

    mlm_probability: float = 0.15
    """The share of tokens that are to be predicted."""
    whole_word_mask: bool = False
    """Choose whole words, not single tokens."""
    line_by_line: bool = False
    """Each line is an example, cut at max_length; else texts are joined and cut into blocks."""
    output_dir: str = "out/mlm"
    """Where checkpoints, metrics, the model card and the final model go."""


def read(splits: dict[str, Table], config: Any) -> dict[str, Table]:
    """The column `text`, without empty rows."""
    return {name: without_empty(rename(table, {"text": ("sentence", "content")})) for name, table in splits.items()}


def without_empty(table: Table) -> Table:
    """The rows whose text is more than blanks."""
    return table.select(row for row, text in enumerate(table["text"]) if text.strip())


def prepare(splits: dict[str, Table], tokenizer: Tokenizer, config: Any) -> Prepared:
    """Blocks of tokens (or lines), hidden in each batch anew."""
    examples = {name: blocks(table, tokenizer, config) for name, table in splits.items()}
    collator = MaskTokens.of(tokenizer, probability=config.mlm_probability, whole_words=config.whole_word_mask)
    return Prepared(examples, collator=collator)


def blocks(table: Table, tokenizer: Tokenizer, config: Any) -> Table:
    """Texts as `input_ids`: all joined and cut into blocks of `max_length` tokens, special ones counted, or line by line."""
    if config.line_by_line:
        lines = partial(as_lines, tokenizer=tokenizer, length=config.max_length)
        return table.map(lines, remove_columns=table.column_names)
    return table.through(partial(in_blocks, tokenizer=tokenizer, length=config.max_length))


def as_lines(rows: dict[str, list[str]], tokenizer: Tokenizer, length: int) -> dict[str, Any]:
    """Each text by itself."""
    return {"input_ids": tokenizer(rows["text"], truncation=True, max_length=length)["input_ids"]}


def in_blocks(rows: Iterator[dict[str, Any]], tokenizer: Tokenizer, length: int) -> Iterator[dict[str, Any]]:
    """The blocks, one after another. A short rest would be a shape of its own: it is left out unless it is all there is."""
    before, after = around(tokenizer)
    size = length - tokenizer.num_special_tokens_to_add()
    rest: list[int] = []
    full = False
    for ids in encoded(rows, tokenizer):
        rest += ids
        whole = len(rest) - len(rest) % size
        for start in range(0, whole, size):
            full = True
            yield {"input_ids": [*before, *rest[start : start + size], *after]}
        rest = rest[whole:]
    if rest and not full:
        yield {"input_ids": [*before, *rest, *after]}


def encoded(rows: Iterable[dict[str, Any]], tokenizer: Tokenizer) -> Iterator[list[int]]:
    """Each row's tokens, without special ones; a thousand texts are in memory at once."""
    rows = iter(rows)
    while texts := [row["text"] for row in itertools.islice(rows, 1000)]:
        yield from tokenizer(texts, add_special_tokens=False, truncation=False)["input_ids"]


def around(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """The special tokens a tokenizer puts before and after a text."""
    whole = tokenizer("a")["input_ids"]
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    start = next(i for i in range(len(whole)) if whole[i : i + len(bare)] == bare)
    return whole[:start], whole[start + len(bare) :]


# How the other language models are trained on a text of one's own, from nothing.
FROM_NOTHING: dict[str, Any] = {"max_length": 256, "learning_rate": 1e-3, "lr_scheduler_type": "cosine", "warmup_steps": 100,
                                "max_steps": 1000, "per_device_train_batch_size": 16, "per_device_eval_batch_size": 16,
                                "logging_steps": 50}  # fmt: skip

RECIPE = Recipe(
    name="WikiText-2",
    head="masked-lm",
    model="bert-base-uncased",
    data="hf:wikitext/wikitext-2-raw-v1",
    bundled="text",
    bundled_is="synthetic sentences",
    read=read,
    prepare=prepare,
    texts=lambda table: list(table["text"]),
    told=("loss", "perplexity"),
    shuffled=False,
)


def run(config: Config, callbacks: Sequence[Callback] = ()) -> dict[str, Any]:
    """Trains, evaluates and saves; returns the results."""
    return finetune.run(config, RECIPE, callbacks)


if __name__ == "__main__":
    launch(Config, run, __doc__, "python -m experiments.mlm")
