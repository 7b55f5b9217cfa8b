"""Every kind of vocabulary file, and what is said about a bad one."""

import json

import pytest

from jaxformers.errors import InputError
from jaxformers.preprocess import load_tokenizer, train_wordpiece

BERT = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "hello", "world", "Hello"]
MERGES = ["h e", "l l", "he ll", "hell o", "Ġ w", "Ġw o"]
LETTERS = sorted({piece for merge in MERGES for piece in merge.split()} | {"hello", "Ġwo", "r", "d"})


def write(folder, **files):
    for name, content in files.items():
        content = content if isinstance(content, str) else json.dumps(content)
        (folder / name.replace("__", ".")).write_text(content, encoding="utf-8")
    return folder


def byte_level(folder, *special, names=("vocab__json", "merges__txt"), **files):
    vocabulary = {token: index for index, token in enumerate([*special, *LETTERS])}
    merges = "\n".join(["#version: 0.2", *MERGES, ""])
    return write(folder, **{names[0]: vocabulary, names[1]: merges}, **files)


def test_vocab_txt_is_lower_case_unless_said(tmp_path):
    write(tmp_path, vocab__txt="\n".join(BERT))
    assert load_tokenizer(tmp_path).tokenize("Hello") == ["hello"]
    write(tmp_path, tokenizer_config__json={"do_lower_case": False})
    assert load_tokenizer(tmp_path).tokenize("Hello") == ["Hello"]
    assert load_tokenizer(tmp_path, do_lower_case=True).tokenize("Hello") == ["hello"]


def test_windows_line_ends_and_odd_separators(tmp_path):
    (tmp_path / "vocab.txt").write_bytes("\r\n".join(["\ufeff[PAD]", *BERT[1:], "\u2028", "x"]).encode())
    tok = load_tokenizer(tmp_path)
    assert tok.pad_token_id == 0
    assert tok.convert_tokens_to_ids("x") == 9


@pytest.mark.parametrize(
    ("lines", "named"),
    [
        (
            [token for token in BERT if token != "[UNK]"],
            r"\[UNK\] \(the unk_token\) on exactly one line, found it on 0",
        ),
        ([*BERT, "[UNK]"], r"\[UNK\] \(the unk_token\) on exactly one line, found it on 2"),
        ([token for token in BERT if token != "[SEP]"], r"vocab.txt must hold \[SEP\]"),
    ],
)
def test_vocab_txt_must_hold_its_special_tokens(tmp_path, lines, named):
    write(tmp_path, vocab__txt="\n".join(lines))
    with pytest.raises(InputError, match=named):
        load_tokenizer(tmp_path)


def test_a_token_named_twice_keeps_its_last_id(tmp_path):
    write(tmp_path, vocab__txt="\n".join([*BERT, "hello"]))
    tok = load_tokenizer(tmp_path)
    assert tok.encode("hello") == [2, 8, 3]
    assert tok.decode([8]) == "hello"
    tok.save(tmp_path / "saved")
    assert not (tmp_path / "saved" / "vocab.txt").exists()
    assert load_tokenizer(tmp_path / "saved").encode("hello") == [2, 8, 3]


