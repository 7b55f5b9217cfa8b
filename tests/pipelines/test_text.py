import dataclasses
import json
import logging

import jax
import numpy as np
import pytest

import jaxformers as jf
from jaxformers.checkpoints.files import _wanted
from jaxformers.errors import DataError, InputError
from jaxformers.parallel.mesh import MeshConfig, make_mesh
from jaxformers.pipelines import embed_sentences
from jaxformers.pipelines.base import HOST
from jaxformers.pipelines.embeddings import sentence_settings
from jaxformers.pipelines.inputs import CPU_TOKENS, LENGTHS, read_text

TEXT = "a small cat sees the old dog"
PAIR = {"text": TEXT, "text_pair": "the dog sees a cat"}


@pytest.fixture(scope="session")
def features(model, tokenizer):
    return jf.pipeline("feature-extraction", model, tokenizer=tokenizer)


@pytest.fixture(scope="session")
def embed(model, tokenizer):
    return jf.pipeline("sentence-embedding", model, tokenizer=tokenizer)


@pytest.fixture(scope="session")
def similar(model, tokenizer):
    return jf.pipeline("sentence-similarity", model, tokenizer=tokenizer)


def flat(results):
    """All scores of a classifier's results, by label."""
    return {result["label"]: result["score"] for result in results}


# -- the stages --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inputs", [TEXT, [TEXT], [TEXT, "a cat", ""], PAIR, [PAIR, TEXT], ("a", "b")])
def test_a_call_is_the_composition_of_the_stages(clf, features, embed, inputs):
    for pipe in (clf, features, embed):
        assert pipe(inputs) == pipe.postprocess(pipe.forward(pipe.preprocess(inputs)))


def test_each_stage_can_be_used_alone(clf, model):
    batch = clf.preprocess([TEXT, "a cat"])
    assert batch.pop(HOST) == {"given": "many", "rows": 2}
    assert {key: (type(array), array.shape) for key, array in batch.items()} == dict.fromkeys(
        ("input_ids", "attention_mask", "token_type_ids"), (np.ndarray, (4, 16))
    )
    logits = clf.forward(batch)["logits"]
    np.testing.assert_allclose(logits, model.apply(model.params, **batch).logits, atol=1e-6)


def test_a_stage_can_be_swapped(clf):
    raw = dataclasses.replace(clf, postprocess=lambda outputs: np.shape(outputs["logits"]))
    assert raw("a cat") == (1, 3)


# -- nesting -----------------------------------------------------------------------------------------------------------


def test_the_nesting_of_text_classification(clf, model, tokenizer):
    best = clf(TEXT)[0]
    ranked = clf(TEXT, top_k=None)
    assert list(best) == ["label", "score"]
    assert best == ranked[0]
    assert [r["score"] for r in ranked] == sorted((r["score"] for r in ranked), reverse=True)
    assert sum(r["score"] for r in ranked) == pytest.approx(1)
    assert clf([TEXT]) == [best]
    assert clf(TEXT, top_k=1) == [best]
    assert clf([TEXT], top_k=1) == [[best]]
    for two in clf([TEXT, TEXT], top_k=2):
        assert flat(two) == pytest.approx(flat(ranked[:2]), abs=1e-6)
    pair = clf(PAIR)
    assert list(pair) == ["label", "score"]
    assert clf([PAIR]) == clf([(TEXT, PAIR["text_pair"])]) == clf([[[TEXT, PAIR["text_pair"]]]]) == [pair]
    made = jf.pipeline("text-classification", model, tokenizer=tokenizer, top_k=2)
    assert made(TEXT) == [ranked[:2]]
    assert made([TEXT]) == [ranked[:2]]
    assert made(TEXT, top_k=None) == ranked


@pytest.mark.parametrize(
    ("overrides", "function"),
    [
        ({}, "softmax"),
        ({"problem_type": "multi_label_classification"}, "sigmoid"),
        ({"problem_type": "regression"}, "none"),
        ({"num_labels": 1}, "sigmoid"),
    ],
)
def test_scores_by_kind_of_problem(config, tokenizer, overrides, function):
    model = jf.load(config, head="sequence-classification", **overrides)
    clf = jf.pipeline("text-classification", model, tokenizer=tokenizer)
    logits = np.asarray(clf.forward(clf.preprocess(TEXT))["logits"], np.float64)[0]
    expected = {
        "softmax": np.exp(logits) / np.exp(logits).sum(),
        "sigmoid": 1 / (1 + np.exp(-logits)),
        "none": logits,
    }
    scores = flat(clf(TEXT, top_k=None))
    np.testing.assert_allclose([scores[label] for label in model.config.labels], expected[function], rtol=1e-5)
    for name, values in expected.items():
        scores = flat(clf(TEXT, top_k=None, function_to_apply=name.upper()))
        np.testing.assert_allclose([scores[label] for label in model.config.labels], values, rtol=1e-5)


