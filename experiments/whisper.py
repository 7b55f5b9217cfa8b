"""Fine-tuning Whisper (Radford et al. 2022, arXiv:2212.04356): `pip install -e '.[audio]'`.

    python -m experiments.whisper --model openai/whisper-tiny --language en --data recordings

`--data` is that of `experiments.ctc`: sounds of at most 30 seconds, and what is said in them. What the decoder learns to write
begins with the tokens of the language, the task and that no times come, which are also what it is told when held-out sounds are
transcribed (greedily, or by `--generation-num-beams`) to count wrong words (WER) and letters (CER). With `--data` alone a small
Whisper learns from nothing. The folder is one for the pipeline `automatic-speech-recognition`. Without a network it learns to
read drawn words of vowels.
"""

import dataclasses
import math
from typing import Any

import numpy as np

from experiments import ctc, finetune, sounds
from experiments.audio_classification import AUGMENTS, fitting_extractor
from experiments.finetune import Prepared, Recipe, Start
from experiments.launch import launch
from jaxformers.checkpoints.files import locate, read_json
from jaxformers.data import Table
from jaxformers.data.audio_rows import AudioRows
from jaxformers.errors import InputError
from jaxformers.generate.speech import TASKS
from jaxformers.preprocess import Processor, load_processor, train_byte_level
from jaxformers.preprocess.feature_extractors import WhisperFeatureExtractor
from jaxformers.train import EvalPrediction
from jaxformers.train.metrics import letter_error_rate, word_error_rate

MODEL = "openai/whisper-tiny"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(sounds.Config):
    """Flags of the experiment, and every field of TrainingArguments."""

    language: str | None = None
    """The code of the language that is spoken, such as en; needed by a model that knows several."""
    task: str = "transcribe"
    """What is written: transcribe, or translate (the texts are then English)."""
    augment: str = "light"
    """What is done to sounds in training: none, light or strong (`experiments.audio_classification`)."""
    ignored: str = ""
    """A regular expression of what is taken out of the texts; nothing by default."""
    most_seconds: float = 30.0
    """Longer sounds are left out: what is said in a part of one is not known."""
    max_target_length: int = 448
    """Longer texts are cut to this many tokens."""
    generation_max_length: int | None = 225
    """The most tokens of a transcription."""
    predict_with_generate: bool = True
    """Score what the model writes; without it, the loss alone."""
    output_dir: str = "out/whisper"
    """Where checkpoints, metrics, the model card and the final model go."""


def small_whisper(config: Any) -> dict[str, Any]:
    """The Whisper that learns from nothing, but for its sounds and vocabulary; its texts begin as they end."""
    width, layers = (32, 1) if config.tiny else (96, 2)
    sides = {f"{side}_{name}": value for side in ("encoder", "decoder")
             for name, value in (("layers", layers), ("attention_heads", 4), ("ffn_dim", 2 * width))}  # fmt: skip
    return {"model_type": "whisper", "d_model": width, **sides, "init_std": 0.1, "max_target_positions": 64, "bos_token_id": 0,
            "pad_token_id": 0, "eos_token_id": 0, "decoder_start_token_id": 0}  # fmt: skip


def learned_processor(rows: list[tuple[Any, str]]) -> Processor:
    """Bytes and pairs of them out of these texts, and seconds that these sounds fit into."""
    tokenizer = train_byte_level([text for _, text in rows], vocab_size=300)
    return Processor(tokenizer, feature_extractor=fitting_extractor([sound for sound, _ in rows], share=1.0))


