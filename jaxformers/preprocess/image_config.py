"""preprocessor_config.json of the vision families: what its keys mean, in old and new spellings, and what it leaves out.

Here: `KINDS`, a row for each of transformers' classes, and `read_config`. What is done with the numbers is in `image.py`.
"""

import difflib
from collections.abc import Mapping
from math import floor
from reprlib import repr as shown
from typing import Any

from jaxformers.errors import ConfigError

HALF = (0.5, 0.5, 0.5)
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
NEAREST, LANCZOS, BILINEAR, BICUBIC, BOX, HAMMING = range(6)  # Pillow's numbers
FILTERS = {"nearest": NEAREST, "lanczos": LANCZOS, "bilinear": BILINEAR, "bicubic": BICUBIC, "box": BOX,
           "hamming": HAMMING}  # fmt: skip


def _square(size: int) -> dict[str, int]:
    return {"height": size, "width": size}


# A kind is transformers' class without "ImageProcessor": what it does where its file does not say.
_CLIP_LIKE: dict[str, Any] = {
    "size": {"shortest_edge": 224}, "resample": BICUBIC, "do_center_crop": True, "crop_size": _square(224),
    "image_mean": CLIP[0], "image_std": CLIP[1],
}  # fmt: skip
KINDS: dict[str, dict[str, Any]] = {
    "ViT": {},
    "DeiT": {"size": _square(256), "resample": BICUBIC, "do_center_crop": True, "crop_size": _square(224)},
    "Beit": {"resample": BICUBIC, "crop_size": _square(224)},
    "ConvNext": {"size": {"shortest_edge": 384}, "resample": BICUBIC, "crop_pct": 224 / 256},
    "EfficientNet": {"size": _square(346), "resample": BICUBIC, "crop_size": _square(289), "include_top": True},
    "CLIP": _CLIP_LIKE,
    "Bit": _CLIP_LIKE,
    "Segformer": {"size": _square(512), "image_mean": IMAGENET[0], "image_std": IMAGENET[1]},
}
# For folders whose file names no class.
KIND_OF_MODEL = {
    "vit": "ViT", "deit": "DeiT", "beit": "Beit", "swin": "ViT", "convnext": "ConvNext", "resnet": "ConvNext",
    "efficientnet": "EfficientNet", "vit_mae": "ViT", "dinov2": "Bit", "clip": "CLIP", "segformer": "Segformer",
}  # fmt: skip

SWITCHES = ("do_resize", "do_center_crop", "do_rescale", "rescale_offset", "do_normalize", "include_top", "do_pad",
            "do_reduce_labels")  # fmt: skip
NUMBERS = ("rescale_factor", "crop_pct")
SIZES = ("size", "crop_size", "pad_size")
CHANNELWISE = ("image_mean", "image_std")
KEYS = (*SWITCHES, *NUMBERS, *SIZES, *CHANNELWISE, "resample")
OLD_KEYS = {"reduce_labels": "do_reduce_labels"}
SIZE_FORMS = (
    {"height", "width"}, {"shortest_edge"}, {"longest_edge"}, {"shortest_edge", "longest_edge"},
    {"max_height", "max_width"},
)  # fmt: skip
# Keys that change no number we compute, each with why.
IGNORED = {
    **dict.fromkeys(
        ("image_processor_type", "feature_extractor_type", "processor_class"), "the class, read beforehand"
    ),
    **dict.fromkeys(("data_format", "input_data_format"), "arrays are channels-last, and others are looked at or told"),
    **dict.fromkeys(("return_tensors", "device", "disable_grouping", "backend"), "how it is run"),
    "default_to_square": "what a size of one number means, read with the size",
    "do_convert_rgb": "images always get as many channels as the model has means",
}