def test_wrong_options(clf):
    with pytest.raises(
        InputError, match="function_to_apply must be 'softmax', 'sigmoid', 'none' or None, found 'relu'"
    ):
        clf(TEXT, function_to_apply="relu")
    for top_k in (0, "2", True):
        with pytest.raises(InputError, match="top_k must be a positive int"):
            clf(TEXT, top_k=top_k)


def test_the_nesting_of_feature_extraction(features, model, tokenizer):
    tokens = len(tokenizer(TEXT)["input_ids"])
    one = features(TEXT)
    assert np.shape(one) == (1, tokens, 16)
    assert isinstance(one[0][0][0], float)
    both = features([TEXT, "a cat"], return_tensors=True)
    assert [array.shape for array in both] == [(1, tokens, 16), (1, 4, 16)]
    np.testing.assert_allclose(both[0], one, atol=1e-5)
    states = dataclasses.replace(model, head=None).apply(model.params, **tokenizer(TEXT, return_tensors="np"))
    np.testing.assert_allclose(both[0], states.last_hidden_state, atol=1e-5)


def test_sentence_embeddings_are_masked_means_of_length_one(embed, features, model, tokenizer):
    texts = [TEXT, "a cat", ""]
    expected = np.stack([state[0].mean(0) for state in features(texts, return_tensors=True)])
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(embed(texts), expected, atol=1e-5)
    np.testing.assert_allclose(embed(TEXT), expected[0], atol=1e-5)
    together = embed_sentences(texts, model, tokenizer=tokenizer)
    assert together.dtype == np.float32
    np.testing.assert_allclose(together, expected, atol=1e-5)
    assert embed_sentences([], model, tokenizer=tokenizer).size == 0


def test_the_forms_of_sentence_similarity(similar, embed):
    texts = [TEXT, "a cat", "the quick tree paints of"]
    a, *others = np.array(embed(texts))
    scores = similar({"source_sentence": texts[0], "sentences": texts[1:]})
    assert all(type(score) is float for score in scores)
    np.testing.assert_allclose(scores, [a @ other for other in others], atol=1e-5)
    assert similar({"source_sentence": TEXT, "sentences": [TEXT]}) == [pytest.approx(1, abs=1e-5)]
    assert similar({"source_sentence": TEXT, "sentences": []}) == []
    assert similar({"text": texts[0], "text_pair": texts[1]}) == pytest.approx(scores[0], abs=1e-5)
    many = similar([(texts[0], texts[2]), {"source_sentence": texts[0], "sentences": texts[1:]}])
    assert many == [pytest.approx(scores[1], abs=1e-5), pytest.approx(scores, abs=1e-5)]


@pytest.mark.parametrize("wrong", [TEXT, {"source_sentence": TEXT, "sentences": TEXT}, {"text": TEXT}, [TEXT, TEXT], 3])
def test_what_is_no_input_of_sentence_similarity(similar, wrong):
    with pytest.raises(InputError, match=r"input( 0)? must (be|have)"):
        similar(wrong)


@pytest.mark.parametrize("pooling", ["mean", "cls", "max"])
def test_the_files_of_sentence_transformers_are_honoured(folder, tmp_path, features, sentences, pooling):
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    key = {"mean": "mean_tokens", "cls": "cls_token", "max": "max_tokens"}[pooling]
    modules = [{"type": f"sentence_transformers.models.{kind}", "path": path}
               for kind, path in (("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize"))]  # fmt: skip
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text(
        json.dumps({f"pooling_mode_{key}": True, "pooling_mode_x": False})
    )
    (tmp_path / "sentence_bert_config.json").write_text('{"max_seq_length": 12}')
    embed = jf.pipeline("sentence-embedding", tmp_path)
    texts = sentences(3, longest=20)
    reduce = {"mean": lambda x: x.mean(0), "cls": lambda x: x[0], "max": lambda x: x.max(0)}[pooling]
    expected = np.stack([reduce(state[0]) for state in features(texts, max_length=12, return_tensors=True)])
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(embed(texts), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("modules", "pooling", "sentence"),
    [
        ([{"type": "x.Dense", "path": "2_Dense"}], {}, "asks for a Dense module"),
        ([{"type": "x.Pooling", "path": "../elsewhere"}], {}, "names the folder '../elsewhere', expected a plain name"),
        (
            [{"type": "x.Pooling", "path": "1"}],
            {"pooling_mode_lasttoken": True},
            "pooling by pooling_mode_lasttoken is not",
        ),
        (
            [{"type": "x.Pooling", "path": "1"}],
            {"pooling_mode_cls_token": True, "pooling_mode_max_tokens": True},
            "pooling by pooling_mode_cls_token and pooling_mode_max_tokens",
        ),
        ({"type": "x.Pooling"}, {}, "must be a list of objects with a type and a path"),
    ],
)
def test_files_that_ask_for_more_are_refused(tmp_path, modules, pooling, sentence):
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "config.json").write_text(json.dumps(pooling))
    with pytest.raises(InputError, match=sentence):
        sentence_settings(tmp_path)


