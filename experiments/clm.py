"""CLM: causal language modelling (Radford et al. 2019): a decoder learns to write on, from nothing or from a checkpoint.

    python -m experiments.clm --data shakespeare.txt             # a small GPT-2 and its tokenizer, from nothing
    python -m experiments.clm --model gpt2 --data shakespeare.txt

With no flags gpt2 goes on training on `hf:wikitext/wikitext-2-raw-v1`. `--data` takes text (a .txt file, or rows with `text`).
Texts are joined and cut into blocks of `--max-length` tokens, as in transformers' run_clm; with `--packing` each row of the data
is a text of its own, with its end marked, and several share a block in which each sees itself alone. Scored by perplexity, e to
the mean loss a token, which depends on the tokenizer. In the end the model writes `sample.txt`, which begins as the held-out
text does. Where --data is given and no --model, a GPT-2 of 6 layers and width 256 learns with a byte-level BPE of 1,024 tokens
that is learned from the same text: 5 million parameters, 1,000 steps of 16 blocks of 256 tokens. Without a network a smaller one
learns from bundled sentences.

tinyshakespeare (1.1 MB), `--max-steps 600`, seed 42, 872 s on 2 CPU cores that did other work beside it. Held-out loss 4.59 after
102 steps, then 4.15, 4.05, 3.96, 3.90, and 3.88 after 600 (perplexity 48.6 a token); training loss 6.02 over the first 50 steps,
3.71 over the last. Beside the same run in PyTorch transformers (`experiments.benchmarks.clm --steps 200 --layers 3 --width 128`)
the mean losses of ten steps differ by at most 1.1e-6, the held-out losses by nothing (4.60894). A piece of what it wrote:

    She vied so fast, protesting oath on o' the vok,
    Away and endone, and pian, and what are with the Ty;
    Dirt, my lord: I boin, goodness with
    The hareampeak by the cry with me, that thou,
    For Edward, beseech for him is in his chambje
"""

import dataclasses
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax

from experiments import finetune, mlm
from experiments.finetune import Prepared, Recipe, Start, rename
from experiments.launch import launch
from jaxformers.checkpoints import save
from jaxformers.checkpoints.save import write_text
from jaxformers.data import Table
from jaxformers.data.packing import own_text, pack
from jaxformers.errors import DataError, InputError
from jaxformers.families import Model
from jaxformers.generate import generate
from jaxformers.preprocess import Tokenizer, train_byte_level
from jaxformers.train import Callback

PACKED = 10_000  # texts on disk that are packed together


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(finetune.Config):
    """Flags of the experiment, and every field of TrainingArguments."""

    max_length: int = 1024
    """Tokens of a block."""
    packing: bool = False
    """Each row is a text that sees itself alone, several to a block; else texts are joined and cut into blocks."""
    keep_linebreaks: bool = True
    """A row that ends without a line break gets one."""
    sample_tokens: int = 200
    """How many tokens the trained model writes in the end."""
    output_dir: str = "out/clm"
    """Where checkpoints, metrics, the model card, the sample and the final model go."""


def read(splits: dict[str, Table], config: Any) -> dict[str, Table]:
    """The column `text`; empty rows stay where texts are joined, for there they are empty lines."""
    tables = {name: rename(table, {"text": ("sentence", "content")}) for name, table in splits.items()}
    end = "\n" if config.keep_linebreaks else ""
    if config.packing:
        tables = {name: mlm.without_empty(table) for name, table in tables.items()}
    return {name: table.map(partial(ended, end=end)) for name, table in tables.items()}


def ended(rows: dict[str, list[str]], end: str) -> dict[str, list[str]]:
    """Texts that all end so, once."""
    return {"text": [text.removesuffix(end) + end for text in rows["text"]]}


def prepare(splits: dict[str, Table], tokenizer: Tokenizer, config: Any) -> Prepared:
    """Blocks of tokens, each of which is predicted from those before it."""
    length = min(config.max_length, tokenizer.model_max_length or config.max_length)
    make = packed if config.packing else blocks
    examples = {name: make(table, tokenizer, length) for name, table in splits.items()}
    begin = examples["validation"]["input_ids"][0][:16]
    return Prepared(
        examples,
        collator=own_text if config.packing else None,
        export=partial(export, begin=begin, config=config),
    )