def read_config(raw: Mapping[str, Any], source: str, model_type: str | None = None) -> dict[str, Any]:
    """The fields of an `ImageProcessor` that a preprocessor_config.json describes.

    Args:
      raw: the parsed file.
      source: what to call it in an error.
      model_type: of the config.json beside it, for a file that names no class.

    Raises:
      ConfigError: an unknown class or key, or a value that is none.
    """
    kind = _kind(raw, source, model_type)
    fields: dict[str, Any] = {"kind": kind, **KINDS[kind]}
    squared = raw.get("default_to_square")
    square = "shortest_edge" not in KINDS[kind].get("size", {}) if squared is None else bool(squared)
    for key, value in raw.items():
        name = OLD_KEYS.get(key, key)
        if name in KEYS:
            if value is not None:
                fields[name] = field_of(name, value, source, square)
        elif key not in IGNORED and value and not key.startswith("_"):
            close = difflib.get_close_matches(key, KEYS, 1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            raise ConfigError(f"{source}: unknown key {key!r}{hint} with the value {shown(value)}")
    return fields


def read_timm(raw: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The same of timm's `pretrained_cfg`, as in the config.json of its checkpoints (VGG16's among them)."""
    edge = raw.get("test_input_size") or raw.get("input_size") or (3, 224, 224)
    if not isinstance(edge, list | tuple) or len(edge) != 3 or not all(isinstance(n, int) and n > 0 for n in edge):
        raise ConfigError(f"{source}: input_size must be channels, height and width, found {shown(edge)}")
    filter_name, mode = raw.get("interpolation", "bicubic"), raw.get("crop_mode", "center")
    if filter_name not in FILTERS:
        raise ConfigError(f"{source}: interpolation must be one of {', '.join(FILTERS)}, found {shown(filter_name)}")
    if mode not in ("center", "squash"):
        raise ConfigError(f"{source}: crop_mode must be center or squash, found {shown(mode)}")
    if mode == "center" and edge[1] != edge[2]:
        raise ConfigError(f"{source}: crop_mode center needs a square input_size, found {shown(edge)}")
    cut = field_of("crop_pct", raw.get("test_crop_pct") or raw.get("crop_pct") or 0.875, source)
    whole = {"height": floor(edge[1] / cut), "width": floor(edge[2] / cut)}
    return {
        "kind": "Bit",
        "size": whole if mode == "squash" else {"shortest_edge": whole["height"]},
        "resample": FILTERS[filter_name],
        "do_center_crop": True,
        "crop_size": {"height": edge[1], "width": edge[2]},
        "image_mean": field_of("image_mean", raw.get("mean", IMAGENET[0]), source),
        "image_std": field_of("image_std", raw.get("std", IMAGENET[1]), source),
    }


def is_image_config(raw: Mapping[str, Any], model_type: str | None = None) -> bool:
    """Whether a preprocessor_config.json is of a model that sees, and not of one that hears."""
    return _named(raw, model_type) in KINDS or "image_processor_type" in raw


def _named(raw: Mapping[str, Any], model_type: str | None) -> str:
    """The kind that the file names, whether it is known or not; in old files images have feature extractors, too."""
    name = raw.get("image_processor_type") or raw.get("feature_extractor_type")
    if name is None and model_type in KIND_OF_MODEL:
        return KIND_OF_MODEL[model_type]
    name = str(name).removesuffix("Pil").removesuffix("Fast")
    return name.removesuffix("ImageProcessor").removesuffix("FeatureExtractor")


def _kind(raw: Mapping[str, Any], source: str, model_type: str | None) -> str:
    kind = _named(raw, model_type)
    if kind not in KINDS:
        named = raw.get("image_processor_type") or raw.get("feature_extractor_type")
        known = [f"{each}ImageProcessor" for each in KINDS]
        close = difflib.get_close_matches(f"{kind}ImageProcessor", known, 1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise ConfigError(f"{source}: unknown image processor {named!r}{hint}; supported: {', '.join(known)}")
    return kind


def field_of(key: str, value: Any, source: str, square: bool = True) -> Any:
    """A key's value in its present form. Raises `ConfigError` where it is not of the key's type."""
    if key in SIZES and value is not None:
        return _size(key, value, source, square or key != "size")
    if key in CHANNELWISE:
        many = value if isinstance(value, list | tuple) else (value,)
        if len(many) not in (1, 3) or not all(_number(each) for each in many):
            raise ConfigError(f"{source}: {key} must be one number or three, found {shown(value)}")
        return tuple(float(each) for each in many)
    if key == "resample":
        if isinstance(value, bool) or value not in FILTERS.values():
            raise ConfigError(f"{source}: resample must be one of Pillow's filters, 0 to 5, found {shown(value)}")
        return int(value)
    if key in SWITCHES and not isinstance(value, bool):
        raise ConfigError(f"{source}: {key} must be true or false, found {shown(value)}")
    if key in NUMBERS and value is not None and (not _number(value) or value <= 0):
        raise ConfigError(f"{source}: {key} must be a number above 0, found {shown(value)}")
    return value


def _size(key: str, value: Any, source: str, square: bool) -> dict[str, int]:
    """`224`, `[224, 224]` and `{"height": 224, "width": 224}` (or edges) as the last."""
    if isinstance(value, list | tuple) and len(value) == 2:
        value = {"height": value[0], "width": value[1]}
    elif isinstance(value, int) and not isinstance(value, bool):
        value = _square(value) if square else {"shortest_edge": value}
    if isinstance(value, Mapping):
        value = {name: each for name, each in value.items() if each is not None}
        whole = all(isinstance(each, int) and not isinstance(each, bool) and each > 0 for each in value.values())
        if whole and set(value) in (SIZE_FORMS if key == "size" else SIZE_FORMS[:1]):
            return dict(value)
    forms = "height and width" + (
        ", or shortest_edge, longest_edge, or max_height and max_width" if key == "size" else ""
    )
    raise ConfigError(f"{source}: {key} must be a number above 0 or have {forms}, found {shown(value)}")


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
