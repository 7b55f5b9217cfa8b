"""The heads of speech encoders: letters for CTC, classes of a sound or of its frames, speakers.

Each reads the last hidden state, or (but for CTC) a mean of all layers' with weights that are learnt, where the config says
`use_weighted_layer_sum`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxformers.core.layers import convolved, declare_linear, dropout, linear, split_rng
from jaxformers.core.outputs import Output
from jaxformers.core.params import Initialiser, Param, Tree, normal, ones, zeros
from jaxformers.families.model import Forward
from jaxformers.families.speech_encoder import encode, frame_mask

# head -> how transformers' class for it is called, after the family's name
CLASS_NAMES: dict[str | None, str] = {
    None: "Model",
    "ctc": "ForCTC",
    "audio-classification": "ForSequenceClassification",
    "audio-frame-classification": "ForAudioFrameClassification",
    "audio-xvector": "ForXVector",
    "pretraining": "ForPreTraining",
}


# -- what they own -----------------------------------------------------------------------------------------------------


def declare_head(config: Any, head: str | None) -> Tree:
    """The parts of a head that reads frames."""
    D, init = config.hidden_size, normal(config.initializer_range)
    tree: Tree = {}
    if head == "ctc":
        tree["ctc"] = declare_linear(D, config.vocab_size, "lm_head", init, ("embed", "vocab"))
    if config.use_weighted_layer_sum and head in (
        "audio-classification",
        "audio-frame-classification",
        "audio-xvector",
    ):
        N = config.num_hidden_layers + 1
        even: Initialiser = lambda key, shape, dtype: ones(key, shape, dtype) / N  # noqa: E731
        tree["layer_weights"] = Param((N,), ("labels",), even, "layer_weights", decay=False)
    if head == "audio-classification":
        P = config.classifier_proj_size
        tree["projector"] = declare_linear(D, P, "projector", init, ("embed", "mlp"))
        tree["classifier"] = declare_linear(P, config.num_labels, "classifier", init, ("mlp", "labels"))
    if head == "audio-frame-classification":
        tree["classifier"] = declare_linear(D, config.num_labels, "classifier", init)
    return tree


def declare_speakers(config: Any, init: Initialiser) -> Tree:
    """Convolutions over frames, the embedding of what they see in all of a sound, and a vector for each speaker."""
    D, widths, X = config.hidden_size, config.tdnn_dim, config.xvector_output_dim
    tree: Tree = {"projector": declare_linear(D, widths[0], "projector", init, ("embed", "mlp"))}
    for n, (width, size) in enumerate(zip(widths, config.tdnn_kernel, strict=True)):
        before, name, axes = widths[n - 1] if n else widths[0], f"tdnn.{n}.kernel", ("window", "channels", "embed")
        tree[f"tdnn_{n}"] = {
            "kernel": Param((size, before, width), axes, init, f"{name}.weight", "o (t i) -> t i o"),
            "bias": Param((width,), ("embed",), zeros, f"{name}.bias", decay=False),
        }
    tree["embedding"] = declare_linear(2 * widths[-1], X, "feature_extractor", init, ("mlp", "embed"))
    tree["classifier"] = declare_linear(X, X, "classifier", init, ("embed", "mlp"))
    tree["speakers"] = Param((X, config.num_labels), ("embed", "labels"), normal(1.0), "objective.weight")
    return tree


# -- how they compute --------------------------------------------------------------------------------------------------

Finish = Callable[[Tree, Output, jax.Array | None, Any, jax.Array | None], dict[str, Any]]


def attach(finish: Finish) -> Callable[..., Output]:
    """`encode` with a head: (params, its output, attention_mask, config, rng) -> further fields of the output."""

    def forward(
        params: Tree, input_values: jax.Array, attention_mask: jax.Array | None = None, *, config: Any,
        rng: jax.Array | None = None, output_hidden_states: bool = False, **options: Any,
    ) -> Output:  # fmt: skip
        rng_trunk, rng_head = split_rng(rng, 2)
        weighted = "layer_weights" in params
        trunk = encode(params, input_values, attention_mask, config=config, rng=rng_trunk,
                       output_hidden_states=output_hidden_states or weighted, **options)  # fmt: skip
        fields = finish(params, trunk, attention_mask, config, rng_head)
        states = trunk.hidden_states if output_hidden_states else None
        return Output(**fields, hidden_states=states, attentions=trunk.attentions)

    return forward


def mixed(params: Tree, trunk: Output) -> jax.Array:
    """The last hidden state; or, where the head has weights for the layers, their mean: [B, T, D]."""
    if "layer_weights" not in params:
        assert trunk.last_hidden_state is not None
        return trunk.last_hidden_state
    assert trunk.hidden_states is not None
    share_N = jax.nn.softmax(params["layer_weights"].astype(jnp.float32)).astype(trunk.hidden_states[0].dtype)
    return jnp.einsum("N,NBTD->BTD", share_N, jnp.stack(trunk.hidden_states))


def say_letters(params: Tree, trunk: Output, mask: Any, config: Any, rng: Any) -> dict[str, Any]:
    """A letter, or the blank, for each frame: logits [B, T, V]."""
    assert trunk.last_hidden_state is not None
    x_BTD = dropout(trunk.last_hidden_state, config.final_dropout, rng)
    return {"logits": linear(params["ctc"], x_BTD)}


def classify_sound(params: Tree, trunk: Output, mask: Any, config: Any, rng: Any) -> dict[str, Any]:
    """The mean of all frames that are of the sound, classified: logits [B, C]."""
    x_BTP = linear(params["projector"], mixed(params, trunk))
    if mask is None:
        pooled_BP = x_BTP.mean(1)
    else:
        real_BT1 = frame_mask(mask, x_BTP.shape[1], config)[..., None].astype(x_BTP.dtype)
        pooled_BP = (x_BTP * real_BT1).sum(1) / real_BT1.sum(1)
    return {"logits": linear(params["classifier"], pooled_BP)}


def classify_frames(params: Tree, trunk: Output, mask: Any, config: Any, rng: Any) -> dict[str, Any]:
    """Every frame classified: logits [B, T, C]."""
    return {"logits": linear(params["classifier"], mixed(params, trunk))}


def embed_speaker(params: Tree, trunk: Output, mask: Any, config: Any, rng: Any) -> dict[str, Any]:
    """Who speaks (Snyder et al. 2018, x-vectors): `embeddings` [B, X], `logits` [B, X] made of them, and `cosines` [B, C] of
    these and each speaker's vector, which are what is learnt from."""
    x_BTE = linear(params["projector"], mixed(params, trunk))
    for n, dilation in enumerate(config.tdnn_dilation):
        kernel = params[f"tdnn_{n}"]["kernel"]
        x_BTE = convolved(x_BTE, kernel, window_strides=(1,), padding=[(0, 0)], rhs_dilation=(dilation,))
        x_BTE = jax.nn.relu(x_BTE + jnp.broadcast_to(params[f"tdnn_{n}"]["bias"], x_BTE.shape))
    x32 = x_BTE.astype(jnp.float32)
    real_BT1 = jnp.ones((1, x32.shape[1], 1), jnp.float32)
    if mask is not None:
        # As transformers counts: a dilation makes a layer's window no wider.
        lengths_B = config.frames(mask.astype(jnp.int32).sum(-1)) - sum(size - 1 for size in config.tdnn_kernel)
        real_BT1 = (jnp.arange(x32.shape[1])[None] < lengths_B[:, None])[..., None].astype(jnp.float32)
    count_B11 = real_BT1.sum(1, keepdims=True)
    mean_B1E = (x32 * real_BT1).sum(1, keepdims=True) / count_B11
    variance_BE = (jnp.square(x32 - mean_B1E) * real_BT1).sum(1) / (count_B11[:, 0] - 1)
    pooled_BE = jnp.concatenate((mean_B1E[:, 0], jnp.sqrt(variance_BE)), -1).astype(x_BTE.dtype)
    embeddings_BX = linear(params["embedding"], pooled_BE)
    logits_BX = linear(params["classifier"], embeddings_BX)
    cosines_BC = _unit(logits_BX, 1) @ _unit(params["speakers"], 0)
    return {"logits": logits_BX, "embeddings": embeddings_BX, "cosines": cosines_BC}


def _unit(x: jax.Array, axis: int) -> jax.Array:
    return x / jnp.maximum(jnp.linalg.norm(x, axis=axis, keepdims=True), 1e-12)


HEADS: dict[str | None, Forward] = {
    None: encode,
    "ctc": attach(say_letters),
    "audio-classification": attach(classify_sound),
}
