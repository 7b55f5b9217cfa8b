"""The image pipelines on a tiny ViT: shapes, options, what counts as an image, and that batches do not change a result."""

import io
import json

import jax
import numpy as np
import pytest

import jaxformers as jf
from jaxformers.errors import InputError
from jaxformers.preprocess import ImageProcessor
from tests.goldens.make_images import picture

CONFIG = {"model_type": "vit", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24,
          "image_size": 16, "patch_size": 8, "initializer_range": 0.2,
          "id2label": {str(n): name for n, name in enumerate(("ant", "bee", "cat", "dog", "emu", "fox"))}}  # fmt: skip
IMAGES = [picture(*size) for size in ((20, 31), (16, 16), (9, 40), (1, 1), (33, 18), (24, 24))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny-vit")
    jf.save(jf.load(CONFIG, head="image-classification"), folder, ImageProcessor(size=16))
    return folder


@pytest.fixture(scope="module")
def classify(folder):
    return jf.pipeline("image-classification", folder)


@pytest.fixture(scope="module")
def extract(folder):
    return jf.pipeline("image-feature-extraction", folder)


def same(ours, theirs):
    assert [each["label"] for each in ours] == [each["label"] for each in theirs]
    np.testing.assert_allclose([each["score"] for each in ours], [each["score"] for each in theirs], atol=1e-5)


def test_one_image_gives_a_list_and_many_a_list_of_lists(classify):
    from PIL import Image

    one = classify(Image.fromarray(IMAGES[0]))
    assert [list(each) for each in one] == [["label", "score"]] * 5
    assert [each["score"] for each in one] == sorted((each["score"] for each in one), reverse=True)
    json.dumps(one)
    many = classify(IMAGES)
    for image, found in zip(IMAGES, many, strict=True):
        same(found, classify(image))
    assert classify([]) == []
    assert [len(each) for each in classify(iter(IMAGES), top_k=2)] == [2] * len(IMAGES)
    everything = classify(IMAGES[0], top_k=None)
    assert sum(each["score"] for each in everything) == pytest.approx(1, abs=1e-5)
    assert len(classify(IMAGES[0], top_k=99)) == 6
    assert classify.postprocess(classify.forward(classify.preprocess(IMAGES[0]))) == classify(IMAGES[0])
    logits = classify(IMAGES[0], function_to_apply="none", top_k=None)
    assert not 0.99 < sum(each["score"] for each in logits) < 1.01


def test_an_image_is_a_path_bytes_a_row_or_an_array(classify, tmp_path):
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(IMAGES[0]).save(file, "PNG")
    path = tmp_path / "picture.png"
    path.write_bytes(file.getvalue())
    expected = classify(IMAGES[0])
    for given in (path, str(path), file.getvalue(), Image.open(path), {"image": IMAGES[0], "label": 3}):
        same(classify(given), expected)
        same(classify([given])[0], expected)
    with pytest.raises(InputError, match=r"there is no file 'nowhere\.png' for input 1"):
        classify([path, "nowhere.png"])
    with pytest.raises(InputError, match="input 0 must be a path, a URL, bytes or a PIL image, found int"):
        classify([3])
    with pytest.raises(InputError, match=r"the input must be an image.*found None"):
        classify(None)
    with pytest.raises(InputError, match="top_k must be a positive int"):
        classify(path, top_k=0)


def test_the_task_is_decided_by_the_model(folder, classify, tmp_path):
    same(jf.pipeline(model=folder)(IMAGES[0]), classify(IMAGES[0]))
    bare = jf.load(CONFIG)
    with pytest.raises(InputError, match="a Model brings no image processor: give image_processor="):
        jf.pipeline(model=bare)
    found = jf.pipeline(model=bare, image_processor=folder)(IMAGES[0])
    assert np.shape(found) == (1, 5, 16)


def test_deit_s_two_heads_answer_together_where_its_config_names_them(tmp_path):
    config = {**CONFIG, "model_type": "deit"}
    model = jf.load(config, head="image-classification-with-teacher")
    jf.save(model, tmp_path, ImageProcessor(size=16))
    for classify in (jf.pipeline("image-classification", tmp_path), jf.pipeline(model=tmp_path)):
        assert classify.forward.params.keys() == model.params.keys()
    found = {each["label"]: each["score"] for each in classify(IMAGES[1], function_to_apply="none", top_k=None)}
    pixels = jf.load_image_processor(tmp_path)(IMAGES[1])["pixel_values"]
    logits = jax.jit(model.apply)(model.params, pixel_values=pixels).logits[0]
    np.testing.assert_allclose([found[label] for label in model.config.labels], logits, atol=1e-5)


def test_features_are_nested_lists(extract):
    one = extract(IMAGES[0])
    assert np.shape(one) == (1, 5, 16)
    many = extract(IMAGES[:3], return_tensors=True)
    assert [each.shape for each in many] == [(1, 5, 16)] * 3
    np.testing.assert_allclose(many[0], one, atol=1e-5)
    assert np.shape(extract(IMAGES[:2], pool=True)) == (2, 1, 16)


def test_images_of_unequal_size_are_computed_one_by_one(folder):
    whole = jf.pipeline("image-classification", folder, image_processor=ImageProcessor(do_resize=False))
    with pytest.raises(InputError, match=r"must have one size, found 16 × 16 and 20 × 31: give batch_size=1"):
        whole(IMAGES[:2])
    assert len(whole([IMAGES[1]], batch_size=1)) == 1
