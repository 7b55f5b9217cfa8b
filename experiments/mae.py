"""MAE: pretraining by drawing three quarters of an image from the rest (He et al. 2021, arXiv:2111.06377): `[vision]`.

    python -m experiments.mae --data photos

The encoder reads the patches that are left, one in four, and a smaller decoder draws the others: the loss is the mean squared
error of a hidden pixel. It needs no classes: `--data` is a folder of images, or any source of
`experiments.image_classification`. A small ViT-MAE learns from nothing; `--model` names one that goes on, such as
facebook/vit-mae-base. `reconstructions.png` in the output folder shows held-out images, what was left of them, and what was
drawn. The encoder alone, a ViT, is saved in `encoder`: `experiments.image_classification --model out/mae/encoder` fine-tunes
it. Without a network it learns from drawn shapes.
"""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments import simmim
from experiments.finetune import Prepared, Start
from experiments.image_classification import VIT
from experiments.launch import launch
from experiments.pictures import run_and_draw
from jaxformers.checkpoints import load, save
from jaxformers.data import Table
from jaxformers.data.image_rows import ImageRows
from jaxformers.data.loader import Batch
from jaxformers.families import Model, vit
from jaxformers.preprocess import ImageProcessor


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(simmim.Config):
    """Flags of the experiment, and every field of TrainingArguments."""

    hidden: float = 0.75
    """The share of the patches that is hidden."""
    norm_pix_loss: bool = False
    """Draw the pixels of a patch less their mean and over their deviation: better features, and no picture to look at."""
    output_dir: str = "out/mae"
    """Where checkpoints, metrics, the model card and the final model go."""


def small_mae(config: Any) -> dict[str, Any]:
    """The ViT-MAE that learns from nothing, but for what its images say: the small ViT, and a decoder of a layer or two."""
    decoder = {"decoder_hidden_size": 32 if config.tiny else 64, "decoder_num_hidden_layers": 1 if config.tiny else 2,
               "decoder_num_attention_heads": 4, "decoder_intermediate_size": 64 if config.tiny else 128}  # fmt: skip
    encoder = {**VIT.sizes(config), **({"num_hidden_layers": 1} if config.tiny else {})}
    return {**encoder, **decoder, "model_type": "vit_mae"}


def sizes_of_images(processor: ImageProcessor) -> dict[str, Any]:
    """What the config of a ViT-MAE says of its images."""
    return {key: value for key, value in VIT.found(processor).items() if key != "encoder_stride"}


MAE = Start("small ViT-MAE", small_mae, VIT.learn, sizes_of_images, VIT.settings)

SHARED = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act", "layer_norm_eps",
          "initializer_range", "image_size", "patch_size", "num_channels", "qkv_bias")  # fmt: skip


def noise(batch: Batch, generators: list[np.random.Generator], patches: int) -> Batch:
    """A batch with `noise` float32 [B, P]: the patches of the least are read."""
    return {**batch, "noise": np.stack([generator.random(patches, np.float32) for generator in generators])}


def prepare(splits: dict[str, Table], processor: ImageProcessor, config: Any) -> Prepared:
    """Images with a number for each of their patches, which says whether it is hidden."""
    rows, grid = simmim.rows_and_grid(splits, processor, config)
    overrides = {"mask_ratio": config.hidden, "norm_pix_loss": config.norm_pix_loss}
    return Prepared(rows, overrides=overrides, collator=partial(noise, patches=grid**2), export=export)


def export(model: Model, directory: Any, processor: Any = None) -> None:
    """Writes the model, and beside it its encoder as a ViT that other experiments go on with."""
    save(model, directory, processor)
    raw = vit.config_to_hf(vit.ViTConfig(**{name: getattr(model.config, name) for name in SHARED}), "ViTModel")
    encoder = load(raw)
    params = {**encoder.params, **{name: model.params[name] for name in encoder.family.trunk}}
    save(dataclasses.replace(encoder, params=params), Path(directory) / "encoder", processor)


def draw_reconstructions(folder: Path, images: ImageRows) -> None:
    """`reconstructions.png` of the model in a folder, which says itself what share of an image it hides."""
    model = load(folder, "pretraining")
    pixels, generators = simmim.held_out(images)
    B, Y, X, C = pixels.shape
    grid, side = model.config.grid, model.config.patch_size
    batch: dict[str, Any] = noise({"pixel_values": pixels}, generators, grid**2)
    output = jax.jit(model.apply)(model.params, **batch)
    drawn = np.asarray(output.logits).reshape(B, grid, grid, side, side, C).transpose(0, 1, 3, 2, 4, 5)
    if (
        model.config.norm_pix_loss
    ):  # each patch about the mean and as strong as the image's own, which it was never to know
        cut = pixels.reshape(B, grid, side, grid, side, C)
        mean, deviation = cut.mean((2, 4, 5), keepdims=True), cut.std((2, 4, 5), keepdims=True)
        drawn = drawn * deviation + mean
    simmim.draw_hidden(folder, images.processor, pixels, np.asarray(output.mask), drawn.reshape(B, Y, X, C))


RECIPE = dataclasses.replace(
    simmim.RECIPE, name="MAE", head="pretraining", model="facebook/vit-mae-base", prepare=prepare, small=MAE, own=MAE
)


def run(config: Config) -> dict[str, Any]:
    """Trains, evaluates and saves; returns the results."""
    return run_and_draw(config, RECIPE, draw_reconstructions)


if __name__ == "__main__":
    launch(Config, run, __doc__, "python -m experiments.mae")
