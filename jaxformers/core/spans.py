"""Answers found by beams (Yang et al. 2019, XLNet): an answer's end is judged given its start, and whether there is one at all.

Where a text is searched, the likeliest starts each get their likeliest ends; where the true start is given, as in training,
the end is judged after that one.
"""

from typing import Any

import jax
import jax.numpy as jnp

from jaxformers.core.heads import Forward, last_token, token_at
from jaxformers.core.layers import declare_linear, declare_norm, layer_norm, linear, whole
from jaxformers.core.outputs import Output
from jaxformers.core.params import Initialiser, Tree
from jaxformers.errors import InputError

NEVER = -1e30  # the logit of a token that no answer begins or ends with


def declare_beams(width: int, at: str, init: Initialiser) -> Tree:
    """The layers that find a start, an end given a start, and whether there is an answer; checkpoint names after `at`."""
    wide = ("embed", "mlp")
    return {
        "start": declare_linear(width, 1, at + "start_logits.dense", init),
        "end": {
            "dense": declare_linear(2 * width, width, at + "end_logits.dense_0", init, wide),
            "norm": declare_norm(width, at + "end_logits.LayerNorm"),
            "out": declare_linear(width, 1, at + "end_logits.dense_1", init),
        },
        "answer": {
            "dense": declare_linear(2 * width, width, at + "answer_class.dense_0", init, wide),
            "out": declare_linear(width, 1, at + "answer_class.dense_1", init, bias=False),
        },
    }


def end_logits(params: Tree, x_BLD: jax.Array, starts_BND: jax.Array, epsilon: float) -> jax.Array:
    """Does the answer that starts there end here? For each start and each token: [B, L, D] and [B, N, D] -> [B, N, L]."""
    here_DD, there_DD = jnp.split(whole(params["dense"]["kernel"]), 2)
    h_BNLD = (x_BLD @ here_DD)[:, None] + (starts_BND @ there_DD)[:, :, None]
    h_BNLD = jnp.tanh(h_BNLD + jnp.broadcast_to(params["dense"]["bias"], h_BNLD.shape))
    return linear(params["out"], layer_norm(params["norm"], h_BNLD, epsilon))[..., 0]


def no_answer(params: Tree, start_BD: jax.Array, class_BD: jax.Array) -> jax.Array:
    """Is there none? From the state of the start and that of the text: [B]."""
    h_BD = jnp.tanh(linear(params["dense"], jnp.concatenate((start_BD, class_BD), axis=-1)))
    return linear(params["out"], h_BD)[..., 0]


def find_by_beams(encode: Forward) -> Forward:
    """`encode` followed by the search. Beside what `encode` takes:

    Args:
      p_mask: [B, L], 1 for tokens that no answer begins or ends with; None means padding.
      cls_index: [B], the token that stands for the text; None means the last real one.
      start_positions: [B], the true starts. With them there are `start_logits`, `end_logits` given these starts, and
        `cls_logits`, from which a loss is made; without, the `…_top_…` fields of `Output` and `cls_logits`.
    """

    def forward(
        params: Tree,
        *inputs: Any,
        config: Any,
        p_mask: jax.Array | None = None,
        cls_index: jax.Array | None = None,
        start_positions: jax.Array | None = None,
        **named: Any,
    ) -> Output:
        trunk = encode(params, *inputs, config=config, **named)
        x_BLD, layers = trunk.last_hidden_state, params["span"]
        assert x_BLD is not None
        mask = inputs[1] if len(inputs) > 1 else named.get("attention_mask")
        if p_mask is None:
            p_mask = jnp.zeros(x_BLD.shape[:2], bool) if mask is None else mask == 0
        never_BL = p_mask != 0
        if cls_index is None:
            class_BD = x_BLD[:, -1] if mask is None else token_at(x_BLD, last_token(mask))
        else:
            class_BD = token_at(x_BLD, cls_index)
        start_BL = jnp.where(never_BL, NEVER, linear(layers["start"], x_BLD)[..., 0])
        middle: dict[str, Any] = {"hidden_states": trunk.hidden_states, "attentions": trunk.attentions}
        if start_positions is not None:
            # An answer that was cut off stands beyond the text: a loss leaves it out, and its token must still be one.
            start_BD = token_at(x_BLD, jnp.minimum(start_positions, x_BLD.shape[1] - 1))
            end_BL = end_logits(layers["end"], x_BLD, start_BD[:, None], config.layer_norm_eps)[:, 0]
            return Output(
                start_logits=start_BL,
                end_logits=jnp.where(never_BL, NEVER, end_BL),
                cls_logits=no_answer(layers["answer"], start_BD, class_BD),
                **middle,
            )
        most = max(config.start_n_top, config.end_n_top)
        if x_BLD.shape[1] < most:
            raise InputError(f"a search of {most} beams needs at least as many tokens, the input has {x_BLD.shape[1]}")
        start_BL = jax.nn.softmax(start_BL, axis=-1)
        top_BN, index_BN = jax.lax.top_k(start_BL, config.start_n_top)
        starts_BND = jnp.take_along_axis(x_BLD, index_BN[..., None], axis=1)
        end_BNL = end_logits(layers["end"], x_BLD, starts_BND, config.layer_norm_eps)
        end_BNL = jax.nn.softmax(jnp.where(never_BL[:, None], NEVER, end_BNL), axis=-1)
        tops_BNM, ends_BNM = jax.lax.top_k(end_BNL, config.end_n_top)
        by_rank = lambda each_BNM: each_BNM.swapaxes(1, 2).reshape(len(each_BNM), -1)  # noqa: E731
        return Output(
            start_top_log_probs=top_BN,
            start_top_index=index_BN,
            end_top_log_probs=by_rank(tops_BNM),
            end_top_index=by_rank(ends_BNM),
            cls_logits=no_answer(layers["answer"], jnp.einsum("BLD,BL->BD", x_BLD, start_BL), class_BD),
            **middle,
        )

    return forward
