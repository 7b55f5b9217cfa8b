"""The experiments of images, each run `--tiny` once: what they leave works in its pipeline, and the picture is there."""

import json
import math

import jax
import numpy as np
import pytest

import jaxformers as jf
from experiments import clip, mae, segmentation, transfer_learning
from experiments.launch import parse
from jaxformers.data import Table
from jaxformers.errors import DataError, InputError
from jaxformers.train import EvalPrediction

pytestmark = pytest.mark.usefixtures("one_device")


def same(some, others):
    jax.tree.map(np.testing.assert_array_equal, some, others)


def tiny_run(module, folder, *told):
    config = parse(module.Config, ["--tiny", "--disable-tqdm", "--output-dir", str(folder)], "", module.__name__)
    metrics = module.run(config)
    assert all(math.isfinite(metrics[each]) for each in told)
    results = json.loads((folder / "all_results.json").read_text())
    assert "bundled with jaxformers (not " in results["dataset"]
    assert all(results[each] == metrics[each] for each in told)
    return config


def size_of(path):
    from PIL import Image

    with Image.open(path) as image:
        return image.size


def test_mae_leaves_a_picture_and_an_encoder(tmp_path):
    tiny_run(mae, tmp_path, "eval_loss")
    assert size_of(tmp_path / "reconstructions.png") == (8 * 96, 3 * 96)
    whole, encoder = jf.load(tmp_path, "pretraining"), jf.load(tmp_path / "encoder")
    assert (whole.config.mask_ratio, encoder.family.name) == (0.75, "vit")
    for name in encoder.family.trunk:
        same(encoder.params[name], whole.params[name])
    pixels = np.zeros((1, 24, 24, 3), np.float32)
    assert encoder.apply(encoder.params, pixel_values=pixels).last_hidden_state.shape == (1, 37, 32)


def test_clip_leaves_a_model_for_the_zero_shot_pipeline(tmp_path):
    tiny_run(clip, tmp_path, "eval_zero_shot_accuracy", "eval_loss")
    labels = ["a red circle on green", "a blue ring on white"]
    said = jf.pipeline("zero-shot-image-classification", tmp_path)(
        np.zeros((24, 24, 3), np.uint8), candidate_labels=labels
    )
    assert sorted(each["label"] for each in said) == sorted(labels)
    assert jf.load(tmp_path).config.text.eos_token_id == jf.load_tokenizer(tmp_path).sep_token_id


def test_segmentation_leaves_a_model_for_its_pipeline(tmp_path):
    tiny_run(segmentation, tmp_path, "eval_mean_iou", "eval_overall_accuracy")
    assert size_of(tmp_path / "segmentation.png") == (8 * 96, 3 * 96)
    found = jf.pipeline("image-segmentation", tmp_path)(np.zeros((40, 30, 3), np.uint8))
    assert {each["label"] for each in found} <= {"ground", *segmentation.SHAPES}
    assert sum(np.asarray(each["mask"]) == 255 for each in found).tolist() == np.ones((40, 30)).tolist()


def test_transfer_learning_tells_of_both_ways(tmp_path, capsys):
    tiny_run(transfer_learning, tmp_path, "eval_accuracy", "frozen_accuracy", "frozen_f1")
    assert "frozen features, linear classifier" in capsys.readouterr().out
    known, frozen, tuned = (jf.load(tmp_path / name, "image-classification") for name in ("pretrained", "frozen", "."))
    assert (known.config.labels, frozen.config.labels) == (transfer_learning.KNOWN[:3], tuned.config.labels)
    same(frozen.params["layers"], known.params["layers"])
    seen = transfer_learning.reader(tmp_path / "pretrained", 0)
    pixels = np.random.default_rng(0).normal(size=(2, 24, 24, 3)).astype(np.float32)
    features_BD = jax.jit(seen.apply)(seen.params, pixel_values=pixels).logits
    for model in (known, frozen):
        layer = model.params["classifier"]
        logits_BC = jax.jit(model.apply)(model.params, pixel_values=pixels).logits
        np.testing.assert_allclose(features_BD @ layer["kernel"] + layer["bias"][None], logits_BC, atol=1e-5)
    with pytest.raises(InputError, match="both ways"):
        transfer_learning.run(parse(transfer_learning.Config, ["--freeze"], "", "transfer_learning"))


# -- transfer learning -------------------------------------------------------------------------------------------------