def test_the_pooling_of_a_hub_model_is_downloaded():
    files = ["config.json", "model.safetensors", "modules.json", "1_Pooling/config.json", "onnx/config.json"]
    assert _wanted("a/b", iter(files), weights=True) == ["config.json", "modules.json", files[3], "model.safetensors"]


def test_no_such_files_mean_the_mean(tmp_path):
    assert sentence_settings(tmp_path) == sentence_settings(None) == ("mean", None)


# -- batching ----------------------------------------------------------------------------------------------------------


def test_order_and_batch_of_one_equals_batch_of_many(clf, sentences):
    texts = sentences(40)
    together = [flat(result) for result in clf(texts, top_k=None, batch_size=8)]
    for text, result in zip(texts, together, strict=True):
        assert flat(clf(text, top_k=None)) == pytest.approx(result, abs=1e-5)
    assert len({result["good"] for result in together}) > 30  # they differ, or order would prove nothing


def test_few_programs_and_a_second_call_compiles_none(model, tokenizer, sentences):
    clf = jf.pipeline("text-classification", model, tokenizer=tokenizer)
    texts = sentences(200, longest=60)
    first = clf(texts)
    lengths = [length for length in LENGTHS if length <= 64]
    assert 1 < clf.forward.compiled.compilations <= len(lengths) + 1  # one row count a length, and the rest's
    before = clf.forward.compiled.compilations
    assert clf(texts) == first
    assert clf.forward.compiled.compilations == before
    shapes = set()
    recorded = dataclasses.replace(
        clf, forward=lambda batch: shapes.add(batch["input_ids"].shape) or clf.forward(batch)
    )
    for count in (1, 2, 3, 7, 18, 33, 150):
        assert len([*recorded(iter(texts[:count]))]) == count
    assert shapes <= {(rows, length) for length in lengths for rows in (1, 4, 16, min(32, CPU_TOKENS // length))}


def test_a_batch_on_a_cpu_stays_within_its_tokens(model, tokenizer):
    clf = jf.pipeline("text-classification", model, tokenizer=tokenizer, batch_size=1000)
    rows, _ = clf.preprocess.encode(["a cat " * 30] * 40)
    assert clf.preprocess.most_rows(len(rows[0]["input_ids"])) == CPU_TOKENS // 64
    clf(["a cat " * 30] * 40)
    assert clf.forward.compiled.compilations == 1  # 16 rows twice, and 8 that are filled up to 16


def test_streams_and_datasets(clf):
    texts = [TEXT, "a cat", "the dog paints"]
    expected = clf(texts)
    labels = [result["label"] for result in expected]

    def same(results):
        assert iter(results) is results
        found = list(results)
        assert [result["label"] for result in found] == labels
        assert [r["score"] for r in found] == pytest.approx([r["score"] for r in expected], abs=1e-5)

    same(clf(text for text in texts))
    same(clf(np.array(texts)))
    same(clf(jf.data.Table({"text": texts, "label": [0, 1, 0]})))
    assert clf(tuple(texts)) == expected
    assert clf([{"text": text, "idx": 3} for text in texts]) == expected


def test_a_pandas_column_and_frame(clf):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"text": [TEXT, "a cat"], "idx": [1, 2]})
    assert [*clf(frame)] == [*clf(frame["text"])] == clf([TEXT, "a cat"])


@pytest.mark.parametrize("shape", [{"data": 8}, {"data": 2, "fsdp": 2, "tensor": 2}])
def test_a_mesh_changes_no_number(folder, clf, features, sentences, shape):
    texts = sentences(5)
    mesh = make_mesh(MeshConfig(**shape))
    on_mesh = jf.pipeline("text-classification", folder, mesh=mesh)
    assert len(jax.tree.leaves(on_mesh.forward.params)[0].devices()) == 8
    batch = {key: array for key, array in on_mesh.preprocess(texts).items() if key != HOST}
    program = on_mesh.forward.compiled.program(on_mesh.forward.params, batch)
    assert program.input_shardings[0][1]["input_ids"].spec[0] == ("data", "fsdp")
    for one, other in zip(on_mesh(texts, top_k=None), clf(texts, top_k=None), strict=True):
        assert flat(one) == pytest.approx(flat(other), abs=1e-5)


def test_a_model_is_put_on_the_mesh_whatever_its_head(model, tokenizer, features):
    on_mesh = jf.pipeline("feature-extraction", model, tokenizer=tokenizer, mesh=make_mesh(MeshConfig(fsdp=2)))
    np.testing.assert_allclose(on_mesh("a cat"), features("a cat"), atol=1e-5)


def test_half_precision_gives_plain_floats(folder):
    clf = jf.pipeline("text-classification", folder, dtype="bfloat16")
    assert jax.tree.leaves(clf.forward.params)[0].dtype == "bfloat16"
    json.dumps(clf(TEXT))


# -- what users do -----------------------------------------------------------------------------------------------------


def test_everything_is_json(clf, features, embed, similar):
    for results in (clf(TEXT), clf([PAIR, TEXT], top_k=None), features(TEXT), embed([TEXT]), similar([("a", "cat")])):
        assert json.loads(json.dumps(results)) == results


def test_nothing_and_the_empty_text(clf, features, embed, similar):
    for pipe in (clf, features, embed, similar):
        assert pipe([]) == []
        assert pipe.postprocess(pipe.forward(pipe.preprocess([]))) == []
    assert 0 < clf("")[0]["score"] < 1
    assert np.shape(features("")) == (1, 2, 16)
    together, alone = clf(["", "  "])[0], clf("")[0]  # batches of other sizes round differently
    assert together["label"] == alone["label"]
    assert together["score"] == pytest.approx(alone["score"], abs=1e-6)


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        ([TEXT, 3], r"input 1 must be a str, or for a pair .*, found int: 3"),
        ([TEXT, None], "input 1 must be a str.*NoneType"),
        ([TEXT, b"a cat"], "input 1 must be a str.*bytes"),
        (None, "the input must be a str"),
        (3.5, "the input must be a str"),
        ([[TEXT, TEXT]], "input 0 must be a str.*found list"),
        ([{"text": 3}], "input 0 must be a str, found int"),
        ({"text": TEXT, "text_pari": "x"}, "the input has a key 'text_pari'; did you mean 'text_pair'"),
        ({"sentence": TEXT}, "the input must be a str"),
        ([TEXT, "a\ud800"], "input 1 holds the lone surrogate"),
    ],
)
def test_what_is_no_text_is_named(clf, inputs, sentence):
    with pytest.raises(InputError, match=sentence):
        clf(inputs)


