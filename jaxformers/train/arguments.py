"""`TrainingArguments`: transformers' names and defaults wherever the idea exists here.

What is called otherwise, settled or refused is in `foreign.py`.
"""

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any, Self

from jaxformers.core.transformer import REMAT_POLICIES
from jaxformers.errors import InputError
from jaxformers.train.foreign import optimizer_name, translate

STRATEGIES = ("no", "steps", "epoch")
SCHEDULES = ("linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup", "inverse_sqrt",
             "reduce_lr_on_plateau", "cosine_with_min_lr", "cosine_warmup_with_min_lr", "warmup_stable_decay")  # fmt: skip
OPTIMIZERS = ("adamw", "adafactor", "sgd", "adagrad", "rmsprop", "lion", "lamb", "muon")
TRACKERS = ("tensorboard", "wandb")
HUB_STRATEGIES = ("end", "every_save", "checkpoint", "all_checkpoints")
LEVELS = ("passive", "debug", "info", "warning", "error", "critical")

_POSITIVE = ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps")
_STEPS = ("logging_steps", "save_steps", "eval_steps")  # numbers of steps, or a share of all
_POSITIVE_IF_GIVEN = ("save_total_limit", "generation_max_length", "generation_num_beams", "dataloader_prefetch_factor")
_NOT_NEGATIVE = ("num_train_epochs", "learning_rate", "warmup_steps", "warmup_ratio", "weight_decay", "max_grad_norm",
                 "label_smoothing_factor", "seed", "data_seed", "eval_delay", "dataloader_num_workers",
                 "neftune_noise_alpha")  # fmt: skip


