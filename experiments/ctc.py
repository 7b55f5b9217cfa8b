"""Speech recognition by letters (CTC, Graves et al. 2006): `pip install -e '.[audio,vision]'`.

    python -m experiments.ctc --model facebook/wav2vec2-base --data recordings
    python -m experiments.ctc --data recordings

`--data` is LibriSpeech's or LJSpeech's folder, a folder of sounds with a metadata.csv (columns `file_name` and `text`), or
`hf:NAME`. Texts are brought to the letters that the model's tokenizer has; where it has none, its vocabulary is the letters of
the training texts, in capitals. With `--model` a Wav2Vec2 or HuBERT goes on learning, its convolutions left as they are
(`--no-freeze-feature-encoder` lets them learn); with `--data` alone a small Wav2Vec2 learns from nothing. Frames are hidden in
training as the model's config says (SpecAugment). `heard.png` in the output folder shows the spectrum of held-out sounds with
the words that the model heard, where it heard them; the folder is one for the pipeline `automatic-speech-recognition`. Without a
network it learns to read drawn words of vowels.
"""

import dataclasses
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from experiments import finetune, sounds
from experiments.finetune import Prepared, Recipe, Start, rename
from experiments.launch import launch
from jaxformers.checkpoints import save
from jaxformers.checkpoints.files import locate
from jaxformers.checkpoints.load import describe
from jaxformers.data import Table
from jaxformers.data.audio_rows import AudioRows
from jaxformers.errors import DataError
from jaxformers.families import Model
from jaxformers.preprocess import Processor, Tokenizer, load_feature_extractor, load_tokenizer, train_letters
from jaxformers.preprocess.audio import count_samples
from jaxformers.preprocess.feature_extractors import FeatureExtractor, Wav2Vec2FeatureExtractor
from jaxformers.train import EvalPrediction
from jaxformers.train.folder import folder_of
from jaxformers.train.metrics import letter_error_rate, word_error_rate

MODEL, DATA = "facebook/wav2vec2-base", "hf:hf-internal-testing/librispeech_asr_dummy/clean"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(sounds.Config):
    """Flags of the experiment, and every field of TrainingArguments."""

    freeze_feature_encoder: bool = True
    """Leave the convolutions of a trained model as they are."""
    ignored: str = r"[^\w' ]"
    """A regular expression of what is taken out of the texts."""
    most_seconds: float = 20.0
    """Longer sounds are left out: what is said in a part of one is not known."""
    output_dir: str = "out/ctc"
    """Where checkpoints, metrics, the model card and the final model go."""