def test_vocab_txt_that_is_not_utf8(tmp_path):
    (tmp_path / "vocab.txt").write_bytes(b"[PAD]\n\xff\n")
    with pytest.raises(InputError, match=r"vocab.txt is not UTF-8 \(byte 0xff at 6\)"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("names", [("vocab__json", "merges__txt"), ("encoder__json", "vocab__bpe")])
def test_gpt2_files(tmp_path, names):
    tok = load_tokenizer(byte_level(tmp_path, "<|endoftext|>", names=names))
    assert tok.tokenizer_class == "GPT2Tokenizer"
    assert tok("hello world").keys() == {"input_ids", "attention_mask"}
    assert tok.tokenize("hello world") == ["hello", "Ġwo", "r", "l", "d"]
    assert tok.decode(tok.encode("hello world")) == "hello world"
    assert tok.eos_token_id == tok.unk_token_id == 0
    with pytest.raises(InputError, match="no token to pad with"):
        tok(["hello"], padding=True)
    padded = load_tokenizer(tmp_path, pad_token="[PAD]")
    assert padded.pad_token_id == len(tok) == len(padded) - 1


def test_roberta_files(tmp_path):
    special = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
    tok = load_tokenizer(byte_level(tmp_path, *special))
    assert tok.tokenizer_class == "RobertaTokenizer"
    assert tok("hello", " world").tokens() == ["<s>", "hello", "</s>", "</s>", "Ġwo", "r", "l", "d", "</s>"]
    found = tok("hello <mask>", return_offsets_mapping=True)
    assert found["input_ids"] == tok.convert_tokens_to_ids(["<s>", "hello", "<mask>", "</s>"])
    assert found["offset_mapping"] == [(0, 0), (0, 5), (6, 12), (0, 0)]  # the space goes with <mask>
    write(tmp_path, config__json={"model_type": "roberta", "max_position_embeddings": 514})
    assert load_tokenizer(tmp_path).model_max_length == 512
    prefixed = load_tokenizer(tmp_path, add_prefix_space=True)
    assert prefixed.tokenize("wo") == ["Ġwo"]


def test_roberta_without_its_frame(tmp_path):
    byte_level(tmp_path, tokenizer_config__json={"tokenizer_class": "RobertaTokenizer"})
    with pytest.raises(InputError, match="does not hold <s>"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("config", "limit"),
    [
        ({"model_type": "bert", "max_position_embeddings": 40}, 40),
        ({"model_type": "gpt2", "n_positions": 1024}, 1024),
        ({"model_type": "t5", "n_positions": 512, "relative_attention_num_buckets": 32}, int(1e30)),
        ({"model_type": "bert", "max_position_embeddings": -1}, int(1e30)),
    ],
)
def test_the_model_states_the_maximum(tmp_path, config, limit):
    train_wordpiece(["a b"] * 2, vocab_size=20).save(tmp_path)
    write(tmp_path, config__json=config)
    assert load_tokenizer(tmp_path).model_max_length == limit
    assert load_tokenizer(tmp_path, model_max_length=7).model_max_length == 7


def test_a_class_of_another_kind_is_refused(tmp_path):
    byte_level(tmp_path, config__json={"model_type": "phobert"})
    with pytest.raises(InputError, match=r"vocab.json \+ merges.txt, .* for 'phobert', which needs a tokenizer.json"):
        load_tokenizer(tmp_path)
    write(tmp_path, tokenizer_config__json={"tokenizer_class": "PhobertTokenizer"})
    with pytest.raises(InputError, match="for 'PhobertTokenizer'"):
        load_tokenizer(tmp_path)


def test_merges_that_are_no_pairs(tmp_path):
    byte_level(tmp_path, "<|endoftext|>")
    write(tmp_path, merges__txt="#version: 0.2\nh e l\n")
    with pytest.raises(InputError, match=r"merges.txt must hold two pieces a line, found 'h e l'"):
        load_tokenizer(tmp_path)
    write(tmp_path, merges__txt="q z\n")
    with pytest.raises(InputError, match=r"vocab.json is not a tokenizer .* out of vocabulary"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "not json",
        "[]",
        "{}",
        '{"model": "x"}',
        '{"model": {}}',
        '{"model": {}, "pre_tokenizer": {"type": "ByteLevel"}}',
        '{"model": {"type": "BPE"}, "normalizer": [1]}',
    ],
)
def test_a_foreign_tokenizer_json_is_named(tmp_path, content):
    write(tmp_path, tokenizer__json=content)
    with pytest.raises(InputError, match=r"tokenizer\.json"):
        load_tokenizer(tmp_path)


