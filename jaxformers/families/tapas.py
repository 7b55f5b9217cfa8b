"""TAPAS (Herzig et al. 2020, arXiv:2004.02349): BERT over a question and the table that answers it, cell by cell.

Its own: a token has seven types (see `TYPES`), each with a table of embeddings; positions begin anew in every cell; and a head
that picks cells of one column and says what is to be done with them. Tokens of one cell find each other by comparing columns
and rows pairwise, [B, L, L] as attention does, so that no table of all possible cells is needed. What `tok(table, queries)`
gives are its inputs: `preprocess.tokenizer_tapas`.
"""

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxformers.core import heads, positions
from jaxformers.core.layers import declare_linear, dropout, layer_norm, linear, split_rng
from jaxformers.core.outputs import Output
from jaxformers.core.params import Initialiser, Param, Tree, normal, stacked, zeros
from jaxformers.core.transformer import declare_post_norm
from jaxformers.errors import ConfigError, InputError
from jaxformers.families import text_encoder
from jaxformers.families.config import keys_of, read_config, shown, with_new_names, write_config
from jaxformers.families.model import Family, Forward, class_names
from jaxformers.families.text_encoder import FIXED, INPUTS, EncoderConfig, Text, TextConfig
from jaxformers.parallel.mesh import shard

# What each of a token's types says; a column or row of 0 is none: the question, and for rows the header.
TYPES = ("segment", "column", "row", "previous answer", "rank", "inverse rank", "relations to numbers of the question")
SEGMENT, COLUMN, ROW, PREVIOUS = range(4)
LOG_ZERO = -10000.0  # what a cell's logit is lowered by where it cannot be chosen


@dataclasses.dataclass(frozen=True, kw_only=True)
class TapasConfig(EncoderConfig):
    """TAPAS' numbers; the defaults are those of tapas-base.

    Of the head for questions: `temperature` divides the logits of tokens; `select_one_column` leaves cells of the likeliest
    column alone, which with `allow_empty_column_selection` may be none; without it, `average_logits_per_cell` says whether
    tokens of a cell share a logit. Its operators are `aggregation_labels`, of which `no_aggregation_label_index` does nothing.
    """

    max_position_embeddings: int = 1024
    type_vocab_size: int = 0  # that of BERT's one table
    type_vocab_sizes: tuple[int, ...] = (3, 256, 256, 2, 256, 256, 10)
    reset_position_index_per_cell: bool = True
    max_num_rows: int = 64
    max_num_columns: int = 32
    temperature: float = 1.0
    select_one_column: bool = True
    average_logits_per_cell: bool = False
    allow_empty_column_selection: bool = False
    init_cell_selection_weights_to_zero: bool = False
    num_aggregation_labels: int = 0
    aggregation_labels: tuple[str, ...] = ()
    no_aggregation_label_index: int | None = None

    SIZES = (*TextConfig.SIZES, "max_num_rows", "max_num_columns")

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.type_vocab_sizes) != len(TYPES) or min(self.type_vocab_sizes) < 1:
            raise ConfigError(f"type_vocab_sizes must be {len(TYPES)} positive numbers, found {self.type_vocab_sizes}")
        if not self.temperature > 0:
            raise ConfigError(f"temperature must be above 0, found {self.temperature}")
        operators, names = self.num_aggregation_labels, self.aggregation_labels
        if operators < 0 or (operators and names and len(names) != operators):
            raise ConfigError(f"aggregation_labels must name {operators} operators, found {len(names)}")


KEYS = keys_of(TapasConfig, without=("classifier_dropout", "type_vocab_size"))
IGNORED = {
    **dict.fromkeys(
        ("positive_label_weight", "aggregation_loss_weight", "use_answer_as_supervision", "answer_loss_importance",
         "use_normalized_answer_loss", "huber_loss_delta", "aggregation_temperature", "use_gumbel_for_cells",
         "use_gumbel_for_aggregation", "average_approximation_function", "cell_selection_preference",
         "answer_loss_cutoff", "disable_per_token_loss"),
        "of the losses it was trained with; no output depends on them",
    ),
    "softmax_temperature": "left over from the original TensorFlow code; PyTorch's TAPAS never read it",
}  # fmt: skip


def config_from_hf(raw: Mapping[str, Any], source: str = "config.json") -> TapasConfig:
    """Reads a config.json; operators stand there by their ids, and in the oldest files the types' sizes by another name."""
    raw = with_new_names(raw, {"type_vocab_size": "type_vocab_sizes"})
    names = raw.get("aggregation_labels")
    if isinstance(names, Mapping):
        ids = [str(i) for i in range(len(names))]
        if set(ids) != {str(key) for key in names}:
            raise ConfigError(f"{source}: aggregation_labels must name the ids 0 to n-1, found {shown(list(names))}")
        raw["aggregation_labels"] = [{str(key): name for key, name in names.items()}[i] for i in ids]
    return read_config(TapasConfig, KEYS, FIXED, IGNORED, raw, source)


