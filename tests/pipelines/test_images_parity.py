"""Image pipelines beside transformers' own over the same checkpoint: all equal, scores and states to 1e-4."""

import json

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


def test_zero_shot_image_classification(tmp_path, images):
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    tokenizer = CLIPTokenizer.from_pretrained(write_clip_tokenizer(tmp_path))
    text = {**size, "vocab_size": len(tokenizer), "max_position_embeddings": 40, "eos_token_id": tokenizer.eos_token_id,
            "bos_token_id": tokenizer.bos_token_id, "pad_token_id": tokenizer.pad_token_id}  # fmt: skip
    torch.manual_seed(0)
    model = CLIPModel(
        CLIPConfig(text_config=text, vision_config={**size, "image_size": 16, "patch_size": 8}, projection_dim=12)
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.2)
        model.logit_scale.fill_(1.0)
    model.save_pretrained(tmp_path / "clip")
    tokenizer.save_pretrained(tmp_path / "clip")
    CLIPImageProcessor(size={"shortest_edge": 16}, crop_size=16).save_pretrained(tmp_path / "clip")
    ours, theirs = pair("zero-shot-image-classification", tmp_path / "clip")
    labels = ["a disc", "some squares and a disc", "squares"]
    for given in (images, images[0]):
        for options in ({}, {"hypothesis_template": "a disc and {}"}):
            expected = theirs(given, candidate_labels=labels, **options)
            same(ours(given, candidate_labels=labels, **options), plain(expected))
    same(ours(images[0], candidate_labels="squares"), theirs(images[0], candidate_labels=["squares"]))
    with pytest.raises(jf.InputError, match="candidate_labels must be texts"):
        ours(images[0])
    with pytest.raises(jf.InputError, match="must have a place"):
        ours(images[0], candidate_labels=labels, hypothesis_template="a disc")


def test_image_segmentation(tmp_path, images):
    from transformers import SegformerConfig, SegformerForSemanticSegmentation, SegformerImageProcessor

    config = SegformerConfig(num_encoder_blocks=4, depths=[1] * 4, hidden_sizes=[8, 8, 16, 16], num_attention_heads=[1, 1, 2, 2],
                             decoder_hidden_size=16, id2label={n: f"kind {n}" for n in range(5)})  # fmt: skip
    torch.manual_seed(0)
    model = SegformerForSemanticSegmentation(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.5)
        model.decode_head.classifier.bias.zero_()  # else one class is everywhere
    model.save_pretrained(tmp_path)
    SegformerImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    ours, theirs = pair("image-segmentation", tmp_path)
    kinds = set()
    for image in images:
        found, expected = ours(image), theirs(image)
        assert [(each["score"], each["label"]) for each in found] == [
            (each["score"], each["label"]) for each in expected
        ]
        for one, other in zip(found, expected, strict=True):
            assert one["mask"].mode == other["mask"].mode
            np.testing.assert_array_equal(np.asarray(one["mask"]), np.asarray(other["mask"]))
        kinds |= {each["label"] for each in found}
    assert len(kinds) > 1
    assert [len(each) for each in ours(images)] == [len(ours(image)) for image in images]
    with pytest.raises(jf.InputError, match="subtask must be 'semantic' or None"):
        ours(images[0], subtask="panoptic")


def write_clip_tokenizer(folder):
    """CLIP's tokenizer in small."""
    letters = [*map(chr, range(97, 123)), *(f"{chr(code)}</w>" for code in range(97, 123))]
    pieces = [*letters, "di", "dis", "disc</w>", ".</w>", ".", "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({piece: number for number, piece in enumerate(pieces)}))
    (folder / "merges.txt").write_text("#version: 0.2\nd i\ndi s\ndis c</w>\n")
    return folder
