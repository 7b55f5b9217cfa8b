"""transformers' side of `generate.py`: the best of its kernels and caches, compiled too. Imports nothing of ours."""

from typing import Any

import numpy as np
import torch
import transformers

SETTINGS = (  # attention kernel, cache, whether the step is compiled by torch.compile
    ("sdpa", None, False),
    ("eager", None, False),
    ("sdpa", "static", False),
    ("sdpa", "static", True),
)


def theirs(folder: str, ids: np.ndarray, passes: int, options: dict[str, Any], timed: Any) -> dict[str, Any]:
    """transformers' best rate; `timed` runs a function several times."""
    seq2seq = transformers.AutoConfig.from_pretrained(folder).is_encoder_decoder
    loader = transformers.AutoModelForSeq2SeqLM if seq2seq else transformers.AutoModelForCausalLM
    found: dict[str, Any] = {"rate": 0.0, "rates": {}}
    for kernel, cache, compiled in SETTINGS:
        model = loader.from_pretrained(folder, attn_implementation=kernel)
        model.generation_config.eos_token_id = None
        model.generation_config.pad_token_id = 0
        if compiled:
            compiling = transformers.CompileConfig(fullgraph=False)
            compiling._compile_all_devices = True  # else it is for accelerators alone
            model.generation_config.compile_config = compiling
        inputs = torch.from_numpy(ids.astype(np.int64))
        mask = torch.ones_like(inputs)

        def run(
            model: Any = model, inputs: Any = inputs, mask: Any = mask, cache: Any = cache, off: Any = not compiled
        ) -> Any:
            return model.generate(
                inputs,
                attention_mask=mask,
                do_sample=False,
                disable_compile=off,
                cache_implementation=cache,
                **options,
            )

        setting = f"{kernel}, {cache or 'dynamic'} cache{', compiled' if compiled else ''}"
        try:
            first, best, sequences = timed(run, passes)
        except Exception as error:  # a setting that transformers has not for this model or device
            found["rates"][setting] = f"failed: {type(error).__name__}"
            continue
        rate = ids.shape[0] * options["max_new_tokens"] / best
        found["rates"][setting] = rate
        if rate > found["rate"]:
            new = sequences[:, -options["max_new_tokens"] :]
            found |= {"rate": rate, "first_call_seconds": first, "setting": setting, "tokens": new.tolist()}
    return found
