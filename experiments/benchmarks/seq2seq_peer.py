"""transformers' Seq2SeqTrainer on the rows of `seq2seq.py`: TASK PLACE. Imports nothing of ours.

PLACE holds `start/`, train.jsonl, validation.jsonl and `settings.json`. The last line printed is JSON.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    set_seed,
)


def scores_of(task: str, said: list[str], right: list[str]) -> dict[str, float]:
    """BLEU or ROUGE, in percent."""
    if task == "translation":
        from sacrebleu import corpus_bleu

        return {"bleu": float(corpus_bleu(said, [right]).score)}
    from rouge_score.rouge_scorer import RougeScorer

    names = ["rouge1", "rouge2", "rougeL", "rougeLsum"]
    scorer = RougeScorer(names, use_stemmer=True)
    lines = [[re.sub(r"(?<=[.!?])\s+", "\n", text.strip()) for text in texts] for texts in (right, said)]
    scores = [scorer.score(a, b) for a, b in zip(*lines, strict=True)]
    return {name: 100 * float(np.mean([score[name].fmeasure for score in scores])) for name in names}


def main(task: str, place: Path) -> None:
    """Trains, evaluates and tells."""
    settings = json.loads((place / "settings.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(place / "start")
    model = AutoModelForSeq2SeqLM.from_pretrained(place / "start")
    source, target = settings["columns"]
    splits, examples = {}, {}
    for name in ("train", "validation"):
        with open(place / f"{name}.jsonl", encoding="utf-8") as file:
            splits[name] = [json.loads(line) for line in file]
        texts = tokenizer(
            [row[source] for row in splits[name]], truncation=True, max_length=settings["max_source_length"]
        )
        answers = tokenizer(
            text_target=[row[target] for row in splits[name]], truncation=True, max_length=settings["max_target_length"]
        )
        columns = (texts["input_ids"], texts["attention_mask"], answers["input_ids"])
        examples[name] = [{"input_ids": a, "attention_mask": b, "labels": c} for a, b, c in zip(*columns, strict=True)]

    def scores(prediction: Any) -> dict[str, float]:
        ids = np.where(prediction.predictions < 0, tokenizer.pad_token_id, prediction.predictions)
        said = [text.strip() for text in tokenizer.batch_decode(ids, skip_special_tokens=True)]
        return scores_of(task, said, [row[target] for row in splits["validation"]])

    same = ("seed", "num_train_epochs", "per_device_train_batch_size", "per_device_eval_batch_size", "learning_rate",
            "warmup_steps", "label_smoothing_factor", "weight_decay", "max_grad_norm", "generation_max_length")  # fmt: skip
    arguments = Seq2SeqTrainingArguments(
        output_dir=str(place / "theirs"), save_strategy="no", report_to="none", disable_tqdm=True, use_cpu=True,
        predict_with_generate=True, **{name: settings[name] for name in same},
    )  # fmt: skip
    set_seed(settings["seed"])
    trainer = Seq2SeqTrainer(model, arguments, train_dataset=examples["train"], eval_dataset=examples["validation"],
                             data_collator=DataCollatorForSeq2Seq(tokenizer, model), compute_metrics=scores,
                             processing_class=tokenizer)  # fmt: skip
    trained = trainer.train()
    metrics = trainer.evaluate() | {"train_loss": trained.training_loss}
    print(json.dumps({key: value for key, value in metrics.items() if "_per_" not in key}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
