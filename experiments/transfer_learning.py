"""Transfer learning: what a trained model of images knows, for other classes: frozen features beside fine-tuning: `[vision]`.

    python -m experiments.transfer_learning --model google/efficientnet-b0 --data photos

First the model says once what its classifier would read of each image, and a linear classifier of these features is computed,
the best there is (logistic regression by L-BFGS, with a penalty on its weights); then the whole model is fine-tuned, as
`experiments.image_classification` does. Both are scored on the same held-out images and told under each other; `frozen_…` and
`eval_…` stand in all_results.json. `frozen` in the output folder is the model with the linear classifier, the folder itself the
fine-tuned one. `--data` is a folder with a folder of images for each class, or any source of that experiment. With neither a
model nor a network a small ViT first learns to tell three drawn shapes apart (`pretrained`), and then few images of two others.
"""

import dataclasses
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import finetune, image_classification
from experiments.finetune import BUNDLED, Prepared, Recipe
from experiments.image_classification import SHAPES, drawn, open_source
from experiments.launch import launch
from jaxformers.checkpoints import load, save
from jaxformers.checkpoints.files import hub_reachable
from jaxformers.checkpoints.load import describe
from jaxformers.core.params import leaves, nested
from jaxformers.data import Table
from jaxformers.data.image_rows import ImageRows
from jaxformers.errors import InputError
from jaxformers.families import Model
from jaxformers.parallel.mesh import make_mesh
from jaxformers.preprocess import ImageProcessor
from jaxformers.train import predict
from jaxformers.train.folder import folder_of
from jaxformers.train.metrics import accuracy, f1

HEAD = "image-classification"
KNOWN, NEW = SHAPES[:3], SHAPES[3:]
FEW = {"train": 40, "validation": 200}
STEPS = 200  # of L-BFGS, at most


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(image_classification.Config):
    """Flags of the experiment, and every field of TrainingArguments."""

    penalty: float = 1e-3
    """How much the squares of the linear classifier's weights count, its features being of deviation 1."""
    learning_rate: float = 1e-4
    """Of fine-tuning."""
    num_train_epochs: float = 10.0
    """Of fine-tuning."""
    per_device_train_batch_size: int = 16
    """Of fine-tuning."""
    output_dir: str = "out/transfer_learning"
    """Where checkpoints, metrics, the model card and both models go."""


def classifier_of(source: Any) -> tuple[tuple[str, ...], int]:
    """Where a model's last dense layer stands in its tree, whose size is the number of classes, and how wide what it reads is.

    Raises:
      InputError: more than a kernel and a bias depends on the number of classes.
    """
    shapes = []
    for count in (2, 3):
        family, config = describe(source, HEAD, num_labels=count)
        shapes.append({path: param.shape for path, param in leaves(family.declare(config, HEAD))})
    sized = {path: shape for path, shape in shapes[0].items() if shapes[1][path] != shape}
    at = next(iter(sized), ("",))[:-1]
    if {*sized} != {(*at, "kernel"), (*at, "bias")} or len(sized[*at, "kernel"]) != 2:
        raise InputError(f"{family.name} has no dense layer of its own from features to classes, which this needs")
    return at, sized[*at, "kernel"][0]


def with_classifier(model: Model, at: tuple[str, ...], layer: Mapping[str, Any]) -> Model:
    """The model with another layer from features to classes."""
    flat = {path: leaf for path, leaf in leaves(model.params) if path[:-1] != at}
    flat |= {(*at, name): jnp.asarray(values, jnp.float32) for name, values in layer.items()}
    return dataclasses.replace(model, params=nested(flat))


def reader(source: Any, seed: int) -> Model:
    """The model with a classifier that passes on what it reads: its logits are the features [B, D]."""
    at, width = classifier_of(source)
    model = load(source, HEAD, seed=seed, num_labels=width, ignore_mismatched_sizes=True)
    return with_classifier(model, at, {"kernel": np.eye(width), "bias": np.zeros(width)})


def linear_classifier(x_ND: np.ndarray, labels_N: np.ndarray, classes: int, penalty: float) -> dict[str, np.ndarray]:
    """The best dense layer from features to classes: logistic regression, `penalty` times the squares of its weights added.

    Args:
      x_ND: float32 features.
      labels_N: the classes.
      classes: how many there are.
      penalty: at least 0; the features are brought to mean 0 and deviation 1 first, and the layer takes them as they are.

    Returns:
      `kernel` [D, C] and `bias` [C].
    """
    mean_D, deviation_D = x_ND.mean(0), np.maximum(x_ND.std(0), 1e-6)
    z_ND, labels = jnp.asarray((x_ND - mean_D[None]) / deviation_D[None]), jnp.asarray(labels_N)

    def loss(layer: Any) -> jax.Array:
        logits_NC = z_ND @ layer["kernel"] + layer["bias"][None]
        far = optax.softmax_cross_entropy_with_integer_labels(logits_NC, labels).mean()
        return far + penalty * jnp.square(layer["kernel"]).sum()

    optimizer = optax.lbfgs()
    value_and_grad = optax.value_and_grad_from_state(loss)

    def step(carry: Any, _: Any) -> tuple[Any, None]:
        layer, state = carry
        value, gradient = value_and_grad(layer, state=state)
        updates, state = optimizer.update(gradient, state, layer, value=value, grad=gradient, value_fn=loss)
        return (optax.apply_updates(layer, updates), state), None

    @jax.jit
    def solve() -> Any:
        start = {"kernel": jnp.zeros((x_ND.shape[1], classes)), "bias": jnp.zeros(classes)}
        return jax.lax.scan(step, (start, optimizer.init(start)), length=STEPS)[0][0]

    layer = jax.tree.map(np.asarray, solve())
    kernel_DC = layer["kernel"] / deviation_D[:, None]
    return {"kernel": kernel_DC, "bias": layer["bias"] - mean_D @ kernel_DC}


