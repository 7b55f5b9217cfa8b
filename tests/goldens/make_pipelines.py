"""Makes the goldens of the text pipelines: what transformers 4's pipelines return for tiny models, question answering included,
which transformers 5 no longer has.

    pip install transformers==4.57.6 torch==2.13.0 && python -m tests.goldens.make_pipelines

Imports nothing of jaxformers. Each case keeps its config, the shapes of its weights (which are drawn from their names), a
vocabulary, the calls and what came back. A golden changes only when a case is added or changed below.
"""

import json
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from tests.goldens.make_goldens import draw

HERE = Path(__file__).parent
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LETTERS = list("abcdefghijklmnopqrstuvwxyz0123456789.,'-!?()")
WORDS = ["the", "tower", "stands", "in", "paris", "and", "was", "built", "by", "gustave", "river", "##side", "who", "where",
         "when", "is", "of", "old", "near", "it", "new", "york", "london", "city", "##ed", "##ing", "##er", "to",
         "year"]  # fmt: skip
VOCAB = SPECIAL + LETTERS + [f"##{letter}" for letter in LETTERS[:36]] + WORDS
BERT = {
    "model_type": "bert",
    "vocab_size": len(VOCAB),
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "type_vocab_size": 2,
}


def named(*labels: str) -> dict[str, Any]:
    return {"id2label": {str(i): label for i, label in enumerate(labels)}}


SHORT = "The tower stands in Paris, near the old river. It was built by Gustave in 1887."
HARD = "Caf\u00e9 TOWERS (\u6f22\u5b57) \U0001f600 stand -- e\u0301lan's   New\u00a0York!\n\tbuilders?"
LONG = " ".join(f"In year {year} the old city {i} of {name} was built near a river, and it stands." for i, (year, name) in
                enumerate((1066 + 31 * n, ("Paris", "London", "New York", "Riverside")[n % 4]) for n in range(9)))  # fmt: skip
ASKED = [{"question": "Where is the tower?", "context": SHORT}, {"question": "Who built it?", "context": HARD},
         {"question": "When was New York built?", "context": LONG}]  # fmt: skip
LABELS = ["old", "new", "a city"]

