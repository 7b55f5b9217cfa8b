"""Texts made worse, from which an encoder-decoder learns to write what was there: T5's spans and BART's noise.

`corrupt_spans`, `infill` and `shuffle_sentences` are pure functions of a text and a generator; `SpanCorruption` and `Denoising`
are collators made of them, for `fit(data_collator=…)`: what is hidden is drawn anew in each epoch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jaxformers.data.collate import IGNORE
from jaxformers.data.loader import Batch
from jaxformers.errors import InputError

# -- T5 ----------------------------------------------------------------------------------------------------------------


def noise_of(length: int, density: float, mean_span: float) -> tuple[int, int]:
    """How many of a text's tokens are hidden, and in how many spans: at least one, and one token before each."""
    hidden = min(max(round(length * density), 1), length - 1)
    return hidden, max(1, min(round(hidden / mean_span), hidden, length - hidden))


def corrupt_spans(
    ids: np.ndarray,
    sentinels: np.ndarray,
    generator: np.random.Generator,
    density: float = 0.15,
    mean_span: float = 3.0,
) -> tuple[np.ndarray, np.ndarray]:
    """T5's objective (Raffel et al. 2020, section 3.1.4; as in its code the last span ends the text and no sentinel follows it).

    Args:
      ids: [L] token ids, at least two.
      sentinels: token ids that stand for the spans, in order.
      generator: what spans are drawn from. All ways to divide the text into so many kept and hidden spans are equally likely.
      density: the share of tokens that are hidden.
      mean_span: tokens of a hidden span on average.

    Returns:
      The text with a sentinel in place of each hidden span, and each sentinel with what it stands for. Their lengths depend on L
      alone.

    Raises:
      InputError: the text is too short, or there are more spans than sentinels.
    """
    if len(ids) < 2:
        raise InputError(f"a text must have at least 2 tokens for some to be hidden, found {len(ids)}")
    hidden, spans = noise_of(len(ids), density, mean_span)
    if spans > len(sentinels):
        raise InputError(f"{len(ids)} tokens have {spans} hidden spans, and there are only {len(sentinels)} sentinels")
    kept_N, hidden_N = (_parts(total, spans, generator) for total in (len(ids) - hidden, hidden))
    pieces = np.split(ids, np.cumsum(np.stack((kept_N, hidden_N), 1).ravel())[:-1])
    marks = np.split(sentinels[:spans], spans)
    inputs = [part for pair in zip(pieces[::2], marks, strict=True) for part in pair]
    targets = [part for pair in zip(marks, pieces[1::2], strict=True) for part in pair]
    return np.concatenate(inputs), np.concatenate(targets)


def _parts(total: int, count: int, generator: np.random.Generator) -> np.ndarray:
    """`total` as a sum of `count` positive numbers, all such sums equally likely."""
    cuts = np.sort(generator.choice(total - 1, count - 1, replace=False)) + 1
    return np.diff(cuts, prepend=0, append=total)


@dataclass(frozen=True, eq=False)
class SpanCorruption:
    """Hides spans of each row, see `corrupt_spans`; the end of a text is marked after both what is read and what is written.

    Args:
      sentinels: token ids in order.
      eos_token_id: what ends a text.
      pad_token_id: what fills `input_ids`.
      density: the share of tokens that are hidden.
      mean_span: tokens of a hidden span on average.
    """

    sentinels: np.ndarray
    eos_token_id: int
    pad_token_id: int
    density: float = 0.15
    mean_span: float = 3.0

    def __post_init__(self) -> None:
        if not 0 < self.density < 1 or self.mean_span < 1:
            raise InputError(
                f"the share of hidden tokens must be above 0 and below 1 and spans of at least 1 token on average, found "
                f"{self.density} and {self.mean_span}"
            )

    def lengths(self, length: int) -> tuple[int, int]:
        """How long what is read and what is written is, of a text of so many tokens."""
        hidden, spans = noise_of(length, self.density, self.mean_span)
        return length - hidden + spans + 1, hidden + spans + 1

    def room(self, length: int) -> int:
        """The most tokens of a text of which at most `length` are read."""
        if length < 3:
            raise InputError(f"what is read must be at least 3 tokens long, found {length}")
        most = 2
        while self.lengths(most + 1)[0] <= length:
            most += 1
        return most

    def __call__(self, batch: Batch, generators: list[np.random.Generator]) -> Batch:
        """`input_ids`, `attention_mask` and `labels`, each of one shape for all batches of one shape."""
        B, L = batch["input_ids"].shape
        reads, writes = self.lengths(L)
        ids_BL = np.full((B, reads), self.pad_token_id, np.int32)
        mask_BL, labels_BL = np.zeros((B, reads), np.int32), np.full((B, writes), IGNORE, np.int32)
        for row, generator in enumerate(generators):
            text = batch["input_ids"][row][batch["attention_mask"][row] == 1]
            read, written = corrupt_spans(text, self.sentinels, generator, self.density, self.mean_span)
            ids_BL[row, : len(read) + 1] = [*read, self.eos_token_id]
            mask_BL[row, : len(read) + 1] = 1
            labels_BL[row, : len(written) + 1] = [*written, self.eos_token_id]
        return {**batch, "input_ids": ids_BL, "attention_mask": mask_BL, "labels": labels_BL}


