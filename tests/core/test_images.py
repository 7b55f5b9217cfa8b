"""Convolutions, patches, resizing and the layout of images, beside what they are by definition and in PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxformers.core import images
from jaxformers.core.depthwise import depthwise
from jaxformers.core.layers import conv, declare_conv, drop_path, patches
from jaxformers.core.params import initialise, normal
from jaxformers.errors import InputError
from tests.goldens.drawing import draw


def made(window, inputs=4, outputs=6, **options):
    return initialise(declare_conv(inputs, outputs, window, "c", normal(1.0), **options), jax.random.key(0))


@pytest.mark.parametrize("window", [(3,), (2, 3)])
def test_a_convolution_is_a_sum_over_its_window(window):
    params = made(window)
    x = draw("x", (2, *(7 for _ in window), 4), 1.0)
    found = np.asarray(conv(params, x, stride=2))
    place = tuple(slice(2, 2 + n) for n in window)  # the second window along each axis
    expected = np.tensordot(x[(slice(None), *place)], np.asarray(params["kernel"]), len(window) + 1)
    np.testing.assert_allclose(found[(slice(None), *[1 for _ in window])], expected, atol=1e-5)


def test_windows_that_do_not_overlap_are_a_product_with_the_same_result():
    params = made((2, 2)) | {"bias": jnp.arange(6.0)}
    x = draw("x", (2, 5, 7, 4), 1.0)  # what is left over is dropped
    with_zeros = conv(params, x[:, :4, :6], stride=2, padding=[(0, 0), (0, 0)])
    np.testing.assert_allclose(conv(params, x, stride=2), with_zeros, atol=1e-5)
    np.testing.assert_array_equal(patches(x, 2)[1, 1, 2], x[1, 2:4, 4:6].reshape(-1))


def test_paths_are_dropped_row_by_row():
    x = jnp.ones((64, 3, 2))
    found = np.asarray(drop_path(x, 0.25, jax.random.key(0)))
    rows = found[:, 0, 0]
    assert set(np.unique(found)) == {0.0, np.float32(1 / 0.75)}
    assert 0.1 < (rows == 0).mean() < 0.45
    np.testing.assert_array_equal(found, np.broadcast_to(rows[:, None, None], found.shape))
    assert drop_path(x, 0.25, None) is x


def test_channels_are_pixels_in_pytorch_s_order():
    x = np.arange(2 * 1 * 1 * 12).reshape(2, 1, 1, 12)
    found = images.pixel_shuffle(x, 2)
    assert found.shape == (2, 2, 2, 3)
    np.testing.assert_array_equal(found[0, :, :, 1], [[4, 5], [6, 7]])


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((2, 3, 8, 8), "they have their channels first: give np.moveaxis"),
        ((8, 8, 3), "found shape"),
        ((2, 8, 8, 1), "with 3 channels"),
    ],
)
def test_images_of_another_layout_are_refused(shape, words):
    with pytest.raises(InputError, match=words):
        images.check_images(np.zeros(shape), 3, jnp.float32)
    with pytest.raises(InputError, match="give pixel_values"):
        images.check_images(None, 3, jnp.float32)


# Made by torch.nn.functional.interpolate(…, align_corners=False) of 0, 1, 4, 9 along one axis.
TO_SIX = {
    "linear": [0.0, 0.5, 1.5, 3.5, 6.5, 9.0],
    "cubic": [-0.0868056, 0.21875, 1.4305550, 3.1527777, 6.78125, 9.4340286],
}


@pytest.mark.parametrize("how", TO_SIX)
def test_resizing_is_pytorch_s(how):
    x = np.array([0, 1, 4, 9], np.float32)[None, None, :, None]
    np.testing.assert_allclose(images.resize(x, (1, 6), how)[0, 0, :, 0], TO_SIX[how], atol=1e-5)
    np.testing.assert_allclose(images.weights(4, 9, how).sum(1), 1, atol=1e-6)


@pytest.mark.parity
@pytest.mark.parametrize(("how", "mode"), [("linear", "bilinear"), ("cubic", "bicubic")])
@pytest.mark.parametrize("size", [(7, 3), (14, 14), (5, 12), (24, 37)])
def test_resizing_is_pytorch_s_at_every_size(how, mode, size):
    torch = pytest.importorskip("torch")
    x = draw("image", (2, 14, 11, 3), 1.0)
    theirs = torch.nn.functional.interpolate(
        torch.from_numpy(np.ascontiguousarray(np.moveaxis(x, -1, 1))), size=size, mode=mode, align_corners=False
    )
    np.testing.assert_allclose(images.resize(x, size, how), theirs.movedim(1, -1).numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("places", "window", "stride", "ends"),
    [
        ((7, 6), (3, 5), 1, ((1, 1), (2, 2))),
        ((8, 7), (3, 3), 2, ((0, 1), (1, 0))),
        ((9, 9), (2, 4), 3, ((0, 0), (1, 1))),
        ((11,), (4,), 2, ((3, 0),)),
    ],
)
def test_channels_that_are_looked_at_alone(places, window, stride, ends):
    """Sums over the window, on CPUs, and their derivatives, are those of XLA's convolution."""
    draw = np.random.default_rng(0)
    x, kernel = (jnp.asarray(draw.normal(size=size), jnp.float32) for size in ((2, *places, 5), (*window, 1, 5)))
    letters = "YX"[-len(places) :]
    numbers = (f"N{letters}C", f"{letters}IO", f"N{letters}C")

    def by_xla(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel, (stride,) * len(places), ends, dimension_numbers=numbers, feature_group_count=5
        )

    def by_hand(x, kernel):
        return depthwise(x, kernel, stride, ends)

    expected, back = jax.vjp(by_xla, x, kernel)
    found, ours = jax.vjp(by_hand, x, kernel)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    g = jnp.asarray(draw.normal(size=expected.shape), jnp.float32)
    for left, right in zip(ours(g), back(g), strict=True):
        np.testing.assert_allclose(left, right, atol=2e-5)

    def curvature(run):
        slope = jax.grad(lambda kernel: (run(x, kernel) ** 3).sum())
        return jax.jvp(slope, (kernel,), (jnp.ones_like(kernel),))[1]

    np.testing.assert_allclose(curvature(by_hand), curvature(by_xla), rtol=1e-4, atol=1e-2)
    half = by_hand(x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16))
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(half.astype(jnp.float32), expected, atol=0.1)