def test_a_linear_classifier_is_the_best_there_is():
    generator = np.random.default_rng(0)
    x_ND = generator.normal(3, [[1, 5, 0.1, 1]], (60, 4)).astype(np.float32)
    labels_N = (x_ND[:, 0] + generator.normal(0, 0.5, 60) > 3).astype(np.int32) + (x_ND[:, 1] > 6)
    layer = transfer_learning.linear_classifier(x_ND, labels_N, 3, penalty=0.01)
    z_ND = (x_ND - x_ND.mean(0)) / x_ND.std(0)
    kernel_DC = layer["kernel"] * x_ND.std(0)[:, None]  # as it is for features of deviation 1
    logits_NC = x_ND @ layer["kernel"] + layer["bias"]
    share_NC = np.exp(logits_NC) / np.exp(logits_NC).sum(1, keepdims=True)
    slope_DC = z_ND.T @ (share_NC - np.eye(3)[labels_N]) / 60 + 2 * 0.01 * kernel_DC
    assert np.abs(slope_DC).max() < 1e-4


# -- CLIP --------------------------------------------------------------------------------------------------------------


def test_pairs_as_people_have_them(tmp_path):
    config = parse(clip.Config, ["--template", "it is {}"], "", "clip")
    for split, name in (("train", "captions.jsonl"), ("val", "metadata.csv")):
        (tmp_path / split).mkdir()
        rows = [{"file_name": f"{n}.png", "text": f"{split} {n}"} for n in range(2)]
        for row in rows:
            (tmp_path / split / row["file_name"]).touch()
        lines = [json.dumps(row) for row in rows]
        lines = lines if name.endswith("l") else ["file_name,text", *(",".join(row.values()) for row in rows)]
        (tmp_path / split / name).write_text("\n".join(lines) + "\n")
    for place, splits in ((tmp_path, {"train": "train", "validation": "val"}), (tmp_path / "train", {"train": "train"}),
                          (tmp_path / "train" / "captions.jsonl", {"train": "train"})):  # fmt: skip
        found = clip.read(clip.open_pairs(str(place), config), config)
        assert {split: {*zip(table["image"], table["caption"], strict=True)} for split, table in found.items()} == {
            split: {(str(tmp_path / part / f"{n}.png"), f"{part} {n}") for n in range(2)}
            for split, part in splits.items()
        }
    classes = clip.read({"train": Table({"image": ["a"], "label": ["cats"]})}, config)["train"]
    assert classes["caption"] == ["it is cats"]
    several = clip.read({"train": Table({"img": ["a"], "captions": [["one", "two"]]})}, config)["train"]
    assert several["caption"] == ["one"]
    with pytest.raises(DataError, match="the caption of row 0 of pairs must be a text, found None"):
        clip.read({"train": Table({"image": ["a"], "caption": [None]}, "pairs")}, config)
    with pytest.raises(InputError, match="template must have a place"):
        clip.read(found, config.replace(template="cats"))


def test_an_image_is_right_where_its_own_of_all_captions_is_nearest():
    texts_NE = np.array([[1, 0], [0, 1], [1, 0]], np.float32)
    images_NE = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3]], np.float32)
    scores = clip.zero_shot(EvalPrediction((texts_NE, images_NE), np.array([4, 7, 4])))
    assert scores == {"zero_shot_accuracy": pytest.approx(2 / 3)}


# -- segmentation ------------------------------------------------------------------------------------------------------


def test_classes_have_the_names_of_the_flag_the_folder_or_their_numbers(tmp_path):
    config = parse(segmentation.Config, ["--data", str(tmp_path)], "", "segmentation")
    processor = segmentation.learn([np.zeros((8, 8, 3), np.uint8)])
    train = Table({"annotation": [np.array([[0, 255], [2, 0]], np.uint8)]}, "scenes")
    assert segmentation.class_names(train, processor, config) == ["0", "1", "2"]
    assert segmentation.class_names(train, processor.replace(do_reduce_labels=True), config) == ["0", "1"]
    (tmp_path / "classes.txt").write_text("sky\nsea\nsand\n")
    assert segmentation.class_names(train, processor, config) == ["sky", "sea", "sand"]
    with pytest.raises(DataError, match="the maps of scenes have the class 2, and there are names for 0 to 1"):
        segmentation.class_names(train, processor, config.replace(classes=("sky", "sea")))
    nothing = Table({"annotation": [np.full((2, 2), 255, np.uint8)]}, "scenes")
    with pytest.raises(DataError, match="the maps of scenes have no class at all"):
        segmentation.class_names(nothing, processor, config)
