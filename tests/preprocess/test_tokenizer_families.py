"""Each encoder family's tokenizer from a small file of its own kind: pieces, frames and habits, checked by hand."""

import json

import pytest

from jaxformers.errors import InputError
from jaxformers.preprocess.text import load_tokenizer
from tests.preprocess import sentencepiece_writer as writer
from tests.preprocess.sentencepiece_writer import CONTROL, UNKNOWN, USER_DEFINED


def special(*control, unknown="<unk>", user=()):
    kinds = [(text, UNKNOWN if text == unknown else CONTROL) for text in control]
    return [*kinds, *((text, USER_DEFINED) for text in user)]


FILES = {
    "albert": (
        "spiece.model",
        writer.unigram(special("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]", user=["("]), unk_id=1),
    ),
    "xlnet": (
        "spiece.model",
        writer.unigram(special("<unk>", "<s>", "</s>", "<cls>", "<sep>", "<pad>", "<mask>", user=["<eop>"])),
    ),
    "xlm-roberta": ("sentencepiece.bpe.model", writer.unigram(special("<unk>", "<s>", "</s>"))),
    "deberta-v2": (
        "spm.model",
        writer.unigram(special("[PAD]", "[CLS]", "[SEP]", "[UNK]", unknown="[UNK]"), unk_id=3),
    ),
    "t5": ("spiece.model", writer.unigram(special("<pad>", "</s>", "<unk>"), unk_id=2)),
    "llama": ("tokenizer.model", writer.bpe()),
    "": ("tokenizer.model", writer.unigram(special("<unk>", "<s>", "</s>"))),
}


@pytest.fixture
def load(tmp_path):
    def from_family(family, config=None, **options):
        name, data = FILES[family]
        (tmp_path / name).write_bytes(data)
        if family:
            (tmp_path / "config.json").write_text(json.dumps({"model_type": family}), encoding="utf-8")
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config or {}), encoding="utf-8")
        return load_tokenizer(tmp_path, **options)

    return from_family


TEXT = "Hello  ﬁ\tcafé 9,1 ☃"


@pytest.mark.parametrize(
    ("family", "tokens"),
    [
        ("albert", "[CLS] ▁hello ▁ f i ▁cafe ▁ 9, 1 ▁ <unk> [SEP]"),
        ("xlnet", "▁ <unk> e l lo ▁ f i ▁cafe ▁ 9, 1 ▁ <unk> <sep> <cls>"),
        ("xlm-roberta", "<s> ▁ <unk> e l lo ▁ f i ▁ c a f é ▁ 9, 1 ▁ <unk> </s>"),
        ("deberta-v2", "[CLS] ▁ [UNK] e l lo ▁ [UNK] ▁ c a f é ▁ 9, 1 ▁ [UNK] [SEP]"),
        ("t5", "▁ <unk> e l lo ▁ f i ▁ c a f é ▁ 9, 1 ▁ <unk> </s>"),
        ("llama", "▁ <0x48> e llo ▁▁ <0xEF> <0xAC> <0x81> <0x09> c a f é ▁ 9 , 1 ▁ <0xE2> <0x98> <0x83>"),
        ("", "▁ <unk> e l lo ▁ f i ▁ c a f é ▁ 9, 1 ▁ <unk>"),
    ],
)
def test_the_pieces_of_a_text(load, family, tokens):
    tok = load(family)
    ids = tok.encode(TEXT)
    assert tok.convert_ids_to_tokens(ids) == tokens.split()
    assert len(ids) == len(tok(TEXT, return_offsets_mapping=True)["offset_mapping"])


def test_offsets_point_into_the_text(load):
    found = load("xlm-roberta")("ﬁ  hello\u200b e\u0301", return_offsets_mapping=True)
    assert found.tokens() == ["<s>", "▁", "f", "i", "▁hello", "▁", "é", "</s>"]
    assert found["offset_mapping"] == [(0, 0), (0, 1), (0, 1), (0, 1), (3, 8), (10, 11), (10, 11), (0, 0)]


@pytest.mark.parametrize(
    ("family", "tokens", "types"),
    [
        ("albert", "[CLS] ▁a [SEP] ▁hello [SEP]", [0, 0, 0, 1, 1]),
        ("xlnet", "▁a <sep> ▁hello <sep> <cls>", [0, 0, 1, 1, 2]),
        ("xlm-roberta", "<s> ▁a </s> </s> ▁hello </s>", [0] * 6),
        ("deberta-v2", "[CLS] ▁a [SEP] ▁hello [SEP]", [0, 0, 0, 1, 1]),
        ("t5", "▁a </s> ▁hello </s>", [0] * 4),
    ],
)
def test_pairs_and_token_types(load, family, tokens, types):
    tok = load(family)
    found = tok("a", "hello", return_token_type_ids=True, return_special_tokens_mask=True)
    assert found.tokens() == tokens.split()
    assert found["token_type_ids"] == types
    assert found["special_tokens_mask"] == [0 if "▁" in token else 1 for token in tokens.split()]
    assert ("token_type_ids" in tok("a", "hello")) == (family == "deberta-v2")


