"""What is done to images in training: what is drawn, what a change does, and that the same generator gives the same."""

import dataclasses

import numpy as np
import pytest

from jaxformers.errors import InputError
from jaxformers.preprocess import ImageProcessor
from jaxformers.preprocess.image_augment import Augment, rand_augment, random_box
from tests.goldens.make_images import picture

PLAIN = ImageProcessor(size=24, do_rescale=False, do_normalize=False)
NOTHING = Augment(crop=None, flip=0)
IMAGE = picture(30, 40)


def changed(augment, seed=0, image=IMAGE, processor=PLAIN):
    return augment(image, processor, np.random.default_rng(seed))


def test_nothing_is_the_processors_own():
    np.testing.assert_array_equal(changed(NOTHING), PLAIN.pixels(IMAGE))


@pytest.mark.parametrize(
    "options",
    [{"crop": (0.3, 0.9)}, {"flip": 0.5}, {"shift": 3}, {"brightness": 0.5}, {"contrast": 0.5}, {"saturation": 0.5},
     {"hue": 0.3}, {"rand_augment": 2}, {"erase": 1.0}],
    ids=lambda options: next(iter(options)),
)  # fmt: skip
@pytest.mark.parametrize("channels", [1, 3])
def test_a_change_is_drawn_from_the_generator_alone(options, channels):
    augment = dataclasses.replace(NOTHING, **options)
    processor = PLAIN.replace(image_mean=(0.0,) * channels, image_std=(1.0,) * channels)
    made = [changed(augment, seed, processor=processor) for seed in range(6)]
    for seed, values in enumerate(made):
        assert values.shape == (24, 24, channels)
        np.testing.assert_array_equal(values, changed(augment, seed, processor=processor))
    colours_of_grey = channels == 1 and {"saturation", "hue"} & set(options)
    assert (len({values.tobytes() for values in made}) == 1) == bool(colours_of_grey)


def test_a_flip_and_a_shift():
    np.testing.assert_array_equal(changed(dataclasses.replace(NOTHING, flip=1)), PLAIN.pixels(IMAGE)[:, ::-1])
    small = PLAIN.pixels(IMAGE)
    found = set()
    for seed in range(60):
        values = changed(dataclasses.replace(NOTHING, shift=1), seed)
        padded = np.pad(small, ((1, 1), (1, 1), (0, 0)))
        places = [(y, x) for y in range(3) for x in range(3) if (padded[y : y + 24, x : x + 24] == values).all()]
        assert len(places) == 1
        found.add(places[0])
    assert len(found) == 9


def test_boxes_lie_inside_and_have_the_area_and_shape_asked_for():
    generator = np.random.default_rng(0)
    for _ in range(200):
        left, up, right, down = random_box(60, 80, (0.2, 0.5), (0.5, 2.0), generator)
        assert 0 <= left < right <= 80
        assert 0 <= up < down <= 60
        assert 0.18 < (right - left) * (down - up) / 4800 < 0.53
        assert 0.45 < (right - left) / (down - up) < 2.2
    assert random_box(1, 300, (0.9, 1.0), (1.0, 1.0), generator) == (149, 0, 150, 1)  # the middle, of what never fits


def test_every_operation_of_randaugment_keeps_the_size():
    from PIL import Image

    for image in (Image.fromarray(IMAGE), Image.fromarray(IMAGE[..., 0])):
        made = [rand_augment(image, 15, np.random.default_rng(seed)) for seed in range(60)]
        assert {(each.size, each.mode) for each in made} == {(image.size, image.mode)}
        assert len({np.asarray(each).tobytes() for each in made}) > 14  # operations with a side count twice


def test_erasing_leaves_the_rest():
    values = changed(dataclasses.replace(NOTHING, erase=1), seed=1, processor=PLAIN.replace(do_normalize=True))
    plain = PLAIN.replace(do_normalize=True).pixels(IMAGE)
    erased = (values == 0).all(-1)
    np.testing.assert_array_equal(values[~erased], plain[~erased])
    assert 0.02 < erased.mean() < 0.4
    assert (plain[erased] != 0).any()


@pytest.mark.parametrize(
    ("options", "said"),
    [({"crop": (0.5, 0.1)}, "the smaller first"), ({"crop": (0.5, 2)}, "at most 1, found 2"),
     ({"flip": 2}, "from 0 to 1, found 2"),
     ({"hue": 0.7}, "from 0 to 0.5, found 0.7"), ({"magnitude": 31}, "from 0 to 30")],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(options, said):
    with pytest.raises(InputError, match=said):
        Augment(**options)


def test_a_segmentation_map_goes_where_its_image_goes():
    classes = np.random.default_rng(0).integers(0, 8, (30, 40)).astype(np.uint8)
    image = np.repeat(30 * (classes + 1)[..., None], 3, -1)
    processor = PLAIN.replace(resample=0)
    for seed in range(4):
        augment = Augment(crop=(0.2, 0.8), shift=3, erase=0)
        pixels, labels = augment.both(image, classes, processor, np.random.default_rng(seed))
        outside = pixels[..., 0] == 0
        assert (labels[outside] == 255).all()
        np.testing.assert_array_equal(30 * (labels[~outside] + 1), pixels[..., 0][~outside])
        np.testing.assert_array_equal(pixels, changed(augment, seed, image, processor))
    with pytest.raises(InputError, match="the segmentation map is 30 × 39, its image 30 × 40"):
        augment.both(image, classes[:, 1:], processor, np.random.default_rng(0))
    with pytest.raises(InputError, match="rand_augment moves an image and not its segmentation map"):
        Augment(rand_augment=1).both(image, classes, processor, np.random.default_rng(0))
