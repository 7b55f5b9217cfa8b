"""Generation without PyTorch: goldens, real weights, draws, stops, streams, programs, and what is refused."""

import dataclasses
import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxformers as jf
from jaxformers.errors import InputError
from jaxformers.generate import GenerationConfig, beams, cuts, loop, stream
from jaxformers.generate.config import config_for
from jaxformers.generate.processors import chain, knobs_of, rules_of
from jaxformers.generate.run import Run
from jaxformers.generate.written import Written
from tests.families.table import BERT, GPT2, LLAMA, T5, XLM, XLNET, strong
from tests.goldens.make_generate import ENDS, LEFT, OPTIONS, PROMPT

GOLDENS = json.loads((Path(__file__).resolve().parents[1] / "goldens" / "generate.json").read_text())
FREE = {"eos_token_id": None, "max_new_tokens": 12}


@pytest.fixture(scope="module")
def model():
    return strong(GPT2, "causal-lm")


@pytest.mark.parametrize("name", GOLDENS)
def test_we_generate_what_pytorch_did(name):
    family, options = name.split(": ", 1)
    row = {"gpt2": GPT2, "llama": LLAMA, "t5": T5}[family]
    found = jf.generate(strong(row, row.whole), PROMPT, LEFT, **ENDS, **OPTIONS[options])
    np.testing.assert_array_equal(found.sequences, GOLDENS[name])


def test_padding_on_the_right_and_batches_change_nothing(model):
    """transformers goes on from padding there; here a row is what it is alone."""
    right = np.array([[1] * 5, [1, 1, 1, 0, 0], [1, 0, 0, 0, 0]])
    together = jf.generate(model, PROMPT, right, **ENDS, output_scores=True)
    assert together.sequences.shape == (3, 5 + len(together.scores))
    for row, length in enumerate((5, 3, 1)):
        alone = jf.generate(model, PROMPT[row : row + 1, :length], **ENDS).sequences[0, length:]
        np.testing.assert_array_equal(together.sequences[row, 5 : 5 + len(alone)], alone)
        assert (together.sequences[row, 5 + len(alone) :] == 5).all()


@pytest.mark.parametrize("row", [XLNET, XLM], ids=["xlnet", "xlm"])
def test_what_comes_next_is_asked_where_it_will_stand(row):
    """The first token is what a whole forward pass tells of a target, or of a mask token, behind the prompt; rows of other
    lengths change nothing."""
    model = strong(row, "causal-lm")
    right = np.array([[1] * 5, [1, 1, 1, 0, 0], [1, 0, 0, 0, 0]])
    together = jf.generate(model, PROMPT, right, max_new_tokens=4, eos_token_id=None, output_logits=True)
    behind = np.pad(PROMPT[:1], ((0, 0), (0, 1)), constant_values=getattr(model.config, "mask_token_id", 0))
    given = {"input_ids": behind, "attention_mask": np.ones((1, 6), np.int32)}
    if row is XLNET:
        last = np.arange(6) == 5
        given |= {"perm_mask": np.tile(last, (1, 6, 1)).astype(np.float32), "target_mapping": last[None, None] * 1.0}
    else:
        given["langs"] = np.full((1, 6), model.config.lang_id)
    given = {
        name: jnp.asarray(array, jnp.float32 if array.dtype.kind == "f" else None) for name, array in given.items()
    }
    np.testing.assert_allclose(together.logits[0][0], model.apply(model.params, **given).logits[0, -1], atol=1e-5)
    for n, length in enumerate((5, 3, 1)):
        alone = jf.generate(model, PROMPT[n : n + 1, :length], max_new_tokens=4, eos_token_id=None)
        np.testing.assert_array_equal(together.sequences[n, 5:], alone.sequences[0, length:])
    with pytest.raises(InputError, match="one next token at a time"):
        jf.generate(model, PROMPT, prompt_lookup_num_tokens=2)
    if row is XLM:
        with pytest.raises(InputError, match="24 tokens and 1 new ones are too many"):
            jf.generate(model, np.ones((1, 24), np.int32), max_new_tokens=1)


