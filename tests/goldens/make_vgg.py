"""Makes the goldens of VGG, which transformers has not: here is a module of PyTorch's with torchvision's layout, or timm's.

    python -m tests.goldens.make_vgg

Imports nothing of jaxformers; names, numbers and what is kept are those of `make_goldens`.
"""

import json
import zlib
from types import SimpleNamespace
from typing import Any

import numpy as np

from tests.goldens.drawing import draw
from tests.goldens.make_goldens import HERE, LABELS, _short, kept, parameters_of, sample, torch_results
from tests.goldens.pixels import VGG

CASES: dict[str, tuple[str | None, dict[str, Any]]] = {
    "vgg-classify": ("image-classification", {**VGG, "id2label": LABELS}),
}


def torch_model(head: str | None, config: dict[str, Any]) -> Any:
    """The module in evaluation mode, its weights drawn from their names; it answers as transformers' models do."""
    import torch
    from torch import nn

    timm = config.get("weight_names") == "timm"
    pool, wide, classes = config["pool_size"], config["classifier_size"], len(config.get("id2label") or "ab")

    class Module(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layers: list[nn.Module] = []
            self.ends, inputs = [], 3
            for outputs, depth in zip(config["hidden_sizes"], config["depths"], strict=True):
                for _ in range(depth):
                    layers.append(nn.Conv2d(inputs, outputs, 3, padding=1))
                    layers += [nn.BatchNorm2d(outputs)] if config.get("batch_norm") else []
                    layers.append(nn.ReLU())
                    inputs = outputs
                self.ends.append(len(layers))
                layers.append(nn.MaxPool2d(2, 2))
            self.features = nn.Sequential(*layers)
            if timm:
                self.pre_logits = nn.Sequential()
                self.pre_logits.fc1 = nn.Conv2d(inputs, wide, pool)
                self.pre_logits.fc2 = nn.Conv2d(wide, wide, 1)
                self.head = nn.Sequential()
                self.head.fc = nn.Linear(wide, classes) if head else nn.Identity()
            else:
                parts = [nn.Linear(inputs * pool**2, wide), nn.ReLU(), nn.Dropout(), nn.Linear(wide, wide), nn.ReLU()]
                self.classifier = nn.Sequential(
                    *parts, nn.Dropout(), nn.Linear(wide, classes) if head else nn.Identity()
                )
            self.config = SimpleNamespace(model_type="vgg", problem_type=config.get("problem_type"))
            self.all_tied_weights_keys: dict[str, str] = {}
            self._weight_conversions: list[Any] = []  # what transformers asks before it renames

        def forward(self, pixel_values: Any, labels: Any = None, **asked: bool) -> dict[str, Any]:
            x, states = pixel_values, []
            for number, layer in enumerate(self.features):
                x = layer(x)
                states += [x] if number in self.ends else []
            if timm:
                y = self.pre_logits.fc2(self.pre_logits.fc1(x).relu()).relu().mean((2, 3))
                last = self.head.fc
            else:
                y = nn.functional.adaptive_avg_pool2d(x, pool).flatten(1)
                y, last = self.classifier[:-1](y), self.classifier[-1]
            found = {"hidden_states": tuple(states)}
            if not head:
                return {"last_hidden_state": x, "pooler_output": y, **found}
            found["logits"] = last(y)
            return found | ({} if labels is None else {"loss": nn.functional.cross_entropy(found["logits"], labels)})

    model = Module()
    with torch.no_grad():
        for name, parameter in parameters_of(model).items():
            parameter.copy_(torch.from_numpy(draw(name, tuple(parameter.shape))))
    return model.eval()


def golden(head: str | None, config: dict[str, Any]) -> dict[str, Any]:
    """One case: config, inputs, the shape of each tensor, and what came out."""
    model = torch_model(head, config)
    given, wanted = sample(config, head)
    return {
        "head": head,
        "config": config,
        "shapes": {name: list(p.shape) for name, p in parameters_of(model).items()},
        "inputs": {name: array.tolist() for name, array in given.items()},
        "labels": {name: _short(np.asarray(array)) for name, array in wanted.items()},
        "results": {name: kept(name, array) for name, array in torch_results(model, given, wanted).items()},
    }


def fingerprint(shapes: dict[str, Any]) -> int:
    """A number for the names and shapes of a checkpoint, such as those of `timm.create_model("vgg16").state_dict()`."""
    lines = sorted(f"{name} {tuple(shape)}" for name, shape in shapes.items() if "num_batches" not in name)
    return zlib.crc32("\n".join(lines).encode())


def main() -> None:
    cases = {name: golden(*case) for name, case in CASES.items()}
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(case, separators=(',', ':'))}" for name, case in cases.items())
    (HERE / "vgg.json").write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