def test_fairseq_puts_its_own_tokens_first(load):
    tok = load("xlm-roberta")
    assert tok.convert_tokens_to_ids(["<s>", "<pad>", "</s>", "<unk>", "▁", "▁hello"]) == [0, 1, 2, 3, 4, 5]
    assert tok.mask_token_id == len(tok) - 1 == tok.vocab_size - 1


def test_xlnet_pads_on_the_left_with_a_type_of_its_own(load):
    tok = load("xlnet")
    found = tok(["a", "hello world"], padding=True, return_token_type_ids=True)
    pad = tok.pad_token_id
    assert pad == 5
    assert found["input_ids"].tolist()[0] == [pad, *tok.encode("a")]
    assert found["token_type_ids"].tolist() == [[3, 0, 0, 2], [0, 0, 0, 2]]
    later = tok.pad([tok(text, return_token_type_ids=True) for text in ("a", "hello world")])
    assert all((later[key] == found[key]).all() for key in found)
    masked = tok("hello <mask>", return_offsets_mapping=True)
    assert tok.convert_ids_to_tokens(masked["input_ids"]) == ["▁hello", "<mask>", "<sep>", "<cls>"]
    assert masked["offset_mapping"][1] == (6, 12)


def test_a_mask_that_no_piece_stands_for_swallows_the_space_before_it(load):
    FILES["xlnet"], kept = (FILES["xlnet"][0], writer.unigram(special("<unk>", "<s>", "</s>"))), FILES["xlnet"]
    try:
        found = load("xlnet")("hello <mask>", return_offsets_mapping=True)
    finally:
        FILES["xlnet"] = kept
    assert found["offset_mapping"][1] == (5, 12)


def test_user_defined_pieces_are_whole_but_not_special(load):
    tok = load("albert")
    ids = tok.encode("a(hello")
    assert tok.convert_ids_to_tokens(ids) == ["[CLS]", "▁a", "(", "▁hello", "[SEP]"]
    assert "(" in tok.decode(ids, skip_special_tokens=True)
    assert "(" not in tok.all_special_tokens


def test_missing_special_tokens_are_added_behind_the_pieces(load):
    tok = load("deberta-v2")
    assert tok.mask_token_id == tok.vocab_size == len(tok) - 1
    assert tok.tokenize("a [MASK]") == ["▁a", "[MASK]"]
    renamed = load("deberta-v2", {"cls_token": "<first>"})
    assert renamed.encode("a")[0] == renamed.cls_token_id == renamed.vocab_size
    assert load("deberta-v2", {"added_tokens_decoder": {str(tok.vocab_size): {"content": "[MASK]"}}}).mask_token_id


@pytest.mark.parametrize(
    ("family", "option", "text", "tokens"),
    [
        ("albert", {"do_lower_case": False}, "Hello", ["▁", "<unk>", "e", "l", "lo"]),
        ("albert", {"keep_accents": True}, "café", ["▁", "c", "a", "f", "é"]),
        ("albert", {"add_prefix_space": False}, "hello", ["h", "e", "l", "lo"]),
        ("xlnet", {"do_lower_case": True}, "Hello", ["▁hello"]),
        ("deberta-v2", {"do_lower_case": True}, "Hello", ["▁hello"]),
        ("deberta-v2", {"split_by_punct": True}, "9,1", ["▁", "9", "▁", ",", "▁", "1"]),
        ("llama", {"add_prefix_space": False}, "hello", ["he", "llo"]),
        ("llama", {"legacy": True}, "</s>hello", ["</s>", "▁hello"]),
        ("llama", {}, "</s>hello", ["</s>", "he", "llo"]),
        ("t5", {"extra_ids": 2}, "a<extra_id_1>", ["▁a", "<extra_id_1>"]),
    ],
)
def test_options(load, family, option, text, tokens):
    plain = load(family)
    if option and family != "t5":
        assert plain.convert_ids_to_tokens(plain.encode(text, add_special_tokens=False)) != tokens
    for tok in (load(family, option), load(family, {}, **option)):
        assert tok.convert_ids_to_tokens(tok.encode(text, add_special_tokens=False)) == tokens


def test_t5_has_sentinels_behind_its_pieces(load):
    tok = load("t5")
    assert tok.convert_tokens_to_ids("<extra_id_0>") == len(tok) - 1
    assert tok.convert_tokens_to_ids("<extra_id_99>") == len(tok) - 100
    with pytest.raises(InputError, match="extra_ids must be a whole number from 0 to 10000, found -1"):
        load("t5", {"extra_ids": -1})


