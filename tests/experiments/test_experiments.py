"""Every fine-tuning experiment, run `--tiny` from end to end, and how each reads the files people have."""

import dataclasses
import importlib
import json
import math
import subprocess
import sys
import types
import typing
from pathlib import Path

import jax
import numpy as np
import pytest
import tokenizers

from experiments import clm, electra, finetune, glue, mlm, ner, seq2seq, span_corruption, squad, swag, translation
from experiments.classes import read_classes
from experiments.launch import parse
from jaxformers.data import Table, as_table, load_dataset
from jaxformers.errors import DataError, InputError
from jaxformers.preprocess import load_tokenizer, train_byte_level, train_wordpiece
from jaxformers.preprocess.languages import in_language, language_id
from jaxformers.train import EvalPrediction
from tests.preprocess.test_translation_tokenizers import folder_of

BUNDLED = Path(finetune.__file__).parent / "bundled"
FEW = ["--per-device-train-batch-size", "8", "--per-device-eval-batch-size", "4"]  # on each of the eight devices
# One batch, and so one shape.
SOUNDS = ["--max-train-samples", "16", "--max-eval-samples", "8", "--per-device-train-batch-size", "16"]
RUNS = {
    "glue": (["--task", "stsb", "--data", str(BUNDLED / "paraphrase"), "--lora-rank", "2"], ("pearson", "spearman")),
    "squad": (["--max-length", "64"], ("exact_match", "f1")),
    "ner": ([], ("precision", "recall", "f1", "accuracy")),
    "mlm": (["--max-length", "32"], ("perplexity",)),
    "clm": ([*FEW, "--max-length", "32", "--packing", "--sample-tokens", "4"], ("perplexity",)),
    "translation": ([*FEW, "--max-source-length", "32", "--generation-max-length", "8"], ("bleu", "loss")),
    "summarization": ([*FEW, "--max-source-length", "64", "--generation-max-length", "8"], ("rouge1", "rougeLsum")),
    "span_corruption": ([*FEW, "--max-length", "32"], ("perplexity",)),
    "denoising": ([*FEW, "--max-length", "32"], ("perplexity",)),
    "swag": ([], ("accuracy",)),
    "simmim": (FEW, ("loss",)),
    "audio_classification": (SOUNDS, ("accuracy", "f1")),
    "ctc": (SOUNDS, ("wer", "cer")),
    "whisper": ([*SOUNDS, "--generation-max-length", "6"], ("wer", "cer", "loss")),
    "wav2vec2_pretraining": (SOUNDS, ("loss",)),
    "image_classification": ([*FEW, "--mixup", "0.4"], ("accuracy", "f1")),
    "electra": (["--max-length", "32"], ("loss",)),
    "distillation": (["--max-length", "32"], ("perplexity",)),
}


ON_EIGHT = ("clm", "translation", "image_classification")  # on all devices; the others on one


@pytest.mark.parametrize("name", RUNS)
def test_a_tiny_run_ends_well(name, tmp_path, capsys, monkeypatch, request):
    flags, told = RUNS[name]
    if name not in ON_EIGHT:
        request.getfixturevalue("one_device")
    module = importlib.import_module(f"experiments.{name}")
    if "--data" in flags:  # a model of one's own
        monkeypatch.setattr(finetune, "hub_reachable", lambda: False)
        flags = ["--model", str(own_model(tmp_path)), *flags]
    config = parse(module.Config, ["--tiny", "--disable-tqdm", "--output-dir", str(tmp_path / "out"), *flags], "", name)
    metrics = module.run(config)
    assert all(math.isfinite(metrics[f"eval_{each}"]) for each in told)
    results = json.loads((tmp_path / "out" / "all_results.json").read_text())
    assert ("bundled with jaxformers (not " in results["dataset"]) == ("--data" not in flags)
    written = "adapter_model.safetensors" if "--lora-rank" in flags else "model.safetensors"
    assert (tmp_path / "out" / written).is_file()
    assert all(each in capsys.readouterr().out for each in told[:1])


