"""HiFi-GAN (Kong et al. 2020, arXiv:2010.05646) as SpeechT5 uses it: waves of log-mel spectra, by convolutions alone.

Each frame becomes as many samples as its `upsample_rates` multiply to, each step followed by blocks that look nearby and far.
"""

import dataclasses
import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxformers.core.layers import conv, convolved, declare_conv
from jaxformers.core.outputs import Output
from jaxformers.core.params import Param, Tree, normal, ones, zeros
from jaxformers.errors import ConfigError, InputError
from jaxformers.families.config import Config, check_numbers, keys_of, read_config, write_config
from jaxformers.families.model import Family

LAST_SLOPE = 0.01  # of the last leaky ReLU, whatever the config says


@dataclasses.dataclass(frozen=True, kw_only=True)
class HifiGanConfig(Config):
    """The vocoder's numbers; the defaults are those of speecht5_hifigan."""

    model_in_dim: int = 80
    sampling_rate: int = 16000
    upsample_initial_channel: int = 512
    upsample_rates: tuple[int, ...] = (4, 4, 4, 4)
    upsample_kernel_sizes: tuple[int, ...] = (8, 8, 8, 8)
    resblock_kernel_sizes: tuple[int, ...] = (3, 7, 11)
    resblock_dilation_sizes: tuple[tuple[int, ...], ...] = ((1, 3, 5), (1, 3, 5), (1, 3, 5))
    initializer_range: float = 0.01
    leaky_relu_slope: float = 0.1
    normalize_before: bool = True

    def __post_init__(self) -> None:
        check_numbers(self, ("model_in_dim", "sampling_rate", "upsample_initial_channel"))
        pairs = (("upsample_rates", "upsample_kernel_sizes"), ("resblock_kernel_sizes", "resblock_dilation_sizes"))
        for one, other in pairs:
            if not len(getattr(self, one)) == len(getattr(self, other)) > 0:
                raise ConfigError(f"{one} and {other} must be as long as each other")
        for rate, size in zip(self.upsample_rates, self.upsample_kernel_sizes, strict=True):
            if rate < 1 or size < rate or (size - rate) % 2:
                raise ConfigError(
                    f"a kernel of {size} (upsample_kernel_sizes) does not make {rate} samples (upsample_rates) of one: it must "
                    "be larger by an even number"
                )
        if self.upsample_initial_channel % 2 ** len(self.upsample_rates):
            raise ConfigError(
                f"upsample_initial_channel {self.upsample_initial_channel} cannot be halved {len(self.upsample_rates)} times"
            )

    @property
    def samples_a_frame(self) -> int:
        """Samples that are made of one frame."""
        return math.prod(self.upsample_rates)


KEYS = keys_of(HifiGanConfig)
config_from_hf = partial(read_config, HifiGanConfig, KEYS, {}, {})
config_to_hf = partial(write_config, KEYS, "speecht5_hifigan")


def declare(config: HifiGanConfig, head: str | None = None) -> Tree:
    """Every parameter of the vocoder: shape, axes, initialiser, checkpoint name and layout."""
    M, C, init = config.model_in_dim, config.upsample_initial_channel, normal(config.initializer_range)
    steps: Tree = {}
    for n, size in enumerate(config.upsample_kernel_sizes):
        inputs, outputs = C >> n, C >> (n + 1)
        up = declare_conv(inputs, outputs, (size,), f"upsampler.{n}", init)
        up["kernel"] = dataclasses.replace(up["kernel"], layout="i o t -> t i o")  # a convolution the other way round
        blocks: Tree = {}
        for m, (window, dilations) in enumerate(
            zip(config.resblock_kernel_sizes, config.resblock_dilation_sizes, strict=True)
        ):
            at = f"resblocks.{n * len(config.resblock_kernel_sizes) + m}."
            blocks[str(m)] = {
                str(k): {
                    name: declare_conv(outputs, outputs, (window,), f"{at}{theirs}.{k}", init)
                    for name, theirs in (("far", "convs1"), ("near", "convs2"))
                }
                for k in range(len(dilations))
            }
        steps[str(n)] = {"up": up, "blocks": blocks}
    fixed = partial(Param, (M,), ("channels",), decay=False, learns=False)
    return {
        "first": declare_conv(M, C, (7,), "conv_pre", init),
        "steps": steps,
        "last": declare_conv(outputs, 1, (7,), "conv_post", init, axes=("channels", "labels")),
        "stats": {  # of the spectra it was trained on
            "mean": fixed(zeros, "mean"),
            "scale": fixed(ones, "scale"),
        },
    }


