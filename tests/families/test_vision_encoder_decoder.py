"""The vision-encoder-decoder: its two configs, the joining of two checkpoints, generation, and transformers' beside it."""

import numpy as np
import pytest

import jaxformers as jf
from jaxformers.auto import VisionEncoderDecoderModel
from jaxformers.checkpoints.load import describe
from jaxformers.core.params import leaves
from jaxformers.errors import ConfigError, InputError
from jaxformers.families.vision_encoder_decoder import join
from jaxformers.train.step import inputs_of
from tests.families.sight import VISION_ENCODER_DECODER, VIT
from tests.families.table import GPT2, sample, strong
from tests.goldens.make_goldens import torch_model
from tests.goldens.pixels import BERT_WRITES

CONFIG = dict(VISION_ENCODER_DECODER.config)


def test_what_two_configs_say():
    config = describe(CONFIG)[1]
    assert (config.widths, config.vocab_size, config.max_position_embeddings) == ((32, 16), 64, 24)
    inner = {key: value for key, value in CONFIG.items() if not key.endswith("_id")}
    again = describe(inner)[1]  # what is not said outside, the decoder's own config says
    assert (again.pad_token_id, again.eos_token_id, again.decoder_start_token_id) == (0, 2, None)
    cases: list[tuple[dict, str]] = [
        ({"encoder": {"model_type": "resnet"}}, "the encoder's model_type must be one of beit, .*found 'resnet'"),
        ({"decoder": {"model_type": "llama"}}, "the decoder's model_type must be one of bert, gpt2, found 'llama'"),
        ({"decoder": {"model_type": "gpt2", "n_headz": 3}}, "decoder: unknown key 'n_headz'"),
        ({"decoder": {**CONFIG["decoder"], "cross_attention_hidden_size": 32}}, "states of another width.*32 and 16"),
        ({"encoder": 7}, "encoder must be a config of its own, found 7"),
        ({"is_encoder_decoder": False}, "one side alone"),
    ]
    for changes, message in cases:
        with pytest.raises(ConfigError, match=message):
            describe(CONFIG | changes)


def test_what_a_decoder_reads_is_made_of_labels():
    model = strong(VISION_ENCODER_DECODER, "vision2seq")
    labels = np.array([[5, 6, -100]])
    made = inputs_of(model, {"labels": labels, "pixel_values": np.zeros((1, 16, 16, 3))})["decoder_input_ids"]
    np.testing.assert_array_equal(made, [[1, 5, 6]])
    given = sample(CONFIG, "vision2seq")[0]
    with pytest.raises(InputError, match="give pixel_values, or what the encoder made of them, and not both"):
        model.apply(model.params, decoder_input_ids=given["decoder_input_ids"])
    with pytest.raises(InputError, match="this model answers an image: give pixel_values"):
        jf.generate(model)


def test_two_models_are_joined(tmp_path):
    seeing, writing = strong(VIT, None), strong(GPT2, "causal-lm")
    jf.save(seeing, tmp_path / "seeing")
    jf.save(writing, tmp_path / "writing")
    joined = VisionEncoderDecoderModel.from_encoder_decoder_pretrained
    model = joined(tmp_path / "seeing", tmp_path / "writing", decoder_start_token_id=1, pad_token_id=0)
    for ours, theirs in (
        (model.params["encoder"], seeing.params),
        (model.params["embeddings"], writing.params["embeddings"]),
        (model.params["decoder"], writing.params),
    ):
        found = dict(leaves(ours))
        both = [(found[path], array) for path, array in leaves(theirs) if path in found]
        assert both
        assert all(np.array_equal(*pair) for pair in both)
    new = {path[1] for path, _ in leaves(model.params["decoder"]) if "cross" in path[1]}
    assert new == {"cross", "cross_norm"}
    assert model.config.decoder_start_token_id == 1
    with pytest.raises(
        InputError, match="the decoder must be one of bert with masked-lm, gpt2 with causal-lm; found vit"
    ):
        join(seeing, seeing)
    with pytest.raises(InputError, match=r"the encoder must be one of .* found gpt2"):
        join(writing, writing)


@pytest.mark.parity
@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("decoder", ["gpt2", "bert"])
def test_it_writes_what_transformers_writes(decoder, beams, tmp_path):
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    config = CONFIG if decoder == "gpt2" else CONFIG | BERT_WRITES
    theirs = torch_model("VisionEncoderDecoderModel", config)
    theirs.save_pretrained(tmp_path)
    ours = jf.load(tmp_path, "vision2seq")
    images = sample(CONFIG, "vision2seq")[0]["pixel_values"]
    options = {
        "max_new_tokens": 9,
        "num_beams": beams,
        "decoder_start_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    channels_first = torch.from_numpy(np.ascontiguousarray(np.moveaxis(images, -1, 1)))
    expected = theirs.generate(channels_first, use_cache=True, do_sample=False, **options).numpy()
    np.testing.assert_array_equal(jf.generate(ours, pixel_values=images, **options).sequences, expected)
