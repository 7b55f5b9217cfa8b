"""Whisper's tokenizer: GPT-2's bytes, and in front of a text what Whisper is told: its language, the task, whether times come.

Its languages by name, too; what they are to the model is `generate.speech`'s.
"""

from collections.abc import Callable, Mapping
from typing import Any

from jaxformers.errors import InputError

TASKS = ("transcribe", "translate")
OPTIONS = ("language", "task", "predict_timestamps")  # of tokenizer_config.json
BEGIN, UNTIMED, BEFORE = "<|startoftranscript|>", "<|notimestamps|>", "<|startofprev|>"
# In the order of their tokens, with what they are called beside that in English.
_LANGUAGES = """
en english, zh chinese mandarin, de german, es spanish castilian, ru russian, ko korean, fr french, ja japanese, pt portuguese,
tr turkish, pl polish, ca catalan valencian, nl dutch flemish, ar arabic, sv swedish, it italian, id indonesian, hi hindi,
fi finnish, vi vietnamese, he hebrew, uk ukrainian, el greek, ms malay, cs czech, ro romanian moldavian moldovan, da danish,
hu hungarian, ta tamil, no norwegian, th thai, ur urdu, hr croatian, bg bulgarian, lt lithuanian, la latin, mi maori,
ml malayalam, cy welsh, sk slovak, te telugu, fa persian, lv latvian, bn bengali, sr serbian, az azerbaijani, sl slovenian,
kn kannada, et estonian, mk macedonian, br breton, eu basque, is icelandic, hy armenian, ne nepali, mn mongolian, bs bosnian,
kk kazakh, sq albanian, sw swahili, gl galician, mr marathi, pa punjabi panjabi, si sinhala sinhalese, km khmer, sn shona,
yo yoruba, so somali, af afrikaans, oc occitan, ka georgian, be belarusian, tg tajik, sd sindhi, gu gujarati, am amharic,
yi yiddish, lo lao, uz uzbek, fo faroese, ht haitian_creole haitian, ps pashto pushto, tk turkmen, nn nynorsk, mt maltese,
sa sanskrit, lb luxembourgish letzeburgesch, my myanmar burmese, bo tibetan, tl tagalog, mg malagasy, as assamese, tt tatar,
haw hawaiian, ln lingala, ha hausa, ba bashkir, jw javanese, su sundanese, yue cantonese
"""
NAMES = {  # a language's name -> its code
    name.replace("_", " "): entry.split()[0] for entry in _LANGUAGES.split(",") for name in entry.split()[1:]
}


def token_of(language: str) -> str:
    """The token of a language, by its code, its name in English or the token itself.

    >>> token_of("German"), token_of("yue")
    ('<|de|>', '<|yue|>')
    """
    low = language.lower()
    return low if low.startswith("<|") else f"<|{NAMES.get(low, low)}|>"


def language_of(token: str) -> str | None:
    """The name in English that a language's token stands for; None where it is of no language."""
    code = token[2:-2]
    return next((name for name, known in NAMES.items() if known == code), None) if token == f"<|{code}|>" else None


def frame(given: Mapping[str, Any], end: str, id_of: Callable[[str], int | None]) -> dict[str, Any]:
    """The post_processor of a tokenizer.json that puts around a text what Whisper is told of it, and its end.

    Args:
      given: tokenizer_config.json, of which `OPTIONS` are looked up.
      end: the token that ends a text.
      id_of: the id of a token.

    Raises:
      InputError: another task, or a token that this vocabulary does not have.
    """
    language, task = given.get("language"), given.get("task")
    if task not in (None, *TASKS):
        raise InputError(f"task of Whisper's tokenizer must be one of {', '.join(TASKS)}, found {task!r}")
    first = [BEGIN]
    first += [] if language is None else [token_of(str(language))]
    first += [] if task is None else [f"<|{task}|>"]
    first += [] if given.get("predict_timestamps") else [UNTIMED]
    for token in (*first, end):
        if id_of(token) is None:
            raise InputError(f"this vocabulary of Whisper's has no {token}, which every text needs")
    around = [{"SpecialToken": {"id": token, "type_id": 0}} for token in first]
    text = [{"Sequence": {"id": name, "type_id": number}} for number, name in enumerate("AB")]
    close = [{"SpecialToken": {"id": end, "type_id": number}} for number in (0, 1)]
    return {
        "type": "TemplateProcessing",
        "single": [*around, text[0], close[0]],
        "pair": [*around, *text, close[1]],
        "special_tokens": {token: {"id": token, "ids": [id_of(token)], "tokens": [token]} for token in (*first, end)},
    }
