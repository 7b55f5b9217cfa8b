"""transformers' `Auto…` names, for porting scripts: thin aliases of `load` and of `load_tokenizer` and its like.

`AutoModelForX.from_pretrained(source)` is `jaxformers.load(source, head="x")` and gives a `Model`: a record with `config`,
`params` and the pure `apply`, not a module with a `forward` of its own. A head that a family lacks is refused by name.
"""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

from jaxformers.checkpoints import load
from jaxformers.checkpoints.files import locate, read_json
from jaxformers.families import Model, family_of
from jaxformers.families.config import Config, merge_overrides
from jaxformers.preprocess import (
    FeatureExtractor,
    ImageProcessor,
    Processor,
    Tokenizer,
    load_feature_extractor,
    load_image_processor,
    load_processor,
    load_tokenizer,
)

__all__ = [
    "AutoConfig",
    "AutoFeatureExtractor",
    "AutoImageProcessor",
    "AutoModel",
    "AutoModelForAudioClassification",
    "AutoModelForAudioFrameClassification",
    "AutoModelForAudioXVector",
    "AutoModelForCTC",
    "AutoModelForCausalLM",
    "AutoModelForImageClassification",
    "AutoModelForMaskedImageModeling",
    "AutoModelForMaskedLM",
    "AutoModelForMultipleChoice",
    "AutoModelForNextSentencePrediction",
    "AutoModelForPreTraining",
    "AutoModelForQuestionAnswering",
    "AutoModelForSemanticSegmentation",
    "AutoModelForSeq2SeqLM",
    "AutoModelForSequenceClassification",
    "AutoModelForSpeechSeq2Seq",
    "AutoModelForTableQuestionAnswering",
    "AutoModelForTextEncoding",
    "AutoModelForTextToSpectrogram",
    "AutoModelForTokenClassification",
    "AutoModelForVision2Seq",
    "AutoModelForZeroShotImageClassification",
    "AutoProcessor",
    "AutoTokenizer",
    "VisionEncoderDecoderModel",
]


@dataclasses.dataclass(frozen=True)
class AutoHead:
    """One head of every family that has it.

    Args:
      head: its name in the table of family × head.
    """

    head: str | None

    def from_pretrained(self, source: str | os.PathLike[str], **options: Any) -> Model:
        """`load(source, head, **options)`: `dtype`, `mesh`, `seed`, `revision`, and config values such as `num_labels`."""
        return load(source, self.head, **options)

    def from_config(self, config: Config | Mapping[str, Any], *, seed: int = 0, **options: Any) -> Model:
        """A model with random parameters drawn from `seed`.

        >>> tiny = {"model_type": "bert", "vocab_size": 11, "hidden_size": 8, "num_hidden_layers": 1,
        ...         "num_attention_heads": 2, "intermediate_size": 16, "max_position_embeddings": 32}
        >>> AutoModelForSequenceClassification.from_config(tiny, num_labels=3).head
        'sequence-classification'
        """
        return load(config, self.head, seed=seed, **options)


AutoModel = AutoHead(None)
AutoModelForAudioClassification = AutoHead("audio-classification")
AutoModelForAudioFrameClassification = AutoHead("audio-frame-classification")
AutoModelForAudioXVector = AutoHead("audio-xvector")
AutoModelForCTC = AutoHead("ctc")
AutoModelForCausalLM = AutoHead("causal-lm")
AutoModelForImageClassification = AutoHead("image-classification")
AutoModelForMaskedImageModeling = AutoHead("masked-image-modeling")
AutoModelForMaskedLM = AutoHead("masked-lm")
AutoModelForMultipleChoice = AutoHead("multiple-choice")
AutoModelForNextSentencePrediction = AutoHead("next-sentence-prediction")
AutoModelForPreTraining = AutoHead("pretraining")
AutoModelForQuestionAnswering = AutoHead("question-answering")
AutoModelForSemanticSegmentation = AutoHead("semantic-segmentation")
AutoModelForSeq2SeqLM = AutoHead("seq2seq-lm")
AutoModelForSequenceClassification = AutoHead("sequence-classification")
AutoModelForSpeechSeq2Seq = AutoHead("speech-seq2seq")
AutoModelForTableQuestionAnswering = AutoHead("table-question-answering")
AutoModelForTextEncoding = AutoHead("text-encoding")
AutoModelForTextToSpectrogram = AutoHead("text-to-speech")
AutoModelForTokenClassification = AutoHead("token-classification")
AutoModelForVision2Seq = AutoHead("vision2seq")
AutoModelForZeroShotImageClassification = AutoHead("zero-shot-image-classification")


class VisionEncoderDecoderModel:
    """transformers' class of that name, which is also how two checkpoints become one model."""

    @staticmethod
    def from_pretrained(source: str | os.PathLike[str], **options: Any) -> Model:
        """`load(source, head="vision2seq", **options)`."""
        return load(source, "vision2seq", **options)

    @staticmethod
    def from_encoder_decoder_pretrained(
        encoder: str | os.PathLike[str], decoder: str | os.PathLike[str], *, seed: int = 0, **ids: int
    ) -> Model:
        """Loads both and joins them (`families.vision_encoder_decoder.join`): what looks at the encoder is drawn from `seed`."""
        from jaxformers.families.vision_encoder_decoder import DECODERS, join

        raw = read_json(locate(decoder) / "config.json")
        writes = DECODERS.get(family_of(raw, f"{decoder}: config.json").name)
        return join(load(encoder), load(decoder, writes.head if writes else "causal-lm"), seed=seed, **ids)


class AutoConfig:
    """Reads the config of any family."""

    @staticmethod
    def from_pretrained(source: str | os.PathLike[str], *, revision: str | None = None, **overrides: Any) -> Config:
        """The `Config` of a folder or hub id, without its weights; overrides have transformers' names."""
        raw = read_json(locate(source, revision=revision, weights=False) / "config.json")
        family = family_of(raw, f"{source}: config.json")
        return family.config_from_hf(merge_overrides(raw, overrides, family.config_keys), f"{source}: config.json")


class AutoTokenizer:
    """Loads the tokenizer of any family."""

    @staticmethod
    def from_pretrained(source: str, *, revision: str | None = None, **overrides: Any) -> Tokenizer:
        """`load_tokenizer(source, revision=revision, **overrides)`."""
        return load_tokenizer(source, revision=revision, **overrides)


class AutoFeatureExtractor:
    """Loads the feature extractor of any audio family."""

    @staticmethod
    def from_pretrained(source: str, *, revision: str | None = None, **overrides: Any) -> FeatureExtractor:
        """`load_feature_extractor(source, revision=revision, **overrides)`."""
        return load_feature_extractor(source, revision=revision, **overrides)


class AutoImageProcessor:
    """Loads the image processor of any family."""

    @staticmethod
    def from_pretrained(source: str, *, revision: str | None = None, **overrides: Any) -> ImageProcessor:
        """`load_image_processor(source, revision=revision, **overrides)`."""
        return load_image_processor(source, revision=revision, **overrides)


class AutoProcessor:
    """Loads what makes a model's inputs of all it takes: texts and images, or texts and sounds."""

    @staticmethod
    def from_pretrained(source: str, *, revision: str | None = None) -> Processor:
        """`load_processor(source, revision=revision)`."""
        return load_processor(source, revision=revision)
