"""Texts of many languages for one translation model: a token says which language a text is in, another which to write."""

import difflib

from jaxformers.errors import InputError
from jaxformers.preprocess.text import Tokenizer
from jaxformers.preprocess.tokenizer_languages import HABITS


def has_languages(tokenizer: Tokenizer) -> bool:
    """Whether its texts say which language they are in."""
    return tokenizer.tokenizer_class in HABITS


def language_id(tokenizer: Tokenizer, code: str) -> int:
    """The id of a language's token.

    Args:
      tokenizer: of a model for many languages.
      code: as the model has it, such as "fr" (M2M-100), "fr_XX" (mBART) or "fra_Latn" (NLLB).

    Raises:
      InputError: the tokenizer has no such language; names the nearest.
    """
    form = HABITS[tokenizer.tokenizer_class].form
    if (token := form.format(code)) in tokenizer.extra_special_tokens:
        return int(tokenizer.convert_tokens_to_ids(token))
    start, end = form.split("{}")
    codes = [token.removeprefix(start).removesuffix(end) for token in tokenizer.extra_special_tokens]
    close = difflib.get_close_matches(str(code), codes, 1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise InputError(f"{tokenizer.tokenizer_class} has no language {code!r}{hint}")


def in_language(tokenizer: Tokenizer, ids: list[int], code: str) -> list[int]:
    """The ids of a text (without special tokens) as a model reads them: with its end, and the token of its language."""
    after = HABITS[tokenizer.tokenizer_class].after or tokenizer.config.get(
        "legacy_behaviour"
    )  # of NLLB's first release
    language, end = language_id(tokenizer, code), tokenizer.eos_token_id
    return [*ids, end, language] if after else [language, *ids, end]
