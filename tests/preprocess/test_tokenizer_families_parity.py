"""Each family's tokenizer against transformers' on the same files, and raw pieces against the sentencepiece library.

The files are real ones where they are beside the project, and everywhere models that are trained here, on the spot.
"""

import gzip
import io
import itertools
import json
from pathlib import Path

import pytest
import tokenizers

from jaxformers.preprocess.sentencepiece_file import read_sentencepiece
from jaxformers.preprocess.text import load_tokenizer
from tests.preprocess import sentencepiece_writer as writer
from tests.preprocess.test_text_parity import HARD, assert_same, theirs_from

pytestmark = [
    pytest.mark.parity,
    pytest.mark.filterwarnings("ignore:builtin type .* has no __module__ attribute:DeprecationWarning"),
]

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" / "data"
STRINGS = [
    *HARD,
    'foo(bar) "x" – £5 €',
    "ﷺ ﬃ ① ½ Ⅷ ｈｅｌｌｏ ｶﾞ",
    "9,000, and 1,2,3,",
    "<s> hi </s><pad> <sep>a<cls> <mask>b <unk>",
    "``quoted'' text",
    "<extra_id_0> x ▁<extra_id_3>y",
    " a b  ",
    "İI ß ǅ ΟΔΟΣ",
    "\u0301start of marks \u0915\u094d\u0937\u093f \u845b\U000e0100",
    "\n\n\n",
    "Mr. Smith's No. 5 (in Jan. 2020)... isn't “it”, e.g. the U.S.?",
]
CORPUS = [*STRINGS * 3, *(ROOT / "jaxformers" / "preprocess" / "text.py").read_text(encoding="utf-8").splitlines()]

# Family -> the class, the file's name, and how a model of that family is trained.
FAMILIES = {
    "albert": ("AlbertTokenizer", "spiece.model", {
        "pad_id": 0, "unk_id": 1, "bos_id": -1, "eos_id": -1,
        "control_symbols": ["[CLS]", "[SEP]", "[MASK]"], "user_defined_symbols": list('()"-.–£€'),
    }),
    "xlnet": ("XLNetTokenizer", "spiece.model", {
        "control_symbols": ["<cls>", "<sep>", "<pad>", "<mask>", "<eod>"], "user_defined_symbols": ["<eop>", "(", ")"],
    }),
    "xlm-roberta": ("XLMRobertaTokenizer", "sentencepiece.bpe.model", {}),
    "deberta-v2": ("DebertaV2Tokenizer", "spm.model", {
        "pad_id": 0, "bos_id": 1, "eos_id": 2, "unk_id": 3, "pad_piece": "[PAD]", "bos_piece": "[CLS]",
        "eos_piece": "[SEP]", "unk_piece": "[UNK]",
    }),
    "t5": ("T5Tokenizer", "spiece.model", {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}),
    "llama": ("LlamaTokenizer", "tokenizer.model", {
        "model_type": "bpe", "byte_fallback": True, "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False, "allow_whitespace_only_pieces": True, "split_digits": True,
    }),
}  # fmt: skip
REAL = {
    "albert": "hf_fixtures/spiece.model",
    "xlnet": "hf_fixtures/test_sentencepiece.model",
    "xlm-roberta": "hf_fixtures/test_sentencepiece.model",
    "deberta-v2": "hf_fixtures/test_sentencepiece.model",
    "t5": "tokenizers/t5/sentencepiece_cc_all.32000.100extra-sentencepiece.model",
    "llama": "tokenizers/llama2/tokenizer.model",
}
RAW = [
    *(f"hf_fixtures/test_sentencepiece{name}.model" for name in ("", "_bpe", "_bpe_char", "_no_bos")),
    "hf_fixtures/test_sentencepiece_with_bytefallback.model",
    *(REAL[name] for name in ("albert", "t5", "llama")),
]


def train(**options):
    """The bytes of a SentencePiece model of the corpus above."""
    sentencepiece = pytest.importorskip("sentencepiece")
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS),
        model_writer=written,
        **{"vocab_size": 700, "hard_vocab_limit": False, "minloglevel": 3, "character_coverage": 0.995} | options,
    )
    return written.getvalue()


def made(family, folder, data, config=None):
    class_name, file, _ = FAMILIES[family]
    (folder / file).write_bytes(data)
    config = {"tokenizer_class": class_name, "model_max_length": 32} | (config or {})
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def models():
    """Trained once a family."""
    return {family: train(**options) for family, (_, _, options) in FAMILIES.items()}


