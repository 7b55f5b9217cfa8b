"""Task heads: small functions from a trunk's output to logits, what they own, and how they are attached to a trunk.

A head is `head(params, trunk, config, rng) -> fields of Output`. It finds its own parameters in the model's tree under
`pooler`, `classifier`, `masked_lm` or `next_sentence`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxformers.core import vocabulary
from jaxformers.core.layers import ACTIVATIONS, declare_linear, declare_norm, dropout, layer_norm, linear, split_rng
from jaxformers.core.outputs import Output
from jaxformers.core.params import Initialiser, Param, Tree, zeros

Head = Callable[[Tree, Output, Any, jax.Array | None], dict[str, Any]]
Forward = Callable[..., Output]
ARRAYS = ("input_ids", "attention_mask", "token_type_ids", "position_ids", "inputs_embeds")


def attach(encode: Forward, head: Head) -> Forward:
    """`encode` followed by `head`; takes what `encode` takes, and both draw their dropout from one `rng`."""

    def forward(params: Tree, *inputs: Any, config: Any, rng: jax.Array | None = None, **named: Any) -> Output:
        rng_trunk, rng_head = split_rng(rng, 2)
        trunk = encode(params, *inputs, config=config, rng=rng_trunk, **named)
        fields = head(params, trunk, config, rng_head)
        beside = {
            name: trunk[name]
            for name in ("cache", "hidden_states", "attentions", "new_stats", "reshaped_hidden_states")
        }
        return Output(**fields, **beside)

    return forward


def remembering(encode: Forward, go_on: Forward) -> Forward:
    """`encode`, or where there is a `cache` `go_on`, which gives the state of what comes next alone."""

    def forward(params: Tree, *inputs: Any, cache: Any = None, logits_to_keep: int = 0, **named: Any) -> Output:
        return encode(params, *inputs, **named) if cache is None else go_on(params, *inputs, cache=cache, **named)

    return forward


def pool_first(params: Tree, x_BLD: jax.Array) -> jax.Array:
    """BERT's pooler: a dense layer and tanh over the first token, [B, L, D] -> [B, D]."""
    return jnp.tanh(linear(params, x_BLD[:, 0]))


def classifier_rate(config: Any) -> float:
    """The dropout before a classifier: its own, or that of the hidden states where it has none."""
    rate: float | None = config.classifier_dropout
    return config.hidden_dropout_prob if rate is None else rate


def _classify(params: Tree, x: Any, config: Any, rng: jax.Array | None) -> jax.Array:
    return linear(params["classifier"], dropout(x, classifier_rate(config), rng))


def classify_pooled(params: Tree, trunk: Output, config: Any, rng: jax.Array | None) -> dict[str, Any]:
    """Dropout and a dense layer over the pooled text: logits [B, C]."""
    return {"logits": _classify(params, trunk.pooler_output, config, rng)}


def classify_tokens(params: Tree, trunk: Output, config: Any, rng: jax.Array | None) -> dict[str, Any]:
    """Dropout and a dense layer over every token: logits [B, L, C]."""
    return {"logits": _classify(params, trunk.last_hidden_state, config, rng)}


def classify_first(
    params: Tree, trunk: Output, rng: jax.Array | None, activation: str, before: float, after: float
) -> dict[str, Any]:
    """A dense layer, activation and a second dense layer over the first token: logits [B, C].

    Args:
      params: the model's tree; the two layers are `classifier/dense` and `classifier/out`.
      trunk: the trunk's output.
      rng: key for dropout; None means none.
      activation: a name in `ACTIVATIONS`.
      before: rate of the dropout before the first layer.
      after: rate of the dropout before the second.
    """
    rng_before, rng_after = split_rng(rng, 2)
    layers = params["classifier"]
    pooled_BD = ACTIVATIONS[activation](linear(layers["dense"], dropout(_states(trunk)[:, 0], before, rng_before)))
    return {"logits": linear(layers["out"], dropout(pooled_BD, after, rng_after))}


SUMMARIES: dict[str, Callable[[jax.Array], jax.Array]] = {
    "first": lambda x_BLD: x_BLD[:, 0],
    "last": lambda x_BLD: x_BLD[:, -1],
    "mean": lambda x_BLD: x_BLD.mean(1),
    "cls_index": lambda x_BLD: x_BLD[:, -1],  # without an index, which no caller gives, it is the last
}


def summarise(params: Tree | None, trunk: Output, kind: str, activation: str) -> jax.Array:
    """One vector of a text [B, D]: a token or the mean of all, padding included, then a dense layer (if any) and activation."""
    x_BD = SUMMARIES[kind](_states(trunk))
    return ACTIVATIONS[activation](x_BD if params is None else linear(params, x_BD))


def summarised(encode: Forward) -> Forward:
    """`encode`, whose `pooler_output` [B, D] is what `config.summary_type` says of the real tokens: one of them, or their mean.

    Padding may stand on either side. (PyTorch takes the last column, whatever is there: the same for texts it pads left.)
    """

    def forward(params: Tree, *inputs: Any, config: Any, **named: Any) -> Output:
        trunk = encode(params, *inputs, config=config, **named)
        mask = inputs[1] if len(inputs) > 1 else named.get("attention_mask")
        pooled_BD = _summary(_states(trunk), mask, config.summary_type)
        return trunk.replace(pooler_output=pooled_BD)  # type: ignore[attr-defined]

    return forward


def _summary(x_BLD: jax.Array, attention_mask: jax.Array | None, kind: str) -> jax.Array:
    if attention_mask is None:
        return SUMMARIES[kind](x_BLD)
    if kind == "mean":
        real_BL1 = attention_mask[..., None].astype(x_BLD.dtype)
        return (x_BLD * real_BL1).sum(1) / jnp.maximum(real_BL1.sum(1), 1)
    return token_at(x_BLD, first_token(attention_mask) if kind == "first" else last_token(attention_mask))


