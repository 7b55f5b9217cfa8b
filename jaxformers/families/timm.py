"""What timm's and torchvision's checkpoints say in place of a Hugging Face config.json, for the families that read them.

timm's config.json names an `architecture` and counts `num_classes`; torchvision's files have none, so that one is written for
them by hand: `{"model_type": "vgg", "architecture": "vgg16"}`.
"""

import re
from collections.abc import Mapping
from typing import Any

from jaxformers.errors import ConfigError

FAMILIES = {"efficientnet": "efficientnet", "vgg": "vgg"}  # how an architecture's name begins -> model_type
IGNORED = {
    "architecture": "what it says of sizes is read beforehand",
    "num_classes": "read beforehand",
    **dict.fromkeys(("num_features", "pretrained_cfg", "model_args", "global_pool", "label_names", "label_descriptions"),
                    "timm's own; an image processor reads pretrained_cfg"),
}  # fmt: skip


def model_type_of(raw: Mapping[str, Any]) -> Any:
    """The `model_type` of a config.json, or that of its `architecture`; None where it names neither."""
    named = re.match(r"(?:tf_)?([a-z]+)", str(raw.get("architecture")))
    return raw.get("model_type", FAMILIES.get(named[1]) if named else None)


def with_sizes(raw: Mapping[str, Any], sizes: Mapping[str, Mapping[str, Any]], source: str) -> dict[str, Any]:
    """A config.json with what its `architecture` stands for, under what it says itself.

    Args:
      raw: the parsed file.
      sizes: architecture -> keys and values.
      source: what to call the file in an error.

    Raises:
      ConfigError: an architecture that is not among `sizes`.
    """
    name, said = raw.get("architecture"), {} if "model_type" in raw else {"weight_names": "timm"}
    if name is not None:
        if name not in sizes:
            raise ConfigError(f"{source}: architecture must be one of {', '.join(sizes)}, found {name!r:.60}")
        said = {**sizes[name], **said}
    if raw.get("num_classes"):
        said["num_labels"] = raw["num_classes"]
    return {**said, **raw}
