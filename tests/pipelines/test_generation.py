"""Text generation over a tiny Llama: what comes back, chats and their templates, options, and what is refused."""

import json

import numpy as np
import pytest

import jaxformers as jf
from jaxformers.errors import InputError
from jaxformers.preprocess.chat import render_chat
from tests.pipelines.conftest import make_sentences

TEMPLATE = (
    "{{ bos_token or '' }}{% for message in messages %}{% if message.role not in ('user', 'assistant', 'system') %}"
    "{{ raise_exception('who is ' + message.role + '?') }}{% endif %}"
    "{{ message.role }} the {{ message.content }}\n{% endfor %}{% if add_generation_prompt %}a dog{% endif %}"
)
CHAT = [{"role": "user", "content": "old cat"}]
GREEDY = {"do_sample": False, "max_new_tokens": 6}


@pytest.fixture(scope="session")
def writer_folder(tokenizer, tmp_path_factory):
    """A decoder in Hugging Face layout; its tokenizer knows of no classifier's frame."""
    from jaxformers.preprocess import load_tokenizer

    folder = tmp_path_factory.mktemp("tiny-writer")
    tokenizer.save(folder)
    own = load_tokenizer(folder, pad_token="[PAD]", eos_token="[SEP]", bos_token="[CLS]")
    own.chat_template = TEMPLATE
    config = {"model_type": "llama", "vocab_size": len(own), "hidden_size": 16, "num_hidden_layers": 1,
              "num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 64, "initializer_range": 0.2,
              "eos_token_id": own.eos_token_id, "pad_token_id": own.pad_token_id, "bos_token_id": own.bos_token_id}  # fmt: skip
    jf.save(jf.load(config, head="causal-lm"), folder, tokenizer=own)
    return folder


@pytest.fixture(scope="session")
def writer(writer_folder):
    return jf.pipeline("text-generation", writer_folder)


def test_nesting_is_that_of_transformers(writer):
    one = writer("a small cat", **GREEDY)
    assert [list(record) for record in one] == [["generated_text"]]
    assert one[0]["generated_text"].startswith("a small cat")
    assert writer(["a small cat"], **GREEDY) == [one]
    both = writer("a small cat", num_return_sequences=2, num_beams=2, **GREEDY)
    assert len(both) == 2
    assert json.loads(json.dumps(both)) == both


def test_a_text_does_not_depend_on_the_others(writer):
    texts = make_sentences(7, longest=12)
    for options in (GREEDY, {"max_new_tokens": 6, "do_sample": True}):
        together = writer(texts, batch_size=4, **options)
        assert writer(texts, batch_size=4, **options) == together
        if options is GREEDY:
            assert [writer(text, **options) for text in texts] == together
    assert writer(texts, max_new_tokens=6, do_sample=True, rng=1) != together
    assert (
        len({str(writer(["a cat"] * 3, max_new_tokens=6, do_sample=True, temperature=3.0)[n]) for n in range(3)}) == 3
    )


def test_stages_compose(writer):
    pipe = writer.with_options(**GREEDY)
    assert pipe.postprocess(pipe.forward(pipe.preprocess("a small cat"))) == pipe("a small cat")


def test_what_comes_back(writer):
    full = writer("a small cat", **GREEDY)[0]["generated_text"]
    new = writer("a small cat", return_full_text=False, **GREEDY)[0]["generated_text"]
    assert full == "a small cat" + new
    ids = writer("a small cat", return_tensors=True, **GREEDY)[0]["generated_token_ids"]
    assert len(ids) > 4
    stop = new.split()[2]
    assert writer("a small cat", return_full_text=False, stop_sequence=stop, **GREEDY)[0]["generated_text"].endswith(
        stop
    )
    with pytest.raises(InputError, match="exclude each other"):
        writer("a cat", return_full_text=True, return_tensors=True, **GREEDY)


def test_lengths_count_a_texts_own_prompt(writer):
    texts = ["a cat", "the very old dog sees a tree"]
    options = {"do_sample": False, "max_length": 14, "eos_token_id": None, "return_tensors": True}
    assert [len(rows[0]["generated_token_ids"]) for rows in writer(texts, **options)] == [14, 14]


