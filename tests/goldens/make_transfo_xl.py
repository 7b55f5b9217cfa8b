"""Makes the goldens of Transformer-XL, which transformers 5 no longer has.

    python -m tests.goldens.make_transfo_xl        # with transformers 4.35, which needs tokenizers below 0.15

Imports nothing of jaxformers; as `make_goldens`, whose names and numbers it uses. PyTorch's model knows no padding, and its loss
is none that others have: here it is the mean over what is asked for, of the log-probabilities that it returns.
"""

import json
from typing import Any

import numpy as np

from tests.goldens.make_goldens import HERE, LABELS, PROBED, TRANSFO_XL, _short, draw, inputs, kept, labels, spread

CASES: dict[str, tuple[str, str | None, dict[str, Any]]] = {
    "transfo-xl": ("TransfoXLModel", None, TRANSFO_XL),
    # A memory that is longer than the text, and all distances.
    "transfo-xl-words": ("TransfoXLLMHeadModel", "causal-lm", {**TRANSFO_XL, "mem_len": 12, "clamp_len": -1}),
    "transfo-xl-one-group": ("TransfoXLLMHeadModel", "causal-lm", {**TRANSFO_XL, "cutoffs": []}),
    "transfo-xl-classify": (
        "TransfoXLForSequenceClassification",
        "sequence-classification",
        {**TRANSFO_XL, "id2label": LABELS},
    ),
}
PROMPT = [[5, 9, 40, 7, 5, 61, 9, 22]]


def torch_model(architecture: str, config: dict[str, Any]) -> Any:
    """transformers' model in evaluation mode, its weights drawn from their names."""
    import torch
    import transformers

    settings = {key: value for key, value in config.items() if key not in ("model_type", "id2label")}
    if "id2label" in config:
        settings["id2label"] = {int(i): name for i, name in config["id2label"].items()}
        settings["label2id"] = {name: i for i, name in settings["id2label"].items()}
    model = getattr(transformers, architecture)(transformers.TransfoXLConfig(**settings))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.from_numpy(draw(name, tuple(parameter.shape))))
    return model.eval()


def torch_results(model: Any, head: str | None, given: dict[str, Any], wanted: dict[str, Any]) -> dict[str, Any]:
    """Every output, the loss, and its gradient in every parameter, flat."""
    import torch

    ids = torch.from_numpy(given["input_ids"].astype(np.int64))
    named = {}
    if head == "sequence-classification":
        named["labels"] = torch.from_numpy(wanted["labels"].astype(np.int64))
    output = model(ids, output_hidden_states=True, output_attentions=True, **named)
    found = {
        key: output[key] for key in ("last_hidden_state", "logits", "hidden_states", "attentions") if key in output
    }
    if head == "causal-lm":
        found["logits"] = output["prediction_scores"]
        asked = torch.from_numpy(wanted["labels"].astype(np.int64))[:, 1:]
        chosen = found["logits"][:, :-1].gather(-1, asked.clamp(min=0)[..., None])[..., 0]
        loss = -chosen[asked != -100].mean()
    elif head is None:
        states = [found[key] for key in PROBED if key in found]
        loss = sum(
            (each * torch.from_numpy(draw(f"probe {each.ndim}", tuple(each.shape), 1.0))).mean() for each in states
        )
    else:
        loss = output["loss"]
    loss.backward()
    flat: dict[str, Any] = {"loss": loss}
    for key, value in found.items():
        flat |= spread(key, value)
    flat |= {f"gradient {name}": parameter.grad for name, parameter in model.named_parameters()}
    return {key: value.detach().numpy() for key, value in flat.items()}


def golden(architecture: str, head: str | None, config: dict[str, Any]) -> dict[str, Any]:
    """One case: config, inputs, the shape of each tensor, and what came out."""
    model = torch_model(architecture, config)
    given = inputs(config, head)
    wanted = labels(
        config, head, given["attention_mask"] if head == "sequence-classification" else given["input_ids"] * 0 + 1
    )
    given.pop("attention_mask")
    return {
        "head": head,
        "config": config,
        "shapes": {name: list(p.shape) for name, p in model.named_parameters()},
        "inputs": {name: array.tolist() for name, array in given.items()},
        "labels": {name: _short(array) for name, array in wanted.items()},
        "results": {name: kept(name, array) for name, array in torch_results(model, head, given, wanted).items()},
    }


def generated() -> list[list[int]]:
    """What the model goes on with, greedily; its memory is shorter than what comes out."""
    import torch

    model = torch_model("TransfoXLLMHeadModel", TRANSFO_XL)
    return model.generate(torch.tensor(PROMPT), max_new_tokens=10, do_sample=False, eos_token_id=None).tolist()


def main() -> None:
    cases = {name: golden(*case) for name, case in CASES.items()}
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(case, separators=(',', ':'))}" for name, case in cases.items())
    (HERE / "transfo-xl.json").write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")
    (HERE / "transfo-xl.generated.json").write_text(f"{json.dumps(generated())}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
