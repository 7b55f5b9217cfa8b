"""`TrainingArguments`: transformers' names and defaults wherever the idea exists here."""

import dataclasses
from typing import Any, Self

from jaxformers.core.transformer import REMAT_POLICIES
from jaxformers.errors import InputError

STRATEGIES = ("no", "steps", "epoch")
SCHEDULES = ("linear", "cosine", "constant", "constant_with_warmup")
OPTIMIZERS = ("adamw",)
TRACKERS = ("none", "tensorboard")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingArguments:
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
    group_by_length: bool = True
    """Draw batches from length-sorted windows of 50 batches (transformers: off); off means plain random order."""
    dataloader_drop_last: bool = False
    """Leave out the last short batch of each epoch instead of filling it with rows of weight zero."""

    learning_rate: float = 5e-5
    """The peak learning rate."""
    lr_scheduler_type: str = "linear"
    """linear, cosine, constant or constant_with_warmup."""
    warmup_steps: int = 0
    """Steps of linear rise from zero."""
    warmup_ratio: float = 0.0
    """The same as a share of all steps; warmup_steps wins where both are given."""
    optim: str = "adamw"
    """The optimizer."""
    weight_decay: float = 0.0
    """Decoupled weight decay; biases and norms have none."""
    adam_beta1: float = 0.9
    """AdamW's decay of the first moment."""
    adam_beta2: float = 0.999
    """AdamW's decay of the second moment."""
    adam_epsilon: float = 1e-8
    """AdamW's epsilon."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this global norm; 0 leaves them."""
    label_smoothing_factor: float = 0.0
    """Share of the target spread evenly over all classes."""

    bf16: bool = False
    """Compute in bfloat16; parameters, norms, softmax and loss stay in float32."""
    fp16: bool = False
    """Not supported: use bf16, which needs no loss scaling."""
    gradient_checkpointing: bool = False
    """Recompute each layer in the backward pass instead of keeping its activations."""
    gradient_checkpointing_policy: str = "full"
    """What of a layer that recomputes: full, or dots, which keeps matrix products and recomputes the rest."""
    gradient_dtype: str | None = None
    """In what data-parallel devices sum their gradients: float32 or bfloat16; the computation's own by default."""
    seed: int = 42
    """For the order of the data, dropout, and a new head."""

    eval_strategy: str = "no"
    """When to evaluate while training: no, steps or epoch."""
    eval_steps: int | None = None
    """Steps between evaluations; logging_steps by default."""
    logging_strategy: str = "steps"
    """When to log: no, steps or epoch."""
    logging_steps: int = 500
    """Steps between log lines."""
    logging_first_step: bool = False
    """Log the first step too."""
    logging_dir: str | None = None
    """Where TensorBoard events go; output_dir/runs by default."""
    report_to: str = "tensorboard"
    """tensorboard or none; metrics.jsonl is always written."""
    save_strategy: str = "steps"
    """When to save a checkpoint: no, steps or epoch."""
    save_steps: int = 500
    """Steps between checkpoints."""
    save_total_limit: int | None = None
    """Keep only this many checkpoints (the best one besides, with load_best_model_at_end)."""
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
    """Not supported yet."""
    disable_tqdm: bool = False
    """No progress bar."""

    def __post_init__(self) -> None:
        for name in ("eval_strategy", "logging_strategy", "save_strategy"):
            _one_of(name, getattr(self, name), STRATEGIES)
        _one_of("lr_scheduler_type", self.lr_scheduler_type, SCHEDULES)
        _one_of("optim", self.optim, OPTIMIZERS)
        _one_of("report_to", self.report_to, TRACKERS)
        _one_of("gradient_checkpointing_policy", self.gradient_checkpointing_policy, tuple(REMAT_POLICIES))
        if self.gradient_dtype is not None:
            _one_of("gradient_dtype", self.gradient_dtype, ("float32", "bfloat16"))
        for name in ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps",
                     "logging_steps", "save_steps"):  # fmt: skip
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, found {getattr(self, name)}")
        for name in ("num_train_epochs", "learning_rate", "warmup_steps", "warmup_ratio", "weight_decay",
                     "max_grad_norm", "label_smoothing_factor", "seed"):  # fmt: skip
            if getattr(self, name) < 0:
                raise InputError(f"{name} must not be negative, found {getattr(self, name)}")
        for name in ("eval_steps", "save_total_limit", "generation_max_length", "generation_num_beams"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} must be at least 1, found {value}")
        if self.warmup_ratio > 1 or self.label_smoothing_factor >= 1:
            raise InputError("warmup_ratio must be at most 1 and label_smoothing_factor below 1")
        if self.fp16:
            raise InputError("fp16 is not supported; bf16 has the range of float32 and needs no loss scaling")
        if self.push_to_hub:
            raise InputError("push_to_hub is not supported yet; upload output_dir with `hf upload`")
        if self.load_best_model_at_end:
            if self.eval_strategy == "no" or self.save_strategy != self.eval_strategy:
                raise InputError(
                    "load_best_model_at_end needs eval_strategy and save_strategy to be the same and not 'no', "
                    f"found {self.eval_strategy!r} and {self.save_strategy!r}"
                )
            if self.eval_strategy == "steps" and self.save_steps % self.steps_between_evals:
                raise InputError(
                    f"save_steps {self.save_steps} must be a multiple of eval_steps {self.steps_between_evals}"
                )

    @property
    def steps_between_evals(self) -> int:
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

    def replace(self, **changes: Any) -> Self:
        """A copy with fields changed."""
        return dataclasses.replace(self, **changes)


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise InputError(f"{name} must be one of {', '.join(known)}, found {value!r}")