def own_model(tmp_path):
    from jaxformers.checkpoints import load, save

    tokenizer = train_wordpiece(["the doctor was not the boat", "a cat"], vocab_size=60)
    save(load({**finetune.SMALL, "vocab_size": len(tokenizer)}), tmp_path / "model", tokenizer)
    return tmp_path / "model"


def test_the_bundled_files_are_what_their_script_makes():
    done = subprocess.run([sys.executable, str(BUNDLED / "make_tasks.py"), "--check"], check=False)
    assert done.returncode == 0


# -- GLUE --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "rows", "label"),
    [
        ("rte", {"sentence1": ["a"], "sentence2": ["b"], "label": ["not_entailment"]}, 1),
        ("mnli", {"premise": ["a"], "hypothesis": ["b"], "gold_label": ["contradiction"]}, 2),
        ("qnli", {"question": ["a"], "sentence": ["b"], "label": ["entailment"]}, 0),
        ("qqp", {"question1": ["a"], "question2": ["b"], "is_duplicate": [1]}, 1),
        ("stsb", {"sentence1": ["a"], "sentence2": ["b"], "score": [3.8]}, 3.8),
        ("sst2", {"sentence": ["a"], "label": [1]}, 1),
    ],
)
def test_glue_columns_as_the_sources_name_them(task, rows, label):
    read = glue.read(Table(rows), glue.TASKS[task], "train")
    assert read["label"] == [label]
    assert read["sentence1"] == ["a"]


def test_cola_has_no_header(tmp_path):
    for name in ("train", "dev"):
        (tmp_path / f"{name}.tsv").write_text("gj04\t1\t\tShe sang.\ngj04\t0\t*\tSang she the.\n")
    config = parse(glue.Config, ["--task", "cola", "--data", str(tmp_path)], "", "glue")
    splits = finetune.read(config, str(tmp_path), glue.recipe("cola"))
    assert splits["train"]["sentence1"] == ["She sang.", "Sang she the."]
    assert splits["train"]["label"] == [1, 0]


def test_glue_refuses_by_name():
    with pytest.raises(InputError, match="GLUE has no task 'colla'; it has cola"):
        glue.recipe("colla")
    with pytest.raises(
        DataError, match="label of row 0 of data must be one of entailment, not_entailment, found 'maybe'"
    ):
        glue.read(Table({"sentence1": ["a"], "sentence2": ["b"], "label": ["maybe"]}), glue.TASKS["rte"], "train")
    with pytest.raises(DataError, match="must be a number, found 'x'"):
        glue.read(Table({"sentence1": ["a"], "sentence2": ["b"], "score": ["x"]}), glue.TASKS["stsb"], "train")


def test_rows_are_held_out_where_the_data_has_no_validation_split(tmp_path):
    (tmp_path / "train.tsv").write_text("sentence\tlabel\n" + "".join(f"s{i}\t{i % 2}\n" for i in range(20)))
    config = parse(glue.Config, ["--task", "sst2", "--validation-split-percentage", "25"], "", "glue")
    splits = finetune.read(config, str(tmp_path / "train.tsv"), glue.recipe("sst2"))
    assert [len(splits[name]) for name in ("train", "validation")] == [15, 5]
    assert not {*splits["train"]["sentence1"]} & {*splits["validation"]["sentence1"]}
    with pytest.raises(DataError, match="cannot be held out"):
        finetune.read(config.replace(validation_split_percentage=0), str(tmp_path / "train.tsv"), glue.recipe("sst2"))