def open_few(place: Any, config: Any) -> dict[str, Table]:
    """The splits of a source, in random order; of drawn shapes few, and only those that the small model has not seen."""
    if place == BUNDLED / "shapes":
        return {split: drawn(count, 10 + seed, NEW) for seed, (split, count) in enumerate(FEW.items())}
    return open_source(place, config)


def open_known(place: Any, config: Any) -> dict[str, Table]:
    """The drawn shapes that the small model learns from."""
    counts = image_classification.DRAWN.items()
    return {split: drawn(count, seed, KNOWN) for seed, (split, count) in enumerate(counts)}


def offline(config: Config) -> bool:
    """Whether it runs on what is bundled; where that is for want of a network, it says so."""
    if config.tiny:
        return True
    if hub_reachable():
        return False
    print(
        "!!! The hub cannot be reached: a small ViT learns drawn shapes, and then others. These are NO photos. !!!",
        flush=True,
    )
    return True


def pretrained(config: Config) -> Config:
    """Trains the small ViT on the bundled shapes; what goes on with it."""
    place = str(Path(config.output_dir) / "pretrained")
    first = image_classification.Config(output_dir=place, data="bundled", tiny=config.tiny, seed=config.seed, mesh=config.mesh,
                                        max_steps=1 if config.tiny else -1, disable_tqdm=config.disable_tqdm,
                                        overwrite_output_dir=config.overwrite_output_dir)  # fmt: skip
    finetune.run(first, dataclasses.replace(image_classification.recipe(), open=open_known))
    augment = config.augment if "augment" in config.given else "shifts"  # drawings are not to be cut
    return config.replace(model=place, data="bundled", augment=augment)


def prepare(splits: dict[str, Table], processor: ImageProcessor, config: Any, recipe: Recipe) -> Prepared:
    """The examples of fine-tuning; and first what a linear classifier makes of the frozen model's features, saved and scored."""
    prepared = recipe.prepare(splits, processor, config)
    started, model = time.perf_counter(), reader(config.model, config.seed)
    mesh, names = make_mesh(config.mesh), prepared.overrides["id2label"]
    (x_ND, labels_N), (held_ND, held_N) = (
        predict(model, ImageRows(splits[split], processor), config, mesh=mesh)[:2] for split in ("train", "validation")
    )
    layer = linear_classifier(x_ND, labels_N, len(names), config.penalty)
    said_N = np.argmax(held_ND @ layer["kernel"] + layer["bias"][None], -1)
    facts = {
        "frozen_accuracy": accuracy(said_N, held_N),
        "frozen_f1": f1(said_N, held_N, average="macro"),
        "frozen_runtime": round(time.perf_counter() - started, 2),
    }
    whole = with_classifier(model, classifier_of(config.model)[0], layer)
    whole = dataclasses.replace(whole, config=model.config.replace(labels=tuple(names.values())))
    save(whole, folder_of(config.output_dir).here / "frozen", processor)
    return dataclasses.replace(prepared, facts=facts)


def run(config: Config) -> dict[str, Any]:
    """Computes features, classifies them, fine-tunes, and tells both; returns the results."""
    if config.freeze:
        raise InputError("freeze is for experiments.image_classification: here both ways are gone")
    recipe = image_classification.recipe()
    if config.model is None and (config.data == "bundled" or (config.data is None and offline(config))):
        config = pretrained(config)
    elif config.model is None:
        config = config.replace(model=recipe.model)
    ours = dataclasses.replace(recipe, open=open_few, prepare=partial(prepare, recipe=recipe))
    metrics = finetune.run(config, ours)
    ways = (("frozen features, linear classifier", "frozen"), ("fine-tuned", "eval"))
    for way, name in ways:
        if f"{name}_accuracy" in metrics:
            print(f"  {way:<36} accuracy {metrics[f'{name}_accuracy']:.4f}  f1 {metrics[f'{name}_f1']:.4f}")
    return metrics


if __name__ == "__main__":
    launch(Config, run, __doc__, "python -m experiments.transfer_learning")
