"""What people call an image, to one upright picture of 8 bits a channel: paths, bytes, URLs, PIL images, arrays.

What a model wants of it (size, crop, normalisation) is in `image.py`. Pillow (extra `vision`) is imported on first use.
"""

from __future__ import annotations

import base64
import binascii
import io
import os
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxformers.errors import InputError
from jaxformers.preprocess.download import download

if TYPE_CHECKING:
    from PIL.Image import Image

CHANNELS = (1, 3, 4)  # of an array's channel axis: grey, colour, colour and opacity
FORMATS = ("channels_last", "channels_first")
_MOST_BYTES = 1 << 28  # of what a URL sends


def pillow() -> Any:
    """Pillow's `Image` module. Raises `InputError` where Pillow is not installed."""
    try:
        import PIL.Image
        import PIL.ImageOps
    except ImportError as error:
        raise InputError('images need Pillow: pip install "jaxformers[vision]"') from error
    return PIL.Image


def read_image(source: Any, where: str = "the image", *, timeout: float | None = None) -> Image:
    """An image as it is meant to be seen: upright (EXIF), its first frame, in colour; opacity is left out.

    Args:
      source: a path, an http(s) or data URL, text in base64, bytes of an encoded image, a PIL image, a dict with one of these
        under `image`, or with `bytes` or `path` (how the Hugging Face hub stores images).
      where: what to call it in an error.
      timeout: seconds a URL may take.

    Returns:
      A PIL image of mode RGB. 16-bit images are brought to 8 bits.

    Raises:
      InputError: it is none of these, missing, damaged, or no image.
    """
    return _colour(open_image(source, where, timeout=timeout), where)


def open_image(source: Any, where: str = "the image", *, timeout: float | None = None) -> Image:
    """A PIL image of whatever mode, decoded and upright. Arguments and errors as in `read_image`."""
    image_module = pillow()
    if isinstance(source, Mapping):
        key = next((key for key in ("image", "bytes", "path") if source.get(key) is not None), None)
        if key is None:
            raise InputError(f"{where} is a dict without an 'image', it has {', '.join(map(str, source))}")
        return open_image(source[key], where, timeout=timeout)
    if isinstance(source, image_module.Image):
        return _upright(source, where)
    if isinstance(source, bytes | bytearray | memoryview):
        return _decoded(io.BytesIO(source), where)
    if not isinstance(source, str | os.PathLike):
        raise InputError(f"{where} must be a path, a URL, bytes or a PIL image, found {type(source).__name__}")
    text = os.fspath(source)
    if text.startswith(("http://", "https://")):
        return _decoded(io.BytesIO(download(text, where, _MOST_BYTES, timeout)), f"{where} ({text})")
    if os.path.isfile(text):
        return _decoded(text, f"{where} ({text})")
    encoded = text.split(",", 1)[-1] if text.startswith("data:image/") else text
    try:
        return _decoded(io.BytesIO(base64.b64decode(encoded, validate=True)), where)
    except (binascii.Error, ValueError):  # InputError is one: letters that happen to be base64 are a path's
        if encoded is not text:
            raise InputError(f"{where} is a data URL that holds no image") from None
    shown = text if len(text) <= 200 else f"{text[:200]}…"
    raise InputError(f"there is no file {shown!r} for {where}")


def _decoded(file: Any, where: str) -> Image:
    image_module = pillow()
    try:
        with image_module.open(file) as image:
            image.load()
            return _upright(image, where)
    except image_module.DecompressionBombError as error:
        raise InputError(f"{where} is too large: {error}") from None
    except image_module.UnidentifiedImageError:
        raise InputError(f"{where} is no image, or of a format that Pillow does not know") from None
    except (OSError, SyntaxError, EOFError) as error:  # a PNG's broken chunk is a SyntaxError
        raise InputError(f"{where} is damaged: {error}") from None


def _upright(image: Image, where: str) -> Image:
    from PIL import ImageOps

    try:
        return ImageOps.exif_transpose(image)
    except OSError as error:  # a PIL image that was opened, but not read yet
        raise InputError(f"{where} is damaged: {error}") from None