def small_wav2vec2(config: Any) -> dict[str, Any]:
    """The Wav2Vec2 that learns from nothing, but for its vocabulary."""
    width, layers = (32, 1) if config.tiny else (192, 4)
    return {"model_type": "wav2vec2", "hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": 4,
            "intermediate_size": 2 * width, "conv_dim": [width // 2] * 4, "conv_stride": [10, 4, 4, 2],
            "conv_kernel": [20, 8, 8, 4], "feat_extract_norm": "layer", "conv_bias": True,
            "do_stable_layer_norm": True, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4,
            "hidden_dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0, "final_dropout": 0.0,
            "layerdrop": 0.0, "mask_time_length": 5}  # fmt: skip


def learned_processor(texts: list[str]) -> Processor:
    """Letters of these texts, and waves that are normalised one by one."""
    extractor = Wav2Vec2FeatureExtractor(return_attention_mask=True)
    return Processor(train_letters(texts), feature_extractor=extractor)


SETTINGS: dict[str, Any] = {"learning_rate": 1e-3, "num_train_epochs": 30.0, "warmup_steps": 100, "weight_decay": 0.01,
                            "lr_scheduler_type": "cosine", "per_device_train_batch_size": 16, "logging_steps": 50,
                            "per_device_eval_batch_size": 16, "eval_strategy": "steps", "eval_steps": 200}  # fmt: skip
SMALL = Start(
    "small Wav2Vec2",
    small_wav2vec2,
    learned_processor,
    lambda processor: {"vocab_size": len(processor.tokenizer)},
    SETTINGS,
)


def prepares(model: str) -> Any:
    """What prepares a model's inputs; of one that was only pretrained, which has no letters, its feature extractor alone."""
    extractor = load_feature_extractor(model)
    if not (locate(model, weights=False) / "vocab.json").is_file():
        return extractor
    return Processor(load_tokenizer(model), feature_extractor=extractor)


def read(splits: dict[str, Table], config: Any) -> dict[str, Table]:
    """The splits with the columns `audio` and `text`, without what is ignored, and without sounds that are too long.

    Raises:
      DataError: a split has no other.
    """
    known = {
        "audio": ("file", "path", "speech"),
        "text": ("sentence", "transcription", "transcript", "normalized_text"),
    }
    found = {}
    for split, table in splits.items():
        table = rename(table, known)
        texts = [" ".join(re.sub(config.ignored, "", text).split()) for text in table["text"]]
        lengths = [count_samples(sound, sounds.RATE) / sounds.RATE for sound in table["audio"]]
        kept = [row for row, text in enumerate(texts) if text and lengths[row] <= config.most_seconds]
        if not kept:
            raise DataError(f"no row of {table.name} has a text and a sound of at most {config.most_seconds:g} seconds")
        if len(kept) < len(texts):
            print(f"{len(texts) - len(kept)} of {len(texts)} rows of {table.name} have no text or are too long")
        found[split] = Table({"audio": table["audio"], "text": texts}, table.name).select(kept)
    return found


def spelled(texts: list[str], tokenizer: Tokenizer) -> list[str]:
    """The texts as they are, in capitals or in small letters: as fewest letters are unknown to a tokenizer."""
    known = {*tokenizer.get_vocab(), " "}
    ways = [texts, [text.upper() for text in texts], [text.lower() for text in texts]]
    return min(ways, key=lambda way: sum(letter not in known for text in way for letter in text))


def prepare(splits: dict[str, Table], processor: Any, config: Any) -> Prepared:
    """Waves and letters."""
    if isinstance(processor, FeatureExtractor):
        processor = Processor(train_letters(capitals(splits["train"])), feature_extractor=processor)
    tokenizer, extractor = processor.tokenizer, processor.feature_extractor
    overrides = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, "ctc_loss_reduction": "mean",
                 "ctc_zero_infinity": True}  # fmt: skip
    trained = config.model or (MODEL if config.data is None else None)
    numbers = describe(trained or small_wav2vec2(config), "ctc", **overrides)[1]
    texts = {split: spelled(list(table["text"]), tokenizer) for split, table in splits.items()}
    examples = {
        split: AudioRows(
            Table(
                {"audio": table["audio"], "labels": [tokenizer(text)["input_ids"] for text in texts[split]]}, table.name
            ),
            extractor,
            collate=sounds.hiding(numbers) if split == "train" else None,
        )
        for split, table in splits.items()
    }
    samples = [count_samples(sound, extractor.sampling_rate) for sound in splits["validation"]["audio"]]

    def export(model: Model, folder: Any, _: Any) -> None:
        save(model, folder, processor)  # the one with the letters

    def metrics(prediction: EvalPrediction) -> dict[str, float]:
        frames = [row[: numbers.frames(count)] for row, count in zip(prediction.predictions, samples, strict=True)]
        said = [tokenizer.decode(row) for row in frames]
        return {"wer": word_error_rate(said, texts["validation"]), "cer": letter_error_rate(said, texts["validation"])}

    frozen = trained is not None and config.freeze_feature_encoder
    return Prepared(examples, metrics, overrides, trainable="^(?!features)" if frozen else None, export=export,
                    kept=lambda logits, labels: jnp.argmax(logits, -1))  # fmt: skip


def capitals(table: Table) -> list[str]:
    """The texts that a vocabulary is learned from."""
    return [text.upper() for text in table["text"]]


def recipe(shown: list[Any]) -> Recipe:
    """How letters are learned. `shown` gets some of the held-out sounds."""

    def remembered(splits: dict[str, Table], processor: Any, config: Any) -> Prepared:
        shown.extend(sound for sound, _ in zip(splits["validation"]["audio"], range(3), strict=False))
        return prepare(splits, processor, config)

    return Recipe(
        name="LibriSpeech",
        head="ctc",
        model=MODEL,
        data=DATA,
        bundled="words",
        bundled_is="drawn words of vowels",
        read=read,
        prepare=remembered,
        texts=capitals,
        told=("wer", "cer"),
        small=SMALL,
        own=SMALL,
        open=sounds.open_source,
        prepares=prepares,
    )


def draw_heard(folder: Path, shown: list[Any]) -> None:
    """`heard.png`: the spectra of sounds, and under each the words that the model in a folder hears, where it hears them."""
    from jaxformers.pipelines import pipeline

    hear = pipeline("automatic-speech-recognition", folder)
    heard = hear(shown, return_timestamps="word")
    sounds.draw_spectra(shown, [found["chunks"] for found in heard], folder / "heard.png")


def run(config: Config) -> dict[str, Any]:
    """Trains, evaluates and saves; returns the results."""
    shown: list[Any] = []
    metrics = finetune.run(config, recipe(shown))
    if shown and config.do_train and jax.process_index() == 0:
        folder = folder_of(config.output_dir)
        draw_heard(folder.here, shown)
        folder.send()
    return metrics


if __name__ == "__main__":
    launch(Config, run, __doc__, "python -m experiments.ctc")