def forward(
    params: Tree,
    spectrogram: jax.Array,
    attention_mask: jax.Array | None = None,
    *,
    config: HifiGanConfig,
    rng: jax.Array | None = None,
    **options: Any,
) -> Output:
    """The waves of spectra.

    Args:
      params: the tree of `declare`.
      spectrogram: log-mel spectra [B, T, bands].
      attention_mask: [B, T], 1 for frames and 0 for padding, which comes last and then sounds as if it were not there; None
        means that all are heard.
      config: the model's numbers.
      rng: nothing is drawn.
      **options: `output_hidden_states`, `output_attentions`, `execution`, of which there is nothing here.

    Returns:
      `Output` with `waveform` [B, T · samples a frame], between -1 and 1.

    Raises:
      InputError: spectra of another shape.
    """
    if spectrogram.ndim != 3 or spectrogram.shape[2] != config.model_in_dim:
        raise InputError(
            f"spectrogram must be [batch, frames, {config.model_in_dim}], found shape {tuple(spectrogram.shape)}"
        )
    real_BT1 = None if attention_mask is None else (attention_mask != 0)[..., None]

    def heard(x: jax.Array) -> jax.Array:
        """Silence where there is no sound, as beyond its end."""
        if real_BT1 is None:
            return x
        each = x.shape[1] // real_BT1.shape[1]
        return jnp.where(jnp.repeat(real_BT1, each, axis=1), x, jnp.zeros((), x.dtype))

    x = spectrogram.astype(params["first"]["kernel"].dtype)
    if config.normalize_before:
        mean, scale = (jax.lax.stop_gradient(params["stats"][name])[None, None] for name in ("mean", "scale"))
        x = (x - mean) / scale
    x = conv(params["first"], heard(x), padding=3)
    leaky = partial(jax.nn.leaky_relu, negative_slope=config.leaky_relu_slope)
    for n, rate in enumerate(config.upsample_rates):
        step = params["steps"][str(n)]
        x = longer(step["up"], heard(leaky(x)), rate)
        blocks = [_look(step["blocks"][str(m)], x, dilations, leaky, heard)
                  for m, dilations in enumerate(config.resblock_dilation_sizes)]  # fmt: skip
        x = sum(blocks[1:], blocks[0]) / len(blocks)
    x = conv(params["last"], heard(jax.nn.leaky_relu(x, LAST_SLOPE)), padding=3)
    return Output(waveform=heard(jnp.tanh(x))[..., 0])


def longer(params: Tree, x_BTC: jax.Array, rate: int) -> jax.Array:
    """A transposed convolution: [B, T, inputs] -> [B, T · rate, outputs]."""
    kernel = params["kernel"]
    ends = (kernel.shape[0] + rate) // 2 - 1
    y = convolved(x_BTC, kernel[::-1], window_strides=(1,), padding=[(ends, ends)], lhs_dilation=(rate,))
    return y + jnp.broadcast_to(params["bias"], y.shape)


def _look(params: Tree, x: jax.Array, dilations: tuple[int, ...], leaky: Any, heard: Any) -> jax.Array:
    """Pairs of convolutions, the first of each with gaps, each added to what it reads."""
    for k, gap in enumerate(dilations):
        far, near = params[str(k)]["far"], params[str(k)]["near"]
        reach = gap * (far["kernel"].shape[0] - 1) // 2
        y = convolved(
            heard(leaky(x)), far["kernel"], window_strides=(1,), padding=[(reach, reach)], rhs_dilation=(gap,)
        )
        y = heard(leaky(y + jnp.broadcast_to(far["bias"], y.shape)))
        x = x + conv(near, y, padding=(near["kernel"].shape[0] - 1) // 2)
    return x


FAMILY = Family(
    name="speecht5_hifigan",
    config_class=HifiGanConfig,
    config_from_hf=config_from_hf,
    config_to_hf=config_to_hf,
    config_keys=KEYS,
    declare=declare,
    heads={None: forward},
    architectures={None: "SpeechT5HifiGan"},
    prefix="",
    trunk=("first", "steps", "last", "stats"),
    inputs=("spectrogram", "attention_mask"),
)