def test_a_list_is_looked_at_before_anything_is_computed(clf):
    computed = []
    watched = dataclasses.replace(clf, forward=lambda batch: computed.append(1) or clf.forward(batch))
    with pytest.raises(InputError, match="input 500 "):
        watched(["a"] * 500 + [None], batch_size=2)
    assert not computed


def test_a_stream_names_the_number_of_its_input(clf):
    results = clf((text for text in ["a"] * 5 + [None]), batch_size=2)
    with pytest.raises(InputError, match="input 5 "):
        list(results)


def test_long_texts_are_cut_with_one_warning(model, tokenizer, caplog):
    fresh = tokenizer.__class__(tokenizer.backend, special_tokens=tokenizer.special_tokens_map, model_max_length=64)
    clf = jf.pipeline("text-classification", model, tokenizer=fresh)
    with caplog.at_level(logging.WARNING):
        results = clf(["cat " * 500, "dog " * 400])
        clf("dog " * 300)
    assert len(results) == 2
    assert caplog.text.count("truncated to 64") == 1
    with pytest.raises(DataError, match="has 502 tokens, the longest bucket is 64"):
        clf("cat " * 500, truncation=False)


def test_texts_are_read_one_by_one():
    assert read_text("a", "x") == "a"
    assert read_text({"text": "a", "text_pair": None, "label": 1}, "x") == "a"
    assert read_text({"text": "a", "text_pair": ""}, "x") == ("a", "")
    assert type(read_text(np.str_("a"), "x")) is str