def config_to_hf(config: TapasConfig, architecture: str) -> dict[str, Any]:
    """The config.json of `config`."""
    raw = write_config(KEYS, "tapas", config, architecture)
    return raw | {"aggregation_labels": {str(i): name for i, name in enumerate(config.aggregation_labels)} or None}


# -- what it owns ------------------------------------------------------------------------------------------------------


def declare(config: TapasConfig, head: str | None = None) -> Tree:
    """Every parameter of TAPAS with `head`: shape, axes, initialiser, checkpoint name and layout."""
    D, init, at = config.hidden_size, normal(config.initializer_range), "tapas.embeddings."
    block = declare_post_norm(config, text_encoder.block_names("tapas.encoder.layer.{}."), init)
    tree: Tree = {
        "embeddings": {
            **text_encoder.declare_embeddings(config, at),
            "types": {
                str(i): Param((size, D), ("types", "table"), init, f"{at}token_type_embeddings_{i}.weight")
                for i, size in enumerate(config.type_vocab_sizes)
            },
        },
        "layers": stacked(config.num_hidden_layers, block),
        **text_encoder.declare_classifier(config, head),
    }
    if head != "masked-lm":
        tree["pooler"] = declare_linear(D, D, "tapas.pooler.dense", init, ("embed", "mlp"))
    else:
        tied = config.tie_word_embeddings
        names = {"dense": "cls.predictions.transform.dense", "norm": "cls.predictions.transform.LayerNorm",
                 "bias": "cls.predictions.bias" if tied else "cls.predictions.decoder.bias",
                 "decoder": "cls.predictions.decoder"}  # fmt: skip
        tree["masked_lm"] = heads.declare_masked_lm(D, config.vocab_size, names, init, tied)
    if head == "table-question-answering":
        start = zeros if config.init_cell_selection_weights_to_zero else init
        tree["cells"] = _declare_score(D, "output", start)
        tree["columns"] = _declare_score(D, "column_output", start)
        if operators := config.num_aggregation_labels:
            tree["operator"] = declare_linear(D, operators, "aggregation_classifier", init)
    return tree


def _declare_score(width: int, name: str, init: Initialiser) -> Tree:
    """A dense layer to one number, which checkpoints keep as a vector and a scalar."""
    return {
        "kernel": Param((width,), ("embed",), init, f"{name}_weights"),
        "bias": Param((), (), zeros, f"{name}_bias", decay=False),
    }


# -- how it computes ---------------------------------------------------------------------------------------------------


def same_cell(column_BL: jax.Array, row_BL: jax.Array) -> jax.Array:
    """Which tokens stand in one cell (the question, of no column and no row, is one, too): booleans [B, L, L]."""
    return (column_BL[:, :, None] == column_BL[:, None]) & (row_BL[:, :, None] == row_BL[:, None])


def positions_in_cells(same_BLL: jax.Array, most: int) -> jax.Array:
    """How far each token is from the first of its cell, `most` where it is farther: [B, L]."""
    first_BL = jnp.argmax(same_BLL, axis=-1).astype(jnp.int32)
    return jnp.minimum(jnp.arange(first_BL.shape[1], dtype=jnp.int32)[None] - first_BL, most)


def embed(params: Tree, text: Text, config: TapasConfig, rng: jax.Array | None) -> jax.Array:
    """Words, positions (within a cell) and the seven types, summed and normalised: [B, L, D]."""
    x_BLD = params["word"][text.input_ids] if text.inputs_embeds is None else text.inputs_embeds
    B, L, _ = x_BLD.shape
    types_BLT = _types(text.token_type_ids, B, L)
    places_BL = text.position_ids
    if places_BL is None and config.reset_position_index_per_cell:
        places_BL = positions_in_cells(
            same_cell(types_BLT[..., COLUMN], types_BLT[..., ROW]), config.max_position_embeddings - 1
        )
    x_BLD = x_BLD + positions.learned(params["position"], L, places_BL)
    for i in range(len(TYPES)):
        x_BLD = x_BLD + params["types"][str(i)][types_BLT[..., i]]
    x_BLD = layer_norm(params["norm"], shard(x_BLD, "batch", "length", "embed"), config.layer_norm_eps)
    return dropout(x_BLD, config.hidden_dropout_prob, rng)


def _types(token_type_ids: jax.Array | None, batch: int, length: int) -> jax.Array:
    wanted = (batch, length, len(TYPES))
    if token_type_ids is None:
        return jnp.zeros(wanted, jnp.int32)
    if token_type_ids.shape != wanted:
        raise InputError(f"token_type_ids must have the shape {wanted}, seven a token, found {token_type_ids.shape}")
    return token_type_ids


