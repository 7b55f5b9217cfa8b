"""Image classification: how it reads what people have, what learns where, and the picture of what was taken for what."""

import numpy as np
import pytest

import jaxformers as jf
from experiments import image_classification as experiment
from experiments.launch import parse
from jaxformers.data import Table
from jaxformers.errors import DataError, InputError
from jaxformers.preprocess import ImageProcessor


def config_of(*flags):
    return parse(experiment.Config, [*flags], "", "image_classification")


def test_classes_are_the_training_rows_by_name_or_number():
    for labels, others, classes, numbers in (
        (["dog", "cat", "dog"], ["cat"], ["cat", "dog"], [0]),
        (np.array([0, 3]), [1], ["0", "1", "2", "3"], [1]),
    ):
        splits = {
            "train": Table({"img": ["a"] * len(labels), "label": labels}),
            "validation": Table({"image": ["b"], "labels": others}),
            "test": Table({"image": ["c"]}),
        }
        found: list[str] = []
        read = experiment.read(splits, config_of(), found)
        assert found == classes
        assert read["validation"]["labels"] == numbers
        assert read["test"].column_names == ("image",)
        splits["validation"] = Table({"image": ["b"], "label": ["emu"]}, "animals")
        with pytest.raises(DataError, match="the label of row 0 of animals, 'emu', is that of no training row"):
            experiment.read(splits, config_of(), [])


def test_a_processor_that_fits_the_images():
    grey, colour = np.zeros((28, 28), np.uint8), np.full((200, 300, 3), [9, 8, 7], np.uint8)
    for images, size, channels, patch in (([grey] * 3, 28, 1, 4), ([colour], 96, 3, 8), ([colour[:33, :40]], 32, 3, 4)):
        processor = experiment.fitting_processor(images)
        assert (processor.output_size, processor.channels) == ((size, size), channels)
        assert experiment.sizes_of_images(processor)["patch_size"] == patch


def test_a_frozen_model_learns_in_its_classifier_alone(tmp_path):
    tiny = {"model_type": "vit", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8,
            "image_size": 8, "patch_size": 4, "initializer_range": 0.3}  # fmt: skip
    before = jf.load(tiny)
    jf.save(before, tmp_path / "model", ImageProcessor(size=8))
    from PIL import Image

    for name, shade in (("dark", 20), ("light", 220)):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(10):
            Image.new("RGB", (12, 9), (shade + number,) * 3).save(tmp_path / "data" / name / f"{number}.png")
    flags = ["--model", str(tmp_path / "model"), "--data", str(tmp_path / "data"), "--output-dir", str(tmp_path / "out"),
             "--freeze", "--learning-rate", "0.1", "--num-train-epochs", "12", "--validation-split-percentage", "40",
             "--per-device-train-batch-size", "2", "--per-device-eval-batch-size", "1", "--disable-tqdm"]  # fmt: skip
    metrics = experiment.run(config_of(*flags))
    assert metrics["eval_accuracy"] == 1
    after = jf.load(tmp_path / "out", head="image-classification")
    np.testing.assert_array_equal(after.params["embeddings"]["position"], before.params["embeddings"]["position"])
    assert after.config.labels == ("dark", "light")
    with Image.open(tmp_path / "out" / "confusion.png") as picture:
        assert picture.getpixel((90 + 1, 90 + 1)) == (0, 0, 255)  # all dark ones are taken for dark
        assert picture.getpixel((90 + 35, 90 + 1)) == (255, 255, 255)
    said = jf.pipeline("image-classification", tmp_path / "out")(Image.new("RGB", (9, 9), (230,) * 3))
    assert said[0]["label"] == "light"
    with pytest.raises(InputError, match="give --model"):
        experiment.run(config_of("--freeze"))
    with pytest.raises(InputError, match="augment must be one of none, shifts"):
        experiment.run(config_of("--augment", "flips", "--tiny", "--output-dir", str(tmp_path / "other")))
