"""A look inside: the hidden states and attention weights of one input, as arrays, as a file, as pictures."""

import dataclasses
import json
import os
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxformers.checkpoints.save import replacing
from jaxformers.errors import InputError
from jaxformers.families import Model
from jaxformers.pipelines.inputs import Parts

RED = np.array([1.0, 0.0, 0.0])


@dataclasses.dataclass(frozen=True)
class Look:
    """What a model computed of one text or image.

    Args:
      tokens: the L tokens; of an image such as "3,5", the patch in row 3 and column 5, after the model's own.
      hidden_states: [N + 1, L, D], the embeddings first.
      attentions: [N, H, L, L]: layer, head, the token that looks, the token it looks at.
      image: [height, width, 3] from 0 to 1, the image as the model was shown it; None of a text.
      grid: rows and columns of an image's patches.
    """

    tokens: tuple[str, ...]
    hidden_states: np.ndarray
    attentions: np.ndarray
    image: np.ndarray | None = None
    grid: tuple[int, int] | None = None

    def attention(self, layer: int = -1, head: int | None = None) -> np.ndarray:
        """[L, L]: how much each token (a row, whose sum is 1) looks at each, in one head, or on average over a layer's.

        Raises:
          InputError: there is no such layer or head.
        """
        layers, heads = self.attentions.shape[:2]
        if not -layers <= layer < layers or not (head is None or -heads <= head < heads):
            raise InputError(f"there are {layers} layers of {heads} heads, found layer {layer} and head {head}")
        maps_HLL = self.attentions[layer]
        chosen: np.ndarray = maps_HLL.mean(0) if head is None else maps_HLL[head]
        return chosen

    def rollout(self) -> np.ndarray:
        """[L, L]: how much of each token (a column) has come to each (a row, whose sum is 1) through all layers: the weights of
        each, averaged over its heads, with as much of the token itself, multiplied (Abnar & Zuidema 2020, arXiv:2005.00928)."""
        own = through = np.eye(self.attentions.shape[-1])
        for maps_LL in self.attentions.mean(1):
            through = (maps_LL + own) / 2 @ through
        return through

    def heat_map(self, path: str | os.PathLike[str], layer: int = -1, head: int | None = None) -> None:
        """Draws the attention of each token to each as a PNG, the tokens beside it (matplotlib: the extra `plot`)."""
        try:
            from matplotlib.figure import Figure
        except ImportError:
            raise InputError('a heat map needs matplotlib: pip install "jaxformers[plot]"') from None
        count = len(self.tokens)
        side = min(2 + 0.3 * count, 40.0)
        figure = Figure(figsize=(side, side), layout="constrained")
        axes = figure.add_subplot()
        shown = axes.imshow(self.attention(layer, head), vmin=0, cmap="viridis")
        labels = [token.replace("$", r"\$") for token in self.tokens]  # not mathematics
        axes.set_xticks(range(count), labels, rotation=90)
        axes.set_yticks(range(count), labels)
        axes.set_xlabel("is looked at")
        axes.set_ylabel("looks")
        axes.set_title(f"layer {layer % len(self.attentions)}, " + ("all heads" if head is None else f"head {head}"))
        figure.colorbar(shown, shrink=0.6)
        figure.savefig(path, dpi=100)

    def overlay(
        self, path: str | os.PathLike[str], layer: int | None = -1, head: int | None = None, token: int = 0
    ) -> None:
        """Draws over the image, in red, where a token looks (the first by default), as a PNG (Pillow: the extra `vision`).

        Args:
          path: of the picture.
          layer: whose weights are drawn; None draws the `rollout` through all.
          head: in place of the average over all.
          token: that looks.

        Raises:
          InputError: this is a look at a text.
        """
        if self.image is None or self.grid is None:
            raise InputError("an overlay needs an image, and this is a look at a text: draw its heat_map")
        from jaxformers.preprocess.image_reading import pillow

        library = pillow()
        rows, columns = self.grid
        maps_LL = self.rollout() if layer is None else self.attention(layer, head)
        looked = maps_LL[token, -rows * columns :].reshape(rows, columns)
        height, width = self.image.shape[:2]
        small = library.fromarray((255 * looked / looked.max()).astype(np.uint8))
        strength = np.asarray(small.resize((width, height), library.Resampling.BILINEAR))[..., None] / 255 * 0.7
        mixed = self.image * (1 - strength) + RED * strength
        library.fromarray((255 * mixed).round().astype(np.uint8)).save(path)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes `hidden_states` and `attentions` as safetensors; the tokens stand in its metadata, as JSON."""
        from safetensors.numpy import save_file

        arrays = {"hidden_states": self.hidden_states, "attentions": self.attentions}
        with replacing(Path(path)) as place:
            save_file(arrays, place, metadata={"tokens": json.dumps(self.tokens)})


def look(model: Model, reader: Any, given: Any, pair: str | None = None) -> Look:
    """Runs a model over one text or image and keeps what it computes on the way.

    Args:
      model: with any head; of encoder-decoders the encoder, loaded with the head `text-encoding`.
      reader: its tokenizer, or its image processor.
      given: a text; or an image: a path, a PIL image, an array.
      pair: the second text of a pair.

    Raises:
      InputError: the model shows no attention weights, or its tokens change from layer to layer (Swin).

    >>> import jaxformers as jf
    >>> from jaxformers.preprocess import train_wordpiece
    >>> tok = train_wordpiece(["a cat and a dog", "a dog and a cat"], vocab_size=40)
    >>> tiny = {"model_type": "bert", "vocab_size": len(tok), "hidden_size": 8, "num_hidden_layers": 2,
    ...         "num_attention_heads": 2, "intermediate_size": 16, "max_position_embeddings": 32}
    >>> seen = look(jf.load(tiny), tok, "a dog")
    >>> seen.tokens, seen.attentions.shape, seen.hidden_states.shape
    (('[CLS]', 'a', 'dog', '[SEP]'), (2, 2, 4, 4), (3, 4, 8))
    """
    visual = "pixel_values" in model.inputs
    batch: Any = (
        reader(given)
        if visual
        else reader(
            given, pair, truncation=True, max_length=Parts(model, tokenizer=reader).max_length, return_tensors="np"
        )
    )
    inputs = {key: np.asarray(batch[key]) for key in model.inputs if key in batch}
    run = jax.jit(partial(model.apply, output_hidden_states=True, output_attentions=True))
    try:
        output = run(model.params, **inputs)
    except TypeError as error:  # a family whose layers have no such weights
        raise InputError(f"{model.family.name} shows no attention weights: {error}") from None
    if not output.hidden_states or not output.attentions:
        raise InputError(f"{model.family.name} with the head {model.head!r} shows no attention weights of its own")
    patch = getattr(model.config, "patch_size", None)
    if len({each.shape for each in output.hidden_states}) > 1 or (visual and not isinstance(patch, int)):
        raise InputError(f"{model.family.name} has no tokens of one size in all layers, which a look needs")
    states, maps = (
        np.stack([np.asarray(each[0]) for each in found]) for found in (output.hidden_states, output.attentions)
    )
    if not visual:
        return Look(tuple(batch.tokens()), states, maps)
    pixels = inputs["pixel_values"][0]
    rows, columns = pixels.shape[0] // patch, pixels.shape[1] // patch
    own = states.shape[1] - rows * columns
    tokens = [f"<{n}>" for n in range(own)] + [f"{row},{column}" for row in range(rows) for column in range(columns)]
    low, high = float(pixels.min()), float(pixels.max())
    image = np.broadcast_to((pixels - low) / max(high - low, 1e-9), (*pixels.shape[:2], 3))
    return Look(tuple(tokens), states, maps, image, (rows, columns))