def found_sizes(processor: Processor) -> dict[str, Any]:
    """The rest of its config."""
    extractor, vocab_size = processor.feature_extractor, math.ceil(len(processor.tokenizer) / 8) * 8
    assert isinstance(extractor, WhisperFeatureExtractor)
    frames = extractor.n_samples // extractor.hop_length
    return {"num_mel_bins": extractor.feature_size, "max_source_positions": frames // 2, "vocab_size": vocab_size}


SETTINGS: dict[str, Any] = {"learning_rate": 1e-3, "num_train_epochs": 30.0, "warmup_steps": 100, "logging_steps": 50,
                            "lr_scheduler_type": "cosine", "per_device_train_batch_size": 16,
                            "per_device_eval_batch_size": 32, "generation_max_length": 48, "max_target_length": 48}  # fmt: skip
SMALL = Start("small Whisper", small_whisper, learned_processor, found_sizes, SETTINGS)


def beginning(said: dict[str, Any], config: Any) -> tuple[list[int], dict[str, Any]]:
    """What texts begin with after the first token, and how generation is told so.

    Args:
      said: the model's generation_config.json.
      config: the flags.

    Raises:
      InputError: the language or the task is missing, or none of the model's.
    """
    languages, tasks = said.get("lang_to_id") or {}, said.get("task_to_id") or {}
    without = [] if said.get("no_timestamps_token_id") is None else [int(said["no_timestamps_token_id"])]
    if not languages:
        if config.language is not None or config.task != TASKS[0]:
            raise InputError("this model knows one language and writes it down: leave --language and --task out")
        return without, {}
    if f"<|{config.language}|>" not in languages or config.task not in tasks:
        known = ", ".join(name.strip("<|>") for name in languages)
        raise InputError(
            f"--language must be one of {known}, and --task one of {', '.join(tasks)}; found {config.language!r} and "
            f"{config.task!r}"
        )
    tokens = [languages[f"<|{config.language}|>"], tasks[config.task], *without]
    return tokens, {"language": config.language, "task": config.task, "forced_decoder_ids": None}


def prepare(splits: dict[str, Table], processor: Processor, config: Any) -> Prepared:
    """Spectra, and what is to be written of them."""
    if config.augment not in AUGMENTS:
        raise InputError(f"augment must be one of {', '.join(AUGMENTS)}, found {config.augment!r}")
    tokenizer, extractor = processor.tokenizer, processor.feature_extractor
    assert extractor is not None
    assert tokenizer.eos_token_id is not None
    trained = config.model or (MODEL if config.data is None else None)
    file = None if trained is None else locate(trained, weights=False) / "generation_config.json"
    said = read_json(file) if file is not None and file.is_file() else {}
    first, generation = beginning(said, config)
    most = config.max_target_length - len(first) - 1

    def written(text: str) -> list[int]:
        return [*first, *tokenizer(text, add_special_tokens=False)["input_ids"][:most], tokenizer.eos_token_id]

    augments = {"train": AUGMENTS[config.augment]}
    examples = {
        split: AudioRows(
            Table({"audio": table["audio"], "labels": [written(text) for text in table["text"]]}, table.name),
            extractor,
            augments.get(split),
        )
        for split, table in splits.items()
    }

    def metrics(prediction: EvalPrediction) -> dict[str, float]:
        ids = np.where(prediction.predictions < 0, tokenizer.eos_token_id, prediction.predictions)
        texts = [text.strip() for text in tokenizer.batch_decode(ids, skip_special_tokens=True)]
        right = list(splits["validation"]["text"])
        return {"wer": word_error_rate(texts, right), "cer": letter_error_rate(texts, right)}

    return Prepared(examples, metrics if config.predict_with_generate else None, generation=generation)


RECIPE = Recipe(
    name="LibriSpeech",
    head="speech-seq2seq",
    model=MODEL,
    data=ctc.DATA,
    bundled="words",
    bundled_is="drawn words of vowels",
    read=ctc.read,
    prepare=prepare,
    texts=lambda table: list(zip(table["audio"], table["text"], strict=True)),
    told=("wer", "cer", "loss"),
    small=SMALL,
    own=SMALL,
    open=sounds.open_source,
    prepares=load_processor,
)


def run(config: Config) -> dict[str, Any]:
    """Trains, evaluates and saves; returns the results."""
    return finetune.run(config, RECIPE)


if __name__ == "__main__":
    launch(Config, run, __doc__, "python -m experiments.whisper")
