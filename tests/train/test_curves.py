"""A hundred steps of fine-tuning beside transformers' own Trainer: the same start, the same rows, the same losses.

Batches of four are accumulated to eight and clipped. Our gradients come from one compiled step for all nine optimizers and
schedules; each has its own, small, compiled update.
"""

import itertools

import jax
import numpy as np
import optax
import pytest

from jaxformers.checkpoints import load
from jaxformers.data import Batches, Table
from jaxformers.parallel.mesh import make_mesh
from jaxformers.train import TrainingArguments, make_optimizer, make_schedule, make_train_step

pytestmark = pytest.mark.parity
STEPS, LENGTH = 100, 12
OPTIMIZERS = {"adamw": ("adamw_torch", 5e-4), "adafactor": ("adafactor", 5e-4), "sgd": ("sgd", 5e-2)}
SCHEDULES = ("linear", "cosine", "constant_with_warmup")


@pytest.fixture(scope="module")
def rows():
    draw = np.random.default_rng(0)
    ids = draw.integers(3, 40, (8 * STEPS, LENGTH))
    return ids, (ids == 7).any(1).astype(int)


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    torch = pytest.importorskip("torch")
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=40, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=16, initializer_range=0.2, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("start")
    BertForSequenceClassification(config).save_pretrained(folder)
    return folder


def settings(optim, schedule):
    return {
        "optim": optim, "learning_rate": OPTIMIZERS[optim][1], "lr_scheduler_type": schedule, "warmup_steps": 10,
        "weight_decay": 0.01, "max_grad_norm": 0.5, "max_steps": STEPS, "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
    }  # fmt: skip


@pytest.fixture(scope="module")
def ours(start, rows):
    """{(optimizer, schedule): losses}"""
    model = load(str(start), "sequence-classification")
    mesh = make_mesh(devices=jax.devices()[:1])
    table = Table({"input_ids": rows[0].tolist(), "labels": rows[1].tolist()}, "rows")
    batches = Batches(table, batch_size=8, buckets=(LENGTH,))
    # A step that moves nothing and leaves its gradient where the optimizer's state is.
    keep = optax.GradientTransformation(
        lambda params: jax.tree.map(jax.numpy.zeros_like, params),
        lambda updates, state, params: (jax.tree.map(jax.numpy.zeros_like, updates), updates),
    )
    args = TrainingArguments(**settings("sgd", "linear"))
    step = make_train_step(model, args, mesh=mesh, optimizer=keep)
    placed = [step.put(batch) for batch in batches]

    def curve(optim, schedule):
        args = TrainingArguments(**settings(optim, schedule))
        optimizer = make_optimizer(args, make_schedule(args), model.declare())

        @jax.jit
        def move(params, opt_state, gradients):
            updates, opt_state = optimizer.update(gradients, opt_state, params)
            return optax.apply_updates(params, updates), opt_state

        state = step.init()
        opt_state, losses = optimizer.init(state.params), []
        for batch in placed:
            state, metrics = step(state, batch)
            losses.append(float(metrics["loss_sum"] / metrics["loss_count"]))
            params, opt_state = move(state.params, opt_state, state.opt_state)
            state = state.replace(params=params)
        return np.array(losses)

    return {key: curve(*key) for key in itertools.product(OPTIMIZERS, SCHEDULES)}


def theirs(start, rows, optim, schedule, folder):
    torch = pytest.importorskip("torch")
    from transformers import BertForSequenceClassification, Trainer
    from transformers import TrainingArguments as Theirs

    torch.set_num_threads(1)  # of a model this small more threads only wait for each other
    losses = []

    class Recording(Trainer):
        def compute_loss(self, *args, **options):
            loss = super().compute_loss(*args, **options)
            losses.append(float(loss))
            return loss

    data = [{"input_ids": torch.tensor(ids), "labels": int(label)} for ids, label in zip(*rows, strict=True)]
    args = Theirs(
        output_dir=str(folder), report_to="none", save_strategy="no", disable_tqdm=True, use_cpu=True,
        train_sampling_strategy="sequential", **{**settings(optim, schedule), "optim": OPTIMIZERS[optim][0]},
    )  # fmt: skip
    trainer = Recording(BertForSequenceClassification.from_pretrained(start), args, train_dataset=data)
    trainer.model_accepts_loss_kwargs = (
        False  # else it takes this mean for a sum and does not divide by the accumulation
    )
    trainer.train()
    return np.array(losses).reshape(STEPS, 2).mean(1)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("optim", "schedule"), list(itertools.product(OPTIMIZERS, SCHEDULES)))
def test_the_curve_is_transformers(ours, start, rows, tmp_path, optim, schedule):
    found = ours[optim, schedule]
    expected = theirs(start, rows, optim, schedule, tmp_path)
    assert abs(found - found[0]).max() > 0.05  # it does learn, or at least move
    np.testing.assert_allclose(found, expected, atol=1e-4)
