"""Low-rank adapters: what they compute, what learns, where they lie on a mesh, and PEFT's files in both directions."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

import jaxformers as jf
from jaxformers.checkpoints.lora import unload
from jaxformers.checkpoints.orbax_folder import load_orbax
from jaxformers.checkpoints.peft import with_adapter
from jaxformers.core.params import leaves, nested
from jaxformers.data import Table
from jaxformers.errors import CheckpointError, ConfigError, InputError
from jaxformers.generate import generate
from jaxformers.parallel.mesh import MeshConfig, make_mesh
from jaxformers.train import TrainingArguments, fit, make_train_step
from tests.families.table import BERT, DEBERTA, GPT2, LLAMA, MODERNBERT, T5, name_of, sample, strong
from tests.goldens.make_goldens import draw, torch_model

CLASSIFY = "sequence-classification"
HALF = {"rank": 4, "alpha": 6, "targets": ("query", "value")}


def trained(model: jf.Model) -> jf.Model:
    """The adapted model with random corrections, as training would leave them."""
    flat = {
        path: jnp.asarray(draw("/".join(path), leaf.shape)) if path[-1] == "lora_b" else leaf
        for path, leaf in leaves(model.params)
    }
    return dataclasses.replace(model, params=nested(flat))


def logits(model: jf.Model, given: dict) -> np.ndarray:
    return np.asarray(model.apply(model.params, **given).logits)


@pytest.fixture(scope="module")
def bert():
    return strong(BERT, CLASSIFY)


@pytest.fixture(scope="module")
def given():
    return sample(BERT.config, CLASSIFY)[0]


def test_an_adapter_begins_at_nothing_corrects_and_merges(bert, given):
    new = jf.lora(bert, **HALF)
    np.testing.assert_array_equal(logits(new, given), logits(bert, given))
    model = trained(new)
    corrected = logits(model, given)
    assert np.abs(corrected - logits(bert, given)).max() > 0.1
    query = model.params["layers"]["attention"]["query"]
    by_hand = query["kernel"] + 6 / 4 * jnp.einsum("NDR,NRHK->NDHK", query["lora_a"], query["lora_b"])
    merged = jf.merge(model)
    np.testing.assert_allclose(merged.params["layers"]["attention"]["query"]["kernel"], by_hand, atol=1e-6)
    assert jax.tree.structure(merged.params) == jax.tree.structure(bert.params)
    np.testing.assert_allclose(logits(merged, given), corrected, atol=1e-5)
    np.testing.assert_array_equal(logits(unload(model), given), logits(bert, given))


def test_projections_in_one_are_adapted():
    """ModernBERT's query, key and value are one projection, whose parts come first in its result."""
    row, head = MODERNBERT, "token-classification"
    model = trained(jf.lora(strong(row, head), rank=3))
    plain = jf.merge(model)
    np.testing.assert_allclose(
        logits(model, given := sample(row.config_for(head), head)[0]), logits(plain, given), atol=2e-5
    )


def test_dropout_is_of_the_correction_alone(bert, given):
    still = bert.config.replace(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, classifier_dropout=0.0)
    model = trained(jf.lora(dataclasses.replace(bert, config=still), dropout=0.5, **HALF))
    expected = logits(model, given)
    dropped = model.apply(model.params, rng=jax.random.key(0), **given).logits
    assert np.abs(dropped - expected).max() > 0.01
    begun = jf.lora(dataclasses.replace(bert, config=still), dropout=0.5, **HALF)
    nothing = begun.apply(begun.params, rng=jax.random.key(0), **given).logits
    np.testing.assert_allclose(nothing, logits(bert, given), atol=1e-6)


