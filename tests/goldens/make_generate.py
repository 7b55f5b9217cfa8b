"""Makes the goldens of generation: what PyTorch transformers generates with the tiny decoders of `make_goldens`.

    python -m tests.goldens.make_generate

Imports nothing of jaxformers. A golden changes only when a case is added or changed below, or when transformers itself
generates something else; never because a test fails.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from tests.goldens.make_goldens import GPT2, LLAMA, T5, integers, torch_model

PROMPT = integers("prompt", (3, 5), 3, 64)
LEFT = np.array([[1] * 5, [0, 0, 1, 1, 1], [0, 0, 0, 0, 1]])
ENDS = {"eos_token_id": [7, 21], "pad_token_id": 5, "max_new_tokens": 12}
OPTIONS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "bans": {
        "repetition_penalty": 1.3,
        "no_repeat_ngram_size": 2,
        "bad_words_ids": [[12], [3, 4]],
        "min_new_tokens": 4,
    },
    "beams": {"num_beams": 3, "num_return_sequences": 2, "length_penalty": 0.5},
    "beams, early": {"num_beams": 4, "early_stopping": True, "no_repeat_ngram_size": 3},
}


def sequences(config: dict[str, Any], options: dict[str, Any]) -> list[list[int]]:
    """What transformers generates from the prompts, padded on the left; an encoder-decoder reads them."""
    import torch

    names = {"gpt2": "GPT2LMHeadModel", "llama": "LlamaForCausalLM", "t5": "T5ForConditionalGeneration"}
    model = torch_model(names[config["model_type"]], config)
    model.generation_config.use_cache = True
    ids, mask = (torch.from_numpy(array.astype(np.int64)) for array in (PROMPT, LEFT))
    return model.generate(ids, attention_mask=mask, **ENDS, **options).tolist()


def main() -> None:
    cases = {
        f"{config['model_type']}: {name}": sequences(config, options)
        for config in (GPT2, LLAMA, T5)
        for name, options in OPTIONS.items()
        if config is GPT2 or name in ("greedy", "beams")
    }
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(rows, separators=(',', ':'))}" for name, rows in cases.items())
    (Path(__file__).parent / "generate.json").write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
