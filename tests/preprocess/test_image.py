"""Image processors without PyTorch: stored numbers of transformers', what counts as an image, and the files they come from."""

import base64
import contextlib
import http.server
import io
import json
import threading
from pathlib import Path

import numpy as np
import pytest

import jaxformers as jf
from jaxformers.errors import CheckpointError, ConfigError, InputError
from jaxformers.preprocess import ImageProcessor, load_image_processor
from jaxformers.preprocess.image_config import read_config
from jaxformers.preprocess.image_reading import read_image
from tests.goldens.make_images import CONFIGS, PICTURES, picture, places

GOLDENS = json.loads((Path(__file__).parents[1] / "goldens" / "images.json").read_text())
PLAIN = ImageProcessor(do_resize=False, do_rescale=False, do_normalize=False)  # the pixels as they are


def encoded(image, kind="PNG", **options):
    from PIL import Image

    file = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("name", CONFIGS)
def test_numbers_of_transformers(name):
    processor = ImageProcessor(**read_config(CONFIGS[name], name))
    for called, size in PICTURES.items():
        golden = GOLDENS[f"{name} {called}"]
        values = processor(picture(*size))["pixel_values"][0]
        assert list(values.shape) == golden["shape"]
        assert processor.output_size in (None, values.shape[:2])
        found = [values[place] for place in places(*values.shape[:2])]
        np.testing.assert_allclose(found, golden["values"], atol=2e-5)  # stored to five places


# -- what is an image --------------------------------------------------------------------------------------------------


def test_an_image_is_the_same_however_it_is_given(tmp_path):
    from PIL import Image

    array = picture(9, 14)
    data = encoded(array)
    path = tmp_path / "picture.png"
    path.write_bytes(data)
    text = base64.b64encode(data).decode()
    sources = [array, array.transpose(2, 0, 1), array.astype(np.int64), array.astype(np.float32), Image.fromarray(array), data,
               path, str(path), text, f"data:image/png;base64,{text}", {"image": array}, {"bytes": data, "path": None},
               {"bytes": None, "path": str(path)}]  # fmt: skip
    for source in sources:
        np.testing.assert_array_equal(PLAIN(source)["pixel_values"][0], array)
    assert PLAIN(sources)["pixel_values"].shape == (len(sources), 9, 14, 3)
    assert PLAIN(np.stack([array, array]))["pixel_values"].shape == (2, 9, 14, 3)


def test_a_url_is_fetched_and_its_errors_are_one_sentence():
    data = encoded(picture(5, 6))

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path == "/picture.png" else 404)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass

    with contextlib.ExitStack() as stack:
        server = stack.enter_context(http.server.HTTPServer(("127.0.0.1", 0), Handler))
        stack.callback(server.shutdown)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        np.testing.assert_array_equal(PLAIN(f"{url}/picture.png")["pixel_values"][0], picture(5, 6))
        with pytest.raises(InputError, match=r"cannot fetch http://127\.0\.0\.1:\d+/other.*Not Found"):
            read_image(f"{url}/other")


def test_a_photograph_is_turned_as_its_exif_says(tmp_path):
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(picture(8, 12), "PNG", exif=exif)
    turned = np.rot90(picture(8, 12), -1)
    for source in (data, Image.open(io.BytesIO(data))):
        np.testing.assert_array_equal(PLAIN(source)["pixel_values"][0], turned)


def test_sixteen_bits_grey_palettes_opacity_and_the_first_frame():
    from PIL import Image

    grey = picture(8, 12)[..., 0]
    wide = (grey.astype(np.uint16) * 257).astype(np.uint16)
    in_colour = np.repeat(grey[..., None], 3, -1)
    for source in (encoded(wide), Image.fromarray(wide), Image.fromarray(wide.astype(np.int32)), Image.fromarray(grey),
                   Image.fromarray(grey.astype(np.float32)), grey, grey[..., None], grey[None]):  # fmt: skip
        np.testing.assert_array_equal(PLAIN(source)["pixel_values"][0], in_colour)
    clear = Image.fromarray(np.dstack([picture(8, 12), np.zeros((8, 12), np.uint8)]))
    np.testing.assert_array_equal(np.asarray(read_image(encoded(clear))), picture(8, 12))  # a file's colours
    assert (PLAIN(clear)["pixel_values"] == 255).all()  # a program's picture, on white
    palette = Image.fromarray(picture(8, 12)).quantize(8)
    data = encoded(palette, transparency=bytes([0, 128]))
    np.testing.assert_array_equal(np.asarray(read_image(data)), np.asarray(palette.convert("RGB")))
    frames = encoded(palette, "GIF", save_all=True, append_images=[Image.new("P", (12, 8))])
    np.testing.assert_array_equal(np.asarray(read_image(frames)), np.asarray(palette.convert("RGB")))