def theirs_of(family, folder):
    """Transformers' tokenizer of a folder's files."""
    theirs = theirs_from(folder)
    if family == "llama":
        # From a .model, transformers 5 merges in the order of ids. The scores say otherwise, and so do sentencepiece,
        # transformers 4 and the tokenizer.json of published models: Llama's runs of spaces come last.
        from transformers.tokenization_utils_base import generate_merges

        model = read_sentencepiece(folder / "tokenizer.model")
        ids = {piece.text: index for index, piece in enumerate(model.pieces)}
        merges = generate_merges(ids, {piece.text: piece.score for piece in model.pieces})
        theirs.backend_tokenizer.model = tokenizers.models.BPE(ids, merges, fuse_unk=True, byte_fallback=True)
    return theirs


@pytest.fixture(scope="module", params=[(f, kind) for f in FAMILIES for kind in ("trained", "real")], ids="-".join)
def both(request, models, tmp_path_factory):
    family, kind = request.param
    data = models[family]
    if kind == "real" and (real := SHARED / REAL[family]).is_file():
        data = real.read_bytes()
    folder = made(family, tmp_path_factory.mktemp(family), data)
    ours, theirs = load_tokenizer(folder), theirs_of(family, folder)
    for tokenizer in (ours, theirs):  # Llama, and models without one of their own, pad with nothing
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    theirs._pad_token_type_id = ours.pad_token_type_id  # XLNet's 3 is in their class, but its base resets it
    return ours, theirs


EVERYTHING = {
    name: True
    for name in ("return_offsets_mapping", "return_special_tokens_mask", "return_token_type_ids", "return_length")
}


def test_the_pipeline_is_the_same(both):
    ours, theirs = (json.loads(backend.to_str()) for backend in (both[0].backend, both[1].backend_tokenizer))
    for part in ("added_tokens", "normalizer", "pre_tokenizer", "decoder"):
        assert ours[part] == theirs[part], part
    ours, theirs = ours["model"], theirs["model"]
    rows = ours.pop("vocab"), theirs.pop("vocab")
    assert ours == theirs
    if ours["type"] == "Unigram":
        assert [text for text, _ in rows[0]] == [text for text, _ in rows[1]]
        # The library reads a tokenizer.json's numbers to one unit in the last place.
        assert [score for _, score in rows[0]] == pytest.approx([score for _, score in rows[1]], rel=1e-15)
    else:
        assert rows[0] == rows[1]


@pytest.mark.parametrize("truncation", [None, True, "only_first"])
@pytest.mark.parametrize("pairs", [False, True], ids=["single", "pairs"])
def test_hard_strings(both, pairs, truncation):
    ours, theirs = both
    texts = (STRINGS, STRINGS[::-1]) if pairs else (STRINGS,)
    for padding, side in itertools.product([False, True, "max_length"], [None, "left", "right"]):
        options = {"padding": padding, "padding_side": side, "truncation": truncation}
        assert_same(ours, theirs, *texts, **options, **EVERYTHING)
    assert_same(ours, theirs, *texts, add_special_tokens=False, **EVERYTHING)
    assert list(ours(*texts)) == list(theirs(*texts))  # token types are there, or not, as they give them


def test_overflow(both):
    ours, theirs = both
    options = {"max_length": 24, "stride": 3, "return_overflowing_tokens": True, "padding": True}
    assert_same(ours, theirs, STRINGS, truncation=True, **options, **EVERYTHING)
    assert_same(ours, theirs, [STRINGS[2]], [" ".join(STRINGS)], truncation="only_second", **options, **EVERYTHING)


def test_words(both):
    ours, theirs = both
    words = [text.split() or ["x"] for text in STRINGS]
    assert_same(ours, theirs, words, is_split_into_words=True, padding=True, return_offsets_mapping=True)


def test_ids_to_text(both):
    ours, theirs = both
    for text, skip in itertools.product(STRINGS, [False, True]):
        ids = ours.encode(text)
        assert ours.decode(ids, skip) == theirs.decode(ids, skip_special_tokens=skip)
        assert ours.convert_ids_to_tokens(ids) == theirs.convert_ids_to_tokens(ids)


def test_settings(both):
    ours, theirs = both
    assert ours.get_vocab() == theirs.get_vocab()
    for name in ("vocab_size", "model_max_length", "padding_side", "truncation_side", "special_tokens_map"):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert set(ours.model_input_names) == set(theirs.model_input_names)
    # They count pieces that a file calls user-defined, such as "(", as special; a text is full of those.
    added = theirs.backend_tokenizer.get_added_tokens_decoder().values()
    not_special = {token.content for token in added if not token.special}
    assert set(theirs.all_special_tokens) - not_special == set(ours.all_special_tokens)
    assert ours.num_special_tokens_to_add(True) == theirs.num_special_tokens_to_add(True)