def test_a_truncated_tokenizer_json_is_named(tmp_path):
    train_wordpiece(["a b"] * 2, vocab_size=20).save(tmp_path)
    whole = (tmp_path / "tokenizer.json").read_text(encoding="utf-8")
    for length in range(1, len(whole) - 1, 97):
        write(tmp_path, tokenizer__json=whole[:length].rstrip())
        with pytest.raises(InputError, match=r"tokenizer\.json"):
            load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"extra_special_tokens": 5}, "extra_special_tokens of a tokenizer must be"),
        ({"added_tokens_decoder": []}, "added_tokens_decoder of a tokenizer must be"),
        ({"added_tokens_decoder": {"x": "<new>"}}, "the added token '<new>' has id x"),
        ({"added_tokens_decoder": {"9": {"lstrip": True}}}, "must be a string or hold one as its 'content'"),
        ({"padding_side": 1}, "padding_side of a tokenizer must be"),
        ({"model_input_names": "input_ids"}, "model_input_names of a tokenizer must be"),
        ({"mask_token": 7}, "must be a string or hold one as its 'content', found 7"),
    ],
)
def test_a_malformed_tokenizer_config_is_named(tmp_path, config, named):
    write(tmp_path, vocab__txt="\n".join(BERT), tokenizer_config__json=config)
    with pytest.raises(InputError, match=named):
        load_tokenizer(tmp_path)


def test_a_folder_without_a_tokenizer(tmp_path):
    with pytest.raises(
        InputError, match=r"holds no tokenizer: expected tokenizer.json, or vocab.txt, or vocab.json \+"
    ):
        load_tokenizer(tmp_path)


def test_overrides_are_known_and_have_a_place(tmp_path):
    byte_level(tmp_path, "<|endoftext|>")
    with pytest.raises(
        InputError, match="'padding_sid' is not an option of load_tokenizer; did you mean 'padding_side'"
    ):
        load_tokenizer(tmp_path, padding_sid="left")
    with pytest.raises(InputError, match="do_lower_case=True has no meaning for this tokenizer"):
        load_tokenizer(tmp_path, do_lower_case=True)
    with pytest.raises(InputError, match="a special or added token must be a string"):
        load_tokenizer(tmp_path, pad_token=5)


def test_padding_baked_into_tokenizer_json_is_not_obeyed(tmp_path):
    train_wordpiece(["a b"] * 2, vocab_size=20).save(tmp_path)
    raw = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    raw["truncation"] = {"direction": "Left", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    raw["padding"] = {
        "strategy": {"Fixed": 9}, "direction": "Left", "pad_to_multiple_of": None,
        "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]",
    }  # fmt: skip
    write(tmp_path, tokenizer__json=raw, tokenizer_config__json={"tokenizer_class": "BertTokenizer"})
    tok = load_tokenizer(tmp_path)
    assert len(tok.encode("a b a b")) == 6
    assert (tok.padding_side, tok.truncation_side, tok.pad_token) == ("left", "left", "[PAD]")
    raw["padding"]["pad_token"] = "[UNK]"
    write(tmp_path, tokenizer__json=raw)
    assert load_tokenizer(tmp_path).pad_token == "[PAD]"  # the class says so
    write(tmp_path, tokenizer_config__json={"tokenizer_class": "PreTrainedTokenizerFast"}, special_tokens_map__json={})
    assert load_tokenizer(tmp_path).pad_token == "[UNK]"


def test_added_tokens_keep_their_ids(tmp_path):
    write(tmp_path, vocab__txt="\n".join(BERT), added_tokens__json={"<one>": 8, "<three>": 10, "<two>": 9})
    tok = load_tokenizer(tmp_path)
    assert tok.encode("hello <two><one><three>") == [2, 5, 9, 8, 10, 3]
    assert (len(tok), tok.vocab_size) == (11, 8)
    write(tmp_path, added_tokens__json={"<one>": 30})
    with pytest.raises(InputError, match="the added token '<one>' has id 30, but after this vocabulary it has 8"):
        load_tokenizer(tmp_path)


def test_code_and_paths_of_others_do_not_travel(tmp_path):
    write(
        tmp_path,
        vocab__txt="\n".join(BERT),
        tokenizer_config__json={
            "auto_map": {"AutoTokenizer": "evil.Evil"},
            "name_or_path": "there",
            "chat_template": "x",
        },
    )
    load_tokenizer(tmp_path).save(tmp_path / "saved")
    saved = json.loads((tmp_path / "saved" / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert not {"auto_map", "name_or_path"} & saved.keys()
    assert saved["chat_template"] == "x"
    assert saved["tokenizer_class"] == "BertTokenizer"
    assert saved["do_lower_case"] is True
