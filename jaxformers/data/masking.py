"""Masking for masked language modelling: drawn anew for each batch, on the host. The collator for `fit(data_collator=…)`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jaxformers.data.collate import IGNORE
from jaxformers.data.loader import Batch
from jaxformers.errors import InputError
from jaxformers.preprocess import Tokenizer


@dataclass(frozen=True, eq=False)
class MaskTokens:
    """Chooses tokens to be predicted, and hides them: 80 % behind the mask token, 10 % behind a random one, 10 % not at all.

    BERT's recipe (Devlin et al. 2018), drawn anew in each epoch as RoBERTa does (Liu et al. 2019).

    Args:
      mask_token_id: what hides a token.
      never: bool [V], tokens that are never chosen: special ones.
      continues: bool [V], tokens that go on with the word before them; words are then chosen whole. None chooses tokens.
      probability: the share of tokens that are chosen.
      all_masked: hide all chosen tokens behind the mask token, as ELECTRA's generator wants it.
    """

    mask_token_id: int
    never: np.ndarray
    continues: np.ndarray | None = None
    probability: float = 0.15
    all_masked: bool = False

    @classmethod
    def of(
        cls, tokenizer: Tokenizer, *, probability: float = 0.15, whole_words: bool = False, all_masked: bool = False
    ) -> MaskTokens:
        """For a tokenizer's mask token, special tokens and, for whole words, its marks of where a word begins or goes on.

        Raises:
          InputError: the tokenizer has no mask token, or the probability is no share.
        """
        if tokenizer.mask_token_id is None:
            raise InputError("masked language modelling needs a tokenizer with a mask token, this one has none")
        if not 0 < probability < 1:
            raise InputError(f"the share of masked tokens must be above 0 and below 1, found {probability}")
        size = max(tokenizer.get_vocab().values()) + 1
        never = np.zeros(size, bool)
        never[list(tokenizer.all_special_ids)] = True
        continues = word_continues(tokenizer, size) if whole_words else None
        return cls(tokenizer.mask_token_id, never, continues, probability, all_masked)

    def __call__(self, batch: Batch, generators: list[np.random.Generator]) -> Batch:
        """`input_ids` with tokens hidden, and `labels` int32 [B, L]: what was hidden there, -100 elsewhere."""
        ids_BL = batch["input_ids"]
        hidden_BL, labels_BL = ids_BL.copy(), np.full_like(ids_BL, IGNORE)
        for ids, mask, hidden, labels, generator in zip(
            ids_BL, batch["attention_mask"], hidden_BL, labels_BL, generators, strict=True
        ):
            chosen = self._choose(ids, (mask == 1) & ~self.never[ids], generator)
            labels[chosen] = ids[chosen]
            lot = generator.random(len(chosen))
            hidden[chosen[(lot < 0.8) | self.all_masked]] = self.mask_token_id
            other = chosen[(lot >= 0.9) & (not self.all_masked)]
            hidden[other] = generator.integers(len(self.never), size=len(other))
        return {**batch, "input_ids": hidden_BL, "labels": labels_BL}

    def _choose(self, ids: np.ndarray, candidate: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """Places of the chosen tokens of one row, at least one where there is a candidate."""
        places = np.flatnonzero(candidate)
        if not len(places):
            return places
        if self.continues is None:
            chosen = places[generator.random(len(places)) < self.probability]
            return chosen if len(chosen) else places[generator.integers(len(places), size=1)]
        # A word is a candidate that continues none, and the candidates after it that continue it.
        starts = ~self.continues[ids[places]] | (np.diff(places, prepend=-2) > 1)
        words = np.split(places, np.flatnonzero(starts)[1:])
        wanted = max(1, round(len(places) * self.probability))
        kept: list[np.ndarray] = []
        for word in generator.permutation(len(words)):
            if kept and sum(map(len, kept)) + len(words[word]) > wanted:
                continue
            kept.append(words[word])
            if sum(map(len, kept)) >= wanted:
                break
        return np.sort(np.concatenate(kept))


def word_continues(tokenizer: Tokenizer, size: int) -> np.ndarray:
    """bool [V]: tokens that go on with the word before them, by the marks of WordPiece, byte-level BPE or SentencePiece.

    Raises:
      InputError: the vocabulary has none of these marks.
    """
    vocabulary = tokenizer.get_vocab()
    marks = {mark: sum(token.startswith(mark) for token in vocabulary) for mark in ("##", "Ġ", "▁")}
    mark = max(marks, key=lambda mark: marks[mark])
    if not marks[mark]:
        raise InputError("whole words cannot be told: no token of the vocabulary begins with '##', 'Ġ' or '▁'")
    continues = np.zeros(size, bool)
    for token, number in vocabulary.items():
        continues[number] = token.startswith(mark) == (mark == "##")
    return continues
