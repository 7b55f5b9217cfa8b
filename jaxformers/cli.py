"""The command `jaxformers` (also `python -m jaxformers`): pipelines, checkpoints and tokenizers without writing Python.

    jaxformers run sentiment-analysis "I love this" --model path-or-hub-id
    jaxformers run question-answering --file questions.jsonl --top-k 3 > answers.jsonl
    jaxformers convert org/model-in-any-format folder
    jaxformers convert out/checkpoints/300 folder
    jaxformers tokenize path-or-hub-id "I love this"
    jaxformers env

Results are JSON lines on stdout; all else goes to stderr. Status 2: something that was given is wrong, said in one sentence.
"""

import contextlib
import dataclasses
import json
import os
import platform
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

import tyro

from jaxformers.core.messages import LOG, show_lines
from jaxformers.errors import InputError

Texts = Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="TEXT")]
LIBRARIES = ("jaxformers", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "tokenizers", "safetensors",
             "huggingface_hub", "numpy", "grain", "tensorflow-datasets")  # fmt: skip
OPTIONAL = ("datasets", "matplotlib", "wandb", "gcsfs", "pandas", "pyarrow", "libtpu", "torch", "transformers")
VARIABLES = re.compile(
    r"(JAX|XLA|JAXFORMERS|LIBTPU|TPU)_.*|HF_(HOME|HUB_CACHE|HUB_OFFLINE|ENDPOINT)|CUDA_VISIBLE_DEVICES"
)


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


@dataclasses.dataclass(frozen=True)
class Convert:
    """Writes a checkpoint of any format as safetensors in Hugging Face layout, which PyTorch transformers opens, or by Orbax."""

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    """A folder or hub id (safetensors, flax_model.msgpack, pytorch_model.bin), or a training checkpoint, out/checkpoints/300."""
    target: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="TARGET")]
    """The folder to write."""
    to: str = "safetensors"
    """Or orbax: config.json and params/, for JAX programs that read with Orbax alone."""
    head: str | None = None
    """The head, such as masked-lm; what config.json names by default."""
    dtype: str = "float32"
    """How the numbers are stored."""
    tokenizer: str | None = None
    """A folder or hub id; what stands beside the model by default."""
    revision: str | None = None
    """Branch, tag or commit of the hub id."""
    max_shard_size: str = "5GB"
    """Weights beyond that go into several files."""

    def __call__(self) -> None:
        from jaxformers.checkpoints import load, save
        from jaxformers.checkpoints.files import locate, read_json
        from jaxformers.checkpoints.orbax_folder import is_orbax, load_orbax, save_orbax
        from jaxformers.families import head_of

        if self.to not in ("safetensors", "orbax"):
            raise InputError(f"--to must be safetensors (which PyTorch opens, too) or orbax, found {self.to!r}")
        target = Path(self.target)
        folder = Path(self.source) if is_orbax(self.source) else locate(self.source, revision=self.revision)
        if target.exists() and target.samefile(folder):
            raise InputError(f"source and target are the same folder, {target}: choose another target")
        if is_orbax(folder):
            model = load_orbax(folder, self.head, dtype=self.dtype)
        else:
            head = self.head or head_of(read_json(folder / "config.json"), str(folder))
            model = load(folder, head, dtype=self.dtype)
        tokenizer = self._tokenizer(folder)
        if self.to == "orbax":
            save_orbax(model, target, tokenizer)
        else:
            save(model, target, tokenizer, max_shard_size=self.max_shard_size)
        print(f"{model.family.architectures[model.head]}, {self.dtype}: {target}", file=sys.stderr)

    def _tokenizer(self, folder: Path) -> Any:
        """The one that was asked for, or the one beside the model; None, and a line, where there is none that we read."""
        from jaxformers.preprocess import load_tokenizer

        if self.tokenizer is not None:
            return load_tokenizer(self.tokenizer)
        try:
            return load_tokenizer(folder)
        except InputError as error:
            LOG.warning("no tokenizer is written: %s", error)
            return None


@dataclasses.dataclass(frozen=True)
class Env:
    """Says what runs here: versions, devices, where things are kept. Good to have in a report of a bug."""

    def __call__(self) -> None:
        print("\n".join(f"{name}: {value}" for name, value in environment().items()))


def environment() -> dict[str, str]:
    """What runs here; nothing in it is secret."""
    import jax
    from huggingface_hub import constants, get_token

    from jaxformers.core.compilation import cache_folder

    said = {"Python": platform.python_version(), "platform": platform.platform(), "processors": str(os.cpu_count())}
    for name in (*LIBRARIES, *OPTIONAL):
        try:
            said[name] = version(name)
        except PackageNotFoundError:
            said |= {} if name in OPTIONAL else {name: "not installed"}
    try:
        kinds = [device.device_kind for device in jax.devices()]
        held = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")
        each = f", {held / 2**30:.1f} GiB each" if held else ""
        devices = ", ".join(f"{kinds.count(kind)} × {kind}" for kind in dict.fromkeys(kinds))
        said["devices"] = f"{jax.default_backend()}: {devices}{each}"
    except RuntimeError as error:  # what is asked for by JAX_PLATFORMS is not there
        said["devices"] = str(error).splitlines()[0]
    compiled = jax.config.values["jax_compilation_cache_dir"] or cache_folder() / "xla"
    said |= {
        "compiled programs": str(compiled),
        "models of the hub": str(constants.HF_HUB_CACHE),
        "datasets (tfds)": os.environ.get("TFDS_DATA_DIR", str(Path.home() / "tensorflow_datasets")),
        "token of the hub": "there is one" if get_token() else "none",
    }
    return said | {name: value for name, value in sorted(os.environ.items()) if VARIABLES.fullmatch(name)}


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


Command = (
    Annotated[Run, tyro.conf.subcommand("run")]
    | Annotated[Convert, tyro.conf.subcommand("convert")]
    | Annotated[Tokenize, tyro.conf.subcommand("tokenize")]
    | Annotated[Env, tyro.conf.subcommand("env")]
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line; gives the exit status."""
    words, options = list(sys.argv[1:] if argv is None else argv), None
    if words[:1] == ["run"]:
        words, options = split(words)
    show_lines()
    command: Any = tyro.cli(Command, args=words, prog="jaxformers", description=__doc__)
    try:
        command() if options is None else command(options)
        sys.stdout.flush()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # whoever reads has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    return 0
