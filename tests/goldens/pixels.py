"""The tiny configs of the families that take images, the cases of their goldens, and images. Imports nothing of ours."""

from typing import Any

import numpy as np

from tests.goldens.drawing import draw, integers

TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "image_size": 16,
    "patch_size": 8,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
}
VIT = {"model_type": "vit", **TINY, "encoder_stride": 8}
LABELS = {str(i): name for i, name in enumerate(("no", "maybe", "yes"))}

CASES: dict[str, tuple[str, str | None, dict[str, Any]]] = {  # name -> (class, head, config)
    "vit": ("ViTModel", None, VIT),
    "vit-hidden": ("ViTForMaskedImageModeling", "masked-image-modeling", VIT),
}
FAMILIES = {config["model_type"] for _, _, config in CASES.values()}


def sample(
    config: dict[str, Any], head: str | None, batch: int | None = None, length: int = 0
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Images, channels last, three unless `batch` says otherwise, and what a head learns from them. Few digits, to be stored."""
    B, size = 3 if batch is None else batch, config["image_size"]
    shape = (B, size, size, config.get("num_channels", 3))
    given = {"pixel_values": ((integers("pixel_values", shape, 0, 33) - 16) / 32).astype(np.float32)}
    if head == "masked-image-modeling":
        given["bool_masked_pos"] = integers("bool_masked_pos", (B, (size // config["patch_size"]) ** 2), 0, 2)
    return given, labels(config, head, B)


def labels(config: dict[str, Any], head: str | None, batch: int) -> dict[str, np.ndarray]:
    """What a head learns from, under transformers' names."""
    classes = len(config.get("id2label") or "ab")
    match head, config.get("problem_type"):
        case "image-classification", "regression":
            return {"labels": draw("labels", (batch,) if classes == 1 else (batch, classes), 1.0)}
        case "image-classification", "multi_label_classification":
            return {"labels": integers("labels", (batch, classes), 0, 2).astype(np.float32)}
        case "image-classification", _:
            return {"labels": integers("labels", (batch,), 0, classes)}
    return {}