def test_a_chat(writer):
    answer = writer(CHAT, **GREEDY)[0]["generated_text"]
    assert answer[:-1] == CHAT
    assert answer[-1]["role"] == "assistant"
    text = render_chat(TEMPLATE, CHAT, special_tokens={"bos_token": "[CLS]"}, add_generation_prompt=True)
    assert text == "[CLS]user the old cat\na dog"
    plain = writer(text, add_special_tokens=False, return_full_text=False, **GREEDY)[0]["generated_text"]
    assert answer[-1]["content"] == plain
    assert writer([CHAT, CHAT], **GREEDY) == [[{"generated_text": answer}]] * 2
    begun = [*CHAT, {"role": "assistant", "content": "green"}]
    went_on = writer(begun, **GREEDY)[0]["generated_text"]
    assert len(went_on) == 2
    assert went_on[-1]["content"].startswith("green")


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ messages[0].content.__class__.__mro__ }}", "access to attribute '__class__'"),
        ("{% do messages.append(1) %}{{ messages.append(1) }}", "no Jinja template"),
        ("{{ messages.append(1) }}", "access to attribute 'append' of 'list'"),
        ("{% for m in messages %}", "is no Jinja template"),
        ("{{ raise_exception('no system') }}", "cannot render these messages: no system"),
    ],
)
def test_a_template_reaches_nothing(template, words):
    with pytest.raises(InputError, match=words):
        render_chat(template, CHAT)


def test_what_templates_have():
    assert render_chat("{{ messages[0] | tojson }}", [{"role": "ü", "content": "<"}]) == '{"role": "ü", "content": "<"}'
    assert render_chat("{% generation %}{{ messages[0].content }}{% endgeneration %}", CHAT) == "old cat"
    assert render_chat("{% for m in messages %}{% break %}{% endfor %}x", CHAT) == "x"
    assert len(render_chat("{{ strftime_now('%Y') }}", CHAT)) == 4
    assert render_chat("<{{ messages[0].content }}> end", CHAT, continue_final_message=True) == "<old cat"
    with pytest.raises(InputError, match="leaves out the final message"):
        render_chat("nothing", CHAT, continue_final_message=True)


def test_a_template_in_a_file_of_its_own(writer_folder, tmp_path):
    tokenizer = jf.load_tokenizer(writer_folder)
    assert tokenizer.chat_template == TEMPLATE
    tokenizer.save(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}")
    assert jf.load_tokenizer(tmp_path).chat_template == "{{ messages }}"
    several = jf.load_tokenizer(writer_folder)
    several.chat_template = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": "y"}]
    assert several.chat_template == "y"


@pytest.mark.parametrize(
    ("inputs", "options", "words"),
    [
        (3, {}, "must be a str"),
        ([{"role": "user"}], {}, "messages with 'role' and 'content'"),
        ([{"role": "nobody", "content": "x"}], {}, r"who is nobody\?"),
        ("a cat", {"max_new_token": 3}, "no option 'max_new_token'"),
        ("a cat", {"handle_long_generation": "cut"}, "handle_long_generation must be None or 'hole'"),
        ("a cat", {"handle_long_generation": "hole", "max_new_tokens": 64}, "leaves no room for a prompt"),
    ],
)
def test_what_is_refused(writer, inputs, options, words):
    with pytest.raises(InputError, match=words):
        writer(inputs, **options)


def test_a_hole_for_what_is_to_come(writer):
    long = " ".join(["cat"] * 70)
    ids = writer(long, handle_long_generation="hole", return_tensors=True, eos_token_id=None, **GREEDY)
    assert len(ids[0]["generated_token_ids"]) == 64


def test_a_text_may_be_empty(writer):
    assert np.all([record["generated_text"] is not None for record in writer("", add_special_tokens=False, **GREEDY)])


# -- beside transformers -----------------------------------------------------------------------------------------------

CALLS = [
    ("a small cat", {}),
    ("a small cat", {"return_full_text": False}),
    ("a small cat", {"return_tensors": True}),
    ("a small cat", {"num_beams": 3, "num_return_sequences": 2}),
    ("a small cat", {"max_length": 9, "max_new_tokens": None}),
    ("a small cat", {"prefix": "the old "}),
    ("a small cat", {"skip_special_tokens": False, "repetition_penalty": 1.5}),
    (["a small cat", "the dog sees a tree"], {}),
    (CHAT, {}),
    ([CHAT, [*CHAT, {"role": "assistant", "content": "green"}]], {}),
]


@pytest.mark.parity
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(("inputs", "options"), CALLS, ids=str)
def test_the_same_as_transformers(writer, writer_folder, inputs, options):
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    theirs = transformers.pipeline("text-generation", str(writer_folder), device="cpu")
    named = {**GREEDY, **options}
    assert writer(inputs, **named) == theirs(inputs, **{k: v for k, v in named.items() if v is not None})
