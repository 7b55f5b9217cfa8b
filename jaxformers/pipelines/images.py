"""The image pipelines. Results have transformers' keys and nesting; a factory here is `Parts -> Pipeline`.

An image is a path, an http(s) or data URL, bytes, a PIL image, an array, or a row of a dataset with one under `image`.
"""

import dataclasses
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from jaxformers.core.params import Tree
from jaxformers.errors import InputError
from jaxformers.pipelines.base import Batch, Forward, Pipeline, Preprocess, Row, fetch
from jaxformers.pipelines.inputs import WHOLE, Parts, as_float32
from jaxformers.pipelines.text import default_function, scores_of
from jaxformers.preprocess.image_reading import read_image

CPU_IMAGES = 4  # of a batch on a CPU: beyond it what layers hand to each other leaves the caches, and nothing is won
WINDOW = 4  # batches of a list that are decoded together: images are larger than texts


def image_classification(parts: Parts) -> Pipeline:
    """Which classes an image shows: a list of `{"label", "score"}`, the best first; a list of these for many.

    Options of a call: `top_k` (5; None: all); `function_to_apply` ("softmax", "sigmoid" or "none"; by default as for texts);
    `timeout` (seconds that a URL may take).
    """
    model = parts.model

    def compute(params: Tree, batch: Batch) -> Batch:
        return {"logits": as_float32(model.apply(params, execution=WHOLE, **batch).logits)}

    def postprocess(outputs: Batch, *, top_k: int | None = 5, function_to_apply: str | None = None) -> Any:
        if top_k is not None and (not isinstance(top_k, int) or isinstance(top_k, bool) or top_k < 1):
            raise InputError(f"top_k must be a positive int, or None for all labels, found {top_k!r}")
        columns, host = fetch(outputs)
        labels = model.config.labels
        results = []
        for scores in scores_of(columns["logits"], function_to_apply or default_function(model.config)):
            order = np.argsort(-scores, kind="stable")[:top_k]
            results.append([{"label": labels[i], "score": float(scores[i])} for i in order])
        return results if host["given"] == "many" else results[0]

    return Pipeline(image_preprocess(parts), Forward(model, compute, parts.mesh), postprocess)


def image_feature_extraction(parts: Parts) -> Pipeline:
    """The last hidden states of an image: nested lists [1][patches][width] (of convolutions [1][channels][height][width]);
    a list of these for many.

    Options of a call: `pool` (the pooled state [1][width] instead); `return_tensors` (numpy arrays in place of lists);
    `timeout`.
    """
    model = dataclasses.replace(parts.model, head=None)

    def compute(params: Tree, batch: Batch) -> Batch:
        output = model.apply(params, execution=WHOLE, **batch)
        found = {"last_hidden_state": as_float32(output.last_hidden_state)}
        return found if output.pooler_output is None else found | {"pooler_output": as_float32(output.pooler_output)}

    def postprocess(outputs: Batch, *, pool: bool = False, return_tensors: bool = False) -> Any:
        columns, host = fetch(outputs)
        if pool and "pooler_output" not in columns:
            raise InputError("this model has no pooled state: leave out pool=True")
        results = []
        for state in columns["pooler_output" if pool else "last_hidden_state"]:
            state = np.moveaxis(state, -1, 0) if state.ndim == 3 else state
            results.append(state[None] if return_tensors else state[None].tolist())
        return results if host["given"] == "many" else results[0]

    return Pipeline(image_preprocess(parts), Forward(model, compute, parts.mesh), postprocess)


def image_preprocess(parts: Parts) -> Preprocess:
    """Images to `pixel_values` float32 [B, Y, X, C], read and prepared by several threads."""
    processor = parts.image_processor
    platform = jax.default_backend() if parts.mesh is None else parts.mesh.devices.flat[0].platform

    def encode(items: list[tuple[Any, str]], *, timeout: float | None = None) -> tuple[list[Row], dict[str, Any]]:
        def row(item: tuple[Any, str]) -> Row:
            value, where = item
            image = value if isinstance(value, np.ndarray) else read_image(value, where, timeout=timeout)
            return {"pixel_values": processor.pixels(image, where)}

        if len(items) == 1:
            return [row(items[0])], {}
        with ThreadPoolExecutor(min(len(items), os.cpu_count() or 1)) as pool:  # Pillow lets go of Python's lock
            return list(pool.map(row, items)), {}

    def collate(rows: list[Row]) -> Batch:
        shapes = {row["pixel_values"].shape for row in rows}
        if len(shapes) > 1:
            found = " and ".join(f"{height} × {width}" for height, width, _ in sorted(shapes)[:2])
            raise InputError(f"images that are computed together must have one size, found {found}: give batch_size=1")
        return {"pixel_values": np.stack([row["pixel_values"] for row in rows])} if rows else {}

    most = (lambda length: CPU_IMAGES) if platform == "cpu" else None
    return Preprocess(read_where, encode, collate, parts.devices, most_rows=most, window=WINDOW)


def read_where(value: Any, where: str) -> tuple[Any, str]:
    """What may be an image, with what to call it in an error; it is decoded when its turn comes."""
    if isinstance(value, Mapping) and "image" in value:
        value = value["image"]
    if value is None:
        raise InputError(f"{where} must be an image: a path, a URL, bytes, a PIL image or an array, found None")
    text = os.fspath(value) if isinstance(value, str | os.PathLike) else ""
    named = "." in text and not text.startswith(
        ("http://", "https://", "data:")
    )  # what is not in base64, which has no dots
    if named and not os.path.isfile(text):
        raise InputError(f"there is no file {text!r} for {where}")
    return value, where
