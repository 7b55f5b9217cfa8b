"""The Audio Spectrogram Transformer (Gong et al. 2021, arXiv:2104.01778): ViT over a spectrum, whose patches overlap.

Its layers are `families.vision_encoder`'s; what it has of its own are the patches (bands are rows, frames are columns) and that
two tokens before them, a class and a distillation token, are pooled.
"""

import dataclasses
from functools import partial
from typing import Any, ClassVar

import jax

from jaxformers.core import heads
from jaxformers.core.layers import conv, declare_conv, declare_linear, declare_norm, dropout, layer_norm, linear
from jaxformers.core.outputs import Output
from jaxformers.core.params import Param, Tree, normal, stacked
from jaxformers.core.transformer import Execution, declare_post_norm
from jaxformers.errors import ConfigError, InputError
from jaxformers.families.config import Config, check_numbers, keys_of, read_config, write_config
from jaxformers.families.model import Family, Forward
from jaxformers.families.vision_encoder import block_names, declare_token, pre_norm_layers, with_first
from jaxformers.parallel.mesh import shard


@dataclasses.dataclass(frozen=True, kw_only=True)
class ASTConfig(Config):
    """AST's numbers; the defaults are those of ast-finetuned-audioset-10-10-0.4593."""

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    patch_size: int = 16
    qkv_bias: bool = True
    frequency_stride: int = 10
    time_stride: int = 10
    max_length: int = 1024
    num_mel_bins: int = 128

    SIZES: ClassVar[tuple[str, ...]] = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
                                        "patch_size", "frequency_stride", "time_stride", "max_length",
                                        "num_mel_bins")  # fmt: skip

    def __post_init__(self) -> None:
        check_numbers(self, self.SIZES)
        if self.frequency_stride != self.time_stride:
            raise ConfigError(
                f"frequency_stride and time_stride must be the same, found {self.frequency_stride} and {self.time_stride}"
            )
        if self.patch_size > min(self.max_length, self.num_mel_bins):
            raise ConfigError(
                f"a patch of {self.patch_size} is larger than {self.num_mel_bins} bands or {self.max_length} frames"
            )

    @property
    def patches(self) -> int:
        """How many patches a spectrum has."""
        rows, columns = ((n - self.patch_size) // self.time_stride + 1 for n in (self.num_mel_bins, self.max_length))
        return rows * columns


KEYS = keys_of(ASTConfig)
config_from_hf = partial(read_config, ASTConfig, KEYS, {}, {})
config_to_hf = partial(write_config, KEYS, "audio-spectrogram-transformer")
AT = "audio_spectrogram_transformer."


def declare(config: ASTConfig, head: str | None = None) -> Tree:
    """Every parameter of AST with `head`: shape, axes, initialiser, checkpoint name and layout."""
    D, p, init, at = config.hidden_size, config.patch_size, normal(config.initializer_range), AT + "embeddings."
    position = Param((1, config.patches + 2, D), ("parts", "positions", "table"), init, at + "position_embeddings")
    tree: Tree = {
        "embeddings": {
            "class": declare_token(D, at + "cls_token", init),
            "distillation": declare_token(D, at + "distillation_token", init),
            "patch": declare_conv(1, D, (p, p), at + "patch_embeddings.projection", init),
            "position": position,
        },
        "layers": stacked(
            config.num_hidden_layers,
            declare_post_norm(config, block_names(AT + "encoder.layer.{}."), init, config.qkv_bias),
        ),
        "final_norm": declare_norm(D, AT + "layernorm"),
    }
    if head == "audio-classification":
        tree["classifier_norm"] = declare_norm(D, "classifier.layernorm")
        tree["classifier"] = declare_linear(D, config.num_labels, "classifier.dense", init)
    return tree


def encode(
    params: Tree,
    input_values: jax.Array,
    *,
    config: ASTConfig,
    rng: jax.Array | None = None,
    output_hidden_states: bool = False,
    output_attentions: bool = False,
    execution: Execution = Execution(),  # noqa: B008 (frozen)
) -> Output:
    """AST's hidden states.

    Args:
      params: the tree of `declare`.
      input_values: log-mel spectra [B, frames, bands], as the feature extractor gives them.
      config: the model's numbers.
      rng: key for dropout; None means none.
      output_hidden_states: also return every layer's output.
      output_attentions: also return every layer's attention weights.
      execution: scan or loop, rematerialisation, kernel.

    Returns:
      `Output` with `last_hidden_state` [B, 2 + P, D], and `pooler_output` [B, D], the mean of the first two.

    Raises:
      InputError: spectra of another size.
    """
    wanted = (config.max_length, config.num_mel_bins)
    if input_values.ndim != 3 or input_values.shape[1:] != wanted:
        raise InputError(
            f"input_values must be spectra [batch, {wanted[0]}, {wanted[1]}], found shape {input_values.shape}"
        )
    patch = params["embeddings"]["patch"]
    rows = input_values.swapaxes(1, 2)[..., None].astype(patch["kernel"].dtype)
    x_BYXD = conv(patch, rows, config.time_stride)
    x_BLD = with_first(params["embeddings"], x_BYXD.reshape(x_BYXD.shape[0], -1, config.hidden_size))
    x_BLD = shard(x_BLD + params["embeddings"]["position"], "batch", "length", "embed")
    rng_embed, rng_layers = (None, None) if rng is None else jax.random.split(rng)
    x_BLD, states, maps = pre_norm_layers(
        params,
        dropout(x_BLD, config.hidden_dropout_prob, rng_embed),
        config,
        rng=rng_layers,
        output_hidden_states=output_hidden_states,
        output_attentions=output_attentions,
        execution=execution,
    )
    x_BLD = layer_norm(params["final_norm"], x_BLD, config.layer_norm_eps)
    pooled_BD = (x_BLD[:, 0] + x_BLD[:, 1]) / 2
    return Output(last_hidden_state=x_BLD, pooler_output=pooled_BD, hidden_states=states, attentions=maps)


def classify(params: Tree, trunk: Output, config: Any, rng: jax.Array | None) -> dict[str, Any]:
    """A norm and a dense layer over what is pooled: logits [B, C]."""
    assert trunk.pooler_output is not None
    x_BD = layer_norm(params["classifier_norm"], trunk.pooler_output, config.layer_norm_eps)
    return {"logits": linear(params["classifier"], x_BD)}


HEADS: dict[str | None, Forward] = {None: encode, "audio-classification": heads.attach(encode, classify)}

FAMILY = Family(
    name="audio-spectrogram-transformer",
    config_class=ASTConfig,
    config_from_hf=config_from_hf,
    config_to_hf=config_to_hf,
    config_keys=KEYS,
    declare=declare,
    heads=HEADS,
    architectures={None: "ASTModel", "audio-classification": "ASTForAudioClassification"},
    prefix=AT,
    trunk=("embeddings", "layers", "final_norm"),
    inputs=("input_values",),
)