def test_the_real_story(shared_data):
    folder = shared_data / "weights" / "stories260K"
    model = jf.load(folder / "hf", head="causal-lm")
    pieces = json.loads((folder / "hf" / "pieces.json").read_text())["pieces"]
    ids = jf.generate(model, [[1]], max_new_tokens=256, eos_token_id=[1, 2]).sequences[0, 1:]
    bytes_ = b"".join(
        bytes([int(pieces[i][3:5], 16)]) if pieces[i].startswith("<0x") else pieces[i].encode() for i in ids if i > 2
    )
    told = (folder / "stories260K.md").read_text().split("-t 0.0\n")[1].split("\n```")[0]
    assert bytes_.decode().strip().startswith(told[:400])


# -- draws -------------------------------------------------------------------------------------------------------------


def test_draws_are_of_the_key_and_of_a_row_alone(model):
    draw = lambda rng, ids=PROMPT: jf.generate(model, ids, rng=rng, do_sample=True, **FREE).sequences  # noqa: E731
    np.testing.assert_array_equal(draw(3), draw(jax.random.key(3)))
    np.testing.assert_array_equal(draw(3, PROMPT[:1]), draw(3)[:1])
    assert (draw(3) != draw(4)).any()


def test_draws_have_the_distribution_of_the_scores(model):
    """4000 first tokens against the probabilities they were drawn with, by chi-squared."""
    count = 4000
    found = jf.generate(
        model, PROMPT[:1], do_sample=True, num_return_sequences=count, max_new_tokens=1, eos_token_id=None,
        temperature=2.0, top_k=12, top_p=0.9, output_scores=True,
    )  # fmt: skip
    scores = found.scores[0][0]
    expected = count * np.asarray(jax.nn.softmax(scores))
    observed = np.bincount(found.sequences[:, -1], minlength=64)
    assert 3 <= (expected > 0).sum() <= 12
    assert not observed[expected == 0].any()
    some = expected > 0
    chi = ((observed[some] - expected[some]) ** 2 / expected[some]).sum()
    assert chi < 3 * some.sum() + 10
    np.testing.assert_allclose(np.exp(found.log_probs()[:, 0]), (expected / count)[found.sequences[:, -1]], atol=1e-5)


SCORES = np.log(np.array([[0.4, 0.25, 0.15, 0.1, 0.06, 0.03, 0.01]], np.float32))


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({"top_k": 3}, 3),
        ({"top_k": 0}, 7),
        ({"top_k": 0, "top_p": 0.7}, 3),
        ({"top_k": 0, "top_p": 0.0}, 1),
        ({"top_k": 0, "min_p": 0.2}, 4),
        ({"top_k": 0, "epsilon_cutoff": 0.05}, 5),
        ({"top_k": 0, "eta_cutoff": 0.02}, 6),
        ({"top_k": 4, "top_p": 0.7}, 2),
        ({"top_k": 0, "typical_p": 0.3}, [1, 2]),
    ],
    ids=str,
)
def test_what_a_draw_is_from(options, kept):
    config = GenerationConfig(do_sample=True, **options)
    written = Written(jnp.zeros((1, 4), jnp.int32), jnp.ones((1, 4), bool), *map(jnp.int32, (4, 4, 4)))
    found = chain(knobs_of(config, 8), rules_of(config, 7, ()))(jnp.asarray(SCORES), written)
    expected = range(kept) if isinstance(kept, int) else kept
    assert np.flatnonzero(np.isfinite(found[0])).tolist() == list(expected)


def test_beams_that_are_drawn(model):
    draw = lambda rng: jf.generate(model, PROMPT, rng=rng, do_sample=True, num_beams=3, **FREE)  # noqa: E731
    first, second = draw(1), draw(2)
    assert (first.sequences != second.sequences).any()
    np.testing.assert_array_equal(first.sequences, draw(1).sequences)
    assert np.isfinite(first.sequences_scores).all()


# -- stops, streams, processors ----------------------------------------------------------------------------------------


class Letters:
    """A tokenizer of letters."""

    @staticmethod
    def decode(ids):
        return "".join(chr(48 + int(i)) for i in ids)