def pick_cells(
    params: Tree, states_BLD: jax.Array, types_BLT: jax.Array, real_BL: jax.Array, config: TapasConfig
) -> Any:
    """How likely each token's cell belongs to the answer, as a logit [B, L].

    With `select_one_column` a column's score is the mean over its cells, and logits outside of the best one are lowered
    by 10,000. Padding is a cell of its own: what is said of a text does not depend on it. (In PyTorch it is of one cell with
    the question, whose mean is that of no column where `allow_empty_column_selection` lets it be chosen.)
    """

    def score(layer: Tree) -> jax.Array:
        score_BL = jnp.einsum("BLD,D->BL", states_BLD, layer["kernel"])
        return score_BL + jnp.broadcast_to(layer["bias"], score_BL.shape)

    real_BL = real_BL.astype(states_BLD.dtype)
    column_BL = jnp.minimum(types_BLT[..., COLUMN], config.max_num_columns - 1)
    row_BL = jnp.minimum(types_BLT[..., ROW], config.max_num_rows - 1)
    same_BLL = same_cell(column_BL, row_BL) & (real_BL[:, :, None] == real_BL[:, None])
    same_BLL = same_BLL.astype(states_BLD.dtype)
    size_BL = same_BLL.sum(-1)
    mean = lambda x_BL: jnp.einsum("BLS,BS->BL", same_BLL, x_BL) / size_BL  # noqa: E731
    logits_BL = score(params["cells"]) / config.temperature
    if not config.select_one_column:
        return mean(logits_BL) if config.average_logits_per_cell else logits_BL

    in_BLC = jax.nn.one_hot(column_BL, config.max_num_columns, dtype=states_BLD.dtype)
    share_BL = real_BL / size_BL  # of its cell, so that a column's tokens sum to its number of cells
    cells_BC = jnp.einsum("BLC,BL->BC", in_BLC, share_BL)
    columns_BC = jnp.einsum("BLC,BL->BC", in_BLC, mean(score(params["columns"])) * share_BL) / (cells_BC + 1e-10)
    none_C = jnp.arange(config.max_num_columns)[None] == 0  # the question's
    shut_BC = ~none_C & (cells_BC < 0.5)
    if not config.allow_empty_column_selection:
        shut_BC = shut_BC | none_C
    best_B = jnp.argmax(columns_BC + LOG_ZERO * shut_BC, axis=-1)
    chosen_BL = (column_BL == best_B[:, None]) & (column_BL != 0)
    return mean(logits_BL) + LOG_ZERO * (1 - real_BL * chosen_BL)


def answer(
    params: Tree,
    input_ids: jax.Array | None = None,
    attention_mask: jax.Array | None = None,
    token_type_ids: jax.Array | None = None,
    *inputs: Any,
    config: TapasConfig,
    rng: jax.Array | None = None,
    **named: Any,
) -> Output:
    """The cells of an answer, and what is to be done with them; takes what `encode` takes.

    Returns:
      `Output` with `logits` [B, L], the same for all tokens of a cell unless the config says otherwise, and
      `logits_aggregation` [B, C], the operators', where the model has any.
    """
    rng_trunk, rng_head = split_rng(rng, 2)
    trunk = encode(params, input_ids, attention_mask, token_type_ids, *inputs, config=config, rng=rng_trunk, **named)
    states_BLD = dropout(trunk.last_hidden_state, config.hidden_dropout_prob, rng_head)  # type: ignore[arg-type]
    B, L, _ = states_BLD.shape
    real_BL = jnp.ones((B, L), jnp.int32) if attention_mask is None else attention_mask
    return Output(
        logits=pick_cells(params, states_BLD, _types(token_type_ids, B, L), real_BL != 0, config),
        logits_aggregation=linear(params["operator"], trunk.pooler_output) if "operator" in params else None,  # type: ignore[arg-type]
        hidden_states=trunk.hidden_states,
        attentions=trunk.attentions,
    )


encode = partial(text_encoder.encode, embed=embed)
HEADS: dict[str | None, Forward] = {
    None: encode,
    "masked-lm": heads.attach(encode, heads.predict_words),
    "sequence-classification": heads.attach(encode, heads.classify_pooled),
    "table-question-answering": answer,
}

FAMILY = Family(
    name="tapas",
    config_class=TapasConfig,
    config_from_hf=config_from_hf,
    config_to_hf=config_to_hf,
    config_keys=KEYS,
    declare=declare,
    heads=HEADS,
    architectures=class_names("Tapas", HEADS),
    prefix="tapas.",
    trunk=("embeddings", "layers"),
    inputs=INPUTS,
    buffers=("tapas.embeddings.position_ids",),
    ties={
        "cls.predictions.decoder.weight": "tapas.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
        "cls.predictions.bias": "cls.predictions.decoder.bias",
    },
)
