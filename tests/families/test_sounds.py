"""What only families that take sounds have: lengths through convolutions, what is hidden, older names, losses without places."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import jaxformers as jf
from jaxformers.core.outputs import Output
from jaxformers.errors import ConfigError, InputError
from jaxformers.train import speech_losses
from jaxformers.train.losses import default_loss
from tests.families.hearing import HUBERT, LARGE, WAV2VEC2, WHISPER
from tests.families.table import sample, strong


@pytest.mark.parametrize(("kind", "options"), [(LARGE, {}), ({}, {"norm_padding": False})], ids=["large", "base"])
def test_padding_changes_nothing_where_the_mask_is_heard(kind, options):
    """The base kind norms each channel over all of a sound, padding too, unless told not to."""
    model = jf.load({**WAV2VEC2.config, **kind}, "ctc")
    wave = sample(WAV2VEC2.config, None)[0]["input_values"][:1]
    padded = np.pad(wave, ((0, 0), (0, 40)), constant_values=3.0)
    mask = np.pad(np.ones_like(wave, np.int32), ((0, 0), (0, 40)))
    T = model.config.frames(wave.shape[1])
    alone = model.apply(model.params, input_values=wave).logits
    found = model.apply(model.params, input_values=padded, attention_mask=mask, **options).logits
    assert alone.shape == (1, T, 24)
    np.testing.assert_allclose(found[:, :T], alone, atol=1e-5)


def test_what_is_hidden_is_not_heard():
    model = strong(WAV2VEC2, None)
    given = sample(WAV2VEC2.config, None)[0] | {"attention_mask": None}
    T = model.config.frames(given["input_values"].shape[1])

    def run(hidden, **more):
        return model.apply(model.params, **{**given, **more}, mask_time_indices=hidden).last_hidden_state

    everything = np.ones((3, T), np.int32)
    before = run(everything)
    np.testing.assert_allclose(before, run(everything, input_values=given["input_values"][::-1]), atol=1e-6)
    assert np.abs(run(None) - before).max() > 0.1
    numbers = model.apply(model.params, **given, mask_feature_indices=np.ones((3, 32), np.int32)).last_hidden_state
    assert np.abs(numbers - run(None)).max() > 0.1
    bare = jf.load({**WAV2VEC2.config, "mask_time_prob": 0.0})
    with pytest.raises(InputError, match=r"mask_time_prob 0\) has nothing in their place"):
        bare.apply(bare.params, input_values=given["input_values"], mask_time_indices=everything)


def test_older_names_of_the_positions(tmp_path):
    model = strong(HUBERT, None)
    jf.save(model, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    old = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    renamed = {}
    for name, tensor in tensors.items():
        stem = next((stem for stem in old if name.endswith(stem)), None)
        renamed[name.replace(stem, old[stem]) if stem else name] = tensor
    assert {name.rsplit(".", 1)[-1] for name in renamed} >= {"weight_g", "weight_v"}
    save_file(renamed, tmp_path / "model.safetensors", metadata={"format": "pt"})
    again = jf.load(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, again.params, model.params)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"input_values": np.zeros((1, 95, 1), np.float32)}, r"waves \[batch, samples\], found shape \(1, 95, 1\)"),
        ({"input_values": np.zeros((1, 12), np.float32)}, "a sound of 12 samples is too short"),
    ],
)
def test_what_is_no_wave_is_refused(given, words):
    model = strong(WAV2VEC2, None)
    with pytest.raises(InputError, match=words):
        model.apply(model.params, **given)


def test_whisper_hears_thirty_seconds_and_says_so():
    model = strong(WHISPER, None)
    ids = np.array([[4, 5]])
    with pytest.raises(InputError, match=r"spectrum \[batch, 8, 16\].*found shape \(1, 8, 15\)"):
        model.apply(model.params, input_features=np.zeros((1, 8, 15), np.float32), decoder_input_ids=ids)
    with pytest.raises(InputError, match="give input_features, or what the encoder made of them"):
        model.apply(model.params, decoder_input_ids=ids)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"conv_dim": [16]}, "must be as long as each other, found 1, 2 and 2"),
        ({"feat_extract_norm": "batch"}, "feat_extract_norm must be 'group' or 'layer'"),
        ({"num_conv_pos_embedding_groups": 5}, "does not divide into 5 groups"),
        ({"add_adapter": True}, "an adapter after the encoder"),
        ({"codevector_dim": 15}, "codevector_dim 15 does not divide into 2 groups"),
    ],
)
def test_configs_that_cannot_be(changes, words):
    with pytest.raises(ConfigError, match=words):
        jf.load({**WAV2VEC2.config, **changes})


# -- losses ------------------------------------------------------------------------------------------------------------


def by_all_ways(logits_TV, letters):
    """CTC by its definition: the probability of every way to say the letters, added up."""
    probability, (T, V) = np.exp(logits_TV - np.log(np.exp(logits_TV).sum(-1, keepdims=True))), logits_TV.shape
    total = 0.0
    for way in itertools.product(range(V), repeat=T):
        said = [token for token, _ in itertools.groupby(way) if token]
        total += np.prod(probability[np.arange(T), way]) if said == letters else 0.0
    return -np.log(total) if total else np.inf


def test_ctc_is_the_sum_over_all_ways():
    config = jf.load({**WAV2VEC2.config, "vocab_size": 4}, "ctc").config
    logits = np.random.default_rng(0).normal(size=(4, 5, 4)).astype(np.float32)
    labels = np.array([[1, 2, -100], [1, 1, -100], [3, -100, -100], [1, 1, 1]])
    samples = np.array([50, 50, 40, 50])  # 5, 5, 4 frames, by 10 samples each and some more
    mask = (np.arange(50)[None] < samples[:, None]) * 1
    frames = np.asarray(config.frames(samples))
    logits = logits[:, : frames.max()]
    texts = [[token for token in row if token >= 0] for row in labels.tolist()]
    ways = [by_all_ways(rows[:count], text) for rows, count, text in zip(logits, frames, texts, strict=True)]
    batch = {"labels": jnp.asarray(labels), "attention_mask": jnp.asarray(mask)}

    def loss(batch, **changes):
        total, count = speech_losses.ctc(Output(logits=jnp.asarray(logits)), batch, config=config.replace(**changes))
        return float(total / count)

    first = {name: rows[:3] for name, rows in batch.items()}
    logits, whole = logits[:3], logits
    np.testing.assert_allclose(loss(first), np.mean([ways[0] / 2, ways[1] / 2, ways[2]]), rtol=1e-5)
    np.testing.assert_allclose(loss(first, ctc_loss_reduction="sum"), sum(ways[:3]), rtol=1e-5)
    filled = first | {"example_weight": jnp.array([1.0, 1.0, 0.0])}
    np.testing.assert_allclose(loss(filled, ctc_loss_reduction="sum"), sum(ways[:2]), rtol=1e-5)
    logits = whole
    assert ways[3] == np.inf  # three equal letters need five frames
    assert loss(batch, ctc_loss_reduction="sum") == np.inf
    np.testing.assert_allclose(loss(batch, ctc_loss_reduction="sum", ctc_zero_infinity=True), sum(ways[:3]), rtol=1e-5)


def test_pretraining_draws_its_codes_by_rng():
    config = {**WAV2VEC2.config, "hidden_dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0}
    model = jf.load(config, "pretraining")
    given, _ = sample(config, "pretraining")
    run = lambda key, **more: model.apply(model.params, **given, rng=key, **more)  # noqa: E731
    once, again, other = run(jax.random.key(1)), run(jax.random.key(1)), run(jax.random.key(2))
    np.testing.assert_array_equal(once.projected_quantized_states, again.projected_quantized_states)
    assert np.abs(once.projected_quantized_states - other.projected_quantized_states).max() > 1e-3
    each = run(jax.random.key(1), gumbel_temperature=np.full(3, 2.0, np.float32))  # of a row, as a batch has it
    np.testing.assert_array_equal(once.logits, each.logits)
    frames = given["mask_time_indices"].shape[1]  # places in a row do as well: a batch may be cut into parts
    given["sampled_negative_indices"] = given["sampled_negative_indices"] % frames
    np.testing.assert_array_equal(once.logits, run(jax.random.key(1)).logits)

    def loss(params):
        total, count = default_loss("pretraining", model.config)(
            model.apply(params, **given, rng=jax.random.key(1)), given
        )
        return total / count

    gradient = jax.jit(jax.grad(loss))(model.params)
    assert np.abs(gradient["quantizer"]["choose"]["kernel"]).max() > 0  # through the soft choice