def test_sources_are_mixed_by_weight_and_bad_records_left_out(tmp_path):
    for name, count in (("a", 6), ("b", 30)):
        (tmp_path / name).mkdir()
        lines = [f"{name}{i}\t{i % 2}\n" for i in range(count)]
        (tmp_path / name / "train.tsv").write_text("".join(["sentence\tlabel\n", *lines, "broken\n"]))
        (tmp_path / name / "dev.tsv").write_text("".join(["sentence\tlabel\n", *lines[:2]]))
    config = parse(glue.Config, ["--on-bad-record", "skip", "--output-dir", str(tmp_path / "out")], "", "glue")
    source = f"2*{tmp_path}/a,1*{tmp_path}/b"
    splits = finetune.read(config, source, glue.recipe("sst2"))
    said = [text[0] for text in splits["train"]["sentence1"]]
    assert (said.count("a"), said.count("b")) == (60, 30)
    assert splits["validation"]["sentence1"] == ["a0", "a1", "b0", "b1"]
    again = finetune.read(config, source, glue.recipe("sst2"))
    assert list(again["train"]) == list(splits["train"])
    report = (tmp_path / "out" / "bad_records.txt").read_text().splitlines()
    assert report == [f"train.tsv line {line} has 1 fields, the header has 2" for line in (8, 32)]


# -- NER ---------------------------------------------------------------------------------------------------------------


def test_words_that_become_several_tokens_are_tagged_once():
    words = [None, 0, 1, 1, 2, None]
    assert ner.on_tokens(words, [3, 4, 5]) == [-100, 3, 4, -100, 5, -100]
    assert ner.on_tokens(words, [3, 4, 5], all_tokens=True) == [-100, 3, 4, 4, 5, -100]


def test_a_tag_that_training_lacks_is_named():
    splits = {
        "train": Table({"tokens": [["a"]], "tags": [["O"]]}, "t"),
        "validation": Table({"tokens": [["a"]], "tags": [["B-X"]]}, "v"),
    }
    config = parse(ner.Config, [], "", "ner")
    with pytest.raises(DataError, match="row 0 of v has the tag 'B-X'"):
        ner.prepare(splits, train_wordpiece(["a"], vocab_size=20), config)


@dataclasses.dataclass
class Numbered:
    """Rows as the hub's datasets have them, which say what their numbers stand for."""

    rows: list
    features: typing.ClassVar = {"ner_tags": types.SimpleNamespace(feature=types.SimpleNamespace(names=["O", "B-X", "I-X"])),
                "label": types.SimpleNamespace(names=["cat", "dog", "eel"])}  # fmt: skip

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index]


def test_tags_of_the_hub_are_numbers_with_names():
    rows = Numbered([{"tokens": ["a", "b"], "ner_tags": [1, 2]}, {"tokens": ["c"], "ner_tags": [0]}])
    table = ner.read({"train": as_table(rows, "t")}, parse(ner.Config, [], "", "ner"))["train"]
    assert table["tags"] == [["B-X", "I-X"], ["O"]]


def test_classes_of_the_hub_are_numbers_with_names():
    found = []
    splits = {name: as_table(Numbered([{"image": 0, "label": n} for n in labels]), name)
              for name, labels in (("train", (1, 0)), ("validation", (1,)))}  # fmt: skip
    read = read_classes(splits, {"image": ()}, (), found)
    assert found == ["cat", "dog", "eel"]  # as the source has them, the one too that no row shows
    assert (read["train"]["labels"], read["validation"]["labels"]) == ([1, 0], [1])


def test_names_that_are_not_there_cost_precision():
    rows = Table({"tokens": [["a", "b", "c"]], "tags": [["B-X", "O", "O"]]}, "t")
    prepared = ner.prepare({"train": rows}, train_wordpiece(["a b c"], vocab_size=20), parse(ner.Config, [], "", "ner"))
    said_BL = np.array([[0, 1, 0, 1, 0]])  # two names, of which one is there, between the special tokens
    scores = prepared.metrics(EvalPrediction(np.eye(2)[said_BL], np.array(prepared.examples["train"]["labels"])))
    assert (scores["precision"], scores["recall"]) == (0.5, 1.0)


