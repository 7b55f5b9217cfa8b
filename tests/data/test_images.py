"""Folders of images and idx files as splits, and images as examples."""

import gzip
import struct

import numpy as np
import pytest

from jaxformers.data import Batches, Table, iterate, load_dataset
from jaxformers.data.image_rows import ImageRows, MixedRows
from jaxformers.errors import DataError, InputError
from jaxformers.preprocess import ImageProcessor
from jaxformers.preprocess.image_augment import Augment

PROCESSOR = ImageProcessor(size=8)


def write_images(folder, count, shade=0):
    from PIL import Image

    folder.mkdir(parents=True)
    for number in range(count):
        Image.new("RGB", (12, 10), (shade, 20 * number, 0)).save(folder / f"{number}.png")


def write_idx(path, values):
    data = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape) + values.tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


@pytest.fixture
def classes(tmp_path):
    write_images(tmp_path / "animals" / "cats", 3)
    write_images(tmp_path / "animals" / "dogs", 2, shade=200)
    return tmp_path / "animals"


def test_a_folder_of_classes(classes):
    splits = load_dataset(classes)
    assert list(splits) == ["train"]
    assert splits["train"]["label"] == ["cats"] * 3 + ["dogs"] * 2
    assert [path.endswith(".png") for path in splits["train"]["image"]] == [True] * 5
    (classes / "birds").mkdir()
    with pytest.raises(DataError, match=r"birds stands for a class of animals/train and holds no image"):
        load_dataset(classes)


def test_folders_of_splits_and_images_without_classes(tmp_path, classes):
    write_images(tmp_path / "whole" / "val" / "cats", 2)
    write_images(tmp_path / "whole" / "val" / "dogs" / "small", 1)
    classes.rename(tmp_path / "whole" / "train")
    splits = load_dataset(tmp_path / "whole")
    assert {name: table["label"] for name, table in splits.items()} == {
        "train": ["cats"] * 3 + ["dogs"] * 2,
        "validation": ["cats", "cats", "dogs"],
    }
    plain = load_dataset(tmp_path / "whole" / "train" / "cats")["train"]
    assert plain.column_names == ("image",)
    assert len(plain) == 3


def test_idx_files_as_mnist_has_them(tmp_path, shared_data):
    images = np.arange(3 * 4 * 5, dtype=np.uint8).reshape(3, 4, 5)
    for name, values in (("train", images), ("t10k", images[:2])):
        write_idx(tmp_path / f"{name}-images-idx3-ubyte.gz", values)
        write_idx(tmp_path / f"{name}-labels.idx1-ubyte", np.arange(len(values), dtype=np.uint8))
    splits = load_dataset(tmp_path)
    np.testing.assert_array_equal(splits["train"]["image"], images)
    assert splits["test"]["label"].tolist() == [0, 1]
    real = load_dataset(shared_data / "images" / "mnist")["test"]
    assert real["image"].shape == (10000, 28, 28)
    assert real["label"][:5].tolist() == [7, 2, 1, 0, 4]
    (tmp_path / "t10k-labels.idx1-ubyte").write_bytes(b"\0\0\x08\x01\0\0\0\x09\0")
    with pytest.raises(DataError, match=r"t10k-labels.* of the size that it names, \[9\]"):
        load_dataset(tmp_path)
    (tmp_path / "t10k-labels.idx1-ubyte").unlink()
    with pytest.raises(DataError, match="no idx file of labels for test"):
        load_dataset(tmp_path)


def test_rows_are_decoded_when_they_are_read(classes):
    table = load_dataset(classes, split="train")
    table = Table({"image": table["image"], "labels": [0, 0, 0, 1, 1]}, "animals")
    rows = ImageRows(table, PROCESSOR)
    np.testing.assert_array_equal(rows[4]["pixel_values"], PROCESSOR.pixels(table["image"][4]))
    with iterate(Batches(rows, batch_size=2), num_threads=3) as stream:
        batches = list(stream)
    assert [batch["pixel_values"].shape for batch in batches] == [(2, 8, 8, 3)] * 3
    assert np.concatenate([batch["labels"] for batch in batches]).tolist() == [0, 0, 0, 1, 1, 1]  # the last fills up
    broken = Table({"image": [*table["image"][:2], "nowhere.png"]}, "animals")
    with pytest.raises(DataError, match=r"row 2 of animals: there is no file 'nowhere\.png'"):
        ImageRows(broken, PROCESSOR)[2]
    with pytest.raises(DataError, match="animals has no column 'picture', only image"):
        ImageRows(broken, PROCESSOR, image="picture")
    with pytest.raises(InputError, match="the images of a batch have one size"):
        ImageRows(broken, PROCESSOR.replace(do_resize=False))


