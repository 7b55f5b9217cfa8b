"""DeiT (Touvron et al. 2020, arXiv:2012.12877): ViT with a second token, which learns from a teacher and answers too."""

import dataclasses
from functools import partial
from typing import Any

import jax

from jaxformers.core import heads
from jaxformers.core.layers import linear
from jaxformers.core.outputs import Output
from jaxformers.core.params import Tree
from jaxformers.families import vit
from jaxformers.families.config import keys_of, read_config, write_config
from jaxformers.families.model import Family, Forward, class_names
from jaxformers.families.vision_encoder import INPUTS, classify_first, declare_classifier, encode, reconstruct


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeiTConfig(vit.ViTConfig):
    """DeiT's numbers; the defaults are those of deit-base-distilled-patch16-224."""


KEYS = keys_of(DeiTConfig)
config_from_hf = partial(read_config, DeiTConfig, KEYS, {}, {})
config_to_hf = partial(write_config, KEYS, "deit")
WITH_TEACHER = "image-classification-with-teacher"


def declare(config: DeiTConfig, head: str | None = None) -> Tree:
    """Every parameter of DeiT with `head`: shape, axes, initialiser, checkpoint name and layout."""
    tree = vit.declare(config, head, at="deit.", first=("class", "distillation"))
    if head == WITH_TEACHER:
        for token, name in (("class", "cls_classifier"), ("distillation", "distillation_classifier")):
            tree[f"{token}_classifier"] = declare_classifier(config, config.hidden_size, name)
    return tree


def classify_twice(params: Tree, trunk: Output, config: Any, rng: jax.Array | None) -> dict[str, Any]:
    """What each of the two tokens says, and their mean as `logits` [B, C]."""
    assert trunk.last_hidden_state is not None
    first_BC = linear(params["class_classifier"], trunk.last_hidden_state[:, 0])
    second_BC = linear(params["distillation_classifier"], trunk.last_hidden_state[:, 1])
    return {"logits": (first_BC + second_BC) / 2, "cls_logits": first_BC, "distillation_logits": second_BC}


HEADS: dict[str | None, Forward] = {
    None: encode,
    "image-classification": heads.attach(encode, classify_first),
    WITH_TEACHER: heads.attach(encode, classify_twice),
    "masked-image-modeling": heads.attach(encode, reconstruct(first=2)),
}

FAMILY = Family(
    name="deit",
    config_class=DeiTConfig,
    config_from_hf=config_from_hf,
    config_to_hf=config_to_hf,
    config_keys=KEYS,
    declare=declare,
    heads=HEADS,
    architectures=class_names("DeiT", HEADS),
    prefix="deit.",
    trunk=("embeddings", "layers", "final_norm"),
    inputs=INPUTS,
)