# -- SQuAD -------------------------------------------------------------------------------------------------------------

CONTEXT = "Anna lives in Oslo. Ben is a baker in a small town by the sea, and he sings."
ARTICLE = {
    "title": "t",
    "paragraphs": [
        {
            "context": CONTEXT,
            "qas": [
                {
                    "id": "1",
                    "question": "What is Ben? ",
                    "answers": [{"text": "a baker", "answer_start": CONTEXT.index("a baker")}],
                },
                {"id": "2", "question": "Who?", "is_impossible": True, "answers": []},
            ],
        }
    ],
}


@pytest.fixture(scope="module", params=["first", "last"])
def windows(request):
    """With [CLS] where BERT has it, and where XLNet has it."""
    tokenizer = train_wordpiece([CONTEXT, "What is Ben? Who?"] * 3, vocab_size=200)
    if request.param == "last":
        special = [(token, tokenizer.convert_tokens_to_ids(token)) for token in ("[SEP]", "[CLS]")]
        tokenizer.backend.post_processor = tokenizers.processors.TemplateProcessing(
            single="$A [SEP] [CLS]", pair="$A [SEP] $B [SEP] [CLS]", special_tokens=special
        )
    table = squad.read({"train": Table({key: [value] for key, value in ARTICLE.items()})}, None)["train"]
    return squad.Windows(table, tokenizer, 20, 5)


def test_squads_own_layout(windows):
    assert windows.table["question"] == ["What is Ben?", "Who?"]
    assert windows.table["texts"] == [["a baker"], []]


def test_answers_are_found_where_a_window_holds_them(windows):
    assert len(windows.owners) > 3
    held = 0
    for encoding, owner, nothing, first, last in zip(
        windows.encodings,
        windows.owners,
        windows.nothing,
        windows.examples["start_positions"],
        windows.examples["end_positions"],
        strict=True,
    ):
        if encoding.ids[first] != encoding.ids[nothing]:
            held += 1
            assert CONTEXT[encoding.offsets[first][0] : encoding.offsets[last][1]] == "a baker"
            assert owner == 0
    assert held >= 1


def test_logits_that_point_at_the_answer_give_its_text(windows):
    start, end = (np.full((len(windows.owners), 20), -9.0) for _ in range(2))
    for row, (first, last) in enumerate(
        zip(windows.examples["start_positions"], windows.examples["end_positions"], strict=True)
    ):
        start[row, first] = end[row, last] = 1.0 if first == windows.nothing[row] else 5.0
    assert windows.answers(start, end, 5, 10) == ["a baker", ""]
    assert windows.answers(start, end, 5, 1) != ["a baker", ""]


def test_a_row_of_another_form_is_named():
    with pytest.raises(DataError, match="row 0 of data is no question"):
        squad.read({"train": Table({"question": ["q"]})}, None)


# -- SWAG, MLM ---------------------------------------------------------------------------------------------------------


def test_swag_columns():
    rows = {"sent1": ["A."], "sent2": ["Then"], "ending0": ["x."], "ending1": ["y."], "label": [1]}
    assert swag.read({"train": Table(rows)}, None)["train"][0] == {
        "first": "A.",
        "endings": ["Then x.", "Then y."],
        "label": 1,
    }
    with pytest.raises(DataError, match="no columns ending0, ending1"):
        swag.read({"train": Table({"sent1": ["A."]})}, None)


def test_text_is_cut_into_blocks():
    tokenizer = train_wordpiece(["a b c d e f g"], vocab_size=30)
    config = parse(mlm.Config, ["--max-length", "5"], "", "mlm")
    table = Table({"text": ["a b c d", "e f g"]})
    cls, sep = tokenizer.cls_token_id, tokenizer.sep_token_id
    ids = [tokenizer.convert_tokens_to_ids(letter) for letter in "abcdef"]
    assert mlm.blocks(table, tokenizer, config)["input_ids"] == [[cls, *ids[:3], sep], [cls, *ids[3:], sep]]
    lines = mlm.blocks(table, tokenizer, config.replace(line_by_line=True))["input_ids"]
    assert [len(line) for line in lines] == [5, 5]


