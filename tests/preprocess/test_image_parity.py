"""Image processors beside transformers': every class, real and hostile images, read from files and handed over."""

import io
import json

import numpy as np
import pytest

from jaxformers.preprocess import ImageProcessor, load_image_processor, load_processor
from jaxformers.preprocess.image_config import read_config
from tests.goldens.make_images import CONFIGS, PICTURES, picture, processor

pytestmark = pytest.mark.parity
GREY_LEVEL = 1.01 / 255 / 0.2  # one step of a pixel, divided by the smallest deviation here


@pytest.fixture(scope="module", autouse=True)
def transformers():
    return pytest.importorskip("transformers")


def ours(name):
    return ImageProcessor(**read_config(CONFIGS[name], name), raw=CONFIGS[name])


def files():
    """Images as files hold them, from one drawing."""
    from PIL import Image

    colour = Image.fromarray(picture(41, 30))
    turned = Image.Exif()
    turned[0x0112] = 6  # a quarter to the right
    clear = colour.convert("RGBA")
    clear.putalpha(Image.fromarray(picture(41, 30)[..., 2]))
    kinds = {"grey.png": colour.convert("L"), "cmyk.jpg": colour.convert("CMYK"), "turned.jpg": colour,
             "palette.png": colour.quantize(16), "bilevel.png": colour.convert("1"), "clear.png": clear,
             "tall.png": Image.fromarray(picture(160, 7)), "dot.png": Image.fromarray(picture(1, 1)),
             "moving.gif": colour}  # fmt: skip
    for name, image in kinds.items():
        file = io.BytesIO()
        more = {"exif": turned} if name == "turned.jpg" else {}
        more |= {"save_all": True, "append_images": [clear.convert("RGB")]} if name == "moving.gif" else {}
        image.save(file, {"jpg": "JPEG"}.get(name[-3:], name[-3:].upper()), **more)
        yield name, file.getvalue()


@pytest.mark.parametrize("name", CONFIGS)
def test_arrays_of_either_order_as_in_transformers(name):
    for size in PICTURES.values():
        array = picture(*size)
        theirs = np.moveaxis(
            processor(name)(array, return_tensors="np", input_data_format="channels_last")["pixel_values"], 1, -1
        )
        for given, order in ((array, None), (array.transpose(2, 0, 1), "channels_first")):
            np.testing.assert_allclose(ours(name)(given, input_data_format=order)["pixel_values"], theirs, atol=1e-5)
    first = ours(name)(array, data_format="channels_first")["pixel_values"]
    np.testing.assert_allclose(first, np.moveaxis(theirs, -1, 1), atol=1e-5)


@pytest.mark.parametrize("name", ["vit", "convnext", "clip", "efficientnet"])
def test_files_as_in_transformers(name, tmp_path):
    from PIL import Image
    from transformers.image_utils import load_image

    for called, data in files():
        path = tmp_path / called
        path.write_bytes(data)
        with Image.open(path) as opened:  # given a path, transformers leaves a GIF open
            theirs = np.moveaxis(processor(name)(load_image(opened), return_tensors="np")["pixel_values"], 1, -1)
        for given in (path, data):
            found = ours(name)(given)["pixel_values"]
            np.testing.assert_allclose(found, theirs, atol=1e-5, err_msg=called)


def test_what_is_clear_lies_on_white_where_a_program_hands_it_over():
    from PIL import Image

    image = Image.open(io.BytesIO(dict(files())["clear.png"]))
    for given in (image, np.asarray(image)):
        theirs = processor("clip")(given, return_tensors="np")["pixel_values"]
        np.testing.assert_allclose(
            ours("clip")(given, data_format="channels_first")["pixel_values"], theirs, atol=GREY_LEVEL
        )


def test_floats_from_zero_to_one_as_in_transformers_without_rescaling():
    array = picture(37, 61).astype(np.float32) / 255
    for name in ("vit", "convnext"):
        theirs = processor(name)(array, return_tensors="np", do_rescale=False, input_data_format="channels_last")
        found = ours(name)(array, do_rescale=False, data_format="channels_first")["pixel_values"]
        np.testing.assert_allclose(found, theirs["pixel_values"], atol=GREY_LEVEL)


