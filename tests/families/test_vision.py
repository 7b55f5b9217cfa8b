"""What holds for the families that take images alone: their layout, their sizes, what is hidden, and the loss of that."""

import dataclasses
from functools import partial

import jax
import numpy as np
import pytest

import jaxformers as jf
from jaxformers.checkpoints.save import tensors
from jaxformers.errors import ConfigError, InputError
from jaxformers.train import losses
from tests.families.sight import CLIP, RESNET, ROWS, VIT, VIT_MAE
from tests.families.table import assert_same, flat, forward, name_of, results, sample, strong
from tests.goldens.drawing import draw
from tests.goldens.make_goldens import torch_model, torch_results

every_row = pytest.mark.parametrize("row", ROWS, ids=name_of)


@every_row
def test_channels_first_is_refused_by_name(row):
    model = strong(row, None)
    given = sample(row.config, None)[0]
    given["pixel_values"] = np.moveaxis(given["pixel_values"], -1, 1)
    with pytest.raises(InputError, match="channels first"):
        model.apply(model.params, **given)


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


def test_what_mae_hides_is_given_or_drawn():
    model = strong(VIT_MAE, "pretraining")
    given = sample(VIT_MAE.config, None)[0]
    images = {"pixel_values": given["pixel_values"]}
    with pytest.raises(InputError, match=r"give noise .*or rng to draw it"):
        model.apply(model.params, **images)
    still = dataclasses.replace(
        model, config=model.config.replace(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    )
    masks = [np.asarray(still.apply(model.params, **images, rng=jax.random.key(n)).mask) for n in range(4)]
    assert all((mask.sum(1) == 2).all() for mask in masks)
    assert any((masks[0] != mask).any() for mask in masks[1:])
    told = still.apply(model.params, **given)
    kept = 1 - np.asarray(told.mask)
    np.testing.assert_array_equal(kept, np.argsort(np.argsort(given["noise"], 1, kind="stable"), 1) < 2)


def test_texts_and_images_are_told_apart_in_whole_batches_alone():
    model = strong(CLIP, "zero-shot-image-classification")
    given, _ = sample(CLIP.config, model.head)
    output = model.apply(model.params, **given)
    np.testing.assert_allclose(np.linalg.norm(output.text_embeds, axis=1), 1, rtol=1e-6)
    np.testing.assert_array_equal(output.logits_per_text, output.logits_per_image.T)
    filled = losses.contrast(output, {"example_weight": np.array([1.0, 1.0, 0.0], np.float32)})
    two = dataclasses.replace(
        output, logits_per_image=output.logits_per_image[:2, :2], logits_per_text=output.logits_per_text[:2, :2]
    )
    np.testing.assert_allclose(filled, losses.contrast(two, {"labels": np.zeros(2)}), rtol=1e-6)


def test_one_side_of_clip_is_what_both_compare():
    model = strong(CLIP, None)
    given, _ = sample(CLIP.config, None)
    images = {"pixel_values": given.pop("pixel_values")}
    both = model.apply(model.params, **given, **images)
    text, image = (
        dataclasses.replace(model, head=head).apply(model.params, **side, output_hidden_states=True)
        for head, side in (("text-features", given), ("image-features", images))
    )
    assert len(text.hidden_states) == len(image.hidden_states) == 3
    for alone, name in ((text, "text_embeds"), (image, "image_embeds")):
        np.testing.assert_allclose(
            alone[name] / np.linalg.norm(alone[name], axis=1, keepdims=True), both[name], atol=1e-6
        )


@pytest.mark.parity
@pytest.mark.parametrize("end", [63, 2])
def test_one_side_of_clip_is_pytorch_s(end):
    torch = pytest.importorskip("torch")
    config = {**CLIP.config, "text_config": {**CLIP.config["text_config"], "eos_token_id": end}}
    theirs, model = torch_model("CLIPModel", config), strong(CLIP, None)
    text = dataclasses.replace(model.config.text, eos_token_id=end)
    model = dataclasses.replace(model, config=model.config.replace(text=text))
    given, _ = sample(CLIP.config, None)
    images = {"pixel_values": given.pop("pixel_values")}
    asked = {"output_hidden_states": True, "output_attentions": True}
    with torch.no_grad():
        texts = theirs.get_text_features(**{k: torch.from_numpy(v).long() for k, v in given.items()}, **asked)
        channels_first = torch.from_numpy(np.ascontiguousarray(np.moveaxis(images["pixel_values"], -1, 1)))
        pictures = theirs.get_image_features(channels_first, **asked)
    for head, side, expected in (("text-features", given, texts), ("image-features", images, pictures)):
        found = dataclasses.replace(model, head=head).apply(model.params, **side, **asked)
        np.testing.assert_allclose(found[head.split("-")[0] + "_embeds"], expected.pooler_output.numpy(), atol=1e-5)
        for name in ("hidden_states", "attentions"):
            for ours, other in zip(found[name], expected[name], strict=True):
                np.testing.assert_allclose(ours, other.numpy(), atol=1e-5)


def test_statistics_of_batches_go_in_and_come_out(tmp_path):
    """What a step renews is what a training forward says; nothing learns them, in one batch or in two halves."""
    from jaxformers.train import TrainingArguments, make_train_step

    model = strong(RESNET, "image-classification")
    given, wanted = sample(RESNET.config_for(model.head), model.head, batch=16)
    said = model.apply(model.params, **given, rng=jax.random.key(0)).new_stats
    assert model.apply(model.params, **given).new_stats is None
    assert jax.tree.structure(said) == jax.tree.structure(model.params["stats"])
    args = TrainingArguments(output_dir=str(tmp_path), learning_rate=1e-3, weight_decay=0.1)
    step = make_train_step(model, args, num_training_steps=4)
    state = step.init()
    state, _ = step(state, step.put({**given, **wanted}))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), state.params["stats"], said)
    before, after = (np.asarray(params["embedder"]["norm"]["scale"]) for params in (model.params, state.params))
    assert (before != after).any()


@pytest.mark.parity
def test_training_statistics_are_pytorch_s():
    torch = pytest.importorskip("torch")
    theirs, ours = torch_model("ResNetModel", dict(RESNET.config)).train(), strong(RESNET, None)
    given, _ = sample(RESNET.config, None)
    channels_first = torch.from_numpy(np.ascontiguousarray(np.moveaxis(given["pixel_values"], -1, 1)))
    expected = theirs(channels_first).last_hidden_state.movedim(1, -1).detach().numpy()
    found = ours.apply(ours.params, **given, rng=jax.random.key(0))
    np.testing.assert_allclose(found.last_hidden_state, expected, atol=1e-4)
    renewed = dataclasses.replace(ours, params=ours.params | {"stats": found.new_stats})
    buffers = dict(theirs.named_buffers())
    stats = {name: array for name, array in tensors(renewed) if "running" in name}
    assert len(stats) == sum("running" in name for name in buffers)
    for name, array in stats.items():
        np.testing.assert_allclose(array, buffers[name.removeprefix("resnet.")].numpy(), atol=1e-5, err_msg=name)