def test_a_stop_string_ends_a_row(model):
    whole = jf.generate(model, PROMPT, **FREE, pad_token_id=0).sequences
    stop = Letters.decode(whole[0, 8:10])
    found = jf.generate(model, PROMPT, **FREE, pad_token_id=0, stop_strings=[stop, "never"], tokenizer=Letters)
    for before, after in zip(whole[:, 5:], found.sequences[:, 5:], strict=True):
        at = Letters.decode(before).find(stop)
        end = len(before) if at < 0 else at + len(stop)
        np.testing.assert_array_equal(after[:end], before[: len(after)][:end])
        assert not after[end:].any()
    assert Letters.decode(found.sequences[0, 5:]).rstrip("0").endswith(stop)


def test_a_stream_gives_what_generate_gives(model):
    whole = jf.generate(model, PROMPT, LEFT, **ENDS).sequences[:, 5:]
    np.testing.assert_array_equal(np.stack(list(stream(model, PROMPT, LEFT, **ENDS)), axis=1), whole)
    with pytest.raises(InputError, match="beams cannot be streamed"):
        stream(model, PROMPT, num_beams=2)


def test_a_processor_of_ones_own(model):
    def only_even(logits_RV, written):
        assert written.tokens.shape[0] == 3
        return jnp.where(jnp.arange(64)[None] % 2 == 0, logits_RV, -jnp.inf)

    found = jf.generate(model, PROMPT, **FREE, logits_processor=[only_even])
    assert not (found.sequences[:, 5:] % 2).any()


def test_few_programs_for_many_prompts():
    """No program is compiled for a prompt's length, for how many tokens are asked for, or for a temperature."""
    model = jf.load({**LLAMA.config, "vocab_size": 32}, head="causal-lm")
    random = np.random.default_rng(0)
    before = loop.start._cache_size(), loop.go_on._cache_size()
    for _ in range(200):
        ids = random.integers(1, 32, (1, random.integers(1, 17)))
        options = {"max_new_tokens": int(random.integers(1, 9)), "temperature": float(random.uniform(0.5, 2))}
        jf.generate(model, ids, do_sample=True, top_p=0.9, eos_token_id=None, **options)
    prompts, totals = 2, 2  # prompts of 8 and 16 slots, 16 and 32 in all
    assert loop.start._cache_size() - before[0] <= prompts * totals
    assert loop.go_on._cache_size() - before[1] <= totals


def test_nothing_is_compiled_in_the_loop(model, caplog):
    options = {"num_beams": 2, **FREE}
    jf.generate(model, PROMPT, **options)
    jf.generate(model, PROMPT, **FREE)
    with jax.log_compiles(), caplog.at_level("DEBUG", "jax"):
        jf.generate(model, PROMPT[:, :4], **options)
        jf.generate(model, PROMPT[:, ::-1], **FREE)
    assert not [
        message for message in caplog.messages if "ompiling jit(go_on)" in message or "ompiling jit(start)" in message
    ]


@pytest.mark.parametrize(("row", "rows"), [(GPT2, 3), (LLAMA, 1)])
def test_the_loop_writes_the_cache_in_its_place(row, rows):
    """In the optimised program nothing of a cache's shape is made but by writing into it."""
    run = Run(
        strong(row, "causal-lm"), PROMPT[:rows], None, FREE, given=None, rng=None, own=(), allow=None, tokenizer=None
    )
    next(run.parts(1))
    named = {"model": run.key, "rules": run.rules}
    text = loop.go_on.lower(run.params, run.state, np.int32(12), run.knobs, **named).compile().as_text()
    shape = ",".join(map(str, run.state.cache.keys[0].shape))
    made = re.findall(rf"f32\[(?:1,|2,)?{shape}\]\S* ([a-z-]+)\(", text)
    assert made.count("dynamic-update-slice") == 4  # keys and values of two layers
    assert not {*made} & {"copy", "slice", "dynamic-slice", "transpose", "concatenate", "gather"}
    assert "input_output_alias" in text


