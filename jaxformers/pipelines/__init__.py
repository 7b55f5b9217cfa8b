"""Pipelines: predictions in one line. Each is three pure functions, preprocess, forward and postprocess, and their composition.

Here: `pipeline`, the table of tasks, and `register_pipeline`. What a pipeline is: `base`. What a task does: one file a modality.
"""

import dataclasses
import difflib
import inspect
import logging
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxformers.checkpoints import load
from jaxformers.checkpoints.files import locate, read_json
from jaxformers.core.compilation import enable_cache
from jaxformers.core.params import shardings
from jaxformers.errors import InputError
from jaxformers.families import Family, Model, family_of, head_of
from jaxformers.pipelines import (
    answers,
    audio,
    captions,
    embeddings,
    generation,
    images,
    masks,
    pairs,
    seq2seq,
    speech,
    tables,
    text,
    tokens,
)
from jaxformers.pipelines.base import Forward, Pipeline, Preprocess, compose
from jaxformers.pipelines.inputs import Parts
from jaxformers.preprocess import (
    FeatureExtractor,
    ImageProcessor,
    Processor,
    Tokenizer,
    load_feature_extractor,
    load_image_processor,
    load_tokenizer,
)
from jaxformers.preprocess.feature_extractors import describes_sounds

LOG = logging.getLogger("jaxformers")

__all__ = ["Forward", "Parts", "Pipeline", "Preprocess", "compose", "embed_sentences", "pipeline", "register_pipeline"]


@dataclasses.dataclass(frozen=True)
class Task:
    """A built-in task.

    Args:
      build: `build(parts, **options) -> Pipeline`; options it does not name go to the pipeline's stages.
      head: the head its model has; of several the one that its config.json names, else the first that its family has; None
        takes any and leaves it aside.
      default: the model where none is given: hub id and revision; None where there is no usual one.
      takes: what prepares its inputs, by the names in `PREPARERS`.
    """

    build: Callable[..., Pipeline]
    head: str | tuple[str, ...] | None
    default: tuple[str, str] | None
    takes: tuple[str, ...] = ("tokenizer",)

    def heads_in(self, family: Family, named: Any = None) -> tuple[str | None, ...]:
        """The heads that a model of this family may have for it, the likeliest first; `named` are config.json's architectures."""
        heads = self.head if isinstance(self.head, tuple) else (self.head,)
        there = [head for head in heads if head in family.heads] or heads
        said = [head for head in there if isinstance(named, list) and family.architectures.get(head) in named]
        return (*said, *(head for head in there if head not in said))


# what prepares inputs: its name as an argument -> its class, what loads it, and what it is called in a sentence
PREPARERS: dict[str, tuple[type, Callable[..., Any], str]] = {
    "tokenizer": (Tokenizer, load_tokenizer, "a tokenizer"),
    "image_processor": (ImageProcessor, load_image_processor, "an image processor"),
    "feature_extractor": (FeatureExtractor, load_feature_extractor, "a feature extractor"),
}