def test_what_is_no_image_is_one_sentence(tmp_path):
    whole = encoded(picture(40, 40))
    cut = tmp_path / "cut.png"
    cut.write_bytes(whole[: len(whole) // 2])
    for source, said in (
        ("nowhere.png", r"there is no file 'nowhere\.png' for the image"),
        (tmp_path, "there is no file"),
        (cut, r"the image \(.*cut\.png\) is damaged"),
        (b"not an image", "no image, or of a format that Pillow does not know"),
        ("data:image/png;base64,!!", "a data URL that holds no image"),
        (7, "must be a path, a URL, bytes or a PIL image, found int"),
        ({"label": 1}, "a dict without an 'image', it has label"),
        (np.zeros((5, 5, 7)), r"must have a shape .* found \[5, 5, 7\]"),
        (np.zeros((0, 5, 3)), r"found \[0, 5, 3\]"),
        (np.full((4, 5, 3), 300), "from 0 to 255 or floats from 0 to 1, found 300 to 300"),
        (np.full((4, 5, 3), -0.5), "found -0.5 to -0.5"),
        (np.full((4, 5, 3), np.nan), "not finite"),
        (np.zeros((4, 5, 3), bool), "integers or floats, found bool"),
    ):
        with pytest.raises(InputError, match=said):
            PLAIN(source)
    with pytest.raises(InputError, match="image 1 must be a path"):
        PLAIN([picture(4, 4), None])
    with pytest.raises(InputError, match=r"one size, found 4 × 4 and 4 × 5; do_pad=True fills them up"):
        PLAIN([picture(4, 5), picture(4, 4)])
    with pytest.raises(InputError, match="no option 'sizes' \\(did you mean 'size'\\?\\)"):
        PLAIN(picture(4, 4), sizes=3)


# -- what is done to it ------------------------------------------------------------------------------------------------


def test_images_of_unequal_size_are_padded_with_a_mask():
    batch = PLAIN([picture(4, 5), picture(6, 3)], do_pad=True)
    assert batch["pixel_values"].shape == (2, 6, 5, 3)
    np.testing.assert_array_equal(batch["pixel_values"][0, :4], picture(4, 5))
    np.testing.assert_array_equal(batch["pixel_mask"].sum((1, 2)), [20, 18])
    np.testing.assert_array_equal(batch["pixel_values"] * (1 - batch["pixel_mask"][..., None]), 0)
    assert PLAIN(picture(4, 5), do_pad=True, pad_size=8)["pixel_values"].shape == (1, 8, 8, 3)
    with pytest.raises(InputError, match="up to 4 × 5 do not fit the pad_size 3 × 8"):
        PLAIN(picture(4, 5), do_pad=True, pad_size={"height": 3, "width": 8})


def test_the_longest_edge_alone_and_extreme_shapes():
    processor = ImageProcessor(size={"longest_edge": 10})
    assert [processor.resized(*size) for size in ((20, 10), (7, 14), (1, 90))] == [(10, 5), (5, 10), (1, 10)]
    limited = ImageProcessor(size={"shortest_edge": 8, "longest_edge": 10})
    assert [limited.resized(*size) for size in ((20, 10), (900, 1))] == [(10, 5), (10, 1)]


def test_grey_models_have_grey_images():
    processor = ImageProcessor(size=4, image_mean=0.5, image_std=0.25)
    values = processor([picture(8, 8), np.full((4, 4), 51, np.uint8)])["pixel_values"]
    assert values.shape == (2, 4, 4, 1)
    np.testing.assert_allclose(values[1], (51 / 255 - 0.5) / 0.25, atol=1e-6)


def test_numbers_from_zero_to_one_stand_for_pixels():
    array = picture(4, 5)
    unit = array / 255.0
    np.testing.assert_allclose(
        PLAIN(unit, do_rescale=True)["pixel_values"], PLAIN(array, do_rescale=True)["pixel_values"], atol=1e-6
    )
    np.testing.assert_allclose(PLAIN(unit)["pixel_values"][0], unit, atol=1e-6)


def test_segmentation_maps_keep_their_classes(tmp_path):
    from PIL import Image

    classes = np.array([[0, 1], [2, 255]], np.uint8)
    processor = ImageProcessor(kind="Segformer", size=4)
    path = tmp_path / "map.png"
    Image.fromarray(classes).save(path)
    for given in (classes, classes[None], classes[..., None], path, Image.fromarray(classes)):
        labels = processor(picture(2, 2), [given])["labels"]
        np.testing.assert_array_equal(labels[0], np.kron(classes, np.ones((2, 2), int)))
    reduced = processor(picture(2, 2), classes, do_reduce_labels=True)["labels"]
    np.testing.assert_array_equal(reduced[0, ::2, ::2], [[255, 0], [1, 255]])
    with pytest.raises(InputError, match=r"segmentation map 0 must be .* found \[2, 2, 3\] of uint8"):
        processor(picture(2, 2), [picture(2, 2)])


# -- files -------------------------------------------------------------------------------------------------------------


def write(folder, **files):
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize("name", CONFIGS)
def test_saved_and_loaded_again(name, tmp_path):
    processor = ImageProcessor(**read_config(CONFIGS[name], name), raw=CONFIGS[name])
    processor.save(tmp_path)
    assert load_image_processor(tmp_path) == processor
    assert jf.load_image_processor(tmp_path, resample=4) == processor.replace(resample=4)


def test_a_file_that_names_no_class_is_read_by_the_model(tmp_path):
    write(tmp_path, preprocessor_config={"size": 30}, config={"model_type": "swin"})
    assert load_image_processor(tmp_path) == ImageProcessor(size={"height": 30, "width": 30})
    write(tmp_path, config={"model_type": "resnet"})
    assert load_image_processor(tmp_path).size == {"shortest_edge": 30}


def test_a_processor_config_and_a_config_by_timm(tmp_path):
    write(tmp_path, processor_config={"processor_class": "CLIPProcessor", "image_processor": {**CONFIGS["clip"]}})
    assert load_image_processor(tmp_path) == ImageProcessor(**read_config(CONFIGS["clip"], "clip"))
    (tmp_path / "processor_config.json").unlink()
    timm = {"input_size": [3, 224, 224], "interpolation": "bilinear", "crop_pct": 0.875, "mean": [0.485, 0.456, 0.406],
            "std": [0.229, 0.224, 0.225], "crop_mode": "center"}  # fmt: skip
    write(tmp_path, config={"architecture": "vgg16", "pretrained_cfg": timm})
    processor = load_image_processor(tmp_path)
    assert (processor.resized(500, 375), processor.output_size, processor.resample) == ((341, 256), (224, 224), 2)


def test_what_is_not_known_in_a_file_is_refused(tmp_path):
    for config, said in (
        ({"image_processor_type": "ViTImageProccessor"}, r"unknown image processor .*did you mean 'ViTImageProcessor'"),
        ({}, "has no preprocessor_config.json"),
        ({"size": 8}, "unknown image processor None"),
        ({**CONFIGS["vit"], "do_resise": True}, r"preprocessor_config.json: unknown key 'do_resise' \(did you mean 'do_resize'"),
        ({**CONFIGS["vit"], "size": {"height": 3}}, "size must be a number above 0 or have height and width"),
        ({**CONFIGS["vit"], "size": -1}, "found {'height': -1"),
        ({**CONFIGS["vit"], "resample": 9}, "one of Pillow's filters, 0 to 5, found 9"),
        ({**CONFIGS["vit"], "image_mean": [0, 0]}, "image_mean must be one number or three"),
        ({**CONFIGS["vit"], "do_rescale": "yes"}, "do_rescale must be true or false, found 'yes'"),
        ({**CONFIGS["convnext"], "crop_pct": 0}, "crop_pct must be a number above 0"),
        ({**CONFIGS["convnext"], "size": {"height": 3, "width": 3}}, "crop_pct needs a size by its shortest_edge"),
        ({**CONFIGS["vit"], "do_center_crop": True}, "do_center_crop needs a crop_size"),
    ):  # fmt: skip
        write(tmp_path, preprocessor_config=config)
        with pytest.raises((ConfigError, InputError), match=said):
            load_image_processor(tmp_path)
    write(tmp_path, preprocessor_config={**CONFIGS["vit"], "do_flip": None, "_own": 3, "extra": []})
    load_image_processor(tmp_path)  # what is empty or private says nothing
    with pytest.raises(CheckpointError, match="there is no folder"):
        load_image_processor(tmp_path / "nowhere")


def test_a_processor_is_two_in_one(tmp_path):
    from jaxformers.preprocess import Processor, train_wordpiece
    from jaxformers.preprocess.feature_extractors import Wav2Vec2FeatureExtractor

    tokenizer = train_wordpiece(["a cat and a dog"], vocab_size=40)
    seeing = Processor(tokenizer, ImageProcessor(size=4))
    hearing = Processor(tokenizer, feature_extractor=Wav2Vec2FeatureExtractor())
    for name, processor in (("seeing", seeing), ("hearing", hearing)):
        processor.save(tmp_path / name)
    found = jf.load_processor(tmp_path / "seeing")
    assert found.image_processor == seeing.image_processor
    batch = found(picture(4, 4), ["a cat"], padding=True)
    assert batch["pixel_values"].shape == (1, 4, 4, 3)
    assert len(batch["input_ids"]) == 1
    sound = np.zeros(400, np.float32)
    assert "input_values" in jf.load_processor(tmp_path / "hearing")(audio=sound, sampling_rate=16000)
    for processor, given, said in (
        (seeing, {"audio": sound}, "takes no audio"),
        (hearing, {"images": picture(4, 4)}, "takes no images"),
        (seeing, {}, "needs images, text or audio"),
    ):
        with pytest.raises(InputError, match=said):
            processor(**given)
    tokenizer.save(tmp_path)
    with pytest.raises(CheckpointError, match="a model of texts alone"):
        jf.load_processor(tmp_path)