# -- options -----------------------------------------------------------------------------------------------------------


def test_where_options_come_from(tmp_path):
    raw = {**GPT2.config, "eos_token_id": 9}
    model = jf.load(raw, head="causal-lm")
    assert config_for(model, None, {}).eos_token_id == (9,)
    assert config_for(model, None, {"max_new_tokens": 3, "eos_token_id": None}).eos_token_id is None
    jf.save(model, tmp_path)
    said = {"do_sample": True, "top_k": 7, "eos_token_id": [3, 4], "transformers_version": "5", "use_cache": True}
    (tmp_path / "generation_config.json").write_text(json.dumps(said))
    read = jf.load(tmp_path, head="causal-lm")
    found = config_for(read, None, {"top_k": 5})
    assert (found.do_sample, found.top_k, found.eos_token_id) == (True, 5, (3, 4))
    given = config_for(read, GenerationConfig(top_k=9), {})
    assert (given.do_sample, given.top_k, given.eos_token_id) == (False, 9, (3, 4))
    jf.save(read, tmp_path / "again")
    assert json.loads((tmp_path / "again" / "generation_config.json").read_text()) == said


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_new_token": 3}, "unknown option 'max_new_token' = 3; did you mean 'max_new_tokens'"),
        ({"max_new_tokens": 0}, "max_new_tokens must be a whole number of at least 1, found 0"),
        ({"temperature": 0.0}, "temperature must be a number above 0, found 0.0"),
        ({"top_p": 1.5}, "top_p must be a number from 0 to 1"),
        ({"num_beams": 2.0}, "num_beams must be a whole number"),
        ({"do_sample": 1}, "do_sample must be True or False"),
        ({"early_stopping": "soon"}, "early_stopping must be True, False or 'never'"),
        ({"num_return_sequences": 2}, "num_return_sequences above 1 needs do_sample"),
        ({"num_beams": 2, "num_return_sequences": 3}, "must not exceed num_beams"),
        ({"penalty_alpha": 0.6}, "penalty_alpha=0.6 .contrastive search. is not supported"),
        ({"bad_words_ids": [[]]}, "bad_words_ids cannot be"),
        ({"eos_token_id": [-1]}, "eos_token_id cannot be"),
        ({"stop_strings": "x"}, "stop_strings are texts: give tokenizer="),
        ({"stop_strings": "x", "num_beams": 2}, "stop_strings with num_beams above 1"),
        ({"forced_eos_token_id": 7, "suppress_tokens": [7]}, "is among suppress_tokens"),
        ({"max_length": 5}, "max_length is 5 and the prompt has 5 tokens"),
        ({"max_new_tokens": 30}, "5 tokens and 30 new ones are too many: this model has positions for 24"),
        ({"input_ids": [[64]]}, "input_ids must be below the vocabulary's size 64"),
        ({"input_ids": [3, 4]}, r"input_ids must be whole numbers \[batch, length\]"),
        ({"input_ids": [[3, 4], [5]]}, "found rows of different lengths"),
        ({"attention_mask": [[1]]}, "attention_mask must be of the shape of input_ids"),
        ({"attention_mask": np.zeros((3, 5))}, "row 0 of attention_mask holds no token"),
        ({"prefix_allowed_tokens_fn": lambda row, ids: []}, "prefix_allowed_tokens_fn allows nothing after"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, dict) else "",
)
def test_what_is_refused(model, options, words):
    with pytest.raises(InputError, match=words):
        jf.generate(model, **{"input_ids": PROMPT, **options})


def test_a_model_that_cannot_write_is_refused():
    for row, head in ((BERT, "masked-lm"), (GPT2, None), (T5, None)):
        with pytest.raises(InputError, match=f"needs a decoder with the head 'causal-lm'.*found {row.family}"):
            jf.generate(strong(row, head), PROMPT)


