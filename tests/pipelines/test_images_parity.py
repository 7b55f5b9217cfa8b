"""Image pipelines beside transformers' own over the same checkpoint: all equal, scores and states to 1e-4."""

import numpy as np
import pytest

import jaxformers as jf
from jaxformers.preprocess import ImageProcessor
from tests.goldens.make_images import picture
from tests.pipelines.conftest import plain, same

transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")
pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("default")]

SIZES = ((20, 31), (16, 16), (9, 40), (33, 18))


@pytest.fixture(scope="module")
def images():
    from PIL import Image

    clear = Image.fromarray(np.dstack([picture(20, 20), picture(20, 20)[..., 1]]))
    return [*(Image.fromarray(picture(*size)) for size in SIZES), Image.fromarray(picture(20, 31)[..., 0]), clear]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny-vit")
    config = {"model_type": "vit", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 16,
              "intermediate_size": 48, "patch_size": 8, "initializer_range": 0.2,
              "id2label": {str(n): f"kind {n}" for n in range(7)}}  # fmt: skip
    jf.save(jf.load(config, head="image-classification"), folder, ImageProcessor(size=16, resample=3))
    return folder


def pair(task, folder, **options):
    return jf.pipeline(task, folder), transformers.pipeline(task, str(folder), device="cpu", **options)


def test_image_classification(folder, images):
    ours, theirs = pair("image-classification", folder)
    for given in (images, images[0]):
        for options in ({}, {"top_k": 3}, {"top_k": 9, "function_to_apply": "sigmoid"}, {"function_to_apply": "none"}):
            same(ours(given, **options), plain(theirs(given, **options)))


def test_image_feature_extraction(folder, images):
    ours, theirs = pair("image-feature-extraction", folder)
    for given in (images[:2], images[0]):
        same(ours(given), theirs(given))
    tensors = theirs(images[0], return_tensors=True)
    np.testing.assert_allclose(ours(images[0], return_tensors=True), tensors.numpy(), atol=1e-4)
    model = jf.load(folder)  # the pooler is drawn anew: both must have the same
    jf.save(model, folder / "bare", ImageProcessor(size=16, resample=3))
    ours, theirs = pair("image-feature-extraction", folder / "bare")
    same(ours(images, pool=True), theirs(images, pool=True))
