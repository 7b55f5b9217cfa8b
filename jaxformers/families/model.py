"""`Model`, what a checkpoint becomes, and `Family`, what a family's module offers."""

import dataclasses
import difflib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax

from jaxformers.core.cache import Cache
from jaxformers.core.outputs import Output
from jaxformers.core.params import Tree
from jaxformers.errors import InputError
from jaxformers.families.config import Config

Forward = Callable[..., Output]

# head -> how transformers' class for it is called, after the family's name
CLASS_NAMES = {
    None: "Model",
    "sequence-classification": "ForSequenceClassification",
    "token-classification": "ForTokenClassification",
    "question-answering": "ForQuestionAnswering",
    "masked-lm": "ForMaskedLM",
    "causal-lm": "ForCausalLM",
    "seq2seq-lm": "ForConditionalGeneration",
    "text-encoding": "EncoderModel",
    "next-sentence-prediction": "ForNextSentencePrediction",
    "pretraining": "ForPreTraining",
    "multiple-choice": "ForMultipleChoice",
    "table-question-answering": "ForQuestionAnswering",
    "image-classification": "ForImageClassification",
    "image-classification-with-teacher": "ForImageClassificationWithTeacher",
    "semantic-segmentation": "ForSemanticSegmentation",
    "zero-shot-image-classification": "Model",
    "text-features": "Model",
    "image-features": "Model",
    "masked-image-modeling": "ForMaskedImageModeling",
}

# heads whose decoder answers what an encoder has read, heard or seen
ANSWERS = ("seq2seq-lm", "speech-seq2seq", "vision2seq")

# head -> the arrays it takes beside those of its trunk
HEAD_INPUTS: dict[str | None, tuple[str, ...]] = {
    "question-answering-beam": ("p_mask", "cls_index", "start_positions"),
    "pretraining": ("sampled_negative_indices", "gumbel_temperature"),
}


def class_names(name: str, heads: Iterable[str | None]) -> dict[str | None, str]:
    """transformers' class for each head: `class_names("Bert", ["masked-lm"])` is `{"masked-lm": "BertForMaskedLM"}`."""
    return {head: name + CLASS_NAMES[head] for head in heads}


@dataclasses.dataclass(frozen=True, eq=False)
class Family:
    """One family: everything the rest of the library asks of it.

    Args:
      name: its `model_type`.
      config_class: its config dataclass.
      config_from_hf: (raw config.json, source name) -> Config.
      config_to_hf: (Config, architecture) -> raw config.json.
      config_keys: transformers' config key -> field.
      declare: (config, head) -> tree of `Param`.
      heads: head name -> forward function.
      architectures: head name -> transformers' class name.
      prefix: what the trunk's checkpoint names start with; base models lack it.
      prefixes: head -> what they start with in that head's checkpoints, where it is something else.
      cache: (config, batch, slots, dtype) -> an empty `Cache`; None where the family cannot generate.
      asks_ahead: whether what comes next is asked at the place where it will stand (XLNet's target, XLM's mask token): one token
        more is read, and nothing is told of what comes after the tokens before.
      encode: of models that answer a sound or an image, the encoder alone: (params, that, config) -> `Output`.
      decoder_inputs: of encoder-decoders, (labels [B, L], config) -> the `decoder_input_ids` they are predicted from.
      trunk: top-level keys of the tree that every head shares and no checkpoint may lack.
      inputs: the arrays its trunk takes.
      buffers: checkpoint names that hold no parameters; `{}` stands for any layer's number.
      renamed: how names begin that some files have -> how they begin here.
      aliases: a tensor's former checkpoint name -> its present one.
      ties: checkpoint name -> the name of the tensor it repeats.
    """

    name: str
    config_class: type[Config]
    config_from_hf: Callable[[Mapping[str, Any], str], Config]
    config_to_hf: Callable[[Any, str], dict[str, Any]]
    config_keys: Mapping[str, str]
    declare: Callable[[Any, str | None], Tree]
    heads: Mapping[str | None, Forward]
    architectures: Mapping[str | None, str]
    prefix: str
    trunk: tuple[str, ...]
    inputs: tuple[str, ...]
    buffers: tuple[str, ...] = ()
    renamed: Mapping[str, str] = dataclasses.field(default_factory=dict)
    ties: Mapping[str, str] = dataclasses.field(default_factory=dict)
    aliases: Mapping[str, str] = dataclasses.field(default_factory=dict)
    prefixes: Mapping[str | None, str] = dataclasses.field(default_factory=dict)
    cache: Callable[..., Cache] | None = None
    encode: Forward | None = None
    asks_ahead: bool = False
    decoder_inputs: Callable[[jax.Array, Any], jax.Array] | None = None

    def prefix_of(self, head: str | None) -> str:
        """What the trunk's names start with in a checkpoint of this head."""
        return "" if head is None else self.prefixes.get(head, self.prefix)

    def name_in(self, head: str | None, name: str) -> str:
        """A declared name as it is in a checkpoint of this head."""
        return self.prefix_of(head) + name.removeprefix(self.prefix) if name.startswith(self.prefix) else name

    def forward(self, head: str | None) -> Forward:
        """The function of a head. Raises `InputError` naming the nearest head where there is none of that name."""
        if head not in self.heads:
            known = [name for name in self.heads if name is not None]
            close = difflib.get_close_matches(str(head), known, 1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            raise InputError(f"{self.name} has no head {head!r}{hint}; it has None, {', '.join(sorted(known))}")
        return self.heads[head]


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    """A model: its config, its parameters, and the pure function that joins them. A record, not a pytree.

    `dataclasses.replace(model, params=new)` carries changed parameters; `model.params` is what goes into `jax.grad`.

    Args:
      family: where its functions come from.
      head: the task head, or None for hidden states.
      config: the frozen, hashable config.
      params: nested dict of arrays; nothing else is state.
      generation: what its generation_config.json says; read by `generate`, kept by `save`.
    """

    family: Family
    head: str | None
    config: Any
    params: Tree
    generation: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def inputs(self) -> tuple[str, ...]:
        """The arrays its forward pass takes."""
        return (*self.family.inputs, *HEAD_INPUTS.get(self.head, ()))

    def apply(self, params: Tree, *, rng: jax.Array | None = None, **inputs: Any) -> Output:
        """The forward pass, pure.

        Args:
          params: parameters of this model's structure.
          rng: key for dropout; None means none.
          **inputs: `input_ids` [B, L], `attention_mask` [B, L], `pixel_values` [B, Y, X, C], …; `output_hidden_states`,
            `output_attentions`, `execution`. The family's function says which.

        Returns:
          `Output`.
        """
        return self.family.forward(self.head)(params, config=self.config, rng=rng, **inputs)

    def declare(self) -> Tree:
        """The declarations of this model's parameters."""
        return self.family.declare(self.config, self.head)