# -- BART --------------------------------------------------------------------------------------------------------------


def shuffle_sentences(ids: np.ndarray, ends: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """The sentences of a text in random order (Lewis et al. 2019).

    Args:
      ids: [L] token ids.
      ends: bool [V], tokens that end a sentence.
      generator: what the order is drawn from.
    """
    sentences = [part for part in np.split(ids, np.flatnonzero(ends[ids]) + 1) if len(part)]
    return np.concatenate([sentences[number] for number in generator.permutation(len(sentences))])


def infill(
    ids: np.ndarray, mask_token_id: int, generator: np.random.Generator, ratio: float = 0.3, mean_span: float = 3.0
) -> np.ndarray:
    """Text infilling (Lewis et al. 2019): spans are each replaced by one mask token, whose number the model must guess.

    Args:
      ids: [L] token ids.
      mask_token_id: what stands for a span. One for a span of no tokens says that nothing is missing there.
      generator: what spans are drawn from; their lengths are Poisson's. No two are neighbours.
      ratio: the share of tokens that are hidden.
      mean_span: tokens of a span on average.

    Returns:
      At most L token ids.
    """
    hidden = round(len(ids) * ratio)
    spans: list[int] = []
    while (left := hidden - sum(spans)) > 0:
        spans.append(min(int(generator.poisson(mean_span)), left))
    kept = len(ids) - hidden
    while len(spans) > min(hidden, kept + 1):  # no longer than it was, and a place for each
        if 0 in spans:
            spans.remove(0)
        else:
            spans[-2:] = [sum(spans[-2:])]
    before = np.sort(generator.choice(kept + 1, len(spans), replace=False))  # kept tokens before each span
    written: list[int] = []
    read = 0
    for gap, span in zip(np.diff(before, prepend=0), spans, strict=True):
        written += [*ids[read : read + gap], mask_token_id]
        read += gap + span
    return np.array([*written, *ids[read:]], ids.dtype)


@dataclass(frozen=True, eq=False)
class Denoising:
    """BART's noise: the sentences of each row in random order, spans of it behind mask tokens; `labels` is what was there.

    Args:
      mask_token_id: what stands for a span.
      pad_token_id: what fills `input_ids`.
      ends: bool [V], tokens that end a sentence.
      frame: how many tokens at the beginning and at the end of a row are left as they are, such as <s> and </s>.
      ratio: the share of tokens that are hidden.
      mean_span: tokens of a span on average.
      permute: whether sentences change places.
    """

    mask_token_id: int
    pad_token_id: int
    ends: np.ndarray
    frame: tuple[int, int] = (1, 1)
    ratio: float = 0.3
    mean_span: float = 3.0
    permute: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.ratio < 1 or self.mean_span <= 0:
            raise InputError(
                f"the share of hidden tokens must be above 0 and below 1 and spans longer than 0 on average, found {self.ratio} "
                f"and {self.mean_span}"
            )

    def __call__(self, batch: Batch, generators: list[np.random.Generator]) -> Batch:
        """`input_ids`, `attention_mask` and `labels`, all of the shape of `input_ids`."""
        real_BL = batch["attention_mask"] == 1
        ids_BL, mask_BL = np.full_like(batch["input_ids"], self.pad_token_id), np.zeros_like(batch["attention_mask"])
        for row, generator in enumerate(generators):
            text = batch["input_ids"][row][real_BL[row]]
            first, last = self.frame[0], len(text) - self.frame[1]
            inner = shuffle_sentences(text[first:last], self.ends, generator) if self.permute else text[first:last]
            noisy = infill(inner, self.mask_token_id, generator, self.ratio, self.mean_span)
            noisy = np.concatenate((text[:first], noisy, text[last:]))
            ids_BL[row, : len(noisy)], mask_BL[row, : len(noisy)] = noisy, 1
        labels_BL = np.where(real_BL, batch["input_ids"], IGNORE)
        return {**batch, "input_ids": ids_BL, "attention_mask": mask_BL, "labels": labels_BL}