MINILM = ("sentence-transformers/all-MiniLM-L6-v2", "8b3219a92973c328a8e22fadcfa821b5dc75636a")
T5_BASE = ("google-t5/t5-base", "a9723ea")
CLIP_BASE = ("openai/clip-vit-base-patch32", "3d74acf")
VIT_BASE = ("google/vit-base-patch16-224", "3f49326")
IMAGES = ("image_processor",)
DIRECTION = re.compile(r"translation_[^_]+_to_[^_]+")  # a task's own name, of the kind "translation"
TASKS = {
    "text-classification": Task(
        text.text_classification,
        "sequence-classification",
        ("distilbert/distilbert-base-uncased-finetuned-sst-2-english", "714eb0f"),
    ),
    "token-classification": Task(
        tokens.token_classification,
        "token-classification",
        ("dbmdz/bert-large-cased-finetuned-conll03-english", "4c53496"),
    ),
    "question-answering": Task(
        answers.question_answering,
        "question-answering",
        ("distilbert/distilbert-base-cased-distilled-squad", "564e9b5"),
    ),
    "table-question-answering": Task(
        tables.table_question_answering,
        "table-question-answering",
        ("google/tapas-base-finetuned-wtq", "e3dde19"),
    ),
    "fill-mask": Task(masks.fill_mask, "masked-lm", ("distilbert/distilroberta-base", "fb53ab8")),
    "text-generation": Task(generation.text_generation, "causal-lm", ("openai-community/gpt2", "607a30d")),
    "text2text-generation": Task(seq2seq.text2text_generation, "seq2seq-lm", T5_BASE),
    "summarization": Task(seq2seq.summarization, "seq2seq-lm", ("sshleifer/distilbart-cnn-12-6", "a4f8f3e")),
    "translation": Task(seq2seq.translation, "seq2seq-lm", T5_BASE),
    "zero-shot-classification": Task(
        pairs.zero_shot_classification, "sequence-classification", ("facebook/bart-large-mnli", "d7645e1")
    ),
    "next-sentence-prediction": Task(pairs.next_sentence_prediction, "next-sentence-prediction", None),
    "multiple-choice": Task(pairs.multiple_choice, "multiple-choice", None),
    "feature-extraction": Task(embeddings.feature_extraction, None, ("distilbert/distilbert-base-cased", "6ea8117")),
    "sentence-similarity": Task(embeddings.sentence_similarity, None, MINILM),
    "sentence-embedding": Task(embeddings.sentence_embedding, None, MINILM),
    "audio-classification": Task(
        audio.audio_classification,
        ("audio-classification", "image-classification"),
        ("superb/wav2vec2-base-superb-ks", "372e048"),
        ("feature_extractor",),
    ),
    "automatic-speech-recognition": Task(
        speech.automatic_speech_recognition,
        ("ctc", "speech-seq2seq"),
        ("facebook/wav2vec2-base-960h", "22aad52"),
        ("tokenizer", "feature_extractor"),
    ),
    "text-to-speech": Task(audio.text_to_speech, "text-to-speech", ("microsoft/speecht5_tts", "main")),
    "image-classification": Task(
        images.image_classification, ("image-classification", "image-classification-with-teacher"), VIT_BASE, IMAGES
    ),
    "image-feature-extraction": Task(images.image_feature_extraction, None, VIT_BASE, IMAGES),
    "image-to-text": Task(
        captions.image_to_text, "vision2seq", ("ydshieh/vit-gpt2-coco-en", "5bebf1e"), ("tokenizer", *IMAGES)
    ),
    "image-segmentation": Task(images.image_segmentation, "semantic-segmentation", None, IMAGES),
    "zero-shot-image-classification": Task(
        images.zero_shot_image_classification, "zero-shot-image-classification", CLIP_BASE, ("tokenizer", *IMAGES)
    ),
}
ALIASES = {
    "sentiment-analysis": "text-classification",
    "ner": "token-classification",
    "text-to-audio": "text-to-speech",
}
HEAD_TASKS: dict[str | None, str] = {
    "sequence-classification": "text-classification",
    "token-classification": "token-classification",
    "question-answering": "question-answering",
    "table-question-answering": "table-question-answering",
    "masked-lm": "fill-mask",
    "causal-lm": "text-generation",
    "seq2seq-lm": "text2text-generation",
    "next-sentence-prediction": "next-sentence-prediction",
    "multiple-choice": "multiple-choice",
    "audio-classification": "audio-classification",
    "ctc": "automatic-speech-recognition",
    "speech-seq2seq": "automatic-speech-recognition",
    "text-to-speech": "text-to-speech",
    "image-classification": "image-classification",
    "image-classification-with-teacher": "image-classification",
    "semantic-segmentation": "image-segmentation",
    "vision2seq": "image-to-text",
    "zero-shot-image-classification": "zero-shot-image-classification",
    None: "feature-extraction",
}

_registered: dict[str, Callable[..., Pipeline]] = {}


