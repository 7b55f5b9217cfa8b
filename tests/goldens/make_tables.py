"""Makes the goldens of tables: how transformers' TAPAS tokenizer lays them out, and what its pipeline answers for tiny models.

    pip install transformers torch pandas && python -m tests.goldens.make_tables

Imports nothing of jaxformers. Weights are drawn from their names. A golden changes only when a case is added or changed below.
"""

import json
import tempfile
import warnings
from pathlib import Path
from typing import Any

from tests.goldens.make_goldens import TAPAS, parameters_of, torch_model
from tests.goldens.tables import LONG, SHORT, VOCAB, asked, table, write_tapas

HERE = Path(__file__).parent
MODEL = {
    **TAPAS,
    "vocab_size": len(VOCAB),
    "type_vocab_sizes": [3, 256, 256, 2, 256, 256, 10],
    "max_num_rows": 64,
    "max_num_columns": 32,
    "max_position_embeddings": 128,
}
MODELS: dict[str, dict[str, Any]] = {
    "operators": MODEL,
    "every operator prefixed": {**MODEL, "no_aggregation_label_index": None, "num_attention_heads": 2},
    "cells alone": {**MODEL, "num_aggregation_labels": 0, "aggregation_labels": None, "num_hidden_layers": 1},
    "a column that may be none": {**MODEL, "allow_empty_column_selection": True, "hidden_act": "relu"},
}
ASKED = [
    "How many movies has the actor aged 56?",
    "who was born in may 1961?",
    "what is the total of movies",
    "and of age?",
]
# Cells of one token each, so that their logits differ; with longer ones, means over tokens are much alike.
WORDS = {
    "city": ["bern", "the", "in", "漢", ""],
    "age": ["7", "9", "3", "9", "5"],
    "date": ["may", "june", "1967", "2010", "?"],
}
MANY = [{"table": table(seed), "query": asked(seed)} for seed in range(8)]
CALLS: list[tuple[list[Any], dict[str, Any]]] = [
    *(([], {"table": SHORT, "query": query}) for query in ASKED[:2]),
    *(
        ([WORDS, query], {})
        for query in ("how many of the city in may", "9", "what is the total age 5 of bern", "date")
    ),
    ([WORDS, ASKED], {}),
    ([WORDS, ASKED[:1]], {}),
    ([], {"table": WORDS, "query": ASKED, "sequential": True}),
    ([], {"table": WORDS, "query": ASKED[::-1], "sequential": True, "padding": "max_length"}),
    ([{"table": WORDS, "query": ["bern?", "and the date of 9?", "may"]}], {"sequential": True}),
    ([MANY], {}),
    ([MANY], {"sequential": True}),
    ([MANY[:1]], {}),
    ([LONG, ASKED[2:]], {}),
    ([LONG, ASKED[2]], {"truncation": "drop_rows_to_fit", "padding": True}),
]


def written(function: Any, *args: Any, **options: Any) -> Any:
    """The result of a call as JSON keeps it; a call may change what it is given, so it gets copies."""
    args, options = (json.loads(json.dumps(each)) for each in (args, options))
    return json.loads(json.dumps(function(*args, **options)))


def main() -> None:
    import pandas
    import transformers

    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = transformers.TapasTokenizer.from_pretrained(write_tapas(Path(folder)))
        layouts = {
            str(seed): {key: value for key, value in tokenizer(pandas.DataFrame(table(seed)).astype(str), asked(seed),
                        truncation=True, max_length=72).items() if key != "attention_mask"}
            for seed in range(24)
        }  # fmt: skip
    pipelines = {}
    for name, config in MODELS.items():
        model = torch_model("TapasForQuestionAnswering", config)
        with tempfile.TemporaryDirectory() as folder:
            tokenizer = transformers.TapasTokenizer.from_pretrained(write_tapas(Path(folder), model_max_length=128))
        pipe = transformers.pipeline("table-question-answering", model=model, tokenizer=tokenizer, device="cpu")
        pipelines[name] = {
            "config": config,
            "shapes": {key: list(parameter.shape) for key, parameter in parameters_of(model).items()},
            "results": [written(pipe, *args, **options) for args, options in CALLS],
        }
    parts = {"layouts": layouts, "pipelines": pipelines}
    lines = ",\n".join(
        f"{json.dumps(part)}: {{\n"
        + ",\n".join(f"{json.dumps(name)}: {json.dumps(case, separators=(',', ':'))}" for name, case in cases.items())
        + "\n}"
        for part, cases in parts.items()
    )
    (HERE / "tables.json").write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