def test_transformers_loads_what_we_save(both, tmp_path):
    ours, _ = both
    ours.save(tmp_path)
    theirs, again = theirs_from(tmp_path), load_tokenizer(tmp_path)
    theirs._pad_token_type_id = ours.pad_token_type_id
    assert type(theirs).__name__ == ours.tokenizer_class
    for options in ({}, {"padding": True, "truncation": True}):
        assert_same(ours, theirs, STRINGS, STRINGS[::-1], **options, **EVERYTHING)
        assert_same(again, theirs, STRINGS, STRINGS[::-1], **options, **EVERYTHING)
    rows = [ours.encode(text) for text in STRINGS]
    assert [theirs.decode(row) for row in rows] == [again.decode(row) for row in rows]


@pytest.mark.parametrize(
    ("family", "config"),
    [
        ("albert", {"do_lower_case": False}),
        ("albert", {"keep_accents": True}),
        ("albert", {"add_prefix_space": False, "mask_token": {"__type": "AddedToken", "content": "[MASK]", "lstrip": True}}),
        ("xlnet", {"do_lower_case": True}),
        ("xlnet", {"padding_side": "right"}),
        ("xlm-roberta", {"mask_token": {"__type": "AddedToken", "content": "<mask>", "lstrip": True}}),
        ("deberta-v2", {"do_lower_case": True}),
        ("deberta-v2", {"split_by_punct": True}),
        ("deberta-v2", {"add_prefix_space": False}),
        ("t5", {"extra_ids": 5}),
        ("llama", {"add_bos_token": True, "add_eos_token": False}),
        ("llama", {"add_bos_token": True, "add_eos_token": True, "legacy": True}),
        ("llama", {"add_prefix_space": False}),
    ],
    ids=str,
)  # fmt: skip
def test_options(models, family, config, tmp_path):
    folder = made(family, tmp_path, models[family], config)
    ours, theirs = load_tokenizer(folder), theirs_of(family, folder)
    assert_same(ours, theirs, STRINGS, STRINGS[::-1], **EVERYTHING)
    ours.save(tmp_path / "saved")
    assert_same(ours, theirs_from(tmp_path / "saved"), STRINGS, STRINGS[::-1], **EVERYTHING)


# ------------------------------------------------------------------------------------------------ the pieces themselves


@pytest.mark.parametrize("name", [*RAW, *FAMILIES, "written", "written-bpe"])
def test_raw_pieces_are_those_of_sentencepiece(name, models, tmp_path):
    sentencepiece = pytest.importorskip("sentencepiece")
    specials = [("<unk>", writer.UNKNOWN), ("<s>", writer.CONTROL), ("</s>", writer.CONTROL)]
    whole = [("hello", writer.USER_DEFINED), ("(b", writer.USER_DEFINED)]
    data = models | {"written": writer.unigram(specials + whole), "written-bpe": writer.bpe()}
    real = SHARED / name
    data = real.read_bytes() if real.is_file() else data.get(name, models["xlm-roberta"])
    (tmp_path / "tokenizer.model").write_bytes(data)
    reference = sentencepiece.SentencePieceProcessor(model_proto=data)
    tok = load_tokenizer(tmp_path)
    assert tok.vocab_size == reference.get_piece_size()
    # To the library, special tokens are text like any other; the tokenizers library looks at characters of more than
    # five bytes one code point at a time (ｶﾞ), and takes another one of equally good cuts of many a's.
    apart = [*tok.all_special_tokens, "<extra_id_", "ｶﾞ", "a" * 130]
    for text in STRINGS:
        if not any(part in text for part in apart):
            assert tok.encode(text) == reference.encode(text), text


# ---------------------------------------------------------------------------------------- WordPiece and byte-level BPE


