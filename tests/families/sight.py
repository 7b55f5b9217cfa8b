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
ROWS = (VIT,)
