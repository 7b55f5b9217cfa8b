"""Makes the goldens of SQuAD's scores: what transformers 4's copy of SQuAD 2.0's official script says of random answers.

    pip install transformers==4.57.6 && python -m tests.goldens.make_squad_metrics

Imports nothing of jaxformers.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

WORDS = [
    "the",
    "a",
    "An",
    "Paris",
    "paris,",
    "1889",
    "tower",
    "tower.",
    "Gustave",
    "eiffel-tower",
    "\u00c9lan",
    "of",
    "!",
    "",
]


def case(seed: int, count: int, unanswerable: float, probabilities: bool) -> dict[str, Any]:
    draw = np.random.default_rng(seed)

    def text(longest: int = 4) -> str:
        return " ".join(str(word) for word in draw.choice(WORDS, draw.integers(0, longest + 1)))

    answers = [
        [] if draw.random() < unanswerable else [text() for _ in range(draw.integers(1, 4))] for _ in range(count)
    ]
    predicted = [a[0].upper() if a and draw.random() < 0.5 else text(3) if draw.random() < 0.7 else "" for a in answers]
    given: dict[str, Any] = {"predicted": predicted, "answers": answers}
    if probabilities:
        given["no_answer_probabilities"] = [round(float(p), 2) for p in draw.random(count)]
        given["threshold"] = 0.6
    return given


def expected(given: dict[str, Any]) -> dict[str, float]:
    from transformers.data.metrics.squad_metrics import squad_evaluate
    from transformers.data.processors.squad import SquadExample

    examples = []
    for index, answers in enumerate(given["answers"]):
        example = SquadExample(str(index), "?", "", None, None, "", is_impossible=not answers)
        example.answers = [{"text": answer} for answer in answers]
        examples.append(example)
    predicted = {str(index): text for index, text in enumerate(given["predicted"])}
    none = given.get("no_answer_probabilities")
    none = None if none is None else {str(index): p for index, p in enumerate(none)}
    found = squad_evaluate(examples, predicted, none, given.get("threshold", 1.0))
    # The script looks for the best threshold only where there are probabilities; transformers' copy always does.
    asked = {name: value for name, value in found.items() if none is not None or not name.startswith("best_")}
    return {name: value if isinstance(value, int) else float(value) for name, value in asked.items()}


def main() -> None:
    cases = {
        "one": (0, 1, 0.0, False), "answerable": (1, 40, 0.0, False), "mixed": (2, 60, 0.4, False),
        "none": (3, 10, 1.0, False), "thresholds": (4, 60, 0.4, True), "all-thresholds": (5, 30, 1.0, True),
    }  # fmt: skip
    kept = []
    for name, options in cases.items():
        given = case(*options)
        kept.append({"name": name, "given": given, "expected": expected(given)})
    lines = ",\n".join(json.dumps(each, separators=(",", ":")) for each in kept)
    (Path(__file__).parent / "squad_metrics.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main()