def blocks(table: Table, tokenizer: Tokenizer, length: int) -> Table:
    """Texts joined and cut into blocks of `length` tokens; a rest that fills none is left out, as in transformers."""
    made = table.through(partial(in_blocks, tokenizer=tokenizer, length=length))
    if not len(made):
        count = sum(map(len, mlm.encoded(table, tokenizer)))
        raise DataError(f"{table.name} has {count} tokens, which fill no block of {length}: set max_length")
    return made


def in_blocks(rows: Iterator[dict[str, Any]], tokenizer: Tokenizer, length: int) -> Iterator[dict[str, Any]]:
    """The blocks, one after another."""
    rest: list[int] = []
    for ids in mlm.encoded(rows, tokenizer):
        rest += ids
        whole = len(rest) - len(rest) % length
        for start in range(0, whole, length):
            block = rest[start : start + length]
            yield {"input_ids": block, "labels": block}
        rest = rest[whole:]


def packed(table: Table, tokenizer: Tokenizer, length: int) -> Table:
    """Texts with their ends marked, several to a block of at most `length` tokens."""
    if tokenizer.eos_token_id is None:
        raise InputError("packed texts need a tokenizer with an end-of-text token (eos_token), this one has none")
    together = PACKED if table.on_disk else len(table)
    packing = partial(in_rows, tokenizer=tokenizer, length=length)
    return table.map(packing, batch_size=together, remove_columns=table.column_names)


def in_rows(rows: dict[str, list[str]], tokenizer: Tokenizer, length: int) -> dict[str, list[list[int]]]:
    """Texts with their ends marked, packed."""
    ids = tokenizer(rows["text"], add_special_tokens=False, truncation=False)["input_ids"]
    return pack([[*text, tokenizer.eos_token_id] for text in ids], length)


def export(model: Model, directory: Any, tokenizer: Any = None, *, begin: list[int], config: Any) -> None:
    """Writes the model, and what it writes itself: `sample.txt`, drawn at temperature 0.8 from the 50 likeliest tokens."""
    save(model, directory, tokenizer)
    room = model.config.max_position_embeddings - len(begin)
    if min(room, config.sample_tokens) < 1:
        return
    written = generate(
        model,
        [begin] * jax.device_count(),  # a row for each device: a mesh shares rows out evenly
        max_new_tokens=min(room, config.sample_tokens),
        do_sample=True,
        temperature=0.8,
        top_k=50,
        rng=config.seed,
        pad_token_id=tokenizer.eos_token_id,
    )
    text = tokenizer.decode(written.sequences[0])
    if jax.process_index() == 0:
        write_text(Path(directory) / "sample.txt", text + "\n")
        print(f"***** Sample *****\n{text}", flush=True)


def sizes(config: Any, *, layers: int, width: int, heads: int, dropout: float) -> dict[str, Any]:
    """A GPT-2 with as many positions as a block has tokens."""
    drop = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), dropout)
    return {"model_type": "gpt2", "n_layer": layers, "n_embd": width, "n_head": heads, "n_positions": config.max_length,
            "bos_token_id": 0, "eos_token_id": 0, **drop}  # fmt: skip


RECIPE = Recipe(
    name="WikiText-2",
    head="causal-lm",
    model="gpt2",
    data="hf:wikitext/wikitext-2-raw-v1",
    bundled="text",
    bundled_is="synthetic sentences",
    read=read,
    prepare=prepare,
    texts=mlm.RECIPE.texts,
    told=("loss", "perplexity"),
    small=Start(
        called="small GPT-2",
        sizes=partial(sizes, layers=2, width=64, heads=4, dropout=0.0),
        learn=partial(train_byte_level, vocab_size=400),
        settings={**finetune.SETTINGS, "max_length": 64, "sample_tokens": 40},
    ),
    own=Start(
        called="GPT-2 of 6 layers and width 256",
        sizes=partial(sizes, layers=6, width=256, heads=8, dropout=0.1),
        learn=partial(train_byte_level, vocab_size=1024),
        settings={**mlm.FROM_NOTHING, "weight_decay": 0.1, "adam_beta2": 0.99},
    ),
    shuffled=False,
)


def run(config: Config, callbacks: Sequence[Callback] = ()) -> dict[str, Any]:
    """Trains, evaluates and saves; returns the results."""
    return finetune.run(config, RECIPE, callbacks)


if __name__ == "__main__":
    launch(Config, run, __doc__, "python -m experiments.clm")