def test_rows_of_training_are_changed_and_mixed(classes):
    table = load_dataset(classes, split="train")
    table = Table({"image": table["image"], "labels": [0, 0, 0, 1, 1]}, "animals")
    rows = ImageRows(table, PROCESSOR, Augment())
    drawn = rows.draw(1, np.random.default_rng(3))["pixel_values"]
    np.testing.assert_array_equal(drawn, Augment()(table["image"][1], PROCESSOR, np.random.default_rng(3)))
    plain = ImageRows(table, PROCESSOR)
    for mixed, name in ((MixedRows(plain, cutmix=0), "mixup"), (MixedRows(plain, mixup=0), "cutmix")):
        shares = []
        for seed in range(8):
            row = mixed.draw(0, np.random.default_rng(seed))
            again = mixed.draw(0, np.random.default_rng(seed))
            np.testing.assert_array_equal(row["pixel_values"], again["pixel_values"])
            red = row["pixel_values"][..., 0]  # -1 of cats, about 0.57 of dogs: how much of the other is there
            if row["mixed_labels"] == 1:
                assert (red.mean() + 1) / (2 * 200 / 255) == pytest.approx(row["mixed_share"], abs=1e-5), name
                assert len(np.unique(red)) <= (2 if name == "cutmix" else 1)
                shares.append(float(row["mixed_share"]))
        assert len(set(shares)) > 1
    batches = Batches(MixedRows(rows, probability=0), batch_size=5)
    assert batches[0]["mixed_share"].tolist() == [0] * 5
    assert batches[0]["labels"].tolist() == [0, 0, 0, 1, 1]
    with pytest.raises(InputError, match="probability must be from 0 to 1"):
        MixedRows(rows, probability=2)


def test_images_and_their_segmentation_maps(tmp_path):
    from PIL import Image

    for split, part in (("train", "training"), ("val", "val")):
        for place in (tmp_path / "inside" / split / "images", tmp_path / "around" / "images" / split):
            write_images(place, 2, shade=len(part))
        for place in (tmp_path / "inside" / split / "masks", tmp_path / "around" / "annotations" / split):
            place.mkdir(parents=True)
            for number in range(2):
                Image.new("L", (12, 10), number).save(place / f"{number}.png")
    for folder in ("inside", "around"):
        splits = load_dataset(tmp_path / folder)
        assert {name: len(table) for name, table in splits.items()} == {"train": 2, "validation": 2}
    alone = load_dataset(tmp_path / "inside" / "train")["train"]
    assert alone.column_names == ("image", "annotation")
    rows = ImageRows(alone, PROCESSOR, Augment(), annotation="annotation")
    batch = Batches(rows, batch_size=2, shuffle=True)[0]
    assert (batch["labels"].shape, batch["labels"].dtype, "attention_mask" in batch) == ((2, 8, 8), np.int32, False)
    assert rows[1]["labels"].tolist() == np.ones((8, 8)).tolist()
    (tmp_path / "inside" / "train" / "masks" / "1.png").unlink()
    with pytest.raises(DataError, match=r"1\.png of train/train has no segmentation map of its name"):
        load_dataset(tmp_path / "inside" / "train")


def test_lengths_are_known_without_a_look_at_the_images():
    looked = []

    class Rows(ImageRows):
        def __getitem__(self, index):
            looked.append(index)
            return {"pixel_values": np.zeros((8, 8, 3)), **self.outline(index)}

    rows = Rows(Table({"image": ["nowhere.png"] * 2, "input_ids": [[5, 6, 7], [8]]}), PROCESSOR)
    assert Batches(rows, batch_size=1).lengths.tolist() == [3, 1]
    assert looked == [0]  # whose form is that of all