def wordpiece_folder(folder, class_name):
    special = ["[PAD]", "[EMPTY]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = sorted({letter for text in STRINGS for letter in text.lower() if letter.strip()})
    words = ["hello", "world", "##s", "##ing", "the", "test", "##20", "not", "special"]
    tokens = dict.fromkeys([*special, *words, *letters, *(f"##{letter}" for letter in letters)])
    (folder / "vocab.txt").write_text("\n".join(tokens), encoding="utf-8")
    config = {"tokenizer_class": class_name, "model_max_length": 32}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


@pytest.mark.parametrize("class_name", ["DistilBertTokenizer", "ElectraTokenizer"])
def test_wordpiece_families(class_name, tmp_path):
    folder = wordpiece_folder(tmp_path, class_name)
    ours, theirs = load_tokenizer(folder), theirs_from(folder)
    ours.save(tmp_path / "saved")
    for ours, theirs in [(ours, theirs), (load_tokenizer(tmp_path / "saved"), theirs_from(tmp_path / "saved"))]:  # noqa: B020
        assert ours.tokenizer_class == class_name
        assert_same(ours, theirs, STRINGS, STRINGS[::-1], padding=True, truncation=True, return_offsets_mapping=True)
        assert_same(ours, theirs, STRINGS, **EVERYTHING)


def test_tapas_reads_a_question_as_bert_does(tmp_path):
    pytest.importorskip("pandas")
    folder = wordpiece_folder(tmp_path, "TapasTokenizer")
    ours, theirs = load_tokenizer(folder), theirs_from(folder)
    assert set(ours.model_input_names) == set(theirs.model_input_names)
    assert sorted(ours.all_special_ids) == sorted(theirs.all_special_ids)
    for text in [*STRINGS, "an [EMPTY] cell"]:
        if not text.strip() or "Σ" in text:
            continue  # no text is an empty cell to them; and theirs, in Python, knows the σ that ends a word
        found = ours.convert_ids_to_tokens(ours.encode(text, add_special_tokens=False))
        assert found == [t if t in theirs.vocab else "[UNK]" for t in theirs.tokenize(text)], text


def test_modernbert(tmp_path):
    """ModernBERT publishes a tokenizer.json alone, whose class says nothing: byte-level BPE framed as BERT."""
    backend = tokenizers.Tokenizer(tokenizers.models.BPE())
    backend.normalizer = tokenizers.normalizers.NFC()
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    special = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=alphabet, special_tokens=special, show_progress=False
    )
    backend.train_from_iterator(CORPUS, trainer)
    backend.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:0 [SEP]:0",
        special_tokens=[(token, backend.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )
    backend.save(str(tmp_path / "tokenizer.json"))
    names = {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"}
    mask = {"content": "[MASK]", "lstrip": True, "normalized": False, "special": True}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 8192, "mask_token": "[MASK]"} | names
    config |= {"model_input_names": ["input_ids", "attention_mask"], "added_tokens_decoder": {"4": mask}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    (tmp_path / "config.json").write_text('{"model_type": "modernbert"}', encoding="utf-8")
    ours, theirs = load_tokenizer(tmp_path), theirs_from(tmp_path)
    ours.save(tmp_path / "saved")
    for ours, theirs in [(ours, theirs), (load_tokenizer(tmp_path / "saved"), theirs_from(tmp_path / "saved"))]:  # noqa: B020
        assert ours.special_tokens_map == theirs.special_tokens_map
        assert_same(ours, theirs, STRINGS, STRINGS[::-1], padding=True, **EVERYTHING)
        assert list(ours(STRINGS)) == list(theirs(STRINGS)) == ["input_ids", "attention_mask"]


# ----------------------------------------------------------------------------------------------------------------- CLIP


def clip_folder(folder):
    """OpenAI's file in the form that repositories hold; without it, a vocabulary of its first kind of entries."""
    printed = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printed]
    letters = [chr(byte) for byte in printed] + [chr(256 + index) for index in range(len(others))]
    merges = ["t h", "th e</w>", "i n", "e r", "in g</w>", "e r</w>"]
    file = SHARED / "tokenizers" / "clip" / "bpe_simple_vocab_16e6.txt.gz"
    if file.is_file():
        merges = gzip.decompress(file.read_bytes()).decode().split("\n")[1 : 49152 - 256 - 2 + 1]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *(merge.replace(" ", "") for merge in merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(tokens)}), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def test_clip(tmp_path):
    folder = clip_folder(tmp_path)
    ours, theirs = load_tokenizer(folder), theirs_from(folder)
    for options in ({}, {"padding": "max_length", "truncation": True}):
        assert_same(ours, theirs, STRINGS, **options, **EVERYTHING)
        assert_same(ours, theirs, STRINGS, STRINGS[::-1], **options, **EVERYTHING)
    ours.save(tmp_path / "saved")
    again = theirs_from(tmp_path / "saved")
    assert_same(ours, again, STRINGS, **EVERYTHING)
    for text in STRINGS:
        ids = ours.encode(text)
        assert ours.decode(ids, True) == theirs.decode(ids, skip_special_tokens=True)
