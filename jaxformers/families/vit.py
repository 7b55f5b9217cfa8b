"""ViT (Dosovitskiy et al. 2020, arXiv:2010.11929): patches of an image as tokens of a pre-norm encoder, with learned positions.

The first of its line: what its descendants share with it is `families.vision_encoder`, where its forward pass stands too. Here
are its names and its heads; that which draws hidden patches is SimMIM's (Xie et al. 2021, arXiv:2111.09886).
"""

import dataclasses
from functools import partial

from jaxformers.core import heads
from jaxformers.core.layers import declare_linear, declare_norm
from jaxformers.core.params import Tree, normal, stacked
from jaxformers.core.transformer import declare_post_norm
from jaxformers.families.config import keys_of, read_config, write_config
from jaxformers.families.model import Family, Forward, class_names
from jaxformers.families.vision_encoder import (
    INPUTS,
    VisionConfig,
    block_names,
    classify_first,
    declare_classifier,
    declare_embeddings,
    declare_reconstruction,
    encode,
    reconstruct,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ViTConfig(VisionConfig):
    """ViT's numbers; the defaults are those of vit-base-patch16-224."""

    encoder_stride: int = 16
    pooler_output_size: int | None = None  # filled in: the width
    pooler_act: str = "tanh"

    def __post_init__(self) -> None:
        if self.pooler_output_size is None:
            object.__setattr__(self, "pooler_output_size", self.hidden_size)
        super().__post_init__()


KEYS = keys_of(ViTConfig)
config_from_hf = partial(read_config, ViTConfig, KEYS, {}, {})
config_to_hf = partial(write_config, KEYS, "vit")


def declare(config: ViTConfig, head: str | None = None, at: str = "vit.", first: tuple[str, ...] = ("class",)) -> Tree:
    """Every parameter of ViT with `head`: shape, axes, initialiser, checkpoint name (after `at`) and layout; `first` are the
    tokens before the patches."""
    D, init = config.hidden_size, normal(config.initializer_range)
    block = declare_post_norm(config, block_names(at + "encoder.layer.{}."), init, config.qkv_bias)
    tree: Tree = {
        "embeddings": declare_embeddings(config, at + "embeddings.", first),
        "layers": stacked(config.num_hidden_layers, block),
        "final_norm": declare_norm(D, at + "layernorm"),
    }
    if head is None:
        assert config.pooler_output_size is not None
        tree["pooler"] = declare_linear(D, config.pooler_output_size, at + "pooler.dense", init, ("embed", "mlp"))
    if head == "image-classification":
        tree["classifier"] = declare_classifier(config, D)
    if head == "masked-image-modeling":
        tree |= declare_reconstruction(config, at + "embeddings.mask_token")
    return tree


HEADS: dict[str | None, Forward] = {
    None: encode,
    "image-classification": heads.attach(encode, classify_first),
    "masked-image-modeling": heads.attach(encode, reconstruct()),
}

FAMILY = Family(
    name="vit",
    config_class=ViTConfig,
    config_from_hf=config_from_hf,
    config_to_hf=config_to_hf,
    config_keys=KEYS,
    declare=declare,
    heads=HEADS,
    architectures=class_names("ViT", HEADS),
    prefix="vit.",
    trunk=("embeddings", "layers", "final_norm"),
    inputs=INPUTS,
)
