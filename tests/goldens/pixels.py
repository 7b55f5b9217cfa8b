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
DEIT = {**VIT, "model_type": "deit"}
DINOV2 = {
    **{key: value for key, value in TINY.items() if key != "intermediate_size"},
    "model_type": "dinov2",
    "mlp_ratio": 2,
}
VIT_MAE = {
    "model_type": "vit_mae",
    **TINY,
    "mask_ratio": 0.5,
    "decoder_hidden_size": 16,
    "decoder_num_hidden_layers": 2,
    "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 24,
}
CONVNEXT = {
    "model_type": "convnext",
    "image_size": 16,
    "patch_size": 4,
    "num_stages": 2,
    "hidden_sizes": [16, 32],
    "depths": [1, 2],
    "layer_scale_init_value": 1.0,
}
RESNET = {
    "model_type": "resnet",
    "embedding_size": 8,
    "hidden_sizes": [16, 32],
    "depths": [1, 3],
}
SWIN = {
    "model_type": "swin",
    "image_size": 16,
    "patch_size": 2,
    "embed_dim": 16,
    "depths": [2, 2],
    "num_heads": [2, 4],
    "window_size": 4,
    "mlp_ratio": 2.0,
    "encoder_stride": 4,
}
SEGFORMER = {
    "model_type": "segformer",
    "num_encoder_blocks": 2,
    "depths": [1, 2],
    "sr_ratios": [2, 1],
    "hidden_sizes": [16, 32],
    "patch_sizes": [7, 3],
    "strides": [4, 2],
    "num_attention_heads": [2, 4],
    "mlp_ratios": [2, 2],
    "decoder_hidden_size": 24,
}
EFFICIENTNET = {
    "model_type": "efficientnet",
    "width_coefficient": 0.025,
    "depth_coefficient": 1.0,
    "depth_divisor": 8,
    "hidden_dim": 32,
    "kernel_sizes": [3, 5],
    "in_channels": [320, 640],
    "out_channels": [640, 320],
    "strides": [1, 2],
    "num_block_repeats": [1, 2],
    "expand_ratios": [1, 2],
    "depthwise_padding": [],
    "hidden_act": "swish",
}
VGG = {
    "model_type": "vgg",
    "hidden_sizes": [8, 16],
    "depths": [1, 2],
    "pool_size": 3,  # of a map of 4 × 4: windows that overlap
    "classifier_size": 24,
}
BEIT = {
    "model_type": "beit",
    **TINY,
    "vocab_size": 16,
    "use_mask_token": True,
    "use_relative_position_bias": True,
    "layer_scale_init_value": 1.0,
}
CLIP = {
    "model_type": "clip",
    "projection_dim": 24,
    "vision_config": {
        **{key: value for key, value in TINY.items() if "dropout" not in key},
        "attention_dropout": 0.1,
        "projection_dim": 24,
    },
    "text_config": {
        "vocab_size": 64,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "max_position_embeddings": 24,
        "eos_token_id": 63,
        "pad_token_id": 0,
        "attention_dropout": 0.1,
        "projection_dim": 24,
    },
}
VISION_ENCODER_DECODER = {  # of unequal widths
    "model_type": "vision-encoder-decoder",
    "encoder": VIT,
    "decoder": {
        "model_type": "gpt2",
        "vocab_size": 64,
        "n_embd": 16,
        "n_layer": 2,
        "n_head": 2,
        "n_inner": 48,
        "n_positions": 24,
        "is_decoder": True,
        "add_cross_attention": True,
        "use_cache": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    },
    "decoder_start_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
BERT_WRITES = {  # under a Swin
    "encoder": {**SWIN, "drop_path_rate": 0.1},
    "decoder": {
        "model_type": "bert",
        "vocab_size": 64,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 24,
        "max_position_embeddings": 24,
        "is_decoder": True,
        "add_cross_attention": True,
        "use_cache": False,
    },
}
LABELS = {str(i): name for i, name in enumerate(("no", "maybe", "yes"))}

# name -> (class, head, config); of most families one head is enough, among whose results the states are
CASES: dict[str, tuple[str, str | None, dict[str, Any]]] = {
    "vit": ("ViTModel", None, VIT),
    "vit-hidden": ("ViTForMaskedImageModeling", "masked-image-modeling", VIT),
    "deit-teacher": (
        "DeiTForImageClassificationWithTeacher",
        "image-classification-with-teacher",
        {**DEIT, "id2label": LABELS},
    ),
    "dinov2-classify": ("Dinov2ForImageClassification", "image-classification", {**DINOV2, "id2label": LABELS}),
    "convnext-classify": ("ConvNextForImageClassification", "image-classification", {**CONVNEXT, "id2label": LABELS}),
    "resnet-classify": ("ResNetForImageClassification", "image-classification", {**RESNET, "id2label": LABELS}),
    "swin-hidden": ("SwinForMaskedImageModeling", "masked-image-modeling", SWIN),
    "segformer-places": (
        "SegformerForSemanticSegmentation",
        "semantic-segmentation",
        {**SEGFORMER, "id2label": LABELS},
    ),
    "efficientnet-classify": (
        "EfficientNetForImageClassification",
        "image-classification",
        {**EFFICIENTNET, "id2label": LABELS},
    ),
    "beit-hidden": ("BeitForMaskedImageModeling", "masked-image-modeling", BEIT),
    "clip-contrast": ("CLIPModel", "zero-shot-image-classification", CLIP),
    "vision-encoder-decoder-words": ("VisionEncoderDecoderModel", "vision2seq", VISION_ENCODER_DECODER),
    "vit_mae-pretrain": ("ViTMAEForPreTraining", "pretraining", VIT_MAE),
}
# No loss reaches the token of hidden patches where none is hidden, nor CLIP's last norm from the mean of patches.
FIXED = ("embeddings.mask_token", "beit.embeddings.mask_token", "dinov2.embeddings.mask_token",
         "vision_model.post_layernorm.weight",
         "vision_model.post_layernorm.bias", "encoder.pooler.dense.weight", "encoder.pooler.dense.bias")  # fmt: skip
# model_type -> tables that are fixed, though PyTorch forgets it when it reads a file
STILL = {
    "vit_mae": ("embeddings.position_embeddings", "vit.embeddings.position_embeddings", "decoder.decoder_pos_embed")
}
MISNAMED = (
    "decoder.decoder_encoder.layer.",
    "decoder.decoder_layers.",
)  # as transformers 5 saves them; as they are published
FAMILIES = {config["model_type"] for _, _, config in CASES.values()} | {"vgg"}  # whose goldens `make_vgg` makes


def sample(
    config: dict[str, Any], head: str | None, batch: int | None = None, length: int = 0
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Images, channels last, three unless `batch` says otherwise, and what a head learns from them. Few digits, to be stored."""
    words = (
        texts(config, 3 if batch is None else batch)
        if "text_config" in config and head != "image-classification"
        else {}
    )
    if "decoder" in config:
        words = answers(config["decoder"], 3 if batch is None else batch)
    config = {**config, **config.get("vision_config", config.get("encoder", {}))}
    B, size = 3 if batch is None else batch, config.get("image_size", 16)
    shape = (B, size, size, config.get("num_channels", 3))
    given = {"pixel_values": ((integers("pixel_values", shape, 0, 33) - 16) / 32).astype(np.float32)}
    if head == "masked-image-modeling":
        given["bool_masked_pos"] = integers("bool_masked_pos", (B, (size // config["patch_size"]) ** 2), 0, 2)
    if "mask_ratio" in config:
        given["noise"] = (integers("noise", (B, (size // config["patch_size"]) ** 2), 0, 64) / 64).astype(np.float32)
    wanted = labels(config, head, B)
    if head == "masked-image-modeling" and config["model_type"] == "beit":
        hidden = given["bool_masked_pos"]
        wanted["labels"] = np.where(hidden > 0, integers("labels", hidden.shape, 0, config["vocab_size"]), -100)
    if head == "semantic-segmentation":
        wanted["labels"] = integers("labels", (B, size, size), 0, 4)
        wanted["labels"][wanted["labels"] == 3] = config.get("semantic_loss_ignore_index", 255)
    if head == "vision2seq":
        asked = words["decoder_attention_mask"] * integers("asked", words["decoder_input_ids"].shape, 0, 2)
        wanted["labels"] = np.where(asked > 0, integers("labels", asked.shape, 0, 64), -100)
    return words | given, wanted


def answers(config: dict[str, Any], batch: int) -> dict[str, np.ndarray]:
    """What a decoder reads, of five tokens and fewer."""
    lengths = 5 - np.arange(batch)[:, None] % 3
    return {
        "decoder_input_ids": integers("decoder_input_ids", (batch, 5), 3, config["vocab_size"]),
        "decoder_attention_mask": (np.arange(5) < lengths).astype(np.int32),
    }


def texts(config: dict[str, Any], batch: int) -> dict[str, np.ndarray]:
    """Texts of seven tokens and fewer, each with the one that ends it."""
    end = config["text_config"]["eos_token_id"]
    lengths = 7 - 2 * (np.arange(batch) % 3)[:, None]
    ids = integers("input_ids", (batch, 7), 1, end)
    return {
        "input_ids": np.where(np.arange(7) == lengths - 1, end, ids).astype(np.int32),
        "attention_mask": (np.arange(7) < lengths).astype(np.int32),
    }


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
    return {"return_loss": np.ones(1, np.int32)} if head == "zero-shot-image-classification" else {}
