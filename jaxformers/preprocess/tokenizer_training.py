"""Training WordPiece and byte-level BPE tokenizers, the same on every run and machine. Reading and writing is `tokenizer_files`.

The WordPiece trainer inside `tokenizers` numbers the continuing pieces ("##a") in the order of a randomly seeded hash table and
breaks ties between merges by those numbers: two runs on the same texts disagree. Its BPE trainer numbers characters by
code point and is deterministic, so here every continuing character borrows a private code point, BPE is trained on
such words, and the names are turned back into "##" pieces.
"""

import json
from collections.abc import Iterable, Iterator
from typing import Any

import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, trainers

from jaxformers.errors import InputError
from jaxformers.preprocess.text import Tokenizer
from jaxformers.preprocess.tokenizer_files import backend_of
from jaxformers.preprocess.tokenizer_layouts import (
    LAYOUTS,
    TYPED_INPUTS,
    UNKNOWN_CLASS,
    apply_options,
    byte_level_json,
    frame_json,
    options_of,
    wordpiece_json,
)

# BertNormalizer drops private-use characters from texts, so the borrowed ones cannot meet a real one.
_BORROWED = 0xF0000


def train_wordpiece(texts: Iterable[str], vocab_size: int, *, lowercase: bool = True) -> Tokenizer:
    """Trains a tokenizer of BERT's kind; equal texts give an equal tokenizer, on every run and machine.

    Args:
        texts: read once.
        vocab_size: at most so many tokens; ids 0 to 4 are [PAD], [UNK], [CLS], [SEP], [MASK].
        lowercase: lower the case of every text, and strip accents, before and after training.

    Raises:
        InputError: a text is not a str, or `vocab_size` cannot hold the characters of the texts.

    Example:
        >>> train_wordpiece(["newer and wider", "wider and lower"], vocab_size=40).tokenize("a wider newer low")
        ['a', 'wider', 'n', '##e', '##wer', 'l', '##o', '##w']
    """
    special = LAYOUTS["bert"]
    raw = wordpiece_json(learn_wordpiece(texts, vocab_size, list(special.values()), lowercase=lowercase), special)
    apply_options(raw, {"do_lower_case": lowercase})
    return Tokenizer(
        backend_of(raw, special),
        tokenizer_class="BertTokenizer",
        special_tokens=special,
        model_input_names=TYPED_INPUTS,
        config=options_of(raw),
    )


def learn_wordpiece(texts: Iterable[str], vocab_size: int, special: list[str], *, lowercase: bool) -> dict[str, int]:
    """Returns a vocabulary: the special tokens, then single characters, then pieces in the order they were learned."""
    if isinstance(texts, str):
        raise InputError("train_wordpiece expects an iterable of texts, found one str; put it in a list")
    normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    splitter = pre_tokenizers.BertPreTokenizer()
    borrowed: dict[str, str] = {}

    def words() -> Iterator[str]:
        for index, text in enumerate(texts):
            try:
                pieces = splitter.pre_tokenize_str(normalizer.normalize_str(text))
            except (TypeError, UnicodeEncodeError) as error:
                raise InputError(f"text {index} of the training texts is not a valid str: {error}") from error
            for word, _ in pieces:
                yield word[0] + "".join(borrowed.setdefault(c, chr(_BORROWED + len(borrowed))) for c in word[1:])

    bpe = tokenizers.Tokenizer(models.BPE())
    trainer = trainers.BpeTrainer(vocab_size=max(0, vocab_size - len(special)), min_frequency=2, show_progress=False)
    bpe.train_from_iterator(words(), trainer)
    owner = {private: character for character, private in borrowed.items()}

    def name(token: str) -> str:
        return ("##" if token[0] in owner else "") + "".join(owner.get(c, c) for c in token)

    learned = [name(token) for token, _ in sorted(bpe.get_vocab().items(), key=lambda item: item[1])]
    if len(special) + len(learned) > vocab_size:
        raise InputError(
            f"vocab_size={vocab_size} is too small: the special tokens and the single characters of these texts are"
            f" already {len(special) + len(learned)}"
        )
    return {token: index for index, token in enumerate([*special, *learned])}


# Layout -> transformers' class that reads what is saved, and the special tokens in the order of their ids.
_BYTE_LEVEL = {
    "gpt2": ("GPT2Tokenizer", ("<|endoftext|>",)),
    "roberta": ("RobertaTokenizer", ("<s>", "<pad>", "</s>", "<unk>", "<mask>")),
    "t5": (UNKNOWN_CLASS, ("<pad>", "</s>", "<unk>")),
}


def train_byte_level(texts: Iterable[str], vocab_size: int, *, layout: str = "gpt2", extra_ids: int = 0) -> Tokenizer:
    """Trains a byte-level BPE (Radford et al. 2019), which knows every text; equal texts give an equal tokenizer.

    Args:
        texts: read once.
        vocab_size: at most so many tokens, the 256 bytes and the special ones among them.
        layout: which special tokens there are (their ids begin at 0) and which stand around a text: "gpt2" none, "roberta" (and
            BART) <s> and </s>, "t5" </s> after it.
        extra_ids: so many sentinels <extra_id_0>, <extra_id_1>, …, the first of which has the highest id, as T5's have.

    Raises:
        InputError: a text is not a str, the layout is unknown, or `vocab_size` cannot hold the bytes and special tokens.

    Example:
        >>> train_byte_level(["newer and wider", "wider and lower"], vocab_size=263).tokenize("a wider")
        ['a', 'Ġ', 'wider']
    """
    if isinstance(texts, str):
        raise InputError("train_byte_level expects an iterable of texts, found one str; put it in a list")
    if layout not in _BYTE_LEVEL:
        raise InputError(f"layout must be one of {', '.join(_BYTE_LEVEL)}, found {layout!r}")
    tokenizer_class, first = _BYTE_LEVEL[layout]
    sentinels = [f"<extra_id_{number}>" for number in reversed(range(extra_ids))]
    least = len(first) + 256 + extra_ids
    if vocab_size < least:
        raise InputError(f"vocab_size={vocab_size} is too small: the bytes and special tokens are already {least}")

    def checked() -> Iterator[str]:
        for index, text in enumerate(texts):
            try:
                text.encode()
            except (AttributeError, UnicodeEncodeError) as error:
                raise InputError(f"text {index} of the training texts is not a valid str: {error}") from error
            yield text

    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe = tokenizers.Tokenizer(models.BPE())
    bpe.pre_tokenizer = byte_level
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - extra_ids,
        min_frequency=2,
        show_progress=False,
        special_tokens=list(first),
        initial_alphabet=byte_level.alphabet(),
    )
    bpe.train_from_iterator(checked(), trainer)
    learned = json.loads(bpe.to_str())["model"]
    vocabulary = learned["vocab"] | {token: len(learned["vocab"]) + index for index, token in enumerate(sentinels)}
    special = LAYOUTS[layout]
    raw: dict[str, Any] = byte_level_json(
        vocabulary, learned["merges"], special, layout="roberta" if layout == "roberta" else "gpt2"
    )
    if layout == "t5":
        raw["post_processor"] = frame_json("t5", special, vocabulary.get, {})
    backend = backend_of(raw, special)
    backend.add_special_tokens(sentinels)
    return Tokenizer(
        backend,
        tokenizer_class=tokenizer_class,
        special_tokens=special,
        extra_special_tokens=sentinels[::-1],
        config=options_of(raw),
    )
