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
from jaxformers.data.buckets import bucket_for
from jaxformers.errors import InputError
from jaxformers.pipelines.base import Batch, Forward, Pipeline, Preprocess, Row, fetch
from jaxformers.pipelines.inputs import LENGTHS, WHOLE, Parts, as_float32, softmax
from jaxformers.pipelines.text import default_function, scores_of
from jaxformers.preprocess.image_reading import pillow, read_image

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


def image_segmentation(parts: Parts) -> Pipeline:
    """What stands where in an image: a list of `{"score", "label", "mask"}`, one for each class that is there; a list of these
    for many.

    A mask is a PIL image of mode L and the image's size, 255 where the class is; a score is None, for each place has its own.

    Options of a call: `subtask` ("semantic", all there is so far); `timeout`.
    """
    model = parts.model

    def compute(params: Tree, batch: Batch) -> Batch:
        return {"logits": as_float32(model.apply(params, **batch).logits)}

    def postprocess(outputs: Batch, *, subtask: str | None = None) -> Any:
        if subtask not in (None, "semantic"):
            raise InputError(f"subtask must be 'semantic' or None, found {subtask!r}")
        columns, host = fetch(outputs)
        results = []
        for logits_YXC, size in zip(columns["logits"], host["sizes"], strict=True):
            classes_YX = likeliest(logits_YXC, size)
            found = [(label, classes_YX == label) for label in np.unique(classes_YX).tolist()]
            results.append(
                [{"score": None, "label": model.config.labels[label], "mask": _mask(there)} for label, there in found]
            )
        return results if host["given"] == "many" else results[0]

    return Pipeline(image_preprocess(parts), Forward(model, compute, parts.mesh), postprocess)


def likeliest(logits_YXC: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The class of each pixel, int [height, width], of logits that are brought to this size between places (bilinear)."""
    best, classes = np.full(size, -np.inf, np.float32), np.zeros(size, np.int32)
    (up, down, low), (left, right, far) = (_between(old, new) for old, new in zip(logits_YXC.shape, size, strict=False))
    for number in range(logits_YXC.shape[-1]):  # one class at a time: all of a photograph's would not fit
        map_YX = logits_YXC[..., number]
        rows = map_YX[up] * (1 - low)[:, None] + map_YX[down] * low[:, None]
        whole = rows[:, left] * (1 - far)[None] + rows[:, right] * far[None]
        better = whole > best
        best[better], classes[better] = whole[better], number
    return classes


def _between(old: int, new: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each of `new` places the two of `old` that it lies between, and how far it is from the first; edges are not aligned."""
    place = np.maximum((np.arange(new, dtype=np.float32) + 0.5) * np.float32(old / new) - 0.5, 0)
    first = np.minimum(place.astype(np.int64), old - 1)
    return first, np.minimum(first + 1, old - 1), (place - first).astype(np.float32)


def _mask(there: np.ndarray) -> Any:
    return pillow().fromarray((there * 255).astype(np.uint8))


def zero_shot_image_classification(parts: Parts) -> Pipeline:
    """Which of some texts fits an image: a list of `{"score", "label"}`, the best first; a list of these for many.

    Options of a call: `candidate_labels` (a list, or one str with commas), which it needs; `hypothesis_template` ("This is a
    photo of {}."); `timeout`.
    """
    model, plain = parts.model, image_preprocess(parts)
    lengths = text_lengths(parts)

    def encode(
        items: list[Any],
        *,
        candidate_labels: Any = None,
        hypothesis_template: str = "This is a photo of {}.",
        timeout: float | None = None,
    ) -> tuple[list[Row], dict[str, Any]]:
        labels = candidate_labels.split(",") if isinstance(candidate_labels, str) else list(candidate_labels or ())
        labels = [label.strip() if isinstance(candidate_labels, str) else label for label in labels]
        if not labels or not all(isinstance(label, str) and label for label in labels):
            raise InputError(f"candidate_labels must be texts, found {candidate_labels!r:.80}")
        if "{}" not in hypothesis_template:
            raise InputError(f"hypothesis_template must have a place {{}} for a label, found {hypothesis_template!r}")
        rows, host = plain.encode(items, timeout=timeout)
        encoding = parts.tokenizer(
            [hypothesis_template.format(label) for label in labels], truncation=True, max_length=lengths[-1]
        )
        length = bucket_for(max(map(len, encoding["input_ids"])), lengths)
        ids_TL = np.full((len(labels), length), parts.tokenizer.pad_token_id or 0, np.int32)
        mask_TL = np.zeros_like(ids_TL)
        for number, line in enumerate(encoding["input_ids"]):
            ids_TL[number, : len(line)], mask_TL[number, : len(line)] = line, 1
        return [{**row, "input_ids": ids_TL, "attention_mask": mask_TL} for row in rows], {**host, "labels": labels}

    def compute(params: Tree, batch: Batch) -> Batch:
        texts = {key: batch[key][0] for key in ("input_ids", "attention_mask")}  # of every row the same
        output = model.apply(params, execution=WHOLE, pixel_values=batch["pixel_values"], **texts)
        return {"logits": as_float32(output.logits_per_image)}

    def postprocess(outputs: Batch) -> Any:
        columns, host = fetch(outputs)
        results = []
        for scores in softmax(np.asarray(columns["logits"], np.float32)) if len(columns["logits"]) else ():
            order = np.argsort(-scores, kind="stable")
            results.append([{"score": float(scores[i]), "label": host["labels"][i]} for i in order])
        return results if host["given"] == "many" else results[0]

    return Pipeline(dataclasses.replace(plain, encode=encode), Forward(model, compute, parts.mesh), postprocess)


def text_lengths(parts: Parts) -> list[int]:
    """The lengths that texts beside images are padded to: up to what tokenizer and text tower take."""
    text = getattr(parts.model.config, "text", parts.model.config)
    most = min(parts.tokenizer.model_max_length or LENGTHS[-1], text.max_position_embeddings)
    return [*(length for length in LENGTHS if length < most), most]


def image_preprocess(parts: Parts) -> Preprocess:
    """Images to `pixel_values` float32 [B, Y, X, C], read and prepared by several threads; notes the `sizes` they had."""
    processor = parts.image_processor
    platform = jax.default_backend() if parts.mesh is None else parts.mesh.devices.flat[0].platform

    def encode(items: list[tuple[Any, str]], *, timeout: float | None = None) -> tuple[list[Row], dict[str, Any]]:
        def prepared(item: tuple[Any, str]) -> tuple[np.ndarray, tuple[int, int]]:
            value, where = item
            image = value if isinstance(value, np.ndarray) else read_image(value, where, timeout=timeout)
            read, unit = processor.read(image, where)
            return processor.numbers(np.asarray(processor.shaped(read)), unit), (read.height, read.width)

        if len(items) < 2:
            made = [prepared(item) for item in items]
        else:
            with ThreadPoolExecutor(min(len(items), os.cpu_count() or 1)) as pool:  # Pillow lets go of Python's lock
                made = list(pool.map(prepared, items))
        return [{"pixel_values": pixels} for pixels, _ in made], {"sizes": [size for _, size in made]}

    def collate(rows: list[Row]) -> Batch:
        shapes = {row["pixel_values"].shape for row in rows}
        if len(shapes) > 1:
            found = " and ".join(f"{height} × {width}" for height, width, _ in sorted(shapes)[:2])
            raise InputError(f"images that are computed together must have one size, found {found}: give batch_size=1")
        return {key: np.stack([row[key] for row in rows]) for key in (rows[0] if rows else ())}

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
