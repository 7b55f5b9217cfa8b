"""Training a WordPiece tokenizer, the same on every run and machine. Reading and writing is `tokenizer_files`.

The trainer inside `tokenizers` numbers the continuing pieces ("##a") in the order of a randomly seeded hash table and
breaks ties between merges by those numbers: two runs on the same texts disagree. Its BPE trainer numbers characters by
code point and is deterministic, so here every continuing character borrows a private code point, BPE is trained on
such words, and the names are turned back into "##" pieces.
"""

from collections.abc import Iterable, Iterator

import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, trainers

from jaxformers.errors import InputError
from jaxformers.preprocess.text import Tokenizer
from jaxformers.preprocess.tokenizer_files import backend_of
from jaxformers.preprocess.tokenizer_layouts import LAYOUTS, TYPED_INPUTS, apply_options, options_of, wordpiece_json

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