class _Translating(type):
    """Lets a class be called with transformers' keywords."""

    def __call__(cls, **given: Any) -> Any:
        return super().__call__(**translate(given))


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingArguments(metaclass=_Translating):
    """How to train. The names and defaults are those of transformers' Trainer, except that `group_by_length` is on."""

    output_dir: str = "out"
    """Where checkpoints, metrics, the model card and the final model go."""
    overwrite_output_dir: bool = False
    """Start anew where output_dir already holds a run; without it that run is resumed."""
    resume_from_checkpoint: str | None = None
    """A checkpoint folder to resume from; by default the newest in output_dir."""

    do_train: bool = True
    """Train."""
    do_eval: bool = True
    """Evaluate after training."""
    do_predict: bool = False
    """Write predictions for the test split after training."""

    num_train_epochs: float = 3.0
    """Passes over the training data."""
    max_steps: int = -1
    """If positive, the number of optimizer steps, whatever num_train_epochs says."""
    per_device_train_batch_size: int = 8
    """Examples a step for each data-parallel member."""
    per_device_eval_batch_size: int = 8
    """The same for evaluation."""
    gradient_accumulation_steps: int = 1
    """Batches whose gradients are summed before one optimizer step."""
    auto_find_batch_size: bool = False
    """Where memory runs out, halve the batch of a device and double the accumulation: the same step, in smaller parts."""
    group_by_length: bool = True
    """Draw batches from length-sorted windows of 50 batches (transformers: off); off means plain random order."""
    dataloader_drop_last: bool = False
    """Leave out the last short batch of each epoch instead of filling it with rows of weight zero."""
    dataloader_num_workers: int = 0
    """Threads that make batches; 0 means one."""
    dataloader_prefetch_factor: int | None = None
    """Batches made ahead by each of them; 2 by default."""
    remove_unused_columns: bool = True
    """Leave out the columns that neither the model nor a loss takes; off hands all to the loss."""
    label_names: tuple[str, ...] = ()
    """Columns that hold what is right, beside labels, start_positions and end_positions."""

    learning_rate: float = 5e-5
    """The peak learning rate."""
    lr_scheduler_type: str = "linear"
    """linear, cosine, cosine_with_restarts, polynomial, constant, constant_with_warmup, inverse_sqrt, reduce_lr_on_plateau,
    cosine_with_min_lr, cosine_warmup_with_min_lr or warmup_stable_decay."""
    lr_scheduler_kwargs: str | dict[str, float | str] | None = None
    """Its options, as JSON: '{"num_cycles": 2}'."""
    warmup_steps: float = 0
    """Steps of linear rise from zero; below 1, a share of all steps."""
    warmup_ratio: float = 0.0
    """The same as a share of all steps; warmup_steps wins where both are given."""
    optim: str = "adamw"
    """adamw, adafactor, sgd, adagrad, rmsprop, lion, lamb or muon; transformers' names for these too."""
    optim_args: str | None = None
    """The optimizer's own options: 'momentum=0.9,nesterov=true'."""
    weight_decay: float = 0.0
    """Weight decay, decoupled where the optimizer does so; biases and norms have none."""
    adam_beta1: float = 0.9
    """AdamW's decay of the first moment."""
    adam_beta2: float = 0.999
    """AdamW's decay of the second moment."""
    adam_epsilon: float = 1e-8
    """AdamW's epsilon."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this global norm; 0 leaves them."""
    ema_decay: float | None = None
    """Keep an exponential moving average of the parameters, such as 0.999, which is evaluated and saved in their place."""
    label_smoothing_factor: float = 0.0
    """Share of the target spread evenly over all classes."""
    neftune_noise_alpha: float | None = None
    """Noise added to word embeddings in training, up to this over the root of their number (NEFTune, Jain et al. 2023)."""

    bf16: bool = False
    """Compute in bfloat16; parameters, norms, softmax and loss stay in float32."""
    fp16: bool = False
    """Compute in float16 with a dynamic loss scale; bf16 needs none."""
    bf16_full_eval: bool = False
    """Evaluate in bfloat16 whatever training does."""
    fp16_full_eval: bool = False
    """Evaluate in float16 whatever training does."""
    gradient_checkpointing: bool = False
    """Recompute each layer in the backward pass instead of keeping its activations."""
    gradient_checkpointing_policy: str = "full"
    """What of a layer that recomputes: full, or dots, which keeps matrix products and recomputes the rest."""
    gradient_dtype: str | None = None
    """In what data-parallel devices sum their gradients: float32 or bfloat16; the computation's own by default."""
    seed: int = 42
    """For the order of the data, dropout, and a new head."""
    data_seed: int | None = None
    """For the order of the data alone; seed by default."""
    full_determinism: bool = False
    """Refuse to run where results may differ from run to run (a GPU without XLA's deterministic kernels)."""

    eval_strategy: str = "no"
    """When to evaluate while training: no, steps or epoch."""
    eval_steps: float | None = None
    """Steps between evaluations; logging_steps by default. Below 1, here and in the next ones: a share of all steps."""
    eval_delay: float = 0
    """No evaluation while training before this many steps (epochs, with eval_strategy epoch)."""
    eval_on_start: bool = False
    """Evaluate before the first step too."""
    prediction_loss_only: bool = False
    """Evaluations give the loss alone."""
    batch_eval_metrics: bool = False
    """compute_metrics(EvalPrediction, compute_result) is called with each batch, and with compute_result at the last."""
    include_for_metrics: tuple[str, ...] = ()
    """What EvalPrediction has beside predictions and labels: inputs, loss."""
    logging_strategy: str = "steps"
    """When to log: no, steps or epoch."""
    logging_steps: float = 500
    """Steps between log lines."""
    logging_first_step: bool = False
    """Log the first step too."""
    logging_dir: str | None = None
    """Where TensorBoard events go; output_dir/runs by default."""
    log_level: str = "passive"
    """Of the logger jaxformers: debug, info, warning, error, critical; passive leaves it."""
    include_num_input_tokens_seen: str = "no"
    """Log how many tokens the model has read: all, non_padding, or no."""
    skip_memory_metrics: bool = True
    """Off: the results tell the most memory that was in use, of the host and of a device, in bytes."""
    report_to: str | tuple[str, ...] = "tensorboard"
    """tensorboard, wandb, both (all) or none; metrics.jsonl is always written."""
    run_name: str | None = None
    """How W&B calls the run; output_dir by default."""
    save_strategy: str = "steps"
    """When to save a checkpoint: no, steps, epoch, or best (after each evaluation that is the best so far)."""
    save_steps: float = 500
    """Steps between checkpoints."""
    save_total_limit: int | None = None
    """Keep only this many checkpoints (the best one besides, with load_best_model_at_end)."""
    save_only_model: bool = False
    """Checkpoints hold the parameters alone: less to write, and nothing to resume from."""
    predict_with_generate: bool = False
    """Of encoder-decoders: predictions are texts that the model generates, not logits."""
    generation_max_length: int | None = None
    """The most tokens of such a text; the model's own setting by default."""
    generation_num_beams: int | None = None
    """Beams that look for such a text; the model's own setting by default."""
    load_best_model_at_end: bool = False
    """Finish with the parameters of the best evaluation, not the last."""
    metric_for_best_model: str | None = None
    """The metric that decides (with or without `eval_`); the loss by default."""
    greater_is_better: bool | None = None
    """Whether more of it is better; by default true unless its name ends in loss."""
    push_to_hub: bool = False
    """Upload the model to the hub."""
    hub_model_id: str | None = None
    """The repository there, NAME/MODEL; by default output_dir's name under the token's owner."""
    hub_strategy: str = "every_save"
    """When: end, every_save, checkpoint (the newest checkpoint too, to resume from) or all_checkpoints."""
    hub_token: str | None = dataclasses.field(default=None, repr=False)
    """The token; by default HF_TOKEN or that of `hf auth login`."""
    hub_private_repo: bool | None = None
    """Whether the repository, if it is new, is private."""
    hub_always_push: bool = False
    """Wait for an upload under way and push again, instead of leaving that push out."""
    hub_revision: str | None = None
    """The branch to push to."""
    disable_tqdm: bool = False
    """No progress bar."""

    def __post_init__(self) -> None:
        self._settle()
        for name in ("eval_strategy", "logging_strategy"):
            _one_of(name, getattr(self, name), STRATEGIES)
        _one_of("save_strategy", self.save_strategy, (*STRATEGIES, "best"))
        _one_of("lr_scheduler_type", self.lr_scheduler_type, SCHEDULES)
        _one_of("optim", self.optim, OPTIMIZERS)
        _one_of("gradient_checkpointing_policy", self.gradient_checkpointing_policy, tuple(REMAT_POLICIES))
        if self.gradient_dtype is not None:
            _one_of("gradient_dtype", self.gradient_dtype, ("float32", "bfloat16"))
        _one_of("hub_strategy", self.hub_strategy, HUB_STRATEGIES)
        _one_of("log_level", self.log_level, LEVELS)
        for tracker in self.trackers:
            _one_of("report_to", tracker, TRACKERS)
        for name in self.include_for_metrics:
            _one_of("include_for_metrics", name, ("inputs", "loss"))
        _one_of("include_num_input_tokens_seen", self.include_num_input_tokens_seen, ("no", "all", "non_padding"))
        for name in (*_POSITIVE, *_STEPS, *_POSITIVE_IF_GIVEN):
            value = getattr(self, name)
            if name in _STEPS and value is not None and (0 < value < 1 or (value >= 1 and value == int(value))):
                continue
            if value is not None and (value < 1 or name in _STEPS):
                least = "a whole number of at least 1, or a share between 0 and 1" if name in _STEPS else "at least 1"
                raise InputError(f"{name} must be {least}, found {value}")
        for name in _NOT_NEGATIVE:
            value = getattr(self, name)
            if value is not None and value < 0:
                raise InputError(f"{name} must not be negative, found {value}")
        if self.warmup_ratio > 1 or self.label_smoothing_factor >= 1:
            raise InputError("warmup_ratio must be at most 1 and label_smoothing_factor below 1")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise InputError(f"ema_decay must be above 0 and below 1, found {self.ema_decay}")
        if (self.bf16 and self.fp16) or (self.bf16_full_eval and self.fp16_full_eval):
            raise InputError("bf16 and fp16 exclude each other")
        self._check_best()

    def _settle(self) -> None:
        """Brings what may be said in several ways into one."""
        settled: dict[str, Any] = {"optim": optimizer_name(self.optim)}
        said = str(self.include_num_input_tokens_seen).lower()
        settled["include_num_input_tokens_seen"] = {"true": "all", "false": "no"}.get(said, said)
        for name in ("label_names", "include_for_metrics"):
            value = getattr(self, name) or ()
            settled[name] = (value,) if isinstance(value, str) else tuple(value)
        if isinstance(self.lr_scheduler_kwargs, str):
            try:
                settled["lr_scheduler_kwargs"] = json.loads(self.lr_scheduler_kwargs)
            except json.JSONDecodeError as error:
                raise InputError(f"lr_scheduler_kwargs is not JSON: {error}") from None
        if not isinstance(settled.get("lr_scheduler_kwargs", self.lr_scheduler_kwargs), Mapping | None):
            raise InputError(f"lr_scheduler_kwargs must be a dict, found {self.lr_scheduler_kwargs!r}")
        for name, value in settled.items():
            object.__setattr__(self, name, value)

    def _check_best(self) -> None:
        needs = "load_best_model_at_end" if self.load_best_model_at_end else "save_strategy 'best'"
        if self.save_strategy == "best" or self.lr_scheduler_type == "reduce_lr_on_plateau":
            if self.eval_strategy == "no":
                name = needs if self.save_strategy == "best" else "lr_scheduler_type 'reduce_lr_on_plateau'"
                raise InputError(f"{name} needs evaluations while training: set eval_strategy")
        elif self.load_best_model_at_end:
            if self.eval_strategy == "no" or self.save_strategy != self.eval_strategy:
                raise InputError(
                    "load_best_model_at_end needs eval_strategy and save_strategy to be the same and not 'no', "
                    f"found {self.eval_strategy!r} and {self.save_strategy!r}"
                )
            times = self.save_steps / self.steps_between_evals
            if self.eval_strategy == "steps" and not math.isclose(times, round(times)):
                raise InputError(
                    f"save_steps {self.save_steps} must be a multiple of eval_steps {self.steps_between_evals}"
                )

    @property
    def steps_between_evals(self) -> float:
        """`eval_steps`, or `logging_steps` where it is not given."""
        return self.eval_steps or self.logging_steps

    @property
    def best_metric(self) -> str:
        """The deciding metric's full name, such as `eval_loss`."""
        name = self.metric_for_best_model or "loss"
        return name if name.startswith("eval_") else f"eval_{name}"

    @property
    def more_is_better(self) -> bool:
        """Whether a larger deciding metric is the better one."""
        return not self.best_metric.endswith("loss") if self.greater_is_better is None else self.greater_is_better

    @property
    def trackers(self) -> tuple[str, ...]:
        """The trackers `report_to` names, without `none`."""
        said = (self.report_to,) if isinstance(self.report_to, str) else self.report_to
        return TRACKERS if "all" in said else tuple(name for name in said if name != "none")

    @property
    def scheduler_options(self) -> dict[str, Any]:
        """`lr_scheduler_kwargs` as keyword arguments."""
        return dict(self.lr_scheduler_kwargs or {})  # type: ignore[arg-type]  # a string has become a dict

    @property
    def optimizer_options(self) -> dict[str, Any]:
        """`optim_args` as keyword arguments."""
        options: dict[str, Any] = {}
        for part in filter(None, (self.optim_args or "").replace(" ", "").split(",")):
            name, equals, value = part.partition("=")
            if not equals:
                raise InputError(f"optim_args must be NAME=VALUE,…, found {part!r}")
            try:
                options[name] = json.loads(value.lower())
            except json.JSONDecodeError:
                options[name] = value
        return options

    @property
    def warmup(self) -> float:
        """Steps of warmup, or below 1 the share of all steps."""
        return self.warmup_steps or self.warmup_ratio

    def warmup_in(self, total_steps: int) -> int:
        """Steps of warmup in a run of `total_steps`."""
        from_ratio = not self.warmup_steps and self.warmup_ratio
        return math.ceil(round(total_steps * self.warmup, 6)) if self.warmup < 1 or from_ratio else int(self.warmup)

    def every(self, name: str, total_steps: int) -> int:
        """The steps between two logs, evaluations or saves, whose number or share of all steps is `name`'s."""
        value = self.steps_between_evals if name == "eval_steps" else getattr(self, name)
        return int(value) if value >= 1 else math.ceil(value * total_steps)

    def replace(self, **changes: Any) -> Self:
        """A copy with fields changed."""
        return dataclasses.replace(self, **translate(changes))


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise InputError(f"{name} must be one of {', '.join(known)}, found {value!r}")