@pytest.mark.parametrize("size", [{"shortest_edge": 20, "longest_edge": 26}, {"max_height": 20, "max_width": 31}])
def test_other_sizes_as_in_transformers(size):
    for shape in ((37, 61), (61, 37), (90, 13), (20, 20)):
        theirs = processor("vit")(picture(*shape), size=size, return_tensors="np", input_data_format="channels_last")
        found = ours("vit")(picture(*shape), size=size, data_format="channels_first")
        np.testing.assert_allclose(found["pixel_values"], theirs["pixel_values"], atol=1e-5)


def test_segmentation_maps_as_in_transformers():
    classes = (np.arange(41 * 30).reshape(41, 30) // 100 % 12).astype(np.uint8)
    theirs = processor("segformer")(
        picture(41, 30), classes, return_tensors="np", do_reduce_labels=True, input_data_format="channels_last"
    )
    found = ours("segformer")(picture(41, 30), classes, do_reduce_labels=True)
    np.testing.assert_array_equal(found["labels"], theirs["labels"])
    assert 255 in found["labels"]


def test_real_photographs_as_in_transformers(shared_data):
    from transformers.image_utils import load_image

    folder = shared_data / "images" / "hymenoptera" / "train"
    photos = [*sorted(folder.rglob("*.jpg"))[:3], shared_data / "images" / "ocr" / "eurotext.tif"]
    for name in ("deit", "bit"):
        theirs = processor(name)([load_image(str(photo)) for photo in photos], return_tensors="np")["pixel_values"]
        np.testing.assert_allclose(ours(name)(photos, data_format="channels_first")["pixel_values"], theirs, atol=1e-5)


@pytest.mark.parametrize("name", CONFIGS)
def test_what_is_saved_transformers_reads(name, tmp_path):
    ours(name).save(tmp_path)
    array = picture(37, 61)
    read = type(processor(name)).from_pretrained(tmp_path)
    theirs = read(array, return_tensors="np", input_data_format="channels_last")["pixel_values"]
    np.testing.assert_allclose(ours(name)(array, data_format="channels_first")["pixel_values"], theirs, atol=1e-5)
    assert load_image_processor(tmp_path) == ours(name)
    read.save_pretrained(tmp_path / "theirs")  # with the keys that transformers writes today
    assert load_image_processor(tmp_path / "theirs").replace(do_pad=False) == ours(name)


def test_clip_processors_as_in_transformers(tmp_path, tokenizer_folder):
    from transformers import CLIPProcessor, CLIPTokenizer

    theirs = CLIPProcessor(processor("clip"), CLIPTokenizer.from_pretrained(tokenizer_folder))
    theirs.save_pretrained(tmp_path / "theirs")
    found = load_processor(tmp_path / "theirs")
    array, texts = picture(41, 30), ["a disc", "a disc and some squares"]
    expected = theirs(text=texts, images=array, return_tensors="np", padding=True)
    batch = found(array, texts, padding=True, return_tensors="np")
    np.testing.assert_array_equal(batch["input_ids"], expected["input_ids"])
    np.testing.assert_allclose(batch["pixel_values"], np.moveaxis(expected["pixel_values"], 1, -1), atol=1e-5)
    found.save(tmp_path / "ours")
    again = CLIPProcessor.from_pretrained(tmp_path / "ours")(
        text=texts, images=array, return_tensors="np", padding=True
    )
    np.testing.assert_array_equal(again["input_ids"], expected["input_ids"])
    np.testing.assert_array_equal(again["pixel_values"], expected["pixel_values"])


@pytest.fixture
def tokenizer_folder(tmp_path):
    """CLIP's tokenizer in small."""
    words = ["a", "disc", "and", "some", "squares"]
    pieces = [*map(chr, range(97, 123)), *(f"{chr(code)}</w>" for code in range(97, 123)), "di", "dis", "disc</w>"]
    vocabulary = [*pieces, *(f"{word}</w>" for word in words if len(word) > 4), "<|startoftext|>", "<|endoftext|>"]
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps({piece: number for number, piece in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("#version: 0.2\nd i\ndi s\ndis c</w>\n")
    return folder
