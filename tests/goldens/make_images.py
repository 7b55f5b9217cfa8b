"""Makes images.json: what transformers' image processors (PIL) make of drawn pictures. Imports nothing of jaxformers.

    python tests/goldens/make_images.py

For each preprocessor_config.json in `CONFIGS` and each picture: the shape [height, width, channels] of the result and the
values at a few places. Needs PyTorch, transformers and Pillow.
"""

import importlib
import json
from pathlib import Path

import numpy as np

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
CONFIGS = {
    "vit": {"image_processor_type": "ViTImageProcessor", "do_normalize": True, "image_mean": [0.5, 0.5, 0.5],
            "image_std": [0.5, 0.5, 0.5], "resample": 2, "size": 24, "do_resize": True},
    "deit": {"feature_extractor_type": "DeiTFeatureExtractor", "crop_size": 20, "do_center_crop": True, "size": 25,
             "resample": 3, "image_mean": MEAN, "image_std": STD},
    "beit": {"feature_extractor_type": "BeitFeatureExtractor", "crop_size": 24, "do_center_crop": False, "size": 24,
             "resample": 2, "reduce_labels": False},
    "convnext": {"feature_extractor_type": "ConvNextFeatureExtractor", "crop_pct": 0.875, "size": 24, "resample": 3,
                 "image_mean": MEAN, "image_std": STD},
    "convnext-384": {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 384}, "resample": 3},
    "efficientnet": {"image_processor_type": "EfficientNetImageProcessor", "size": {"height": 26, "width": 22},
                     "resample": 0, "do_center_crop": False, "include_top": True, "rescale_offset": True,
                     "rescale_factor": 1 / 127.5, "image_mean": MEAN, "image_std": [0.47853944, 0.4732864, 0.47434163]},
    "bit": {"image_processor_type": "BitImageProcessor", "size": {"shortest_edge": 31},
            "crop_size": {"height": 24, "width": 24}, "image_mean": MEAN, "image_std": STD, "do_convert_rgb": True},
    "clip": {"feature_extractor_type": "CLIPFeatureExtractor", "size": 24, "crop_size": 24, "resample": 3,
             "do_center_crop": True},
    "clip-padded": {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 15}, "crop_size": 24},
    "segformer": {"image_processor_type": "SegformerImageProcessor", "size": {"height": 20, "width": 28}, "resample": 2},
}  # fmt: skip
CLASSES = {"vit": "ViT", "deit": "DeiT", "beit": "Beit", "convnext": "ConvNext", "efficientnet": "EfficientNet",
           "bit": "Bit", "clip": "CLIP", "segformer": "Segformer"}  # fmt: skip
PICTURES = {"wide": (37, 61), "tall": (90, 13), "dot": (1, 1)}
PLACES = ((0.0, 0.0), (0.3, 0.7), (0.5, 0.5), (0.99, 0.2))


def picture(height: int, width: int) -> np.ndarray:
    """A drawn picture uint8 [height, width, 3]: colour gradients with a bright disc and a chequered corner."""
    y, x = np.mgrid[:height, :width] / np.array([max(height - 1, 1), max(width - 1, 1)])[:, None, None]
    red, green, blue = 255 * x, 255 * y, 127 + 120 * np.sin(9 * x + 5 * y)
    disc = (x - 0.6) ** 2 + (y - 0.4) ** 2 < 0.06
    chequered = (x < 0.4) & (y > 0.6) & ((np.floor(20 * x) + np.floor(20 * y)) % 2 == 0)
    layers = [np.where(disc, 250, np.where(chequered, 12, layer)) for layer in (red, green, blue)]
    return np.stack(layers, -1).astype(np.uint8)


def places(height: int, width: int) -> list[tuple[int, int]]:
    """Where the values are taken."""
    return [(int(down * height), int(across * width)) for down, across in PLACES]


def processor(name: str):
    """transformers' own processor of a config."""
    family = name.split("-")[0]
    module = importlib.import_module(f"transformers.models.{family}.image_processing_pil_{family}")
    config = {key: value for key, value in CONFIGS[name].items() if not key.endswith("_type")}
    config["do_reduce_labels"] = config.pop("reduce_labels", False)
    return getattr(module, f"{CLASSES[family]}ImageProcessorPil")(**config)


def main() -> None:
    made = {}
    for name in CONFIGS:
        for called, (height, width) in PICTURES.items():
            values = processor(name)(picture(height, width), return_tensors="np", input_data_format="channels_last")
            values = np.moveaxis(values["pixel_values"][0], 0, -1)
            taken = [[round(float(number), 5) for number in values[place]] for place in places(*values.shape[:2])]
            made[f"{name} {called}"] = {"shape": list(values.shape), "values": taken}
    lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in made.items()]
    (Path(__file__).parent / "images.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
