"""The rows of the families that take images. Their configs are in `tests.goldens.pixels`."""

from tests.families.row import Row
from tests.goldens import pixels

TARGETS = {  # what an image is classified by; the same for every family
    "regression": (("image-classification",), {"problem_type": "regression", "id2label": {"0": "score"}}),
    "multi-label": (("image-classification",), {"problem_type": "multi_label_classification"}),
}
VIT = Row(
    family="vit",
    config=pixels.VIT,
    whole="masked-image-modeling",
    brief=True,
    lineage=True,
    variants={
        **TARGETS,
        "2 heads": ((None,), {"num_attention_heads": 2}),
        "relu": ((None,), {"hidden_act": "relu", "pooler_act": "relu", "pooler_output_size": 24}),
        "epsilon": ((None,), {"layer_norm_eps": 1e-2}),
        "no biases": ((None,), {"qkv_bias": False}),
        "grey images": (("masked-image-modeling",), {"num_channels": 1}),
        "small patches": (("masked-image-modeling",), {"patch_size": 4, "encoder_stride": 4}),
    },
)
DEIT = Row(
    family="deit",
    config=pixels.DEIT,
    whole="image-classification-with-teacher",
    brief=True,
    variants={**TARGETS},
)
DINOV2 = Row(
    family="dinov2",
    config=pixels.DINOV2,
    whole="image-classification",
    brief=True,
    variants={
        "gated": ((None,), {"use_swiglu_ffn": True}),
        "no mask token": ((None,), {"use_mask_token": False}),
        "positions of larger images": (("image-classification",), {"image_size": 32}),
        "no biases": ((None,), {"qkv_bias": False, "layer_norm_eps": 1e-2}),
    },
)
VIT_MAE = Row(
    family="vit_mae",
    config=pixels.VIT_MAE,
    whole="pretraining",
    brief=True,
    variants={
        "normalised pixels": (("pretraining",), {"norm_pix_loss": True}),
        "most are hidden": (("pretraining",), {"mask_ratio": 0.75}),
        "no biases": (("pretraining",), {"qkv_bias": False, "layer_norm_eps": 1e-2}),
    },
)
CONVNEXT = Row(
    family="convnext",
    config=pixels.CONVNEXT,
    whole="image-classification",
    brief=True,
    variants={
        "no scale": ((None,), {"layer_scale_init_value": 0.0}),
        "epsilon": ((None,), {"layer_norm_eps": 1e-2, "hidden_act": "relu"}),
    },
)
CLIP = Row(
    family="clip",
    config=pixels.CLIP,
    whole="zero-shot-image-classification",
    without=("text-features", "image-features"),  # which PyTorch has as methods
    brief=True,
    variants={
        "an end that is the highest": (
            (None,),
            {"text_config": {**pixels.CLIP["text_config"], "eos_token_id": 2}},  # type: ignore[dict-item]
        ),
    },
)
RESNET = Row(
    family="resnet",
    config=pixels.RESNET,
    whole="image-classification",
    brief=True,
    variants={
        "basic": (
            (None, "image-classification"),
            {"layer_type": "basic", "depths": [1, 2], "hidden_sizes": [8, 8]},  # narrow, for what is added grows
        ),
        "halves early": ((None,), {"downsample_in_first_stage": True, "downsample_in_bottleneck": True}),
    },
)
SWIN = Row(
    family="swin",
    config=pixels.SWIN,
    whole="masked-image-modeling",
    brief=True,
    variants={
        "windows that do not divide": ((None,), {"window_size": 3}),
        "positions": ((None,), {"use_absolute_embeddings": True}),
        "epsilon": ((None,), {"layer_norm_eps": 1e-2, "hidden_act": "relu", "qkv_bias": False}),
    },
)
SEGFORMER = Row(
    family="segformer",
    config=pixels.SEGFORMER,
    whole="semantic-segmentation",
    brief=True,
    variants={
        "another number to ignore": (("semantic-segmentation",), {"semantic_loss_ignore_index": 0}),
        "one class": (("semantic-segmentation",), {"id2label": {"0": "it"}}),
        "relu": ((None,), {"hidden_act": "relu"}),
    },
)
EFFICIENTNET = Row(
    family="efficientnet",
    config=pixels.EFFICIENTNET,
    whole="image-classification",
    brief=True,
    variants={
        "padded on both sides": ((None,), {"depthwise_padding": [1], "pooling_type": "max"}),
        "deeper": (("image-classification",), {"depth_coefficient": 1.5}),
    },
)
BEIT = Row(
    family="beit",
    config=pixels.BEIT,
    whole="masked-image-modeling",
    brief=True,
    variants={
        "one table for all layers": (
            (None,),
            {"use_shared_relative_position_bias": True, "use_relative_position_bias": False, "use_mask_token": False},
        ),
        "positions": (
            (None, "image-classification"),
            {"use_absolute_position_embeddings": True, "use_mean_pooling": False, "layer_scale_init_value": 0.0},
        ),
    },
)
VISION_ENCODER_DECODER = Row(
    family="vision-encoder-decoder",
    config=pixels.VISION_ENCODER_DECODER,
    whole="vision2seq",
    without=(None,),  # which transformers has not
    brief=True,
    variants={"a Swin and a BERT": (("vision2seq",), pixels.BERT_WRITES)},
)
VGG = Row(  # transformers has none: parity is with a module of PyTorch's own, in test_vgg
    family="vgg", config=pixels.VGG, whole="image-classification", brief=True, variants={}
)
ROWS = (VIT, DEIT, DINOV2, VIT_MAE, CONVNEXT, CLIP, RESNET, SWIN, SEGFORMER, EFFICIENTNET, BEIT, VISION_ENCODER_DECODER)
