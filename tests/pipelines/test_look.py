"""Looks inside a model: what is kept of a text and of an image, the pictures, the file, the commands."""

import dataclasses
import json

import numpy as np
import pytest
from safetensors import safe_open

import jaxformers as jf
from jaxformers.cli import main
from jaxformers.pipelines.look import Look

VIT = {"model_type": "vit", "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
       "image_size": 16, "patch_size": 8, "initializer_range": 0.2}  # fmt: skip


@pytest.fixture(scope="module")
def seen(tagger, tokenizer):
    """Of a model of two layers with two heads."""
    return jf.look(tagger, tokenizer, "the small cat", "a dog")


def test_what_is_kept_is_what_the_model_computes(seen, tagger, tokenizer):
    assert seen.tokens == ("[CLS]", "the", "small", "cat", "[SEP]", "a", "dog", "[SEP]")
    inputs = tokenizer("the small cat", "a dog", return_tensors="np")
    output = tagger.apply(tagger.params, **inputs, output_hidden_states=True, output_attentions=True)
    np.testing.assert_allclose(seen.hidden_states, np.concatenate(output.hidden_states), atol=1e-6)
    np.testing.assert_allclose(seen.attentions, np.concatenate(output.attentions), atol=1e-6)
    np.testing.assert_allclose(seen.attention().sum(-1), 1, atol=1e-5)
    assert (seen.attention(0, 1) == seen.attentions[0, 1]).all()
    np.testing.assert_allclose(seen.attention(-1), seen.attentions[1].mean(0))
    for wrong in ({"layer": 2}, {"layer": -3}, {"head": 2}):
        with pytest.raises(jf.InputError, match="there are 2 layers of 2 heads"):
            seen.attention(**wrong)


def test_a_heat_map_is_a_picture_of_the_weights(seen, tmp_path):
    from matplotlib import colormaps
    from matplotlib.image import imread

    weights = np.eye(8, dtype=np.float32)
    drawn = dataclasses.replace(seen, attentions=np.broadcast_to(weights, (2, 2, 8, 8)))
    drawn.heat_map(tmp_path / "map.png")
    pixels = (imread(tmp_path / "map.png")[..., :3] * 255).round().astype(int)
    bright, dark = ((np.array(colormaps["viridis"](n)[:3]) * 255).round().astype(int) for n in (1.0, 0.0))
    counts = [(abs(pixels - colour) <= 2).all(-1).sum() for colour in (bright, dark)]
    assert counts[0] * 6 < counts[1] < counts[0] * 8, "eight squares of sixty-four are bright"


def test_the_file_holds_states_weights_and_tokens(seen, tmp_path):
    seen.save(tmp_path / "states.safetensors")
    with safe_open(tmp_path / "states.safetensors", "np") as file:
        assert tuple(json.loads(file.metadata()["tokens"])) == seen.tokens
        assert (file.get_tensor("hidden_states") == seen.hidden_states).all()
        assert (file.get_tensor("attentions") == seen.attentions).all()


def test_an_overlay_is_red_where_the_first_token_looks(tmp_path):
    from PIL import Image

    attentions = np.zeros((1, 1, 5, 5), np.float32)
    attentions[0, 0, 0, 2] = 1  # patch 0,1 after one token of the model's own
    grey = np.full((16, 16, 3), 0.5)
    look = Look(("<0>", "0,0", "0,1", "1,0", "1,1"), np.zeros((2, 5, 4)), attentions, grey, (2, 2))
    look.overlay(tmp_path / "over.png")
    picture = np.asarray(Image.open(tmp_path / "over.png")).astype(int)
    red = picture[..., 0] - picture[..., 2]
    assert red[:4, -4:].min() > 150
    assert red[-4:, :4].max() == 0
    np.testing.assert_array_equal(look.rollout()[0], [0.5, 0, 0.5, 0, 0])
    twice = dataclasses.replace(look, attentions=np.concatenate((attentions, attentions)))
    np.testing.assert_array_equal(twice.rollout()[0], [0.25, 0, 0.5, 0, 0])
    twice.overlay(tmp_path / "all.png", layer=None)
    assert (np.asarray(Image.open(tmp_path / "all.png")) == picture).all()


def test_an_image_is_seen_in_patches():
    model = jf.load(VIT)

    def processor(image):
        return {"pixel_values": image[None]}

    image = np.random.default_rng(0).normal(size=(16, 16, 3)).astype(np.float32)
    seen = jf.look(model, processor, image)
    assert seen.tokens == ("<0>", "0,0", "0,1", "1,0", "1,1")
    assert seen.grid == (2, 2)
    assert (seen.image.min(), seen.image.max()) == (0, 1)
    assert seen.attentions.shape == (2, 2, 5, 5)


def test_what_cannot_be_looked_at_is_named(seen, tmp_path):
    with pytest.raises(jf.InputError, match="an overlay needs an image, and this is a look at a text"):
        seen.overlay(tmp_path / "over.png")


def test_the_commands(tagger_folder, tmp_path, capsys):
    words = ["look", str(tagger_folder), "the small cat", "--heat-map", str(tmp_path / "map.png"), "--layer", "0"]
    assert main([*words, "--states", str(tmp_path / "states.safetensors")]) == 0
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "states.safetensors").is_file()
    assert main(["look", str(tagger_folder), "a cat"]) == 2
    assert "say what to write" in capsys.readouterr().err
    assert main(["look", str(tagger_folder), "--heat-map", "x.png"]) == 2
    assert "give a text, the two texts of a pair, or --image" in capsys.readouterr().err
    assert main(["summary", str(tagger_folder)]) == 0
    said = capsys.readouterr().out
    assert said.startswith("BertForTokenClassification (bert, token-classification)\n")
    assert said == jf.summary(jf.load(tagger_folder, head="token-classification")) + "\n"
