"""Image processors: whatever is an image to `pixel_values`, as a preprocessor_config.json says. Arrays are channels-last.

Here: `ImageProcessor`, `load_image_processor`. How images are read is in `image_reading.py`, what the files' keys mean in
`image_config.py`; what is done to images in training is in `image_augment.py`.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from jaxformers.checkpoints.files import locate, read_json
from jaxformers.checkpoints.save import write_text
from jaxformers.errors import ConfigError, InputError
from jaxformers.preprocess.image_config import HALF, KEYS, KINDS, NEAREST, field_of, read_config, read_timm
from jaxformers.preprocess.image_reading import FORMATS, array_image, open_image, picture, pillow

if TYPE_CHECKING:
    from PIL.Image import Image

FILE = "preprocessor_config.json"
WARPED_FROM = 384  # ConvNeXT: from this size on images are squeezed into a square, below it they are cropped
IGNORED_LABEL = 255  # a pixel of a segmentation map that belongs to no class


@dataclasses.dataclass(frozen=True)
class ImageProcessor:
    """What a model wants of its images. Fields have the names of preprocessor_config.json; a call may override each.

    Args:
      kind: which of transformers' classes it is, without "ImageProcessor".
      do_resize: whether images are brought to a size.
      size: `{"height", "width"}`; `{"shortest_edge"}`, to which also `{"longest_edge"}` may be a limit; `{"longest_edge"}`;
        or `{"max_height", "max_width"}`. In pixels, as all sizes; one number and a pair are understood.
      resample: Pillow's number of the filter: 0 nearest, 1 Lanczos, 2 bilinear, 3 bicubic, 4 box, 5 Hamming.
      crop_pct: ConvNeXT's: below 384 pixels, how much of the resized image's shorter edge is kept.
      do_center_crop: whether the middle is cut out, with zeros around what is too small.
      crop_size: of that.
      do_rescale: whether pixels, 0 to 255, are multiplied by `rescale_factor`.
      rescale_factor: usually 1 / 255.
      rescale_offset: EfficientNet's: whether 1 is subtracted then.
      do_normalize: whether the mean is subtracted and the result divided by the deviation.
      image_mean: one number for each channel; models with one have grey images.
      image_std: likewise.
      include_top: EfficientNet's: whether it is divided by the deviation once more.
      do_pad: whether images of unequal size are filled up with zeros, and a `pixel_mask` tells where they are.
      pad_size: to which size; None means that of the largest image.
      do_reduce_labels: whether segmentation maps count from 1, with 0 for pixels of no class.
      raw: the file this came from, kept for saving.

    >>> processor = ImageProcessor(size={"height": 2, "width": 2})
    >>> processor(np.zeros((4, 6, 3), np.uint8))["pixel_values"].shape
    (1, 2, 2, 3)
    """

    kind: str = "ViT"
    do_resize: bool = True
    size: Mapping[str, int] = dataclasses.field(default_factory=lambda: {"height": 224, "width": 224})
    resample: int = 2
    crop_pct: float | None = None
    do_center_crop: bool = False
    crop_size: Mapping[str, int] | None = None
    do_rescale: bool = True
    rescale_factor: float = 1 / 255
    rescale_offset: bool = False
    do_normalize: bool = True
    image_mean: tuple[float, ...] = HALF
    image_std: tuple[float, ...] = HALF
    include_top: bool = False
    do_pad: bool = False
    pad_size: Mapping[str, int] | None = None
    do_reduce_labels: bool = False
    raw: Mapping[str, Any] = dataclasses.field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        square = "shortest_edge" not in KINDS[self.kind].get("size", {}) if self.kind in KINDS else True
        for key in KEYS:
            value = getattr(self, key)
            object.__setattr__(self, key, field_of(key, value, "the image processor", square))
        if self.do_center_crop and self.crop_size is None:
            raise ConfigError("the image processor: do_center_crop needs a crop_size")
        if self.crop_pct is not None and "shortest_edge" not in self.size:
            raise ConfigError(
                f"the image processor: crop_pct needs a size by its shortest_edge, found {dict(self.size)}"
            )
        if len(self.image_mean) != len(self.image_std):
            raise ConfigError("the image processor: image_mean and image_std must have a number for each channel, both")

    @property
    def channels(self) -> int:
        """How many channels its arrays have: 1 (grey) or 3."""
        return len(self.image_mean)

    @property
    def output_size(self) -> tuple[int, int] | None:
        """Height and width that all its arrays have; None where they depend on the image."""
        if self.do_center_crop and self.crop_size is not None:
            return self.crop_size["height"], self.crop_size["width"]
        if not self.do_resize:
            return None
        if self.crop_pct is not None:
            return self.size["shortest_edge"], self.size["shortest_edge"]
        return (self.size["height"], self.size["width"]) if "height" in self.size else None

    def replace(self, **fields: Any) -> Self:
        """A copy with some fields changed. Raises `InputError` for what is none, `ConfigError` for a wrong value."""
        for name in fields:
            if name not in KEYS:
                close = difflib.get_close_matches(name, KEYS, 1)
                hint = f" (did you mean {close[0]!r}?)" if close else ""
                raise InputError(f"an image processor has no option {name!r}{hint}; it has {', '.join(KEYS)}")
        return dataclasses.replace(self, **fields)

    def __call__(
        self,
        images: Any,
        segmentation_maps: Any = None,
        *,
        data_format: str = "channels_last",
        input_data_format: str | None = None,
        return_tensors: str | None = "np",
        **options: Any,
    ) -> dict[str, np.ndarray]:
        """Images to a batch.

        Args:
          images: one image or a list (or an array with a batch axis) of them: paths, URLs, bytes, PIL images, or arrays
            [H, W, C] or [C, H, W] of 0 to 255 or 0 to 1.
          segmentation_maps: for each image a map [H, W] of class numbers: an array, or an image file of mode L or P.
          data_format: of the result: "channels_last" or "channels_first".
          input_data_format: of arrays; None looks which axis can be channels.
          return_tensors: "np" or None; jax.numpy takes numpy arrays as they are.
          **options: fields of the processor for this call.

        Returns:
          `pixel_values` float32 [B, H, W, C]; where images are padded `pixel_mask` int32 [B, H, W], 1 on the image; with
          `segmentation_maps` `labels` int32 [B, H, W], 255 for no class.

        Raises:
          InputError: an image cannot be read, or images of unequal size would make one batch.
        """
        this = self.replace(**options) if options else self
        if data_format not in FORMATS:
            raise InputError(f"data_format must be channels_last or channels_first, found {data_format!r}")
        if return_tensors not in (None, "np"):
            raise InputError(f"return_tensors must be 'np' or None, found {return_tensors!r}: results are numpy arrays")
        given = listed(images)
        names = ["the image"] if len(given) == 1 else [f"image {number}" for number in range(len(given))]
        arrays = [this.pixels(image, name, input_data_format) for image, name in zip(given, names, strict=True)]
        batch = this._batched(arrays, names)
        if segmentation_maps is not None:
            maps = listed(segmentation_maps, axes=2)
            if len(maps) != len(given):
                raise InputError(f"there must be a segmentation map for each of {len(given)} images, found {len(maps)}")
            labels = [this.labels(each, f"segmentation map {number}") for number, each in enumerate(maps)]
            batch["labels"] = _stacked(labels, "the segmentation maps")
        if data_format == "channels_first":
            batch["pixel_values"] = np.moveaxis(batch["pixel_values"], -1, 1)
        return batch

    # -- one image, step by step ---------------------------------------------------------------------------------------

    def pixels(self, image: Any, where: str = "the image", data_format: str | None = None) -> np.ndarray:
        """One image, as in a call, to float32 [H, W, C]."""
        read, unit = self.read(image, where, data_format)
        return self.numbers(np.asarray(self.shaped(read)), unit)

    def read(self, image: Any, where: str = "the image", data_format: str | None = None) -> tuple[Image, bool]:
        """One image as a PIL image with the model's channels, and whether its numbers were from 0 to 1."""
        return picture(image, where, "L" if self.channels == 1 else "RGB", data_format)

    def shaped(self, image: Image, resample: int | None = None) -> Image:
        """Resized and cropped, by the processor's filter or another."""
        resample = self.resample if resample is None else resample
        if self.do_resize:
            size = self.resized(image.height, image.width)
            if size != (image.height, image.width):
                image = image.resize(size[::-1], resample)
            if self.crop_pct is not None:
                edge = self.size["shortest_edge"]
                image = _middle(image, edge, edge)
        if self.do_center_crop and self.crop_size is not None:
            image = _middle(image, self.crop_size["height"], self.crop_size["width"])
        return image

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """The height and width an image of this size is resized to, before anything is cropped."""
        size = self.size
        if "height" in size:
            return size["height"], size["width"]
        short, long = min(height, width), max(height, width)
        if "max_height" in size:
            scale = min(size["max_height"] / height, size["max_width"] / width)
            return max(1, int(height * scale)), max(1, int(width * scale))
        if self.crop_pct is not None:
            edge = size["shortest_edge"]
            if edge >= WARPED_FROM:
                return edge, edge
            new_short: int = int(edge / self.crop_pct)
            new_long = int(new_short * long / short)
        elif "shortest_edge" not in size:
            new_short, new_long = max(1, round(size["longest_edge"] * short / long)), size["longest_edge"]
        else:
            new_short = size["shortest_edge"]
            exact: float = new_short
            if "longest_edge" in size and long / short * new_short > size["longest_edge"]:
                exact = size["longest_edge"] * short / long
                new_short = max(1, round(exact))
            new_long = max(1, int(exact * long / short))
        return (new_short, new_long) if height <= width else (new_long, new_short)

    def numbers(self, image: np.ndarray, unit: bool = False) -> np.ndarray:
        """Pixels uint8 [H, W] or [H, W, C] to float32 [H, W, C], rescaled and normalised.

        Args:
          image: the pixels.
          unit: whether they stand for numbers from 0 to 1 already; then they stay so without rescaling.
        """
        # One product and one sum a pixel: (pixel * factor - offset - mean) / std, all of it in one line through the origin.
        factor = self.rescale_factor if self.do_rescale else (1 / 255 if unit else 1.0)
        shift = -1.0 if self.do_rescale and self.rescale_offset else 0.0
        scale_C, shift_C = np.full(self.channels, factor), np.full(self.channels, shift)
        deviation_C = np.asarray(self.image_std)
        if self.do_normalize:
            scale_C, shift_C = scale_C / deviation_C, (shift_C - np.asarray(self.image_mean)) / deviation_C
        if self.include_top:
            scale_C, shift_C = scale_C / deviation_C, shift_C / deviation_C
        values = image.astype(np.float32).reshape(*image.shape[:2], self.channels)
        values *= scale_C.astype(np.float32)[None, None]
        values += shift_C.astype(np.float32)[None, None]
        return values

    def labels(self, segmentation_map: Any, where: str = "the segmentation map") -> np.ndarray:
        """A map of class numbers to int32 [H, W], resized like its image by the nearest pixel: classes do not blend."""
        return np.asarray(self.shaped(self.read_map(segmentation_map, where), NEAREST)).astype(np.int32)

    def read_map(self, segmentation_map: Any, where: str = "the segmentation map") -> Image:
        """A map of class numbers as a PIL image of its own size, counted as `do_reduce_labels` says, 255 for no class."""
        loaded = segmentation_map if hasattr(segmentation_map, "__array__") else open_image(segmentation_map, where)
        values = np.asarray(loaded)
        if values.ndim == 3 and 1 in (values.shape[0], values.shape[-1]):
            values = values[..., 0] if values.shape[-1] == 1 else values[0]
        if values.ndim != 2 or values.dtype.kind not in "iu" or values.min() < 0 or values.max() > IGNORED_LABEL:
            raise InputError(
                f"{where} must be [height, width] of class numbers from 0 to 255, found {list(values.shape)} of {values.dtype}"
            )
        values = values.astype(np.uint8)
        if self.do_reduce_labels:
            values = values - np.uint8(1)  # 0, which is no class, comes to 255
            values[values == IGNORED_LABEL - 1] = IGNORED_LABEL
        return array_image(values, where)[0]

    def _batched(self, arrays: list[np.ndarray], names: list[str]) -> dict[str, np.ndarray]:
        if not self.do_pad:
            return {"pixel_values": _stacked(arrays, "the images", "; do_pad=True fills them up")}
        height, width = (max((each.shape[axis] for each in arrays), default=0) for axis in (0, 1))
        if self.pad_size is not None:
            largest, (height, width) = (height, width), (self.pad_size["height"], self.pad_size["width"])
            if largest[0] > height or largest[1] > width:
                raise InputError(
                    f"images of up to {largest[0]} × {largest[1]} do not fit the pad_size {height} × {width}"
                )
        pixels = np.zeros((len(arrays), height, width, self.channels), np.float32)
        mask = np.zeros((len(arrays), height, width), np.int32)
        for number, array in enumerate(arrays):
            pixels[number, : array.shape[0], : array.shape[1]] = array
            mask[number, : array.shape[0], : array.shape[1]] = 1
        return {"pixel_values": pixels, "pixel_mask": mask}

    # -- files ---------------------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Its preprocessor_config.json."""
        fields = {key: getattr(self, key) for key in KEYS}
        plain = {key: list(value) if isinstance(value, tuple) else value for key, value in fields.items()}
        own = KINDS[self.kind]
        special = {key for key in ("crop_pct", "include_top", "rescale_offset", "do_reduce_labels", "do_pad", "pad_size")
                   if not plain[key] and key not in own and key not in self.raw}  # fmt: skip
        kept = {key: value for key, value in self.raw.items() if key not in ("reduce_labels", "feature_extractor_type")}
        plain = {key: value for key, value in plain.items() if key not in special and value is not None}
        return dict(sorted({**kept, **plain, "image_processor_type": f"{self.kind}ImageProcessor"}.items()))

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Writes preprocessor_config.json, which transformers reads, too."""
        folder = Path(directory)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot write to {folder}: {error.strerror}") from None
        write_text(folder / FILE, json.dumps(self.to_dict(), indent=2) + "\n")


def load_image_processor(
    source: str | os.PathLike[str], *, revision: str | None = None, **overrides: Any
) -> ImageProcessor:
    """Loads the image processor of a model.

    Args:
      source: a folder or hub id: with a preprocessor_config.json, with a processor_config.json that has an image processor, or
        with a config.json by timm, whose `pretrained_cfg` says it.
      revision: branch, tag or commit of a hub id.
      **overrides: fields of `ImageProcessor`.

    Raises:
      CheckpointError: nothing of this is there.
      ConfigError: a class, key or value that is not known.
    """
    folder = locate(source, revision=revision, weights=False)
    return read_folder(folder, os.fspath(source)).replace(**overrides)


def read_folder(folder: Path, source: str) -> ImageProcessor:
    """The image processor that a folder describes. Raises as `load_image_processor`."""
    config = folder / "config.json"
    model = read_json(config) if config.is_file() else {}
    for name in (FILE, "processor_config.json"):
        raw = read_json(folder / name) if (folder / name).is_file() else {}
        if name != FILE:
            raw = raw.get("image_processor") or {}
        if raw:
            fields = read_config(raw, f"{source}: {name}", model.get("model_type"))
            return ImageProcessor(**fields, raw=raw)
    timm = model.get("pretrained_cfg")
    if isinstance(timm, Mapping):
        return ImageProcessor(**read_timm(timm, f"{source}: config.json"))
    raise InputError(f"{source} has no {FILE}, so nothing says how its images are prepared")


def listed(images: Any, axes: int = 3) -> list[Any]:
    """One image or many as a list; an array of more than `axes` axes holds many."""
    if isinstance(images, list | tuple):
        return list(images)
    many = hasattr(images, "__array__") and not isinstance(images, pillow().Image) and np.ndim(images) > axes
    return list(images) if many else [images]


def _middle(image: Image, height: int, width: int) -> Image:
    """The middle of an image; black stands around what is smaller. Half a pixel goes where transformers has it."""
    top, left = (image.height - height) // 2, (image.width - width) // 2
    return (
        image if (image.height, image.width) == (height, width) else image.crop((left, top, left + width, top + height))
    )


def _stacked(arrays: list[np.ndarray], what: str, hint: str = "") -> np.ndarray:
    shapes = {array.shape[:2] for array in arrays}
    if len(shapes) != 1:
        found = " and ".join(f"{height} × {width}" for height, width in sorted(shapes)[:2]) or "none"
        raise InputError(f"{what} of a batch must have one size, found {found}{hint}")
    return np.stack(arrays)