# -- CLM ---------------------------------------------------------------------------------------------------------------


def test_texts_are_joined_line_by_line():
    config = parse(clm.Config, ["--data", "x.txt"], "", "clm")
    table = clm.read({"train": Table({"text": ["To be,", "", "or\n"]})}, config)["train"]
    assert table["text"] == ["To be,\n", "\n", "or\n"]
    assert clm.read({"train": table}, config.replace(packing=True))["train"]["text"] == ["To be,\n", "or\n"]
    tokenizer = train_byte_level(table["text"], vocab_size=257)
    rows = clm.blocks(table, tokenizer, 4)
    assert [tokenizer.decode(row) for row in rows["input_ids"]] == ["To b", "e,\n\n"]
    assert rows["labels"] == rows["input_ids"]
    with pytest.raises(DataError, match="data has 11 tokens, which fill no block of 64"):
        clm.blocks(table, tokenizer, 64)


def test_texts_on_disk_become_the_rows_that_texts_in_memory_become(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXFORMERS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "train.txt").write_text("".join("a bc d" * (row % 5) + "\n" for row in range(2100)))
    here, there = (load_dataset(tmp_path, on_disk=on_disk) for on_disk in (False, True))
    tokenizer = train_byte_level(["a bc d"], vocab_size=258)
    for module, flags in ((clm, []), (clm, ["--packing"]), (mlm, []), (mlm, ["--line-by-line"])):
        config = parse(module.Config, [*flags, "--data", "x.txt", "--max-length", "64"], "", "experiment")
        make = clm.packed if "--packing" in flags else clm.blocks if module is clm else mlm.blocks
        last = config if module is mlm else 64
        made = [make(module.read(splits, config)["train"], tokenizer, last) for splits in (here, there)]
        assert [table.on_disk for table in made] == [False, True]
        assert list(made[0]) == list(made[1])


def test_data_of_ones_own_without_a_model_starts_from_nothing():
    config, source, start = finetune.choose(parse(clm.Config, ["--data", "x.txt"], "", "clm"), clm.RECIPE)
    assert (source, config.max_length, config.lr_scheduler_type) == ("x.txt", 256, "cosine")
    assert start.sizes(config)["n_positions"] == 256
    config, _, start = finetune.choose(config.replace(model="gpt2"), clm.RECIPE)
    assert start is None
    _, _, start = finetune.choose(parse(mlm.Config, ["--data", "x.txt"], "", "mlm"), mlm.RECIPE)
    assert start is None


def test_a_flag_that_says_the_default_holds():
    flags = ["--data", "x.txt", "--num_train_epochs=3", "--max-length", "1024"]
    config, _, _ = finetune.choose(parse(clm.Config, flags, "", "clm"), clm.RECIPE)
    assert (config.num_train_epochs, config.max_length, config.max_steps) == (3.0, 1024, 1000)


# -- texts from texts --------------------------------------------------------------------------------------------------


def test_parallel_files_are_pairs(tmp_path):
    import gzip

    (tmp_path / "train.en").write_text("One.\nTwo.\n")
    (tmp_path / "train.de.gz").write_bytes(gzip.compress(b"Eins.\nZwei.\n"))
    config = parse(translation.Config, ["--source-lang", "de", "--target-lang", "en"], "", "translation")
    splits = translation.read(translation.open_data(tmp_path, config), config)
    assert splits["train"][0] == {"source": "Eins.", "target": "One."}
    (tmp_path / "train.en").write_text("One.\n")
    with pytest.raises(DataError, match=r"equally many lines, in .* train.de.gz 2 and train.en 1"):
        translation.open_data(tmp_path, config)
    hub = Table({"translation": [{"en": "One.", "de": "Eins."}]})
    assert translation.read({"train": hub}, config)["train"][0] == {"source": "Eins.", "target": "One."}


