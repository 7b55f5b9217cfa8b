"""A processor: a tokenizer and what prepares a model's other inputs, called as one: texts and images, texts and sounds."""

import dataclasses
import os
from typing import Any

from jaxformers.checkpoints.files import locate, read_json
from jaxformers.errors import CheckpointError, InputError
from jaxformers.preprocess.feature_extractors import FeatureExtractor, load_feature_extractor
from jaxformers.preprocess.image import FILE, ImageProcessor, read_folder
from jaxformers.preprocess.image_config import is_image_config
from jaxformers.preprocess.text import Tokenizer, load_tokenizer


@dataclasses.dataclass(frozen=True)
class Processor:
    """Prepares a model's texts and its images or sounds together.

    Args:
      tokenizer: for texts.
      image_processor: for images, where the model sees.
      feature_extractor: for sounds, where it hears.
    """

    tokenizer: Tokenizer
    image_processor: ImageProcessor | None = None
    feature_extractor: FeatureExtractor | None = None

    def __call__(
        self,
        images: Any = None,
        text: Any = None,
        audio: Any = None,
        *,
        sampling_rate: int | None = None,
        **options: Any,
    ) -> dict[str, Any]:
        """The results of its parts in one dict.

        Args:
          images: an image or images (`ImageProcessor`), or None.
          text: a text or texts (`Tokenizer`), or None.
          audio: a sound or sounds (`FeatureExtractor`), or None.
          sampling_rate: of sounds that are arrays.
          **options: the tokenizer's, such as `padding` and `truncation`.

        Returns:
          numpy arrays (of texts without padding: lists) by the names of the model's inputs.

        Raises:
          InputError: nothing is given, or something that this model does not take.
        """
        if images is None and text is None and audio is None:
            raise InputError("a processor needs images, text or audio")
        batch: dict[str, Any] = {}
        if text is not None:
            batch |= self.tokenizer(text, **options)
        if images is not None:
            if self.image_processor is None:
                raise InputError("this processor takes no images")
            batch |= self.image_processor(images)
        if audio is not None:
            if self.feature_extractor is None:
                raise InputError("this processor takes no audio")
            batch |= self.feature_extractor(audio, sampling_rate=sampling_rate)
        return batch

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Writes its parts into a folder; beside a model with `save(model, directory, processor)`."""
        self.tokenizer.save(os.fspath(directory))
        for part in (self.image_processor, self.feature_extractor):
            if part is not None:
                part.save(directory)


def load_processor(source: str | os.PathLike[str], *, revision: str | None = None) -> Processor:
    """Loads the processor of a model that takes texts and images, or texts and sounds.

    Args:
      source: a folder or hub id.
      revision: branch, tag or commit of a hub id.

    Raises:
      CheckpointError: the tokenizer's or the other part's files are not there.
      ConfigError: a file holds what we do not know.
    """
    folder = locate(source, revision=revision, weights=False)
    tokenizer = load_tokenizer(os.fspath(folder))
    if (folder / FILE).is_file():
        model = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
        if not is_image_config(read_json(folder / FILE), model.get("model_type")):
            return Processor(tokenizer, feature_extractor=load_feature_extractor(folder))
    elif not (folder / "processor_config.json").is_file():
        raise CheckpointError(f"{source} has no {FILE}: a model of texts alone has a tokenizer and no processor")
    return Processor(tokenizer, read_folder(folder, os.fspath(source)))
