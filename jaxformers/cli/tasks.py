"""`jaxformers run` and `jaxformers tokenize`: texts and files in, JSON lines out."""

import contextlib
import dataclasses
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from jaxformers.errors import InputError

Texts = Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="TEXT")]


@dataclasses.dataclass(frozen=True)
class Run:
    """Runs a task over texts or a file: one JSON line for each input.

    Further flags are options of the task, such as --top-k 3, --aggregation-strategy simple or --max-new-tokens 20; several
    words after one are a list.
    """

    task: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="TASK")]
    """Such as text-classification, ner, summarization, translation_en_to_de."""
    texts: Texts = ()
    """The inputs; one that is a JSON object is a record, such as '{"question": "…", "context": "…"}'."""
    model: str | None = None
    """A folder or hub id; the task's usual model by default."""
    tokenizer: str | None = None
    """A folder or hub id; what stands beside the model by default."""
    revision: str | None = None
    """Branch, tag or commit of the hub id."""
    dtype: str = "float32"
    """How the parameters are stored."""
    batch_size: int | None = None
    """Rows computed at a time."""
    file: str | None = None
    """Inputs from a file: lines of a .txt, rows of a .jsonl, .csv, .tsv or .parquet; - reads lines from stdin."""

    def __call__(self, options: Mapping[str, Any]) -> None:
        from jaxformers.pipelines import pipeline

        given = inputs(self.texts, self.file)
        pipe = pipeline(
            self.task,
            self.model,
            tokenizer=self.tokenizer,
            revision=self.revision,
            dtype=self.dtype,
            batch_size=self.batch_size,
            **options,
        )
        for result in pipe(given):
            tell(result)


@dataclasses.dataclass(frozen=True)
class Tokenize:
    """Shows how a tokenizer reads texts: one JSON line for each."""

    tokenizer: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """A folder or hub id."""
    texts: Texts = ()
    """The texts."""
    file: str | None = None
    """Texts from the lines of a file; - reads them from stdin."""
    special_tokens: bool = True
    """Whether to frame the texts as the model was trained."""
    max_length: int | None = None
    """Longer texts are cut to this many tokens."""
    revision: str | None = None
    """Branch, tag or commit of the hub id."""

    def __call__(self) -> None:
        from jaxformers.preprocess import load_tokenizer

        tokenizer = load_tokenizer(self.tokenizer, revision=self.revision)
        for text in inputs(self.texts, self.file):
            found = tokenizer(
                text if isinstance(text, str) else json.dumps(text, ensure_ascii=False),
                add_special_tokens=self.special_tokens,
                truncation=self.max_length is not None,
                max_length=self.max_length,
            )
            tell({"tokens": found.tokens(), "input_ids": found["input_ids"]})


def inputs(texts: Sequence[str], file: str | None) -> Iterator[Any] | list[Any]:
    """What a command is to work on: its words, or what a file holds, read as it is needed.

    Raises:
      InputError: there are both, or neither; or the file cannot be read.
    """
    if bool(texts) == (file is not None):
        raise InputError("give either texts or --file" + (", not both" if texts else "; - is stdin"))
    if file is None:
        return [record(text) for text in texts]
    if file == "-":
        return (record(line.rstrip("\n")) for line in sys.stdin)
    from jaxformers.data.files import file_kind, read_file, read_lines

    if file_kind(Path(file)) in (None, ".txt"):
        return [record(line) for line in read_lines(file)]
    return (row["text"] if list(row) == ["text"] else row for row in read_file(file))


def record(text: str) -> Any:
    """A text, or the JSON object it is."""
    if text.lstrip().startswith("{"):
        with contextlib.suppress(json.JSONDecodeError):
            return json.loads(text)
    return text


def tell(result: Any) -> None:
    """Writes one JSON line."""
    print(json.dumps(result, ensure_ascii=False, default=lambda value: value.tolist()), flush=True)


def split(argv: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """Words of a `run` command: those that are its own flags and texts, and the task's options.

    >>> split(["run", "ner", "a text", "--stride", "2", "--model", "here", "--labels", "a", "b", "--no-truncation"])
    (['run', 'ner', 'a text', '--model', 'here'], {'stride': 2, 'labels': ['a', 'b'], 'truncation': False})
    """
    own = {field.name for field in dataclasses.fields(Run)} | {"help"}
    words: list[str] = []
    options: dict[str, list[str]] = {}
    into = words
    for word in argv:
        if word.startswith("--"):
            flag, equals, value = word[2:].partition("=")
            name = flag.replace("-", "_")
            into = words if name in own else options.setdefault(name, [])
            into.extend([word] if into is words else [value] if equals else [])
        else:
            into.append(word)
    found: dict[str, Any] = {}
    for name, given in options.items():
        if not given:
            found[name.removeprefix("no_")] = not name.startswith("no_")
        else:
            values = [_value(word) for word in given]
            found[name] = values if len(values) > 1 else values[0]
    return words, found


def _value(word: str) -> Any:
    try:
        return json.loads({"True": "true", "False": "false", "None": "null"}.get(word, word))
    except json.JSONDecodeError:
        return word
