"""The cases of `senses.py` in PyTorch transformers. Imports nothing of ours."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import transformers
from transformers.generation import GenerationMixin

CLASSES = {
    "vit": transformers.AutoModelForImageClassification,
    "convnext": transformers.AutoModelForImageClassification,
    "whisper": transformers.AutoModelForSpeechSeq2Seq,
    "wav2vec2": transformers.AutoModelForCTC,
}
START = 50258


def theirs(
    case: dict[str, Any],
    folder: str,
    inputs: np.ndarray,
    calls: int,
    timed: Callable[..., dict[str, Any]],
    *,
    compiled: bool,
) -> dict[str, Any]:
    """Seconds of a call, and what it gave."""
    name = case["model"]
    kernel = {} if name == "convnext" else {"attn_implementation": "sdpa"}
    model = CLASSES[name].from_pretrained(folder, **kernel)
    forward = torch.compile(model) if compiled else model
    if case.get("training"):
        model.train()
        pixels = torch.from_numpy(inputs).permute(0, 3, 1, 2).contiguous()
        labels = torch.arange(len(inputs))
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.0, fused=True)

        def train() -> Any:
            optimizer.zero_grad()
            loss = forward(pixel_values=pixels, labels=labels).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            return loss.item()

        return timed(train, calls)
    model.eval()
    with torch.inference_mode():
        if "rows" in case:
            pixels = torch.from_numpy(inputs).permute(0, 3, 1, 2).contiguous()
            return timed(lambda: forward(pixel_values=pixels).logits.numpy(), calls)
        extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)

        def extracted(waves: list[np.ndarray]) -> Any:
            return extractor(waves, sampling_rate=16000, return_tensors="pt")

        if name == "wav2vec2":
            return timed(lambda: forward(extracted([inputs]).input_values).logits.numpy(), calls)
        model.generation_config = transformers.GenerationConfig(
            eos_token_id=None, pad_token_id=0, decoder_start_token_id=START
        )
        if compiled:
            model.generation_config.cache_implementation = "static"
            compiling = transformers.CompileConfig(fullgraph=False)
            compiling._compile_all_devices = True  # else it is for accelerators alone
            model.generation_config.compile_config = compiling

        def transcribe() -> Any:
            features = extracted(np.split(inputs, 2)).input_features
            # without Whisper's own rules about which tokens may stand where, as ours
            return GenerationMixin.generate(
                model, features, decoder_input_ids=torch.full((2, 1), START), do_sample=False,
                max_new_tokens=case["tokens"],
            )[:, 1:].numpy()  # fmt: skip

        return timed(transcribe, calls)