def test_generation_over_several_devices(model):
    from jaxformers.core.params import shardings
    from jaxformers.parallel import MeshConfig, make_mesh

    mesh = make_mesh(MeshConfig(fsdp=2, tensor=4))
    params = jax.device_put(model.params, shardings(model.declare(), mesh))
    found = jf.generate(dataclasses.replace(model, params=params), np.tile(PROMPT, (2, 1))[:4], **FREE)
    np.testing.assert_array_equal(found.sequences, jf.generate(model, np.tile(PROMPT, (2, 1))[:4], **FREE).sequences)


def test_the_room_is_the_function():
    import jaxformers.generate

    assert jf.generate is jaxformers.generate
    assert callable(jf.generate)
    assert beams.best(jnp.array([[1.0, 3.0, 2.0]]), 2).tolist() == [[1, 2]]


# -- encoder-decoders --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reader():
    """Of one layer each: what is asked here asks no more of it, and programs compile in half the time."""
    whole = strong(T5, "seq2seq-lm")
    sides = {name: {**whole.params[name], "layers": jax.tree.map(lambda leaf: leaf[:1], whole.params[name]["layers"])}
             for name in ("encoder", "decoder")}  # fmt: skip
    config = whole.config.replace(num_hidden_layers=1, num_decoder_layers=1)
    return dataclasses.replace(whole, config=config, params=whole.params | sides)


def test_what_is_read_may_be_padded_and_batched(reader):
    """And streamed: what comes is the same."""
    right = np.array([[1] * 5, [1, 1, 1, 0, 0], [1, 0, 0, 0, 0]])
    together = jf.generate(reader, PROMPT, right, **ENDS).sequences
    for row, length in enumerate((5, 3, 1)):
        alone = jf.generate(reader, PROMPT[row : row + 1, :length], **ENDS).sequences[0]
        np.testing.assert_array_equal(together[row, : len(alone)], alone)
        assert (together[row, len(alone) :] == 5).all()
    np.testing.assert_array_equal(np.stack(list(stream(reader, PROMPT, right, **ENDS)), axis=1), together[:, 1:])


def test_draws_of_an_encoder_decoder(reader):
    drawn = [
        jf.generate(reader, PROMPT, **FREE, do_sample=True, num_return_sequences=2, rng=rng).sequences
        for rng in (0, 0, 1)
    ]
    assert drawn[0].shape == (6, 13)
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert (drawn[0] != drawn[2]).any()


def test_the_loop_of_an_encoder_decoder_copies_nothing_that_was_read(reader):
    """In the optimised program of beams nothing of the size of what was read is made, for a text or for a beam."""
    ids = np.tile(PROMPT[:2], (1, 5))[:, :21]  # 32 slots, a number that nothing else has
    options = {**FREE, "num_beams": 3}
    run = Run(reader, ids, None, options, given=None, rng=None, own=(), allow=None, tokenizer=None)
    next(run.parts(1))
    lowered = beams.go_on.lower(run.params, run.state, np.int32(12), run.knobs, model=run.key, rules=run.rules)
    assert run.state.cache.cross.keys[0].shape == (2, 4, 32, 6)
    made = re.findall(r"f32\[[26],(?:4,32|32,4),6\]\S* ([a-z-]+)\(", lowered.compile().as_text())
    assert len(made) >= 2
    assert {*made} <= {"parameter", "get-tuple-element", "bitcast"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"input_ids": None}, "an encoder-decoder answers a text: give input_ids"),
        ({"decoder_input_ids": [[3]]}, "decoder_input_ids must have a row for each of the 3"),
        ({"decoder_input_ids": [[99]] * 3}, "decoder_input_ids must be below the vocabulary's size 64"),
        ({"decoder_start_token_id": None}, "begins with decoder_start_token_id, and this model has none"),
    ],
)
def test_what_an_encoder_decoder_refuses(reader, options, words):
    with pytest.raises(InputError, match=words):
        jf.generate(reader, **{"input_ids": PROMPT, **options})


def test_typical_keeps_at_least_so_many():
    logits = jnp.log(jnp.array([[0.5, 0.3, 0.15, 0.05]]))
    kept = [int(jnp.isfinite(cuts.typical_p(logits, jnp.float32(0.01), least)).sum()) for least in (1, 2, 3)]
    assert kept == [1, 2, 3]
