"""Assisted decoding writes what the model alone would: greedily token for token, of draws the distribution."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxformers as jf
from jaxformers.core.params import shardings
from jaxformers.errors import InputError
from jaxformers.generate import assist, stream
from jaxformers.generate.run import Run
from jaxformers.parallel import MeshConfig, make_mesh
from tests.families.table import GPT2, LLAMA, T5, strong
from tests.goldens.make_generate import ENDS, LEFT, OPTIONS, PROMPT

FREE = {"eos_token_id": None, "max_new_tokens": 12}


@pytest.fixture(scope="module")
def model():
    return strong(GPT2, "causal-lm")


def shaken(model):
    """A model that often, but not always, says the same."""
    random = np.random.default_rng(0)
    shake = lambda leaf: leaf + np.float32(0.03) * random.normal(size=leaf.shape).astype(np.float32)  # noqa: E731
    return dataclasses.replace(model, params=jax.tree.map(shake, model.params))


@pytest.fixture(scope="module")
def near(model):
    return shaken(model)


def state_of(model, assistant=None, **options):
    """A run, and its state after the first token."""
    run = Run(model, PROMPT, LEFT, {**FREE, **options}, given=None, rng=None, own=(), allow=None, tokenizer=None,
              assistant=assistant)  # fmt: skip
    next(run.parts(1))
    fixed = {"model": run.key, "rules": run.rules, "ahead": run.ahead}
    once = jax.jit(assist.once, static_argnames=tuple(fixed))
    return run, lambda until=99: once(run.params, run.state, jnp.int32(until), run.knobs, **fixed)


@pytest.mark.parametrize("how", ["near", "another family", "looked up"])
def test_greedy_is_what_the_model_writes_alone(model, near, how):
    draft = {"near": near, "another family": strong(LLAMA, "causal-lm")}.get(how)
    ahead = {"assistant_model": draft, "num_assistant_tokens": 3} if draft else {"prompt_lookup_num_tokens": 3}
    kept = {"output_logits": True, "output_scores": True}
    for options in (OPTIONS["greedy"], OPTIONS["bans"]) if how == "near" else (OPTIONS["greedy"],):
        alone = jf.generate(model, PROMPT, LEFT, **ENDS, **options, **kept)
        found = jf.generate(model, PROMPT, LEFT, **ENDS, **options, **kept, **ahead)
        np.testing.assert_array_equal(found.sequences, alone.sequences)
        going = np.ones(len(PROMPT), bool)  # what a row that has ended would have said is nobody's business
        for step, (ours, theirs) in enumerate(zip(found.logits, alone.logits, strict=True)):
            np.testing.assert_allclose(ours[going], theirs[going], rtol=0, atol=1e-5)
            going &= ~np.isin(found.sequences[:, 5 + step], ENDS["eos_token_id"])
        np.testing.assert_allclose(found.log_probs()[:, 0], alone.log_probs()[:, 0], atol=1e-5)


def test_encoder_decoders_too():
    large = strong(T5, "seq2seq-lm")
    alone = jf.generate(large, PROMPT, LEFT, **ENDS)
    found = jf.generate(large, PROMPT, LEFT, **ENDS, assistant_model=shaken(large))
    np.testing.assert_array_equal(found.sequences, alone.sequences)


def test_a_round_goes_on_by_all_right_guesses_and_one_token(model, near):
    run, once = state_of(model, model, num_assistant_tokens=4)
    after = once()
    assert int(after.steps) == run.steps + 5
    assert int(after.cache.length) == int(after.draft.length) == int(run.state.cache.length) + 5
    assert int(once(until=3).steps) == 3
    run, once = state_of(model, near, num_assistant_tokens=4)
    alone = jf.generate(model, PROMPT, LEFT, **FREE).sequences[:, 5:]
    rows = []
    for row in range(3):  # by itself, a row goes on to its first wrong guess
        drafted = jf.generate(near, np.concatenate([PROMPT, alone[:, :1]], 1)[row : row + 1, 2 * row :], **FREE)
        same = drafted.sequences[0, 6 - 2 * row :][:4] == alone[row, 1:5]
        rows.append(4 if same.all() else int(np.argmin(same)))
    assert len({*rows}) > 1
    after = once()
    assert int(after.steps) == run.steps + min(rows) + 1
    for cache in (after.cache, after.draft):
        assert int(cache.length) == int(run.state.cache.length) + min(rows) + 1
        assert not np.asarray(cache.mask)[:, int(cache.length) :].any()
    # A row that has ended holds no other back.
    run.state = run.state.replace(done=jnp.arange(3) == np.argmin(rows))
    assert int(once().steps) == run.steps + sorted(rows)[1] + 1


def test_what_is_looked_up(model):
    """What followed the last two tokens where they first stood, else the last one; padding is no token."""
    run, _ = state_of(model, prompt_lookup_num_tokens=3)
    tokens = np.zeros(run.state.tokens.shape, np.int32)
    tokens[:, 3:9] = [[8, 6, 7, 8, 7, 8], [9, 8, 5, 4, 7, 8], [0, 0, 1, 2, 3, 0]]  # the prompt's 5 and the newest
    mask = np.zeros(tokens.shape, bool)
    mask[:, 3:8], mask[2, 3:5] = True, False
    state = run.state.replace(tokens=jnp.asarray(tokens), cache=run.state.cache.replace(mask=mask, length=jnp.int32(8)))
    found = assist.look_up(state, assist.Ahead(3, 2))[:, 9:12]
    np.testing.assert_array_equal(found[:2], [[7, 8, 0], [5, 4, 7]])
    found = assist.look_up(state, assist.Ahead(3, 1))[:, 9:12]
    np.testing.assert_array_equal(found[:2], [[6, 7, 8], [5, 4, 7]])
    state = state.replace(tokens=state.tokens.at[1, 7].set(9))  # "9 8" stood at the very start
    np.testing.assert_array_equal(assist.look_up(state, assist.Ahead(3, 2))[1, 9:12], [5, 4, 9])


# -- draws -------------------------------------------------------------------------------------------------------------


def chi_squared(observed, expected):
    """Per degree of freedom; what cannot be must not be."""
    assert not observed[expected < 1e-6].any()
    some = expected > 0
    return ((observed[some] - expected[some]) ** 2 / expected[some]).sum() / (some.sum() - 1)


def test_guesses_are_judged_so_that_the_model_s_chances_come_out(model):
    """20,000 rows, two guesses: the token at each place, among the rows whose guesses before it were right."""
    count, V = 20_000, 6
    random = np.random.default_rng(1)
    p, q = random.dirichlet(np.ones(V), 3).astype(np.float32), random.dirichlet(np.ones(V), 2).astype(np.float32)
    p[0, 2] = 0.0
    p /= p.sum(-1, keepdims=True)
    guessed = np.stack([random.choice(V, count, p=row.astype(np.float64) / row.sum(dtype=np.float64)) for row in q])
    state, _ = state_of(model, model)
    state = state.state.replace(keys=jax.random.split(jax.random.key(2), count))
    wide = lambda array: jnp.broadcast_to(jnp.asarray(array)[:, None], (len(array), count, V))  # noqa: E731
    right, own = (np.asarray(array) for array in assist.drawn(state, jnp.asarray(guessed), wide(p), wide(q)))
    there = np.ones(count, bool)
    for place in range(3):
        token = np.where(right[place], guessed[place], own[place]) if place < 2 else own[place]
        assert chi_squared(np.bincount(token[there], minlength=V), there.sum() * p[place]) < 3
        there &= right[place] if place < 2 else True
    assert abs(right[0].mean() - np.minimum(p[0], q[0]).sum()) < 0.02


@pytest.mark.parametrize("how", ["near", "looked up"])
def test_draws_have_the_model_s_distribution(model, near, how):
    """Pairs of tokens, drawn by the thousand, against the probability of each."""
    count, few = 3000, {"do_sample": True, "temperature": 1.5, "top_k": 3, "eos_token_id": None}
    ahead = {"assistant_model": near} if how == "near" else {"prompt_lookup_num_tokens": 2}
    prompt = np.array([[5, 9, 7, 5, 9]])
    found = jf.generate(model, prompt, num_return_sequences=count, max_new_tokens=3, **few, **ahead).sequences[:, 5:]
    expected = {}
    scores = lambda ids: jax.nn.softmax(  # noqa: E731
        jf.generate(model, ids, max_new_tokens=1, output_scores=True, **few).scores[0]
    )
    first = np.asarray(scores(prompt)[0])
    for a in np.flatnonzero(first):
        second = np.asarray(scores(np.append(prompt, [[a]], 1))[0])
        expected |= {(a, b): first[a] * second[b] for b in np.flatnonzero(second)}
    observed = np.array([(found[:, :2] == pair).all(1).sum() for pair in expected])
    assert observed.sum() == count
    assert chi_squared(observed, count * np.array(list(expected.values()))) < 3
    assert len({*found[:, 2].tolist()}) > 3


# -- as any generation -------------------------------------------------------------------------------------------------


def test_it_ends_where_all_rows_have_ended(model):
    new = jf.generate(model, PROMPT[:1], **FREE).sequences[0, 5:].tolist()
    end = next(token for token in new[1:4] if new.index(token) > 0)  # within the first round
    options = {"max_new_tokens": 12, "eos_token_id": end}
    found = jf.generate(model, PROMPT[:1], assistant_model=model, **options).sequences
    np.testing.assert_array_equal(found, jf.generate(model, PROMPT[:1], **options).sequences)
    assert found.shape[1] < 5 + 5


def test_streams_and_programs(model, near):
    options = {"assistant_model": near, **ENDS}
    whole = jf.generate(model, PROMPT, LEFT, **options).sequences[:, 5:]
    np.testing.assert_array_equal(np.stack(list(stream(model, PROMPT, LEFT, **options)), axis=1), whole)
    before = assist.start._cache_size(), assist.go_on._cache_size()
    for length, new in ((3, 2), (4, 9), (5, 11)):
        jf.generate(model, PROMPT[:, :length], assistant_model=near, max_new_tokens=new, eos_token_id=[7, 21])
    assert assist.start._cache_size() - before[0] <= 2
    assert assist.go_on._cache_size() - before[1] <= 2


def test_models_on_different_devices_are_refused(model):
    mesh = make_mesh(MeshConfig())
    far = dataclasses.replace(model, params=jax.device_put(model.params, shardings(model.declare(), mesh)))
    with pytest.raises(InputError, match="assistant_model must lie on the model's devices"):
        jf.generate(far, PROMPT, assistant_model=model)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_beams": 2}, "not guessed ahead with num_beams above 1"),
        ({"prefix_allowed_tokens_fn": lambda row, ids: [1]}, "not guessed ahead with prefix_allowed_tokens_fn"),
        ({"prompt_lookup_num_tokens": 2}, "assistant_model or prompt_lookup_num_tokens, not both"),
        ({"num_assistant_tokens": 0}, "num_assistant_tokens must be a whole number of at least 1"),
        (
            {"assistant_model": strong(LLAMA, None)},
            "or an encoder-decoder with 'seq2seq-lm', 'speech-seq2seq' or 'vision2seq', found llama",
        ),
        (
            {"assistant_model": jf.load({**LLAMA.config, "vocab_size": 32}, head="causal-lm")},
            "assistant_model must have the model's 64 words, found 32",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_is_refused(model, options, words):
    with pytest.raises(InputError, match=words):
        jf.generate(model, PROMPT, **{"assistant_model": model, **options})
