"""Makes the goldens of tables: how transformers' TAPAS tokenizer lays them out, and what its pipeline answers for tiny models.

    pip install transformers torch pandas && python -m tests.goldens.make_tables

Imports nothing of jaxformers. Weights are drawn from their names. A golden changes only when a case is added or changed below.
"""

import json
import tempfile
import warnings
from pathlib import Path
from typing import Any

from tests.goldens.make_goldens import TAPAS, draw, parameters_of, torch_model
from tests.goldens.tables import LONG, VOCAB, asked, table, write_tapas

HERE = Path(__file__).parent
LENGTH = 32  # tokens that the models of pipelines take
STD = 0.3  # of their weights: so that answers differ
MODEL = {
    **TAPAS,
    "max_position_embeddings": LENGTH,
    "vocab_size": len(VOCAB),
    "type_vocab_sizes": [3, 256, 256, 2, 256, 256, 10],
    "max_num_rows": 64,
    "max_num_columns": 32,
}
MODELS: dict[str, dict[str, Any]] = {
    "operators": {
        **MODEL,
        "intermediate_size": 24,
        "aggregation_labels": {str(i): name for i, name in enumerate(("COUNT", "SUM", "NONE", "AVERAGE"))},
        "no_aggregation_label_index": 2,
    },
    "cells alone": {**MODEL, "num_aggregation_labels": 0, "allow_empty_column_selection": True},
}
# Cells of one token each, so that their logits differ: means over many tokens are much alike. All rows are of 25 to 32 tokens,
# which is one length to us, so that few programs are compiled.
WORDS = {
    "city": ["bern", "the", "in", "漢", ""],
    "age": ["7", "9", "3", "9", "5"],
    "date": ["may", "june", "1967", "2010", "?"],
}
ASKED = ["how many of the city in may is 9", "what is the total age of bern in 2010?", "what is the date of june in the city?",
         "9 movies of the actor in date 7 5"]  # fmt: skip
OTHER = {"date": ["1967", "may 2010", "june 5", "9"], "how many movies": ["9", "3", "n/a", "-7"]}
MANY = [{"table": WORDS, "query": ASKED[1]}, {"table": OTHER, "query": ["what is the total of 3 and 5", "and the date of 9 ?"]},
        {"table": {**OTHER, "age": ["3", "bern", "?", ""]}, "query": "9 movies of the actor"}]  # fmt: skip
CALLS: list[tuple[list[Any], dict[str, Any]]] = [
    *(([], {"table": WORDS, "query": query}) for query in ASKED),
    ([WORDS, ASKED], {}),
    ([WORDS, ASKED[:1]], {}),
    ([], {"table": WORDS, "query": ASKED, "sequential": True}),
    ([], {"table": WORDS, "query": ASKED[::-1], "sequential": True, "padding": "max_length"}),
    ([{"table": OTHER, "query": MANY[1]["query"]}], {}),
    ([MANY], {}),
    ([MANY], {"sequential": True}),
    ([MANY[:1]], {}),
    ([LONG, ASKED[2]], {}),
    ([LONG, ASKED[3]], {"truncation": "drop_rows_to_fit", "padding": True}),
]


def written(function: Any, *args: Any, **options: Any) -> Any:
    """The result of a call as JSON keeps it; a call may change what it is given, so it gets copies."""
    args, options = (json.loads(json.dumps(each)) for each in (args, options))
    return json.loads(json.dumps(function(*args, **options)))


def main() -> None:
    import pandas
    import torch
    import transformers

    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = transformers.TapasTokenizer.from_pretrained(write_tapas(Path(folder)))
        layouts = {
            str(seed): {key: value for key, value in tokenizer(pandas.DataFrame(table(seed)).astype(str), asked(seed),
                        truncation=True, max_length=72).items() if key != "attention_mask"}
            for seed in range(16)
        }  # fmt: skip
    pipelines = {}
    for name, config in MODELS.items():
        model = torch_model("TapasForQuestionAnswering", config)
        with torch.no_grad():
            for key, parameter in parameters_of(model).items():
                parameter.copy_(torch.from_numpy(draw(key, tuple(parameter.shape), STD)))
        with tempfile.TemporaryDirectory() as folder:
            tokenizer = transformers.TapasTokenizer.from_pretrained(write_tapas(Path(folder), model_max_length=LENGTH))
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