def first_token(attention_mask: jax.Array) -> jax.Array:
    """Where the first real token of each text stands: [B, L] -> [B]."""
    return jnp.argmax(attention_mask != 0, axis=1)


def last_token(attention_mask: jax.Array) -> jax.Array:
    """Where the last real token of each text stands: [B, L] -> [B]."""
    return attention_mask.shape[1] - 1 - jnp.argmax(attention_mask[:, ::-1] != 0, axis=1)


def token_at(x_BLD: jax.Array, index_B: jax.Array) -> jax.Array:
    """One token of each text: [B, L, D] and [B] -> [B, D]."""
    return jnp.take_along_axis(x_BLD, index_B[:, None, None], axis=1)[:, 0]


def find_span(params: Tree, trunk: Output, config: Any, rng: jax.Array | None) -> dict[str, Any]:
    """Logits [B, L] for the first and for the last token of an answer."""
    logits_BL2 = linear(params["classifier"], _states(trunk))
    return {"start_logits": logits_BL2[..., 0], "end_logits": logits_BL2[..., 1]}


def declare_masked_lm(
    width: int, vocab: int, names: dict[str, str], init: Initialiser, tied: bool, table: int | None = None
) -> Tree:
    """A dense layer, activation and norm, then the vocabulary: its embedding table again (tied) or a table of its own.

    Args:
      width: D of the trunk.
      vocab: V.
      names: checkpoint names of `dense`, `norm`, `bias` (and `decoder` where it is not tied).
      init: initialiser of the weights.
      tied: whether the output table is the word embedding.
      table: width of the table, where it is not the trunk's.
    """
    table = width if table is None else table
    tree: Tree = {
        "dense": declare_linear(width, table, names["dense"], init, ("embed", "mlp")),
        "norm": declare_norm(table, names["norm"]),
        "bias": Param((vocab,), ("vocab",), zeros, names["bias"], decay=False),
    }
    if not tied:
        tree["decoder"] = Param((vocab, table), ("vocab", "table"), init, f"{names['decoder']}.weight")
    return tree


def predict_words(
    params: Tree, trunk: Output, config: Any, rng: jax.Array | None, *, activation: str | None = None
) -> dict[str, Any]:
    """Masked language modelling: logits [B, L, V] over the word embedding, or the head's own table where it has one.

    `activation` is the config's unless given: some families fix it.
    """
    head = params["masked_lm"]
    h_BLD = ACTIVATIONS[activation or config.hidden_act](linear(head["dense"], _states(trunk)))
    return {"logits": _against_words(params, layer_norm(head["norm"], h_BLD, config.layer_norm_eps))}


def declare_vocabulary(width: int, vocab: int, name: str, init: Initialiser, tied: bool) -> Tree:
    """The vocabulary alone, without a layer before it: a bias, and a table where it is not the word embedding (tied).

    Args:
      width: D of the trunk.
      vocab: V.
      name: what both are called in a checkpoint, before `.bias` and `.weight`.
      init: initialiser of the table.
      tied: whether the table is the word embedding.
    """
    tree: Tree = {"bias": Param((vocab,), ("vocab",), zeros, f"{name}.bias", decay=False)}
    if not tied:
        tree["decoder"] = Param((vocab, width), ("vocab", "table"), init, f"{name}.weight")
    return tree


def over_vocabulary(params: Tree, trunk: Output, config: Any, rng: jax.Array | None) -> dict[str, Any]:
    """Every state against every word, and nothing between: logits [B, L, V]."""
    return {"logits": _against_words(params, _states(trunk))}


def _against_words(params: Tree, h_BLD: jax.Array) -> Any:
    head = params.get("masked_lm", {})  # a table that is tied, without a bias, owns nothing
    return vocabulary.against(h_BLD, head.get("decoder", params["embeddings"]["word"]), head.get("bias"))


def predict_next_sentence(params: Tree, trunk: Output, config: Any, rng: jax.Array | None) -> dict[str, Any]:
    """Does the second text follow the first? Logits [B, 2]; class 0 says yes."""
    return {"logits": linear(params["next_sentence"], trunk.pooler_output)}  # type: ignore[arg-type]


def pretrain(params: Tree, trunk: Output, config: Any, rng: jax.Array | None) -> dict[str, Any]:
    """Both of BERT's pretraining heads: words and next sentence."""
    return {
        "prediction_logits": predict_words(params, trunk, config, rng)["logits"],
        "seq_relationship_logits": predict_next_sentence(params, trunk, config, rng)["logits"],
    }


def choose(classify: Forward, arrays: tuple[str, ...] = ARRAYS) -> Forward:
    """Multiple choice: inputs [B, C, L]; each choice is classified as a text of its own, logits [B, C].

    Args:
      classify: a forward function with logits [B, 1].
      arrays: those of its inputs that have a row for each choice.
    """

    def forward(params: Tree, *inputs: jax.Array | None, **named: Any) -> Output:
        B, C = next(x.shape[:2] for x in (*inputs, *map(named.get, arrays)) if x is not None)

        def merge(x: Any) -> Any:
            return x if x is None else x.reshape(B * C, *x.shape[2:])

        named = {name: merge(value) if name in arrays else value for name, value in named.items()}
        output = classify(params, *map(merge, inputs), **named)
        assert output.logits is not None
        return output.replace(logits=output.logits.reshape(B, C))  # type: ignore[attr-defined]

    return forward


def _states(trunk: Output) -> jax.Array:
    assert trunk.last_hidden_state is not None
    return trunk.last_hidden_state