def pipeline(
    task: str | None = None,
    model: str | os.PathLike[str] | Model | None = None,
    *,
    tokenizer: str | os.PathLike[str] | Tokenizer | None = None,
    image_processor: str | os.PathLike[str] | ImageProcessor | None = None,
    feature_extractor: str | os.PathLike[str] | FeatureExtractor | None = None,
    processor: Processor | None = None,
    dtype: Any = "float32",
    mesh: Mesh | None = None,
    revision: str | None = None,
    batch_size: int | None = None,
    **options: Any,
) -> Pipeline:
    """Makes the pipeline of a task.

    Args:
      task: such as `"text-classification"`, by transformers' names; None decides by the model.
      model: a local folder, a hub id, or a `Model`; None takes the task's default from the hub.
      tokenizer: a folder, a hub id or a `Tokenizer`; by default the one beside the model. A `Model` needs it where the task
        takes texts.
      image_processor: likewise, where it takes images.
      feature_extractor: likewise, where it takes sounds.
      processor: a `Processor` in place of those three.
      dtype: how the parameters of a loaded model are stored.
      mesh: devices to run on: the model sharded, batches split; None means the default device.
      revision: branch, tag or commit of the model's hub id.
      batch_size: inputs that are computed at a time.
      **options: the task's own options, such as `top_k`; each can be overridden with a call.

    Returns:
      A `Pipeline`: call it with one input, a list, an iterator or a dataset.

    Raises:
      InputError: an unknown task or option, or a model that does not serve the task.

    >>> import jaxformers as jf
    >>> from jaxformers.preprocess import train_wordpiece
    >>> tok = train_wordpiece(["a cat and a dog", "a dog and a cat"], vocab_size=40)
    >>> tiny = {"model_type": "bert", "vocab_size": len(tok), "hidden_size": 8, "num_hidden_layers": 1,
    ...         "num_attention_heads": 2, "intermediate_size": 16, "max_position_embeddings": 32}
    >>> clf = pipeline("text-classification", jf.load(tiny, head="sequence-classification"), tokenizer=tok)
    >>> [sorted(result) for result in clf("a cat")]
    [['label', 'score']]
    >>> clf("a cat") == clf.postprocess(clf.forward(clf.preprocess("a cat")))
    True
    """
    enable_cache()
    preparers: dict[str, Any] = {name: getattr(processor, name, None) for name in PREPARERS}
    own = {"tokenizer": tokenizer, "image_processor": image_processor, "feature_extractor": feature_extractor}
    preparers |= {name: value for name, value in own.items() if value is not None}
    if task in _registered:
        given = {"model": model, **preparers, "mesh": mesh, "revision": revision}
        given = {key: value for key, value in given.items() if value is not None}
        made = _registered[task](**given, **({} if dtype == "float32" else {"dtype": dtype}), **options)
        if not isinstance(made, Pipeline):
            raise InputError(f"the factory of {task!r} must return a Pipeline, found {type(made).__name__}")
        return made if batch_size is None else dataclasses.replace(made, batch_size=batch_size)
    if task is not None and DIRECTION.fullmatch(task):
        task, options = "translation", {"direction": task, **options}
    elif task is not None:
        task = _known(task)
    elif model is None:
        raise InputError("pipeline needs a task, a model, or both")
    if model is None:
        assert task is not None
        default = TASKS[task].default
        if default is None:
            raise InputError(f"{task} has no usual model: give model=, a folder, a hub id or a Model")
        model, revision = default[0], revision or default[1]
        LOG.warning("no model was given for %s: using %s at revision %s", task, model, revision)
    if isinstance(model, Model):
        task = task or _task_of(model.head, model.family, "the model")
        parts = _handed_over(task, model, preparers, dtype, mesh, revision)
    else:
        folder = locate(model, revision=revision)
        raw = read_json(folder / "config.json")
        family = family_of(raw, str(folder))
        if task is None:
            task = _task_of(head_of(raw, str(folder)), family, os.fspath(model))
            if task == "image-classification" and describes_sounds(folder):
                task = "audio-classification"  # its images are spectra
        heads = TASKS[task].heads_in(family, raw.get("architectures"))
        loaded = load(folder, head=heads[0], dtype=dtype, mesh=mesh)
        parts = Parts(loaded, folder, mesh, **_prepared(TASKS[task].takes, preparers, folder))
    build = TASKS[task].build
    known = [name for name in options if name in inspect.signature(build).parameters and name != "parts"]
    made = build(parts, **{name: options.pop(name) for name in known}).with_options(**options)
    return made if batch_size is None else dataclasses.replace(made, batch_size=batch_size)


