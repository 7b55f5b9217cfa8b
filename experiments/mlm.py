"""MLM: BERT's masked language modelling (Devlin et al. 2018) on one's own text, with masks drawn anew in each epoch.

    python -m experiments.mlm --data corpus.txt

With no flags bert-base-uncased goes on training on `hf:wikitext/wikitext-2-raw-v1`. `--data` takes text (a .txt file, or rows
with `text`), which is joined and cut into blocks of `--max-length` tokens (`--line-by-line`: each line is an example). It is
scored by perplexity, e to the mean loss over hidden tokens. Without a network a small BERT learns from bundled sentences.
"""

import dataclasses
from typing import Any

from experiments import finetune
from experiments.finetune import Prepared, Recipe, rename
from experiments.launch import launch
from jaxformers.data import Table
from jaxformers.data.masking import MaskTokens
from jaxformers.preprocess import Tokenizer


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
    tables = {name: rename(table, {"text": ("sentence", "content")}) for name, table in splits.items()}
    return {
        name: Table({"text": [text for text in table["text"] if text.strip()]}, table.name)
        for name, table in tables.items()
    }


def prepare(splits: dict[str, Table], tokenizer: Tokenizer, config: Any) -> Prepared:
    """Blocks of tokens (or lines), hidden in each batch anew."""
    examples = {name: blocks(table, tokenizer, config) for name, table in splits.items()}
    collator = MaskTokens.of(tokenizer, probability=config.mlm_probability, whole_words=config.whole_word_mask)
    return Prepared(examples, collator=collator)


def blocks(table: Table, tokenizer: Tokenizer, config: Any) -> Table:
    """Texts as `input_ids`: all joined and cut into blocks of `max_length` tokens, special ones counted, or line by line."""
    if config.line_by_line:
        encoded = tokenizer(list(table["text"]), truncation=True, max_length=config.max_length)
        return Table({"input_ids": encoded["input_ids"]}, table.name)
    ids = [i for row in tokenizer(list(table["text"]), add_special_tokens=False)["input_ids"] for i in row]
    size = config.max_length - tokenizer.num_special_tokens_to_add()
    pieces = [ids[start : start + size] for start in range(0, len(ids), size)]
    if len(pieces) > 1 and len(pieces[-1]) < size:  # a short rest would be a shape of its own
        pieces.pop()
    before, after = around(tokenizer)
    return Table({"input_ids": [[*before, *piece, *after] for piece in pieces]}, table.name)


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


def run(config: Config) -> dict[str, Any]:
    """Trains, evaluates and saves; returns the results."""
    return finetune.run(config, RECIPE)


if __name__ == "__main__":
    launch(Config, run, __doc__, "python -m experiments.mlm")