def test_only_the_adapter_and_the_head_learn(bert, given):
    """On a mesh and with accumulation: nothing else has an optimizer state or moves, and the corrections are cut as kernels."""
    still = bert.config.replace(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, classifier_dropout=0.0)
    model = jf.lora(dataclasses.replace(bert, config=still), **HALF)
    learn = {path for path, param in leaves(model.declare()) if param.learns}
    assert {path[0] for path in learn} == {"layers", "classifier"}
    batch = {name: np.tile(rows, (8 // len(rows) + 1, 1))[:8] for name, rows in given.items()}
    batch["labels"] = np.arange(8) % 3
    args = TrainingArguments(max_steps=10, learning_rate=1e-2, weight_decay=0.1, gradient_accumulation_steps=2)
    step = make_train_step(model, args, mesh=make_mesh(MeshConfig(fsdp=2, tensor=2), jax.devices()[:4]))
    state = step.init()
    held = sum(leaf.size for leaf in jax.tree.leaves(state.opt_state))
    assert held < 2 * sum(dict(leaves(model.params))[path].size for path in learn) + 10
    state, metrics = step(state, step.put(batch))
    labels = jax.nn.one_hot(batch.pop("labels"), 3)
    expected = -(jax.nn.log_softmax(jnp.asarray(logits(model, batch))) * labels).sum() / 8
    assert float(metrics["loss_sum"] / metrics["loss_count"]) == pytest.approx(float(expected), abs=1e-5)
    for (path, after), (_, before) in zip(leaves(state.params), leaves(model.params), strict=True):
        moves = path in learn and path[-1] != "lora_a"  # which has no gradient as long as b is zero
        assert moves != bool(np.array_equal(before, after)) or path[-1] == "lora_a", path
    query = state.params["layers"]["attention"]["query"]
    assert query["lora_a"].sharding.spec[1] == "fsdp"
    assert query["lora_b"].sharding.spec[2] == "tensor"


def test_fit_writes_an_adapter_that_load_finds(bert, tmp_path):
    jf.save(bert, tmp_path / "base")
    args = TrainingArguments(
        output_dir=str(tmp_path / "out"), max_steps=3, disable_tqdm=True, report_to="none", save_steps=3
    )
    data = Table({"input_ids": [[2, 5, 3], [2, 6, 7, 3]] * 4, "labels": [0, 1] * 4})
    model = jf.lora(bert, base=str(tmp_path / "base"), **HALF)
    done, _ = fit(model, args, train=data, mesh=make_mesh(devices=jax.devices()[:1]))
    assert not list((tmp_path / "out").glob("model*.safetensors"))
    file = load_file(tmp_path / "out" / "adapter_model.safetensors")
    at, query = (
        "base_model.model.bert.encoder.layer.1.attention.self.query",
        done.params["layers"]["attention"]["query"],
    )
    np.testing.assert_array_equal(file[f"{at}.lora_A.weight"], query["lora_a"][1].T)
    np.testing.assert_array_equal(file[f"{at}.lora_B.weight"], query["lora_b"][1].reshape(4, -1).T)
    again = jf.load(tmp_path / "out", CLASSIFY)
    assert again.config.id2label == bert.config.id2label
    jax.tree.map(np.testing.assert_array_equal, again.params, done.params)
    both = jf.load(tmp_path / "base", CLASSIFY, adapter=tmp_path / "out")
    jax.tree.map(np.testing.assert_array_equal, both.params, done.params)
    with pytest.raises(CheckpointError, match="does not fit this model: unexpected params"):
        load_orbax(tmp_path / "out" / "checkpoints" / "3", CLASSIFY)
    assert "PEFT" in (tmp_path / "out" / "README.md").read_text()


def test_generation_reads_an_adapted_model():
    model = trained(jf.lora(strong(LLAMA, "causal-lm"), rank=2, targets=("q_proj", "v_proj")))
    found = generate(model, [[5, 9, 7]], max_new_tokens=6).sequences
    np.testing.assert_array_equal(found, generate(jf.merge(model), [[5, 9, 7]], max_new_tokens=6).sequences)


def test_what_does_not_fit_is_refused_by_name(bert, tmp_path):
    with pytest.raises(InputError, match=r"no linear layer is called 'q_proj'; there are attention\.output\.dense, "):
        jf.lora(bert, targets=("query", "q_proj"))
    with pytest.raises(InputError, match=r"'word_embeddings'"):
        jf.lora(bert, targets=("word_embeddings",))
    with pytest.raises(InputError, match="only some layers"):
        jf.lora(bert, targets=r".*layer\.1\..*query")
    with pytest.raises(InputError, match="no module 'score'; the head's are classifier"):
        jf.lora(bert, modules_to_save=["score"])
    with pytest.raises(InputError, match="rank must be at least 1"):
        jf.lora(bert, rank=0)
    with pytest.raises(InputError, match="has no adapter"):
        jf.merge(bert)
    model = jf.lora(bert, **HALF)
    with pytest.raises(InputError, match="adapter already"):
        jf.lora(model)
    jf.save(model, tmp_path)
    with pytest.raises(ConfigError, match="names no base model"):
        jf.load(tmp_path, CLASSIFY)
    with pytest.raises(CheckpointError, match=r"missing .*layer\.0\.attention\.self\.query\.lora_A.*; unexpected"):
        with_adapter(strong(LLAMA, "causal-lm"), _changed(tmp_path, target_modules=["q_proj"]))
    with pytest.raises(ConfigError, match="use_dora=True is not supported"):
        with_adapter(bert, _changed(tmp_path, use_dora=True))
    with pytest.raises(ConfigError, match="bias must be 'none'"):
        with_adapter(bert, _changed(tmp_path, use_dora=False, bias="all"))


def _changed(folder, **values):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    return folder


PEFT = [
    (BERT, CLASSIFY, {"target_modules": ["query", "value"], "task_type": "SEQ_CLS"}),
    (BERT, None, {"target_modules": r".*layer\.\d+\.(attention|output)\.output\.dense|.*intermediate.dense", "r": 2}),
    (GPT2, "causal-lm", {"target_modules": "all-linear", "use_rslora": True}),
    (LLAMA, CLASSIFY, {"target_modules": "all-linear", "task_type": "SEQ_CLS"}),
    (DEBERTA, CLASSIFY, {"target_modules": ["query_proj", "key_proj"], "modules_to_save": ["classifier", "pooler"]}),
    (T5, "seq2seq-lm", {"target_modules": ["q", "v", "wo"], "task_type": "SEQ_2_SEQ_LM"}),
]


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("row", "head", "settings"), PEFT, ids=name_of)
def test_peft_and_we_read_each_others_adapters(row, head, settings, tmp_path):
    peft, torch = pytest.importorskip("peft"), pytest.importorskip("torch")
    config = row.config_for(head)
    theirs = torch_model(strong(row, head).family.architectures[head], config)
    theirs.save_pretrained(tmp_path / "base")
    given = sample(config, head)[0]

    def told(model):
        with torch.no_grad():
            out = model(**{name: torch.as_tensor(rows) for name, rows in given.items()})
        return (out.last_hidden_state if head is None else out.logits).numpy()

    def ours_told(model):
        out = model.apply(model.params, **given)
        return np.asarray(out.last_hidden_state if head is None else out.logits)

    before = told(theirs)
    wrapped = peft.get_peft_model(theirs, peft.LoraConfig(**{"r": 4, "lora_alpha": 6, **settings})).eval()
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name or "modules_to_save" in name:
                parameter.copy_(torch.from_numpy(draw(name, tuple(parameter.shape))))
    wrapped.save_pretrained(tmp_path / "theirs")
    expected = told(wrapped)
    assert np.abs(expected - before).max() > 0.05
    model = jf.load(tmp_path / "base", head, adapter=tmp_path / "theirs")
    np.testing.assert_allclose(ours_told(model), expected, atol=1e-5)

    jf.save(model, tmp_path / "ours")
    plain = type(theirs).from_pretrained(tmp_path / "base", attn_implementation="eager")
    back = peft.PeftModel.from_pretrained(plain, tmp_path / "ours").eval()
    np.testing.assert_allclose(told(back), expected, atol=1e-5)

    if settings["target_modules"] == "all-linear":  # which layers these are, we and they agree on
        chosen = jf.lora(strong(row, head), rank=4)
        assert [path for path, _ in leaves(chosen.params)] == [path for path, _ in leaves(model.params)]