Call = tuple[list[Any], dict[str, Any]]
CASES: dict[str, tuple[str, str, str, dict[str, Any], list[Call]]] = {  # name -> (task, class, head, config, calls)
    "answers": (
        "question-answering",
        "BertForQuestionAnswering",
        "question-answering",
        BERT,
        [
            *(
                ([], {**asked, **options})
                for asked in ASKED
                for options in (
                    {},
                    {"top_k": 3},
                    {"handle_impossible_answer": True, "top_k": 4},
                    {"align_to_words": False, "top_k": 2},
                    {"max_answer_len": 1},
                    {"max_answer_len": 40, "top_k": 2},
                    {"max_seq_len": 32, "doc_stride": 8, "top_k": 3},
                    {"max_seq_len": 24, "doc_stride": 0, "handle_impossible_answer": True},
                    {"max_seq_len": 48, "padding": "max_length"},
                )
            ),
            ([ASKED], {}),
            ([ASKED[:1]], {}),
            ([ASKED[0]], {}),
            ([], {"question": [asked["question"] for asked in ASKED], "context": SHORT, "top_k": 2}),
            ([], {"question": ["Who?", "When?"], "context": [SHORT, LONG]}),
            ([], {"question": ["Who?"], "context": SHORT}),
            ([], {"question": "Who?", "context": "   "}),
            ([], {"question": "Who?", "context": "Paris"}),
        ],
    ),
    "entities": (
        "token-classification",
        "BertForTokenClassification",
        "token-classification",
        {**BERT, **named("O", "B-PER", "I-PER", "B-LOC", "I-LOC")},
        [
            *(
                ([[SHORT, HARD, ""]], {"aggregation_strategy": s, **options})
                for s in ("none", "simple", "first", "average", "max")
                for options in ({}, {"ignore_labels": []}, {"ignore_labels": ["O", "LOC"]})
            ),
            *(([LONG], {"aggregation_strategy": s, "stride": 9}) for s in ("simple", "first", "average", "max")),
            ([LONG], {}),
            ([SHORT], {"grouped_entities": True}),
            ([SHORT], {"grouped_entities": True, "ignore_subwords": True}),
            ([SHORT], {"grouped_entities": False}),
        ],
    ),
    "masks": (
        "fill-mask",
        "BertForMaskedLM",
        "masked-lm",
        BERT,
        [
            (["The tower [MASK] in Paris."], {}),
            (["The [MASK] stands in [MASK]."], {"top_k": 2}),
            ([["[MASK] is old", "the river [MASK] [MASK] [MASK] city"]], {"top_k": 3}),
            ([["[MASK] is old"]], {}),
            (["[MASK] is old"], {"targets": ["paris", "london", "year", "paris"]}),
            (["[MASK] is old"], {"targets": "london"}),
            (["[MASK] is [MASK]"], {"targets": ["[PAD]", "new"]}),
            (["[MASK] is old [MASK]"], {"targets": ["parish", "river"], "top_k": 1}),
        ],
    ),
    "zero-shot": (
        "zero-shot-classification",
        "BertForSequenceClassification",
        "sequence-classification",
        {**BERT, **named("contradiction", "neutral", "entailment")},
        [
            ([SHORT, LABELS], {}),
            ([SHORT], {"candidate_labels": "old, new,,a city "}),
            ([SHORT], {"candidate_labels": LABELS, "multi_label": True}),
            ([SHORT], {"candidate_labels": "old"}),
            ([[SHORT, HARD, LONG]], {"candidate_labels": LABELS, "hypothesis_template": "It is {}, and new."}),
        ],
    ),
    "zero-shot-entailment-first": (
        "zero-shot-classification",
        "BertForSequenceClassification",
        "sequence-classification",
        {**BERT, **named("ENTAILMENT", "other")},
        [([[SHORT]], {"candidate_labels": LABELS, "multi_label": multi}) for multi in (False, True)],
    ),
    "zero-shot-unnamed": (
        "zero-shot-classification",
        "BertForSequenceClassification",
        "sequence-classification",
        {**BERT, **named("x", "y", "z")},
        [([SHORT], {"candidate_labels": LABELS, "multi_label": multi}) for multi in (False, True)],
    ),
}


def write_tokenizer(folder: Path) -> None:
    """A BERT tokenizer over `VOCAB`, as its files."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(VOCAB) + "\n", encoding="utf-8")
    settings = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 64}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def plain(value: Any) -> Any:
    """NumPy numbers as Python's; floats cut to eight significant digits, which is all a float32 has."""
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    value = value.item() if isinstance(value, np.generic) else value
    return float(f"{value:.8g}") if isinstance(value, float) else value


def golden(task: str, architecture: str, head: str, config: dict[str, Any], calls: list[Call]) -> dict[str, Any]:
    """One case, run."""
    import torch
    import transformers

    labels = {int(i): label for i, label in config.get("id2label", {"0": "LABEL_0", "1": "LABEL_1"}).items()}
    settings = {**config, "id2label": labels, "label2id": {label: i for i, label in labels.items()}}
    model = getattr(transformers, architecture)._from_config(
        transformers.AutoConfig.for_model(**settings), attn_implementation="eager"
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.from_numpy(draw(name, tuple(parameter.shape))))
    with tempfile.TemporaryDirectory() as folder:
        write_tokenizer(Path(folder))
        tokenizer = transformers.BertTokenizerFast.from_pretrained(folder)
    pipe = transformers.pipeline(task, model=model.eval(), tokenizer=tokenizer, device="cpu")
    return {
        "task": task,
        "head": head,
        "config": config,
        "shapes": {name: list(parameter.shape) for name, parameter in model.named_parameters()},
        "calls": [
            {"args": args, "options": options, "expected": plain(pipe(*args, **options))} for args, options in calls
        ],
    }


def main() -> None:
    import transformers

    if not transformers.__version__.startswith("4."):
        raise SystemExit(f"needs transformers 4, found {transformers.__version__}")
    warnings.simplefilter("ignore")
    lines = ",\n".join(
        f"{json.dumps(name)}: {json.dumps(golden(*case), separators=(',', ':'))}" for name, case in CASES.items()
    )
    (HERE / "pipelines.json").write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
