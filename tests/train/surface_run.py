"""One run with everything that writes beside a run: W&B, curves, a trace, and uploads. A program, for test_surface.py."""

import sys

from jaxformers.checkpoints import load
from jaxformers.preprocess import train_wordpiece
from jaxformers.train import Curves, Profile, TrainingArguments, fit
from tests.train.conftest import TINY, make_examples

if __name__ == "__main__":
    args = TrainingArguments(
        output_dir=sys.argv[1],
        num_train_epochs=2,
        per_device_train_batch_size=4,
        group_by_length=False,
        logging_steps=2,
        eval_strategy="epoch",
        save_strategy="epoch",
        report_to="wandb",
        run_name="a look",
        push_to_hub=True,
        hub_model_id="someone/model",
        hub_token="hf_test",
        hub_always_push=True,
        disable_tqdm=True,
    )
    fit(
        load({**TINY, "num_hidden_layers": 1}, "sequence-classification"),
        args,
        train=make_examples(20),
        eval=make_examples(8, seed=1),
        tokenizer=train_wordpiece(["a cat", "a dog"], vocab_size=40),
        callbacks=[Curves(), Profile(start=2, steps=2)],
        facts={"dataset": "random texts"},
    )