def test_answers_are_scored_as_texts():
    pairs = Table({"source": ["a cat", "a dog"], "target": ["die Katze", "der Hund"]})
    config = parse(translation.Config, [], "", "translation")
    seen = []
    for layout, prefix in (("roberta", ""), ("t5", "say: ")):
        tokenizer = train_byte_level(
            [*pairs["source"], *pairs["target"]], vocab_size=300, layout=layout, extra_ids=2 * (layout == "t5")
        )
        scores = lambda said, right: seen.append((said, list(right))) or {"n": 1.0}  # noqa: E731
        prepared = seq2seq.prepare({"validation": pairs}, tokenizer, config, prefix="say: ", scores=scores)
        examples = prepared.examples["validation"]
        assert tokenizer.decode(examples["input_ids"][1], skip_special_tokens=True) == prefix + "a dog"
        longest = max(map(len, examples["labels"]))
        ids = np.array([[0, *row] + [-100] * (longest - len(row)) for row in examples["labels"]])
        assert prepared.metrics(EvalPrediction(ids, None)) == {"n": 1.0}
    asked, scored = seen[::2], seen[1::2]  # each preparation asks once whether the scores' package is there
    assert asked == [(["a"], ["a"])] * 2
    assert scored == [(list(pairs["target"]), list(pairs["target"]))] * 2


@pytest.mark.parametrize(
    ("class_name", "codes", "begins"),
    [
        ("M2M100Tokenizer", ("en", "de"), "forced_bos_token_id"),
        ("MBart50Tokenizer", ("en_XX", "de_DE"), "forced_bos_token_id"),
        ("MBartTokenizer", ("en_XX", "de_DE"), "decoder_start_token_id"),
    ],
)
def test_models_of_many_languages_are_told_both(class_name, codes, begins, tmp_path):
    words = ("<s>", "<pad>", "</s>", "<unk>", "▁a", "▁cat") if class_name.startswith("M2M") else ()
    tokenizer = load_tokenizer(folder_of(tmp_path, class_name, words, "sentencepiece.bpe.model"))
    flags = ["--source-lang", codes[0], "--target-lang", codes[1]]
    config = parse(translation.Config, flags, "", "translation")
    pairs = translation.read({"validation": Table({"en": ["a cat"], "de": ["cat a cat"]})}, config)
    prepared = translation.prepare(pairs, tokenizer, config)
    source, target = (language_id(tokenizer, code) for code in codes)
    row = prepared.examples["validation"][0]
    assert row["input_ids"] == in_language(
        tokenizer, tokenizer("a cat", add_special_tokens=False)["input_ids"], codes[0]
    )
    assert source in row["input_ids"]
    assert target in row["labels"]
    assert target not in row["input_ids"]
    assert prepared.generation == {begins: target}
    short = translation.prepare(pairs, tokenizer, config.replace(max_target_length=3)).examples["validation"][0]
    assert len(short["labels"]) == 3
    assert {target, tokenizer.eos_token_id} < set(short["labels"])


def test_span_corruption_needs_sentinels():
    config = parse(span_corruption.Config, ["--max-length", "8"], "", "span_corruption")
    with pytest.raises(InputError, match="needs a tokenizer with <extra_id_0>"):
        span_corruption.prepare({}, train_byte_level(["a"], vocab_size=270, layout="t5"), config)
    tokenizer = train_byte_level(["a b c d e"], vocab_size=270, layout="t5", extra_ids=5)
    prepared = span_corruption.prepare({"train": Table({"text": ["a b c d e f g h"]})}, tokenizer, config)
    length = len(prepared.examples["train"]["input_ids"][0])
    assert prepared.collator.lengths(length)[0] <= 8 < prepared.collator.lengths(length + 1)[0]


