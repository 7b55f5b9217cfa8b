"""VGG: PyTorch's module in torchvision's and timm's layout computes what we do, both ways; timm's config.json, and its names."""

import dataclasses
import json
from functools import partial

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import jaxformers as jf
from jaxformers.checkpoints.load import describe, outline
from jaxformers.checkpoints.mapping import expected
from jaxformers.core.layers import conv
from jaxformers.errors import ConfigError
from jaxformers.families import head_of
from tests.families.sight import EFFICIENTNET, VGG
from tests.families.table import assert_same, results, sample, strong
from tests.goldens import make_vgg
from tests.goldens.make_goldens import LABELS, parameters_of, torch_results

TIMM = {
    "architecture": "vgg11_bn",
    "num_classes": 3,
    "num_features": 4096,
    "pretrained_cfg": {"input_size": [3, 224, 224], "interpolation": "bilinear", "crop_pct": 0.875},
}
VARIANTS = {
    "torchvision": (None, {}),
    "timm, larger maps": ("image-classification", {"weight_names": "timm"}),
    "norms": ("image-classification", {"batch_norm": True}),
}


@pytest.mark.parity
@pytest.mark.parametrize("name", VARIANTS)
def test_pytorch_computes_the_same_both_ways(name, tmp_path):
    pytest.importorskip("torch").set_num_threads(1)
    head, changes = VARIANTS[name]
    config = {**VGG.config, **changes, "id2label": LABELS}
    theirs = make_vgg.torch_model(head, config)
    named = {key: tensor.detach().numpy() for key, tensor in parameters_of(theirs).items()}
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file(named, tmp_path / "model.safetensors")
    ours = jf.load(tmp_path, head)
    assert_same(results(ours, *sample(config, head)), torch_results(theirs, *sample(config, head)))
    jf.save(ours, tmp_path / "ours")
    saved = load_file(tmp_path / "ours" / "model.safetensors")
    assert saved.keys() == named.keys()
    assert all(np.array_equal(saved[key], named[key]) for key in saved)


def test_what_timm_s_config_says(tmp_path):
    family, config = describe(TIMM, "image-classification")
    assert (family.name, head_of(TIMM, "here")) == ("vgg", "image-classification")
    assert (config.depths, config.batch_norm, config.num_labels) == ((1, 1, 2, 2, 2), True, 3)
    assert describe(TIMM | {"architecture": "vgg19"}, num_labels=5)[1].num_labels == 5
    with pytest.raises(ConfigError, match=r"architecture must be one of vgg11, vgg11_bn, .*found 'vgg12'"):
        describe(TIMM | {"architecture": "vgg12"})
    with pytest.raises(ConfigError, match="config has no model_type; supported: albert"):
        describe(TIMM | {"architecture": "no_such_net"})
    with pytest.raises(ConfigError, match="weight_names must be one of torchvision, timm, found 'mine'"):
        describe(TIMM | {"weight_names": "mine"})
    tiny = TIMM | {"hidden_sizes": [4] * 5, "classifier_size": 8, "pool_size": 1}
    model = jf.load(tiny, "image-classification")
    jf.save(model, tmp_path)
    assert "pre_logits.fc1.weight" in load_file(tmp_path / "model.safetensors")
    assert jf.load(tmp_path, "image-classification").config == model.config
    assert jf.load_image_processor(tmp_path).size == {"shortest_edge": 256}


def test_training_drops_what_is_wide_and_renews_statistics():
    model = strong(VGG, None)
    given = sample(VGG.config, None)[0]
    run = jax.jit(jax.vmap(lambda key: model.apply(model.params, **given, rng=key).pooler_output))
    once, other = run(jax.random.split(jax.random.key(1)))
    assert np.abs(once - other).max() > 0.1
    normed = outline(VGG.config | {"batch_norm": True})
    asked = {"rng": jax.random.key(1)}
    trained, read = (jax.eval_shape(partial(normed.apply, **more), normed.params, **given) for more in (asked, {}))
    assert read.new_stats is None
    assert jax.tree.structure(trained.new_stats) == jax.tree.structure(normed.params["stats"])


@pytest.mark.parametrize(
    ("raw", "number"),
    [  # of timm 1.0.31 and torchvision 0.28
        ({"architecture": "vgg16"}, 4019334923),
        ({"architecture": "vgg11_bn"}, 3376567967),
        ({"architecture": "efficientnet_b0"}, 1720117669),
        ({"architecture": "tf_efficientnet_b3"}, 1243298185),
        ({"model_type": "vgg", "architecture": "vgg16"}, 627474769),
        ({"model_type": "vgg", "architecture": "vgg11_bn"}, 3432830454),
        ({"model_type": "efficientnet", "architecture": "efficientnet_b0", "weight_names": "torchvision"}, 299604180),
        ({"model_type": "efficientnet", "architecture": "efficientnet_b3", "weight_names": "torchvision"}, 4276674894),
    ],
)
def test_names_and_shapes_are_those_of_timm_and_torchvision(raw, number):
    family, config = describe(raw | {"num_classes": 1000})
    declared = expected(family.declare(config, "image-classification"))
    assert make_vgg.fingerprint({name: shape for name, _, shape in declared}) == number


def test_an_efficientnet_of_pytorch_s_own_begins_with_zeros_at_both_ends():
    model = strong(EFFICIENTNET, None)
    model = dataclasses.replace(model, config=model.config.replace(pad_evenly=True))
    norm, stats = model.params["first"]["norm"], model.params["stats"]["first"]
    given = sample(EFFICIENTNET.config, None)[0]
    run = jax.jit(lambda params: model.apply(params, **given, output_hidden_states=True).hidden_states[0])
    y = conv(model.params["first"]["conv"], given["pixel_values"], 2, 1)
    y = (y - stats["mean"][None, None, None]) / np.sqrt(stats["variance"] + 1e-3)[None, None, None]
    states = jax.nn.silu(y * norm["scale"][None, None, None] + norm["bias"][None, None, None])
    np.testing.assert_allclose(run(model.params), states, atol=1e-5)
