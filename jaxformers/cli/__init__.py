"""The command `jaxformers` (also `python -m jaxformers`): pipelines, checkpoints and models without writing Python.

    jaxformers run sentiment-analysis "I love this" --model path-or-hub-id
    jaxformers run question-answering --file questions.jsonl --top-k 3 > answers.jsonl
    jaxformers convert org/model-in-any-format folder
    jaxformers convert out/checkpoints/300 folder
    jaxformers tokenize path-or-hub-id "I love this"
    jaxformers estimate llama-2-7b --head causal-lm --batch 4 --length 2048 --mesh.fsdp 16 --bf16 --gradient-checkpointing
    jaxformers summary bert-base-uncased --head masked-lm
    jaxformers look path-or-hub-id "I love this" --heat-map map.png --states states.safetensors
    jaxformers env

Results are JSON lines on stdout; all else goes to stderr. Status 2: something that was given is wrong, said in one sentence.
"""

import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import tyro

from jaxformers.cli.environment import Env
from jaxformers.cli.models import Convert, Estimate, Look, Summary
from jaxformers.cli.tasks import Run, Tokenize, split
from jaxformers.core.messages import show_lines
from jaxformers.errors import InputError

Command = (
    Annotated[Run, tyro.conf.subcommand("run")]
    | Annotated[Convert, tyro.conf.subcommand("convert")]
    | Annotated[Tokenize, tyro.conf.subcommand("tokenize")]
    | Annotated[Estimate, tyro.conf.subcommand("estimate")]
    | Annotated[Summary, tyro.conf.subcommand("summary")]
    | Annotated[Look, tyro.conf.subcommand("look")]
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