def test_only_classes_are_written_as_predictions(tmp_path):
    with pytest.raises(InputError, match="do_predict writes classes, which SQuAD has not"):
        squad.run(parse(squad.Config, ["--do-predict", "--output-dir", str(tmp_path)], "", "squad"))


# -- ELECTRA -----------------------------------------------------------------------------------------------------------

SIZES = {"model_type": "electra", "vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4,
         "intermediate_size": 48, "embedding_size": 16, "max_position_embeddings": 32, "initializer_range": 0.3}  # fmt: skip
IDS = np.array([[2, 4, 9, 10, 3, 0], [2, 11, 4, 12, 13, 3]], np.int32)
BATCH = {
    "input_ids": IDS,
    "attention_mask": (IDS != 0).astype(np.int32),
    "labels": np.where(IDS == 4, [[7], [8]], -100).astype(np.int32),
    "example_weight": np.ones(2, np.float32),
}


@pytest.fixture(scope="module")
def pair():
    sizes = electra.electra.config_from_hf(SIZES, "config")
    config = electra.PairConfig(generator=electra.smaller(sizes, 0.5), discriminator=sizes)
    return electra.Model(
        electra.PAIR, "pretraining", config, electra.initialise(electra.declare(config), jax.random.key(0))
    )


def test_electras_loss_by_hand(pair):
    """The generator's mean over masked tokens, and 50 times the discriminator's over all real ones."""
    given = {key: BATCH[key] for key in ("input_ids", "attention_mask", "labels")}
    output = pair.apply(pair.params, **given)
    total, count = electra.loss(output, BATCH)
    logits = np.asarray(output.generator_logits, np.float64)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    words = -np.mean([log_p[0, 1, 7], log_p[1, 2, 8]])
    d, replaced, real = np.asarray(output.logits, np.float64), np.asarray(output.replaced), BATCH["attention_mask"] == 1
    told = np.where(replaced, np.log1p(np.exp(-d)), np.log1p(np.exp(d)))[real].mean()
    assert float(count) == 2
    np.testing.assert_allclose(float(total / count), words + 50 * told, rtol=1e-5)
    assert not (replaced & (BATCH["labels"] == -100)).any()


def test_what_the_generator_draws_follows_the_key(pair):
    given = {key: BATCH[key] for key in ("input_ids", "attention_mask", "labels")}
    no_dropout = dataclasses.replace(
        pair.config,
        generator=pair.config.generator.replace(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0),
        discriminator=pair.config.discriminator.replace(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0),
    )
    still = dataclasses.replace(pair, config=no_dropout)

    def said(rng):
        return np.asarray(still.apply(still.params, rng=rng, **given).logits).tobytes()

    assert said(None) == said(None)
    assert said(jax.random.key(1)) == said(jax.random.key(1))
    assert len({said(jax.random.key(seed)) for seed in range(6)}) > 1
    with pytest.raises(InputError, match="needs labels"):
        pair.apply(pair.params, input_ids=IDS)


def test_both_models_are_written_and_share_their_embeddings(pair, tmp_path):
    from jaxformers.checkpoints import load

    electra.export(pair, tmp_path)
    one, two = load(tmp_path / "generator", "masked-lm"), load(tmp_path, "pretraining")
    assert np.array_equal(one.params["embeddings"]["word"], two.params["embeddings"]["word"])
    config = parse(
        electra.Config, ["--model", str(tmp_path), "--generator", str(tmp_path / "generator")], "", "electra"
    )
    again = electra.build(config, 40, None)
    given = {key: BATCH[key] for key in ("input_ids", "attention_mask", "labels")}
    np.testing.assert_array_equal(again.apply(again.params, **given).logits, pair.apply(pair.params, **given).logits)
