"""Moses' words and XLM's pieces on texts whose right answer sacremoses 0.2 and transformers 5.23 gave."""

import copy
import json
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxformers.errors import InputError
from jaxformers.preprocess.moses import moses_words
from jaxformers.preprocess.text import load_tokenizer

WORDS = {
    "": [],
    " \t ": [],
    "Mr. Smith, of St. Paul's, paid $5,300.50 (5 %) in Jan. 2020.": (
        "Mr. Smith , of St. Paul 's , paid $ 5,300.50 ( 5 % ) in Jan. 2020 ."
    ),
    "“Isn’t it?” he said… ‘No.’": "\" Isn 't it ? \" he said ... ' No . '",
    "No. 5, pp. 3 and Art. x. No. one. No. One": "No. 5 , pp. 3 and Art. x . No. one . No . One",
    "e.g. the U.S. army. it ends here. And here.": "e.g. the U.S. army. it ends here . And here .",
    "１２，３４５。 「東京」％": '12,345 . " 東 京 " %',
    'He said "yes", then 1\u00a0000 and «non».': 'He said " yes , " then 1.000 and " non . "',
    "tabs\tand\nlines  joined": "tabsandlines joined",
    "'tis the '90s' rock'n'roll": "'tis the ' 90s ' rock 'n'roll",
    "a,b,c 1,2 3,x ,,": "a , b , c 1,2 3 , x , ,",
    "DOTMULTI literally": ". literally",
    "well-known http://a.b/c?d=e me@x.org": "well-known http : / / a.b / c ? d = e me @ x.org",
    "👩\u200d👧 e\u0301 \x00\u200b क्ष": "👩 👧 e \u0301 क्ष",
}


@pytest.mark.parametrize("text", WORDS, ids=repr)
def test_words(text):
    expected = WORDS[text]
    assert [word for word, _ in moses_words(text)] == (expected.split(" ") if expected else [])


def test_each_word_knows_where_it_came_from():
    text = "“Isn’t” it…  (5 %)..."
    found = [(word, text[spans[0][0] : spans[-1][1]]) for word, spans in moses_words(text)]
    assert found == [
        ('"', "“"), ("Isn", "Isn"), ("'t", "’t"), ('"', "”"), ("it", "it"), ("...", "…"), ("(", "("), ("5", "5"),
        ("%", "%"), (")", ")"), ("...", "..."),
    ]  # fmt: skip


@settings(deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=60) | st.text("a1.,'\" \u00a0()-…»DOTMULI"))
def test_spans_lie_in_the_text_and_words_have_no_spaces(text):
    for word, spans in moses_words(text):
        assert len(word.split()) == 1
        assert len(word) == len(spans)
        assert all(0 <= start < end <= len(text) for start, end in spans)


# ----------------------------------------------------------------------------------------------------------------- XLM

SPECIAL = ["<s>", "</s>", "<pad>", "<unk>", *(f"<special{index}>" for index in range(10))]
# "lowe" is merged on the way to "lower</w>", yet is no token: a BPE that wants all results in its vocabulary refuses it.
MERGES = ["l o 900", "lo w 800", "low e 700", "lowe r</w> 600", "low </w> 1", "' s</w> 500"]
PIECES = ["l", "o", "w", "e", "lo", "low", "lower</w>", "w</w>", "e</w>", "'s</w>", ".</w>", ",</w>", '"</w>', "c", "a"]


@pytest.fixture
def xlm(tmp_path):
    vocabulary = {token: index for index, token in enumerate([*SPECIAL, *PIECES])}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (tmp_path / "merges.txt").write_text("\n".join(MERGES) + "\n", encoding="utf-8")
    (tmp_path / "config.json").write_text('{"model_type": "xlm"}', encoding="utf-8")
    return tmp_path


def test_xlm_by_hand(xlm):
    tok = load_tokenizer(xlm)
    text = "Lower's “CAFÉ”, lowe"
    found = tok(text, return_offsets_mapping=True, return_special_tokens_mask=True)
    tokens = '<s> lower</w> \'s</w> "</w> c a <unk> e</w> ,</w> "</w> low e</w> </s>'
    assert found.tokens() == tokens.split(" ")
    assert found["special_tokens_mask"] == [1] + [0] * 11 + [1]
    places = [text[start:end] for start, end in found["offset_mapping"]]
    assert places == ["", "Lower", "'s", "“", "C", "A", "F", "É", ",", "”", "low", "e", ""]
    assert found.keys() == {"input_ids", "attention_mask", "offset_mapping", "special_tokens_mask"}
    assert tok("low", "a")["input_ids"] == [0, *tok.convert_tokens_to_ids(["lo", "w</w>"]), 1, 3, 1]
    assert tok.decode(tok.encode("lower lowe"), skip_special_tokens=True) == "lower lowe"
    assert tok.tokenize("lower<special1> a") == ["lower</w>", "<special1>", "<unk>"]
    assert tok.encode("") == [0, 1]
    marked = tok("l\u05b0o\u05b0we", return_offsets_mapping=True)
    assert marked.tokens()[1:-1] == ["low", "e</w>"]
    assert marked["offset_mapping"][1:-1] == [(0, 5), (5, 6)]
    dots = tok("..", return_offsets_mapping=True)
    assert dots["input_ids"] == [0, 3, tok.convert_tokens_to_ids(".</w>"), 1]
    assert dots["offset_mapping"] == [(0, 0), (0, 1), (1, 2), (0, 0)]


def test_xlm_keeps_capitals_where_it_is_told(xlm):
    tok = load_tokenizer(xlm, do_lowercase_and_remove_accent=False)
    assert tok.tokenize("Lower") == ["<unk>", "o", "w", "e", "<unk>"]


def test_xlm_is_saved_as_it_came(xlm, tmp_path):
    tok = load_tokenizer(xlm, do_lowercase_and_remove_accent=False, mask_token="<special2>")
    tok.save(tmp_path / "saved")
    names = {file.name for file in (tmp_path / "saved").iterdir()}
    assert names == {"vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json"}
    again = load_tokenizer(tmp_path / "saved")
    assert again("Lower, low") == tok("Lower, low")
    assert again.special_tokens_map == tok.special_tokens_map
    assert again.all_special_tokens == tok.all_special_tokens


def test_xlm_can_be_copied_and_used_by_many_threads(xlm):
    tok, texts = load_tokenizer(xlm), ["lower's low,"] * 8
    expected = tok(texts)["input_ids"]
    for other in (copy.deepcopy(tok), pickle.loads(pickle.dumps(tok))):
        assert other(texts)["input_ids"] == expected
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda _: tok(texts)["input_ids"], range(16))) == [expected] * 16


def test_what_is_no_xlm_vocabulary(xlm):
    (xlm / "merges.txt").write_text("l o w e\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"merges\.txt must hold two pieces a line, found 'l o w e'"):
        load_tokenizer(xlm)
    (xlm / "merges.txt").write_text("l o\n", encoding="utf-8")
    (xlm / "vocab.json").write_text('{"a": "b", "<unk>": 0}', encoding="utf-8")
    with pytest.raises(InputError, match="must give each token a whole number, found 'b' for 'a'"):
        load_tokenizer(xlm)
    (xlm / "vocab.json").write_text('{"a": 1}', encoding="utf-8")
    with pytest.raises(InputError, match=r"does not hold <unk> \(the unk_token\)"):
        load_tokenizer(xlm)
