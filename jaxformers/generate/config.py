"""How to generate: transformers' names, defaults and rules, read strictly.

An option comes from, in this order: what `generate` was called with, generation_config.json, config.json (token ids alone),
and the defaults below.
"""

import dataclasses
import difflib
import json
from collections.abc import Mapping
from reprlib import repr as shown
from typing import Any

from jaxformers.errors import ConfigError, InputError
from jaxformers.families.model import ANSWERS

# Keys of a generation_config.json that change no token we give, each with why.
IGNORED = {
    **dict.fromkeys(("transformers_version", "_from_model_config", "_commit_hash"), "a record of how it was made"),
    **dict.fromkeys(("use_cache", "cache_implementation", "cache_config", "max_cache_len", "low_memory", "compile_config",
                     "disable_compile", "prefill_chunk_size", "return_legacy_cache", "continuous_batching_config"),
                    "how it is run: here always over a static cache, compiled"),
    **dict.fromkeys(("return_dict_in_generate", "output_attentions", "output_hidden_states"), "what comes back is a record"),
    **dict.fromkeys(("num_assistant_tokens_schedule", "assistant_confidence_threshold", "assistant_lookbehind",
                     "target_lookbehind", "assistant_early_exit", "is_assistant", "speculation_type", "use_mtp",
                     "assistant_ensemble_weight"),
                    "how another model helps, which changes no distribution"),
    **dict.fromkeys(("alignment_heads", "is_multilingual", "lang_to_id", "language", "max_initial_timestamp_index",
                     "no_timestamps_token_id", "prev_sot_token_id", "return_timestamps", "task", "task_to_id",
                     "forced_decoder_ids", "median_filter_width", "condition_on_prev_tokens", "logprob_threshold",
                     "compression_ratio_threshold", "no_speech_threshold"),
                    "what Whisper's texts begin with, and their times: generate.speech reads it"),
    **dict.fromkeys(("chat_format", "max_window_size", "trust_remote_code"), "left over from a model's own code"),
}  # fmt: skip
# key -> (the only value we compute, what another one would mean)
FIXED: dict[str, tuple[Any, str]] = {
    "num_beam_groups": (1, "beams in groups"),
    "diversity_penalty": (0.0, "beams in groups"),
    "penalty_alpha": (0.0, "contrastive search"),
    "guidance_scale": (1, "classifier-free guidance"),
    "max_time": (None, "a limit of time"),
    "top_h": (None, "truncation by entropy"),
    "token_healing": (False, "healing of the prompt's end"),
    "force_words_ids": (None, "words that must occur"),
    "constraints": (None, "words that must occur"),
    "watermarking_config": (None, "watermarks"),
    "dola_layers": (None, "contrast of layers"),
}
Ids = tuple[int, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class GenerationConfig:
    """How to generate. Frozen and hashable; names and defaults are transformers'.

    Args:
      max_length: tokens in all, the prompt's padding included; where nobody says, 20 new ones.
      max_new_tokens: tokens after the prompt; goes before `max_length`.
      min_length: no end before so many tokens in all.
      min_new_tokens: no end before so many tokens after the prompt.
      early_stopping: of beams: True stops once there are enough ended ones, False when it is unlikely, "never" when it is
        impossible that a better one comes.
      stop_strings: texts after which a row ends; `generate` needs a tokenizer for them.
      do_sample: draw the next token, rather than take the likeliest.
      num_beams: sequences that are followed at a time.
      temperature: divides the logits before a draw.
      top_k: tokens that a draw is from; 0 means all.
      top_p: the smallest probability that the tokens of a draw have together.
      min_p: the least probability of such a token, as a share of the likeliest one's.
      typical_p: as `top_p`, of the tokens whose surprise is nearest to the expected (Meister et al. 2022).
      epsilon_cutoff: the least probability of a token.
      eta_cutoff: the same, lower where the distribution is flat (Hewitt et al. 2022).
      repetition_penalty: what makes tokens that were there less likely, above 1 (Keskar et al. 2019).
      encoder_repetition_penalty: what makes tokens that were read (by an encoder, or as a prompt) likelier, above 1.
      length_penalty: the power of a beam's length that its score is divided by.
      no_repeat_ngram_size: no sequence of so many tokens comes twice; 0 means no such rule.
      encoder_no_repeat_ngram_size: no sequence of so many tokens that were read comes again; 0 means no such rule.
      bad_words_ids: sequences of tokens that must not come.
      sequence_bias: (sequence of tokens, what is added to the logit of its last one) pairs.
      renormalize_logits: make a distribution again of what the processors left.
      forced_bos_token_id: the first token after a prompt of one.
      forced_eos_token_id: the last token where `max_length` is reached.
      remove_invalid_values: take NaN and infinity out of the logits.
      exponential_decay_length_penalty: (start, factor): the end becomes likelier from so many new tokens on.
      suppress_tokens: tokens that must not come.
      begin_suppress_tokens: tokens that must not come first.
      num_assistant_tokens: tokens that an assistant model guesses at a time; always so many, so by default fewer than the 20
        of transformers, which stops guessing where the assistant is unsure.
      prompt_lookup_num_tokens: tokens that are guessed at a time without one: those that followed the last ones before.
      max_matching_ngram_size: by how many of the last tokens these are looked up; then by fewer.
      num_return_sequences: results for each row: draws, or the best beams.
      output_scores: also return what each token was chosen by.
      output_logits: also return the model's logits.
      pad_token_id: what an ended row is filled with; by default the first of `eos_token_id`.
      bos_token_id: the whole prompt where none is given.
      eos_token_id: tokens that end a row.
      decoder_start_token_id: what an encoder-decoder's output begins with.
    """

    max_length: int | None = None
    max_new_tokens: int | None = None
    min_length: int = 0
    min_new_tokens: int | None = None
    early_stopping: bool | str = False
    stop_strings: tuple[str, ...] | None = None
    do_sample: bool = False
    num_beams: int = 1
    temperature: float = 1.0
    top_k: int = 50
    top_p: float = 1.0
    min_p: float | None = None
    typical_p: float = 1.0
    epsilon_cutoff: float = 0.0
    eta_cutoff: float = 0.0
    repetition_penalty: float = 1.0
    encoder_repetition_penalty: float = 1.0
    length_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    encoder_no_repeat_ngram_size: int = 0
    bad_words_ids: tuple[Ids, ...] | None = None
    sequence_bias: tuple[tuple[Ids, float], ...] | None = None
    renormalize_logits: bool = False
    forced_bos_token_id: int | None = None
    forced_eos_token_id: Ids | None = None
    remove_invalid_values: bool = False
    exponential_decay_length_penalty: tuple[int, float] | None = None
    suppress_tokens: Ids | None = None
    begin_suppress_tokens: Ids | None = None
    num_assistant_tokens: int = 5
    prompt_lookup_num_tokens: int | None = None
    max_matching_ngram_size: int = 2
    num_return_sequences: int = 1
    output_scores: bool = False
    output_logits: bool = False
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: Ids | None = None
    decoder_start_token_id: int | None = None

    def __post_init__(self) -> None:
        for name, (kind, fits, expected) in RULES.items():
            value = getattr(self, name)
            whole = kind is int and isinstance(value, int) and not isinstance(value, bool)
            number = kind is float and isinstance(value, int | float) and not isinstance(value, bool)
            if value is not None and not ((whole or number) and fits(value)):
                raise InputError(f"{name} must be {expected}, found {shown(value)}")
        for name in ("do_sample", "renormalize_logits", "remove_invalid_values", "output_scores", "output_logits"):
            if not isinstance(getattr(self, name), bool):
                raise InputError(f"{name} must be True or False, found {shown(getattr(self, name))}")
        if self.early_stopping not in (True, False, "never"):
            raise InputError(f"early_stopping must be True, False or 'never', found {shown(self.early_stopping)}")
        if self.num_return_sequences > 1 and self.num_beams == 1 and not self.do_sample:
            raise InputError(
                "num_return_sequences above 1 needs do_sample or as many num_beams: greedy gives one result"
            )
        if self.num_beams > 1 and self.num_return_sequences > self.num_beams:
            raise InputError(
                f"num_return_sequences ({self.num_return_sequences}) must not exceed num_beams ({self.num_beams})"
            )
        if self.num_beams > 1 and self.stop_strings:
            raise InputError("stop_strings with num_beams above 1 are not supported: give eos_token_id, or one beam")
        for name in ("forced_bos_token_id", "forced_eos_token_id"):
            forced = getattr(self, name)
            forced = (forced,) if isinstance(forced, int) else forced or ()
            if forced and {*forced} <= {*(self.suppress_tokens or ())}:
                raise InputError(f"{name} {forced} is among suppress_tokens, so that nothing could come")

    def replace(self, **changes: Any) -> "GenerationConfig":
        """A copy with options changed; lists become tuples. Raises `InputError` for an unknown one."""
        return dataclasses.replace(self, **_known(changes, "generate"))


def _at_least(least: float) -> Any:
    return lambda value: value >= least


_ID = (int, _at_least(0), "a token id")
RULES: dict[str, tuple[type, Any, str]] = {
    **dict.fromkeys(("max_length", "max_new_tokens", "num_beams", "num_return_sequences", "num_assistant_tokens",
                     "prompt_lookup_num_tokens", "max_matching_ngram_size"),
                    (int, _at_least(1), "a whole number of at least 1")),
    **dict.fromkeys(("min_length", "min_new_tokens", "top_k", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size"),
                    (int, _at_least(0), "a whole number of at least 0")),
    **dict.fromkeys(("temperature", "repetition_penalty", "encoder_repetition_penalty"),
                    (float, lambda value: value > 0, "a number above 0")),
    **dict.fromkeys(("top_p", "min_p"), (float, lambda value: 0 <= value <= 1, "a number from 0 to 1")),
    "typical_p": (float, lambda value: 0 < value <= 1, "a number above 0 and up to 1"),
    **dict.fromkeys(("epsilon_cutoff", "eta_cutoff"), (float, lambda value: 0 <= value < 1, "from 0 to below 1")),
    "length_penalty": (float, lambda value: True, "a number"),
    **dict.fromkeys(("forced_bos_token_id", "bos_token_id", "decoder_start_token_id"), _ID),
    "pad_token_id": (int, lambda value: True, "a token id"),
}  # fmt: skip
_IDS = ("suppress_tokens", "begin_suppress_tokens", "eos_token_id", "forced_eos_token_id")


def _known(raw: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Options with our fields' values. Raises `InputError` for what is unknown or cannot be computed."""
    fields = {field.name for field in dataclasses.fields(GenerationConfig)}
    values: dict[str, Any] = {}
    for key, value in raw.items():
        if key in fields:
            values[key] = _frozen(key, value, source)
        elif key in FIXED:
            allowed, meaning = FIXED[key]
            if value is not None and value != allowed:
                raise ConfigError(f"{source}: {key}={shown(value)} ({meaning}) is not supported, only {allowed!r} is")
        elif key not in IGNORED and value and not key.startswith("_"):
            close = difflib.get_close_matches(key, [*fields, *FIXED, *IGNORED], 1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise ConfigError(f"{source}: unknown option {key[:80]!r} = {shown(value)}{hint}")
    return values


def _frozen(key: str, value: Any, source: str) -> Any:
    """An option's value, with tuples for lists, and a tuple of ids where one id would do."""
    try:
        match key:
            case _ if value is None:
                return None
            case "stop_strings":
                texts = (value,) if isinstance(value, str) else tuple(value)
                if all(isinstance(text, str) and text for text in texts):
                    return texts
            case "bad_words_ids":
                words = tuple(_ids(word) for word in value)
                if all(words):
                    return words
            case "sequence_bias":
                pairs = value.items() if isinstance(value, Mapping) else value
                return tuple((_ids(words), float(bias)) for words, bias in pairs)
            case "exponential_decay_length_penalty":
                start, factor = value
                return int(start), float(factor)
            case _ if key in _IDS:
                return _ids((value,) if isinstance(value, int) else value)
            case _:
                return value
    except (TypeError, ValueError):
        pass
    raise ConfigError(f"{source}: {key} cannot be {shown(value)}")


def _ids(values: Any) -> Ids:
    if not all(isinstance(value, int) and not isinstance(value, bool) and value >= 0 for value in values):
        raise ValueError
    return tuple(values)


def config_for(model: Any, given: GenerationConfig | None, options: Mapping[str, Any]) -> GenerationConfig:
    """The options that count for a model: those of a call, else those of its files, else the defaults.

    Args:
      model: whose generation_config.json and config.json are asked.
      given: takes the place of generation_config.json, its token ids where it has any.
      options: those of the call; None switches one off.
    """
    raw = json.loads(model.config.raw)
    ids = ("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id", "forced_bos_token_id",
           "forced_eos_token_id")  # fmt: skip
    if model.head in ANSWERS:  # whose configs have these of their own, with defaults
        raw = {key: getattr(model.config, key, None) for key in ids} | raw
    found = {key: raw[key] for key in ids if raw.get(key) is not None and (raw[key] != -1)}
    values = _known(found, "config.json")
    values |= _without_none(_known(model.generation, "generation_config.json"))
    if given is not None:
        own = _without_none({field.name: getattr(given, field.name) for field in dataclasses.fields(given)})
        values = {key: value for key, value in values.items() if key in ids} | own
    # An option of a call that is None is switched off, as in transformers: that is what the defaults do, but for top_k's.
    off = {field.name: field.default for field in dataclasses.fields(GenerationConfig)} | {"top_k": 0}
    asked = _known(options, "generate")
    return GenerationConfig(**values | {key: off[key] if value is None else value for key, value in asked.items()})


def _without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}
