"""transformers' side of `generate.py`: the best of its kernels and caches. Imports nothing of ours."""

from typing import Any

import numpy as np
import torch
import transformers


def theirs(folder: str, ids: np.ndarray, passes: int, options: dict[str, Any], timed: Any) -> dict[str, Any]:
    """transformers' best rate; `timed` runs a function several times."""
    found: dict[str, Any] = {"rate": 0.0}
    for kernel in ("sdpa", "eager"):
        for cache in (None, "static"):
            model = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation=kernel)
            model.generation_config.eos_token_id = None
            model.generation_config.pad_token_id = 0
            inputs = torch.from_numpy(ids.astype(np.int64))
            mask = torch.ones_like(inputs)

            def run(model: Any = model, inputs: Any = inputs, mask: Any = mask, cache: Any = cache) -> Any:
                return model.generate(
                    inputs,
                    attention_mask=mask,
                    do_sample=False,
                    disable_compile=True,
                    cache_implementation=cache,
                    **options,
                )

            first, best, sequences = timed(run, passes)
            rate = ids.shape[0] * options["max_new_tokens"] / best
            if rate > found["rate"]:
                found = {"rate": rate, "first_call_seconds": first, "setting": f"{kernel}, {cache or 'dynamic'} cache",
                         "tokens": sequences[:, ids.shape[1] :].tolist()}  # fmt: skip
    return found
