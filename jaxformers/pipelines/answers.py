"""Extractive question answering: the part of a context that answers a question, with its characters' places.

A context too long for the model is read in parts that overlap. Scores and order are those of transformers 4, which was the
last to have this task; `max_question_len`, which it documents and does not heed, cuts off questions here.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import tokenizers

from jaxformers.core.params import Tree
from jaxformers.errors import InputError
from jaxformers.pipelines.base import Batch, Forward, Pipeline, Row, fetch
from jaxformers.pipelines.inputs import WHOLE, Parts, as_float32, batched, rows_of, valid_text
from jaxformers.preprocess import Tokenizer

FORM = "{'question': str, 'context': str}"
MAX_SEQ_LEN, DOC_STRIDE = 384, 128  # the defaults, where model and length allow as much
NO_ANSWER = {"score": 0.0, "start": 0, "end": 0, "answer": ""}


def question_answering(parts: Parts) -> Pipeline:
    """Where in a context the answer to a question stands.

    One question, `qa(question=..., context=...)` or `qa({"question": ..., "context": ...})`, gives `{"score", "start", "end",
    "answer"}`: `answer` is `context[start:end]`. Many, as a list of such dicts (a dataset's other columns are left alone)
    or as lists under `question` and `context` (one context may serve all questions), give a list. As in transformers a
    list of one question counts as one question, and with `top_k` above 1 the best answers come as a list unless there
    is only one. Answers of equal text are one answer, and their scores are added.

    Options of a call:
      top_k: how many answers at most.
      handle_impossible_answer: whether "" may be an answer; its score is that of the first token, [CLS].
      max_answer_len: the most tokens of an answer.
      align_to_words: answers consist of whole words, where the tokenizer knows words.
      max_seq_len: tokens of a part, the question and special tokens counted; by default 384, or the model's maximum.
      doc_stride: tokens that a part repeats of the one before; by default 128, or less where there is no room for it.
      max_question_len: the most tokens of a question, which is cut off there; by default it is left whole.
      padding: for transformers' sake; what is computed does not depend on it.
    """
    model, tokenizer = parts.model, parts.tokenizer
    maximum = parts.max_length
    question_first = tokenizer.padding_side == "right"  # XLNet and its like were trained the other way round

    def encode(
        items: list[tuple[str, str]],
        *,
        max_seq_len: int | None = None,
        doc_stride: int | None = None,
        max_question_len: int | None = None,
        padding: bool | str = False,
    ) -> tuple[list[Row], dict[str, Any]]:
        length = min(maximum, MAX_SEQ_LEN) if max_seq_len is None else max_seq_len
        _at_least_one(max_seq_len=length, max_question_len=1 if max_question_len is None else max_question_len)
        if length > maximum:
            raise InputError(f"max_seq_len must be at most the {maximum} tokens the model can take, found {length}")
        if doc_stride is not None and not (isinstance(doc_stride, int) and 0 <= doc_stride <= length):
            raise InputError(f"doc_stride must be from 0 to max_seq_len ({length}), found {doc_stride!r}")
        questions, rooms = _fitted([question for question, _ in items], tokenizer, length, max_question_len)
        wanted = min(length // 2, DOC_STRIDE) if doc_stride is None else doc_stride
        alike: dict[int, list[int]] = defaultdict(
            list
        )  # the overlap -> which items; it must leave room for something new
        for index, room in enumerate(rooms):
            alike[min(wanted, room - 1)].append(index)

        rows: list[Row] = []
        encodings: list[tokenizers.Encoding] = []
        places: list[list[int]] = [[] for _ in items]
        for stride, chosen in alike.items():
            pairs = [(questions[index], items[index][1]) for index in chosen]
            encoding = tokenizer(
                pairs if question_first else [pair[::-1] for pair in pairs],
                truncation="only_second" if question_first else "only_first",
                max_length=length,
                stride=stride,
                return_overflowing_tokens=True,
                return_attention_mask=True,
            )
            owners = encoding["overflow_to_sample_mapping"]
            for owner, row, tokens in zip(owners, rows_of(parts, encoding), encoding.encodings, strict=True):
                places[chosen[owner]].append(len(rows))
                rows.append(row)
                encodings.append(tokens)
            if doc_stride is not None and stride < doc_stride and len(set(owners)) < len(owners):
                raise InputError(
                    f"doc_stride={doc_stride} is too much: a question leaves {stride + 1} of {length} tokens to the context"
                )
        return rows, {"contexts": [context for _, context in items], "places": places, "encodings": encodings}

    def compute(params: Tree, batch: Batch) -> Batch:
        output = model.apply(params, execution=WHOLE, **batch)
        return {"start_logits": as_float32(output.start_logits), "end_logits": as_float32(output.end_logits)}

    def postprocess(
        outputs: Batch,
        *,
        top_k: int = 1,
        handle_impossible_answer: bool = False,
        max_answer_len: int = 15,
        align_to_words: bool = True,
    ) -> Any:
        columns, host = fetch(outputs)
        _at_least_one(top_k=top_k, max_answer_len=max_answer_len)
        results = []
        for context, places in zip(host["contexts"], host["places"], strict=True):
            null_score = np.inf
            found: dict[str, dict[str, Any]] = {}  # by the answer in lower case
            for place in places:
                encoding = host["encodings"][place]
                start_L, end_L = (
                    np.asarray(columns[key][place])[: len(encoding)] for key in ("start_logits", "end_logits")
                )
                allowed_L = _allowed(encoding, int(question_first), tokenizer.cls_token_id)
                start_L, end_L = _probabilities(start_L, allowed_L), _probabilities(end_L, allowed_L)
                null_score = min(null_score, float(start_L[0] * end_L[0]))
                start_L[0] = end_L[0] = 0.0
                candidates = 2 * top_k + 10 if align_to_words else top_k  # several may become one when words are whole
                for first, last, score in _spans(start_L, end_L, allowed_L, candidates, max_answer_len):
                    start, end = _characters(encoding, first, last, int(question_first), align_to_words)
                    answer = {"score": 0.0, "start": start, "end": end, "answer": context[start:end]}
                    found.setdefault(answer["answer"].lower(), answer)["score"] += score
            answers = list(found.values())
            if handle_impossible_answer:
                answers.append(NO_ANSWER | {"score": null_score})
            answers = sorted(answers or [NO_ANSWER], key=lambda answer: -answer["score"])[:top_k]
            results.append(answers[0] if len(answers) == 1 else answers)
        return results if host["given"] == "many" else results[0]

    preprocess = batched(parts, maximum, _read, encode, arrange=_arrange)
    return Pipeline(preprocess, Forward(model, compute, parts.mesh), postprocess)


# -- what was asked ----------------------------------------------------------------------------------------------------


def _arrange(*inputs: Any, question: Any = None, context: Any = None, **options: Any) -> tuple[Any, dict[str, Any]]:
    """The forms of a call: one argument; a question and a context; both by keyword, each one or a list."""
    given: Any
    if question is not None or context is not None:
        if inputs or question is None or context is None:
            raise InputError(f"give both question= and context= and nothing else as input, or a dict {FORM}")
        given = {"question": question, "context": context}
    elif len(inputs) == 2:
        given = {"question": inputs[0], "context": inputs[1]}
    elif len(inputs) == 1:
        given = inputs[0]
    else:
        raise InputError(f"question answering needs question= and context=, or a dict {FORM}, or a list of such dicts")
    if isinstance(given, Mapping) and isinstance(given.get("question"), list | tuple):
        questions, contexts = given["question"], given.get("context")
        contexts = [contexts] * len(questions) if isinstance(contexts, str) else contexts
        if not isinstance(contexts, list | tuple) or len(contexts) != len(questions):
            found = f"{len(contexts)}" if isinstance(contexts, list | tuple) else repr(contexts)
            raise InputError(f"context must be a str, or one for each of {len(questions)} questions, found {found:.60}")
        given = [{"question": q, "context": c} for q, c in zip(questions, contexts, strict=True)]
    return given[0] if isinstance(given, list | tuple) and len(given) == 1 else given, options


def _read(value: Any, where: str) -> tuple[str, str]:
    if not isinstance(value, Mapping) or not {"question", "context"} <= value.keys():
        found = f"the keys {sorted(map(str, value))}" if isinstance(value, Mapping) else f"{value!r:.60}"
        raise InputError(f"{where} must be a dict {FORM}, found {found}")
    question, context = (valid_text(value[key], f"the {key} of {where}") for key in ("question", "context"))
    for key, text in (("question", question), ("context", context)):
        if not text:
            raise InputError(f"the {key} of {where} is empty")
    return question, context


def _at_least_one(**numbers: Any) -> None:
    for name, value in numbers.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise InputError(f"{name} must be a positive int, found {value!r}")


def _fitted(
    questions: list[str], tokenizer: Tokenizer, length: int, longest: int | None
) -> tuple[list[str], list[int]]:
    """Questions cut to `longest` tokens, and how many tokens of `length` each leaves to its context."""
    if not questions:
        return [], []
    encoding = tokenizer(questions, add_special_tokens=False, truncation=False)
    fitted, rooms = [], []
    for question, tokens in zip(questions, encoding.encodings, strict=True):
        count = len(tokens)
        if longest is not None and count > longest:
            question, count = question[: tokens.offsets[longest - 1][1]], longest
        room = length - count - tokenizer.num_special_tokens_to_add(pair=True)
        if room < 1:
            raise InputError(
                f"the question {question!r:.40} has {count} tokens, which leaves none of {length} to its context;"
                " give max_question_len, or a larger max_seq_len where the model allows it"
            )
        fitted.append(question)
        rooms.append(room)
    return fitted, rooms


# -- where the answer stands -------------------------------------------------------------------------------------------


def _allowed(encoding: tokenizers.Encoding, sequence: int, cls_id: int | None) -> np.ndarray:
    """[L], which tokens count: the context's, and [CLS], by which a model says that there is no answer."""
    of_context = np.array([owner == sequence for owner in encoding.sequence_ids])
    return of_context | (np.array(encoding.ids) == (-1 if cls_id is None else cls_id))


def _probabilities(logits_L: np.ndarray, allowed_L: np.ndarray) -> np.ndarray:
    """The softmax over allowed tokens; what is left to others is nothing, unless their logits are beyond all bounds."""
    logits_L = np.where(allowed_L, logits_L, np.float32(-10000.0))
    e_L = np.exp(logits_L - logits_L.max())
    return e_L / e_L.sum()


def _spans(
    start_L: np.ndarray, end_L: np.ndarray, allowed_L: np.ndarray, count: int, longest: int
) -> Iterator[tuple[int, int, float]]:
    """The `count` likeliest spans of at most `longest` tokens, best first: (first token, last token, score)."""
    ends_LA = np.lib.stride_tricks.sliding_window_view(np.pad(end_L, (0, longest - 1)), longest)
    scores = (start_L[:, None] * ends_LA).reshape(-1)  # row by row, as a whole table of starts and ends would be
    best = np.argpartition(-scores, count)[:count] if 1 < count < scores.size else np.arange(scores.size)
    best = scores.argmax(keepdims=True) if count == 1 else best[np.argsort(-scores[best], kind="stable")]
    for place in best.tolist():
        first, more = divmod(place, longest)
        score = float(scores[place])
        if score > 0 and allowed_L[first] and allowed_L[first + more]:
            yield first, first + more, score


def _characters(
    encoding: tokenizers.Encoding, first: int, last: int, sequence: int, align_to_words: bool
) -> tuple[int, int]:
    """The characters of the context from the first to the last token, or from the first to the last of their words."""
    if align_to_words:
        words = [encoding.token_to_word(token) for token in (first, last)]
        spans = [None if word is None else encoding.word_to_chars(word, sequence) for word in words]
        if spans[0] is not None and spans[1] is not None:
            return spans[0][0], spans[1][1]
    return encoding.offsets[first][0], encoding.offsets[last][1]
