"""What holds for the families that take images alone: their layout, their sizes, what is hidden, and the loss of that."""

import dataclasses
from functools import partial

import jax
import numpy as np
import pytest

import jaxformers as jf
from jaxformers.errors import ConfigError, InputError
from jaxformers.train import losses
from tests.families.sight import ROWS, VIT
from tests.families.table import assert_same, flat, forward, name_of, results, sample, strong
from tests.goldens.drawing import draw
from tests.goldens.make_goldens import torch_model, torch_results

every_row = pytest.mark.parametrize("row", ROWS, ids=name_of)


@every_row
def test_channels_first_is_refused_by_name(row):
    model = strong(row, None)
    first = np.moveaxis(sample(row.config, None)[0]["pixel_values"], -1, 1)
    with pytest.raises(InputError, match="channels first"):
        model.apply(model.params, pixel_values=first)


def test_an_image_of_another_size_is_refused_or_its_positions_drawn():
    model = strong(VIT, None)
    images = draw("larger", (1, 24, 16, 3), 1.0)
    with pytest.raises(InputError, match=r"24 × 16 pixels, this model takes 16 × 16 .*interpolate_pos_encoding"):
        model.apply(model.params, pixel_values=images)
    found = model.apply(model.params, pixel_values=images, interpolate_pos_encoding=True)
    assert found.last_hidden_state.shape == (1, 7, 32)
    same = images[:, :16]
    drawn, plain = (
        model.apply(model.params, pixel_values=same, interpolate_pos_encoding=draws).last_hidden_state
        for draws in (True, False)
    )
    np.testing.assert_array_equal(drawn, plain)


@pytest.mark.parity
@pytest.mark.parametrize("size", [(24, 24), (32, 8)])
def test_positions_drawn_are_pytorch_s(size):
    pytest.importorskip("torch")
    given = {"pixel_values": draw("image", (2, *size, 3), 1.0)}
    theirs, ours = torch_model("ViTModel", dict(VIT.config)), strong(VIT, None)
    theirs.forward = partial(theirs.forward, interpolate_pos_encoding=True)
    found = flat(forward(ours, interpolate_pos_encoding=True)(ours.params, given))
    expected = torch_results(theirs, given, {})
    assert_same(found, {name: expected[name] for name in found})


def test_what_is_hidden_is_not_seen():
    model = strong(VIT, "masked-image-modeling")
    given, _ = sample(VIT.config, "masked-image-modeling")
    hidden = given["bool_masked_pos"].reshape(-1, 2, 2).repeat(8, 1).repeat(8, 2)[..., None]
    other = given | {"pixel_values": np.where(hidden, 1.5, given["pixel_values"]).astype(np.float32)}
    assert hidden.any()
    assert_same(*(flat(forward(model)(model.params, each)) for each in (other, given)))
    bare = strong(VIT, None)
    with pytest.raises(InputError, match="no token for hidden patches"):
        bare.apply(bare.params, **given)
    with pytest.raises(InputError, match=r"must be \[batch, patches\] = \(3, 4\)"):
        model.apply(model.params, pixel_values=given["pixel_values"], bool_masked_pos=given["bool_masked_pos"][:, :3])
    with pytest.raises(ConfigError, match="encoder_stride must be the patch_size"):
        jf.load({**VIT.config, "encoder_stride": 4}, head="masked-image-modeling")


def test_rows_that_fill_up_a_batch_add_nothing_to_the_loss_of_pixels():
    model = strong(VIT, "masked-image-modeling")
    given, _ = sample(VIT.config, "masked-image-modeling")
    output = model.apply(model.params, **given)
    weighted = losses.hidden_pixels(output, {**given, "example_weight": np.array([1.0, 1.0, 0.0], np.float32)})
    two = losses.hidden_pixels(
        dataclasses.replace(output, reconstruction=output.reconstruction[:2]), {k: v[:2] for k, v in given.items()}
    )
    np.testing.assert_allclose(weighted, two, rtol=1e-6)


def test_middle_states_and_maps_of_an_image():
    found = results(strong(VIT, None), sample(VIT.config, None)[0], {})
    assert {found[f"hidden_states.{n}"].shape for n in range(3)} == {(3, 5, 32)}
    assert {found[f"attentions.{n}"].shape for n in range(2)} == {(3, 4, 5, 5)}
    np.testing.assert_allclose(found["attentions.1"].sum(-1), 1, atol=1e-6)


def test_a_new_head_on_a_published_trunk(tmp_path, caplog):
    """As a person begins SimMIM's pretraining or a fine-tune: what the file lacks is new, and said in one line."""
    jf.save(strong(VIT, None), tmp_path)
    model = jf.load(tmp_path, head="masked-image-modeling")
    assert "newly initialised: " in caplog.text
    assert all(name in caplog.text for name in ("decoder.0", "vit.embeddings.mask_token", "pooler.dense"))
    jax.tree.map(np.testing.assert_array_equal, model.params["layers"], strong(VIT, None).params["layers"])


def test_a_train_step_on_images(tmp_path):
    """State in, state out: images and what is hidden of them go through the step that texts go through."""
    from jaxformers.train import TrainingArguments, make_train_step

    head = "masked-image-modeling"
    model = jf.load({**VIT.config_for(head), "hidden_dropout_prob": 0, "attention_probs_dropout_prob": 0}, head=head)
    step = make_train_step(model, TrainingArguments(output_dir=str(tmp_path), learning_rate=1e-3), num_training_steps=4)
    given, wanted = sample(VIT.config_for(head), head, batch=8)
    state, before = step(step.init(), step.put({**given, **wanted}))
    _, after = step(state, step.put({**given, **wanted}))
    assert after["loss_sum"] / after["loss_count"] < before["loss_sum"] / before["loss_count"]