def register_pipeline(name: str, factory: Callable[..., Pipeline]) -> None:
    """Puts one's own pipeline under a task name: `pipeline(name, ...)` then returns `factory(...)`.

    Args:
      name: the task; names of built-in tasks are refused, one's own may be registered anew.
      factory: gets, by keyword, what `pipeline` was given (`model`, `tokenizer`, …, and options), and returns a `Pipeline`.

    Raises:
      InputError: the name is a built-in task, or the factory is no function.

    >>> register_pipeline("word-count", lambda: compose(str.split, len, lambda n: n))
    >>> pipeline("word-count")("three words here")
    3
    """
    if name in TASKS or name in ALIASES:
        raise InputError(f"{name!r} is a built-in task, choose another name")
    if not callable(factory):
        raise InputError(f"the factory of {name!r} must be a function, found {type(factory).__name__}")
    _registered[name] = factory


def embed_sentences(sentences: list[str], model: str | os.PathLike[str] | Model, **options: Any) -> np.ndarray:
    """Sentence embeddings of length 1; the dot product of two is their cosine similarity.

    For more than one call keep the pipeline: `pipeline("sentence-embedding", model)(sentences, return_tensors=True)`.

    Args:
      sentences: N texts.
      model: as for `pipeline`, which gets `options`, too.

    Returns:
      float32 [N, D].
    """
    embed = pipeline("sentence-embedding", model, **options)
    rows = embed(list(sentences), return_tensors=True)
    return np.stack(rows) if rows else np.zeros((0, 0), np.float32)


def _known(task: str) -> str:
    """The task's own name. Raises `InputError` with the nearest name and all names."""
    task = ALIASES.get(task, task)
    if task not in TASKS:
        names = [*TASKS, *ALIASES, *_registered]
        close = difflib.get_close_matches(str(task), names, 1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise InputError(f"unknown task {task!r}{hint}; known: {', '.join(sorted(names))}")
    return task


def _task_of(head: str | None, family: Family, source: str) -> str:
    if head not in HEAD_TASKS:
        raise InputError(
            f"{source} has the head {head!r}, for which there is no pipeline yet: name one of {', '.join(TASKS)}"
        )
    if head is None and "pixel_values" in family.inputs:
        return "image-feature-extraction"
    return HEAD_TASKS[head]


def _prepared(takes: tuple[str, ...], given: dict[str, Any], folder: Path | None) -> dict[str, Any]:
    """What prepares the inputs: as it is given, loaded from where that says, or loaded from the model's folder."""
    found = {}
    for name in takes:
        kind, load_it, called = PREPARERS[name]
        value = folder if given[name] is None else given[name]
        if value is None:
            raise InputError(
                f"a Model brings no {name.replace('_', ' ')}: give {name}=, a folder, a hub id or {called}"
            )
        found[name] = value if isinstance(value, kind) else load_it(os.fspath(value))
    return found


def _handed_over(
    task: str, model: Model, preparers: dict[str, Any], dtype: Any, mesh: Mesh | None, revision: str | None
) -> Parts:
    """The parts of a pipeline over a `Model`."""
    wanted = TASKS[task].heads_in(model.family)
    if wanted[0] is not None and model.head not in wanted:
        raise InputError(f"{task} needs a model with the head {wanted[0]!r}, found {model.head!r}")
    if revision is not None or dtype != "float32":
        raise InputError("dtype and revision say how to load a model, and this one is loaded already")
    prepared = _prepared(TASKS[task].takes, preparers, None)
    if mesh is not None:
        model = dataclasses.replace(model, params=jax.device_put(model.params, shardings(model.declare(), mesh)))
    return Parts(model, mesh=mesh, **prepared)