def _colour(image: Image, where: str, mode: str = "RGB") -> Image:
    """The image in 8 bits a channel, without opacity."""
    if image.mode.startswith("I") or image.mode == "F":  # Pillow would cut off whatever is above 255
        return _from_numbers(np.asarray(image), where).convert(mode)
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # with opacity for each colour, Pillow warns on the direct way
    return image if image.mode == mode else image.convert(mode)


def on_white(image: Image, where: str, mode: str = "RGB") -> Image:
    """The image in 8 bits a channel; where it has opacity, it is laid on white."""
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        white = pillow().new("RGBA", image.size, (255, 255, 255, 255))
        image = pillow().alpha_composite(white, image)
    return _colour(image, where, mode)


def _from_numbers(values: np.ndarray, where: str) -> Image:
    """Grey values of more than 8 bits: 16-bit integers, or floats from 0 to 1 or to 255."""
    if values.dtype.kind == "f":
        return array_image(values[..., None], where, "channels_last")[0]
    wide = values.dtype.itemsize == 2
    values = values.astype(np.int64)
    if values.min(initial=0) < 0 or values.max(initial=0) > 65535:
        raise InputError(f"{where} holds integers from {values.min()} to {values.max()}, expected 0 to 65535")
    if wide or values.max(initial=0) > 255:  # 32 bits hold what somebody put into them
        values = (values + 128) // 257
    return pillow().fromarray(values.astype(np.uint8))


def array_image(array: Any, where: str = "the image", data_format: str | None = None) -> tuple[Image, bool]:
    """An array as a PIL image.

    Args:
      array: [H, W], [H, W, C] or [C, H, W]; C is 1, 3 or 4. Integers (or whole floats) 0 to 255, or floats 0 to 1.
      where: what to call it in an error.
      data_format: "channels_last" or "channels_first"; None looks which axis can be channels, and takes the last of two.

    Returns:
      The image, of mode L, RGB or RGBA; and whether its numbers were from 0 to 1.

    Raises:
      InputError: another shape, or other numbers.
    """
    values = np.asarray(array)
    if data_format not in (None, *FORMATS):
        raise InputError(f"the data format must be channels_last or channels_first, found {data_format!r}")
    if values.ndim == 2:
        values, data_format = values[..., None], "channels_last"
    fits = [values.ndim == 3 and values.shape[axis] in CHANNELS for axis in (-1, 0)]
    first = not fits[0] if data_format is None else data_format == "channels_first"
    if not fits[1 if first else 0] or 0 in values.shape:
        expected = "[height, width], [height, width, channels] or [channels, height, width] with 1, 3 or 4 channels"
        raise InputError(f"{where} must have a shape {expected}, found {list(values.shape)}")
    values = np.moveaxis(values, 0, -1) if first else values
    if values.dtype.kind not in "biuf" or values.dtype == bool:
        raise InputError(f"{where} must hold integers or floats, found {values.dtype}")
    unit = False
    if values.dtype != np.uint8:
        if not np.isfinite(values).all():
            raise InputError(f"{where} holds numbers that are not finite")
        low, high = values.min(), values.max()
        whole = values.dtype.kind != "f" or bool((values == np.round(values)).all())
        unit = not whole and low >= 0 and high <= 1
        if not unit and not (whole and low >= 0 and high <= 255):
            raise InputError(
                f"{where} must hold whole numbers from 0 to 255 or floats from 0 to 1, found {low:g} to {high:g}"
            )
        values = np.round(values * 255.0 if unit else values).astype(np.uint8)
    values = np.ascontiguousarray(values[..., 0] if values.shape[-1] == 1 else values)
    return pillow().fromarray(values), unit


def picture(value: Any, where: str, mode: str, data_format: str | None) -> tuple[Image, bool]:
    """Whatever is an image as a picture of this mode, and whether its numbers were from 0 to 1.

    What was decoded from a file is seen without its opacity, what a program hands over (a PIL image, an array) on white:
    both as transformers has it.
    """
    if isinstance(value, Mapping) and "image" in value:
        value = value["image"]
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "Corrupt EXIF data", UserWarning
        )  # what is said of the turn is then not heeded
        if isinstance(value, pillow().Image):
            return on_white(_upright(value, where), where, mode), False
        if hasattr(value, "__array__"):
            image, unit = array_image(value, where, data_format)
            return on_white(image, where, mode), unit
        return _colour(open_image(value, where), where, mode), False
