"""The flags of transformers' example scripts, as ours: `run_glue`, `run_clm`, `run_mlm`, `run_summarization`, …

Those of TrainingArguments are `jaxformers.train.foreign`'s; here are the ones about the model and the data.
"""

import logging
import os
import re

from jaxformers.errors import InputError

LOG = logging.getLogger("jaxformers")
Flags = list[tuple[str, list[str]]]  # a flag, and the words after it

ALIASES = {
    "--model-name-or-path": "--model",
    "--task-name": "--task",
    "--max-seq-length": "--max-length",
    "--block-size": "--max-length",
    "--train-batch-size": "--per-device-train-batch-size",
    "--eval-batch-size": "--per-device-eval-batch-size",
    "--num-beams": "--generation-num-beams",
    "--val-max-target-length": "--generation-max-length",
}

_MODELS = "the model's folder has them: give one that does with --model"
# what they ask for is so anyway
SETTLED = {
    "--overwrite-cache": "what is kept on disk is known by its content and by the code that made it",
    "--use-fast-tokenizer": "all tokenizers are the fast ones",
    "--low-cpu-mem-usage": "parameters are read straight into their places",
    "--streaming": "the rows of a large file are read from disk when they are used",
    "--pad-to-max-length": "batches are padded to a few lengths, chosen for the data",
    "--torch-dtype": "parameters are float32; --bf16 computes in bfloat16",
    "--dtype": "parameters are float32; --bf16 computes in bfloat16",
    "--ignore-mismatched-sizes": "a head of another size is drawn anew, and one line says so",
    "--cache-dir": "set HF_HOME, and JAXFORMERS_CACHE for what is made of data",
}
# would change what a run does, and is not here
REFUSED = {
    "--trust-remote-code": "no code from a checkpoint or a dataset is run",
    "--tokenizer-name": _MODELS,
    "--config-name": _MODELS,
    "--config-overrides": _MODELS,
    "--model-revision": "download the revision, and give its folder with --model",
    "--token": "set HF_TOKEN",
    "--use-auth-token": "set HF_TOKEN",
}
_NO = (["false"], ["no"], ["none"], ["main"])  # values that ask for nothing


def ours(flags: Flags) -> Flags:
    """The same flags, where one of a script is meant under our name.

    Raises:
      InputError: one asks for what is not here; the sentence says what is.

    >>> ours([("--dataset-name", ["glue"]), ("--dataset-config-name", ["mrpc"]), ("--max-seq-length", ["64"])])
    [('--max-length', ['64']), ('--data', ['hf:glue/mrpc'])]
    >>> ours([("--train-file", ["a.csv"]), ("--validation-file", ["b.csv"])])
    [('--data', ['train=a.csv,validation=b.csv'])]
    """
    found: Flags = []
    said: dict[str, str] = {}
    for flag, values in flags:
        asks = [value.lower() for value in values] not in _NO
        if flag in ("--dataset-name", "--dataset-config-name", "--train-file", "--validation-file", "--test-file"):
            if len(values) != 1:
                raise InputError(f"{flag} takes one word, found {len(values)}")
            said[flag] = values[0]
        elif flag in REFUSED:
            if asks:
                raise InputError(f"{flag} is not taken: {REFUSED[flag]}")
        elif flag in SETTLED:
            if asks:
                LOG.warning("%s has no effect: %s", flag, SETTLED[flag])
        else:
            found.append((ALIASES.get(flag, flag), values))
    if "--dataset-name" in said:
        found.append(("--data", [_dataset(said["--dataset-name"], said.get("--dataset-config-name"))]))
    elif "--dataset-config-name" in said:
        raise InputError("--dataset-config-name needs --dataset-name")
    files = [
        f"{split}={said[flag]}" for split in ("train", "validation", "test") if (flag := f"--{split}-file") in said
    ]
    if files:
        if "--dataset-name" in said:
            raise InputError("--dataset-name and --train-file exclude each other")
        found.append(("--data", [",".join(files)]))
    return found


def _dataset(name: str, config: str | None) -> str:
    """A data set by its name on the hub; what says itself where it is stays as it is."""
    source = name if re.match(r"[a-z]+:", name) or os.path.exists(name) else f"hf:{name}"
    return f"{source}/{config}" if config else source
