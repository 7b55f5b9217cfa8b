"""Whisper's tokenizer files, small: bytes and a few merges, its special tokens and the tokens of times, in their order."""

import json
from pathlib import Path

LETTERS = [*range(33, 127), *range(161, 173), *range(174, 256)]  # bytes that GPT-2 writes as themselves
OTHERS = [byte for byte in range(256) if byte not in LETTERS]
SPELLED = {byte: chr(byte) for byte in LETTERS} | {byte: chr(256 + n) for n, byte in enumerate(OTHERS)}
MERGES = ["t h", "Ġ th", "Ġth e", "Ġ c", "a t", "Ġc at"]
SPECIAL = ["<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|zh|>", "<|de|>", "<|translate|>", "<|transcribe|>",
           "<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>"]  # fmt: skip


def write(folder: Path, merges=MERGES, times: int = 51, vocabulary=None, **config) -> dict[str, int]:
    """Writes the files of before tokenizer.json, and gives each special token's id."""
    if vocabulary is None:
        pieces = [SPELLED[byte] for byte in (*LETTERS, *OTHERS)] + [merge.replace(" ", "") for merge in merges]
        vocabulary = {piece: index for index, piece in enumerate(pieces)}
    folder.mkdir(parents=True, exist_ok=True)
    added = {token: len(vocabulary) + n for n, token in enumerate(SPECIAL)}
    stamps = {f"<|{n * 0.02:.2f}|>": len(vocabulary) + len(added) + n for n in range(times)}
    named = dict.fromkeys(("bos_token", "eos_token", "unk_token", "pad_token"), "<|endoftext|>")
    whole = {"tokenizer_class": "WhisperTokenizer", **named, "additional_special_tokens": SPECIAL, **config}
    whole["added_tokens_decoder"] = {
        str(index): {"content": token, "special": token in added, "normalized": False, "lstrip": False, "rstrip": False,
                     "single_word": False}
        for token, index in {**added, **stamps}.items()
    }  # fmt: skip
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{merge}\n" for merge in merges), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(whole), encoding="utf-8")
    return added