def test_llama_starts_and_ends_texts_where_it_is_asked_to(load):
    assert load("llama").encode("a") == load("llama").encode("a", add_special_tokens=False)
    tok = load("llama", {"add_bos_token": True, "add_eos_token": True})
    assert tok("a", "b").tokens() == ["<s>", "▁", "a", "</s>", "<s>", "▁", "b", "</s>"]
    assert tok.padding_side == "left"
    assert tok.tokenize("a  hello", add_special_tokens=False) == ["▁", "a", "▁", "▁hello"]
    assert tok.decode(tok.encode("hello ☃"), skip_special_tokens=True) == "hello ☃"


def test_a_file_without_a_family_is_taken_at_its_word(tmp_path):
    rows = special("<unk>", "<s>", "</s>")
    for prefix, remove, expected in [
        (True, True, ["▁a", "▁hello"]),
        (False, True, ["a", "▁hello"]),
        (True, False, ["▁", "▁a", "▁", "▁hello", "▁"]),
    ]:
        data = writer.unigram(rows, dummy_prefix=prefix, remove_spaces=remove)
        (tmp_path / "tokenizer.model").write_bytes(data)
        tok = load_tokenizer(tmp_path)
        assert tok.tokenize(" a  hello ") == expected
        assert tok.tokenize("") == []
        assert tok.tokenizer_class == "PreTrainedTokenizerFast"
    # A user-defined piece is searched among the others, and no worse a cut than letters.
    rows += [("hello", USER_DEFINED), ("(a", USER_DEFINED)]
    (tmp_path / "tokenizer.model").write_bytes(writer.unigram(rows))
    assert load_tokenizer(tmp_path).tokenize("hello hello(a") == ["▁hello", "▁hello", "(a"]


@pytest.mark.parametrize("family", FILES)
def test_what_is_saved_is_loaded_again(load, family, tmp_path):
    tok = load(family)
    tok.save(tmp_path / "saved")
    again = load_tokenizer(tmp_path / "saved")
    options = {"return_offsets_mapping": True, "return_token_type_ids": True}
    assert again(TEXT, "a <s>", **options) == tok(TEXT, "a <s>", **options)
    for name in ("tokenizer_class", "special_tokens_map", "padding_side", "pad_token_type_id", "model_input_names"):
        assert getattr(again, name) == getattr(tok, name)
    assert sorted(again.all_special_tokens) == sorted(tok.all_special_tokens)
    assert len(again) == len(tok)


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"cls_token": None}, "cls_token frames every text of this tokenizer, but no token has that name"),
        ({"added_tokens_decoder": {"3": {"content": "[MASK]"}}}, r"the added token '\[MASK\]' has id 3"),
    ],
)
def test_a_config_that_does_not_fit(load, config, named):
    with pytest.raises(InputError, match=named):
        load("deberta-v2", config)


def test_a_model_of_the_wrong_kind_is_refused(load, tmp_path):
    FILES["llama"], kept = ("tokenizer.model", FILES["t5"][1]), FILES["llama"]
    try:
        with pytest.raises(InputError, match="llama needs a SentencePiece model of kind BPE, found UNIGRAM"):
            load("llama")
    finally:
        FILES["llama"] = kept
    (tmp_path / "config.json").write_text('{"model_type": "phobert"}', encoding="utf-8")
    with pytest.raises(InputError, match=r"tokenizer.model, from which .* for 'phobert', which needs a tokenizer.json"):
        load_tokenizer(tmp_path)


def test_built_options_must_have_a_meaning(load):
    with pytest.raises(InputError, match="split_by_punct=True has no meaning for this tokenizer"):
        load("albert", {}, split_by_punct=True)


CLIP = ["<|startoftext|>", "<|endoftext|>", "a", "c", "t", "t</w>", "a</w>", "!</w>", "ca", "cat</w>"]


def test_clip_marks_the_end_of_a_word(tmp_path):
    vocabulary = {token: index for index, token in enumerate(CLIP)}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (tmp_path / "merges.txt").write_text("#version: 0.2\nc a\nca t</w>\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"vocab\.json marks the ends of words"):
        load_tokenizer(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "clip"}', encoding="utf-8")
    tok = load_tokenizer(tmp_path)
    found = tok("A  CAT!", return_offsets_mapping=True)
    assert found.tokens() == ["<|startoftext|>", "a</w>", "cat</w>", "!</w>", "<|endoftext|>"]
    assert found["offset_mapping"] == [(0, 0), (0, 1), (3, 6), (6, 7), (0, 0)]
    assert tok.decode(found["input_ids"], skip_special_tokens=True) == "a cat !"
    assert tok.decode([]) == ""


def test_tapas_reads_a_question(tmp_path):
    tokens = ["[PAD]", "[EMPTY]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "how", "many", "?"]
    (tmp_path / "vocab.txt").write_text("\n".join(tokens), encoding="utf-8")
    (tmp_path / "config.json").write_text('{"model_type": "tapas"}', encoding="utf-8")
    tok = load_tokenizer(tmp_path)
    assert tok("How many?")["input_ids"] == [3, 6, 7, 8, 4]
    assert tok.tokenize("[EMPTY]") == ["[EMPTY]"]
    assert "token_type_ids" in tok("how")
