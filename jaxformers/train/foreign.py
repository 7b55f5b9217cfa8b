"""transformers' arguments that are called otherwise here, are settled here, or cannot be had: one sentence each.

`translate` is applied to the keywords of `TrainingArguments`, and so to flags and files too.
"""

import logging
from collections.abc import Callable, Mapping
from typing import Any

from jaxformers.errors import InputError

LOG = logging.getLogger("jaxformers")

# older or newer names of the same thing
RENAMED = {
    "evaluation_strategy": "eval_strategy",
    "per_gpu_train_batch_size": "per_device_train_batch_size",
    "per_gpu_eval_batch_size": "per_device_eval_batch_size",
    "activation_checkpointing": "gradient_checkpointing",
    "push_to_hub_model_id": "hub_model_id",
    "push_to_hub_token": "hub_token",
    "logging_first_steps": "logging_first_step",
}

_COMPILED = "every step is compiled by XLA"
_PROCESSES = "JAX finds its processes and devices by itself"
_FSDP = "parameters, gradients and optimizer state are cut over devices by --mesh.fsdp N (MeshConfig(fsdp=N))"
_KERNELS = "XLA fuses what those kernels fuse"
_LOADER = "batches are read ahead in threads of this process"
_CARD = "choose the device with JAX_PLATFORMS=cpu, cuda or tpu"

# accepted and without effect, for what they ask for is so anyway
SETTLED = {
    "torch_compile": _COMPILED,
    "torch_compile_backend": _COMPILED,
    "torch_compile_mode": _COMPILED,
    "torchdynamo": _COMPILED,
    "jit_mode_eval": _COMPILED,
    "use_ipex": _COMPILED,
    "use_liger_kernel": _KERNELS,
    "liger_kernel_config": _KERNELS,
    "gradient_checkpointing_kwargs": "each layer is recomputed, by jax.checkpoint",
    "activation_checkpointing_kwargs": "each layer is recomputed, by jax.checkpoint",
    "half_precision_backend": "bf16 and fp16 are casts inside the step",
    "fp16_backend": "bf16 and fp16 are casts inside the step",
    "fp16_opt_level": "bf16 and fp16 are casts inside the step, with float32 masters",
    "ddp_backend": _PROCESSES,
    "ddp_find_unused_parameters": _PROCESSES,
    "ddp_bucket_cap_mb": _PROCESSES,
    "ddp_broadcast_buffers": _PROCESSES,
    "ddp_static_graph": _PROCESSES,
    "ddp_timeout": _PROCESSES,
    "local_rank": _PROCESSES,
    "tpu_num_cores": _PROCESSES,
    "average_tokens_across_devices": "a loss is always divided by the count of all devices",
    "split_batches": "a batch is always the same, over however many processes it is split",
    "dataloader_pin_memory": _LOADER,
    "dataloader_persistent_workers": _LOADER,
    "dataloader_in_order": _LOADER,
    "dataloader_multiprocessing_context": _LOADER,
    "length_column_name": "lengths are counted",
    "torch_empty_cache_steps": "XLA plans a step's memory when it compiles",
    "eval_accumulation_steps": "predictions go to the host after each batch",
    "eval_use_gather_object": "predictions are gathered as arrays",
    "logging_nan_inf_filter": "a loss that is not finite ends the run and says so",
    "log_on_each_node": "one process logs",
    "log_level_replica": "one process logs",
    "save_on_each_node": "each process writes its shards of a checkpoint",
    "ignore_data_skip": "a resumed run goes on at its batch without reading those before",
    "restore_callback_states_from_checkpoint": "callbacks' states are always restored",
    "enable_jit_checkpoint": "SIGTERM always saves",
    "use_cache": "training never keeps keys and values",
    "project": "use the environment variable WANDB_PROJECT",
}

# would change what a run does, and does not exist here
REFUSED = {
    "fsdp": _FSDP,
    "fsdp_config": _FSDP,
    "fsdp_min_num_params": _FSDP,
    "fsdp_transformer_layer_cls_to_wrap": _FSDP,
    "deepspeed": _FSDP,
    "parallelism_config": "set the mesh with --mesh.data, --mesh.fsdp and --mesh.tensor (MeshConfig)",
    "accelerator_config": "set the mesh with --mesh.data, --mesh.fsdp and --mesh.tensor (MeshConfig)",
    "mp_parameters": "tensor parallelism is --mesh.tensor N (MeshConfig(tensor=N))",
    "sharded_ddp": _FSDP,
    "no_cuda": _CARD,
    "use_cpu": _CARD,
    "use_mps_device": _CARD,
    "tf32": "set JAX_DEFAULT_MATMUL_PRECISION=tensorfloat32 (or highest)",
    "debug": "set JAX_DEBUG_NANS=1 to stop where a number ceases to be finite",
    "past_index": "pass a cache to the model's function in a loss_fn of your own",
    "optim_target_modules": "pass optimizer= an Optax transformation to fit",
    "eval_do_concat_batches": "use batch_eval_metrics to see one batch at a time",
    "trackio_space_id": "pass a Callback of your own to fit",
    "trackio_bucket_id": "pass a Callback of your own to fit",
    "trackio_static_space_id": "pass a Callback of your own to fit",
}

# default values that ask for nothing, where these are not None, False or empty
_DEFAULTS = {"eval_do_concat_batches": True, "save_safetensors": True, "trackio_space_id": "trackio"}


def _sampling(value: Any) -> dict[str, Any]:
    if value not in ("random", "group_by_length"):
        raise InputError(
            f"train_sampling_strategy must be random or group_by_length, found {value!r}; for another order "
            "pass train=Batches(…) to fit"
        )
    return {"group_by_length": value == "group_by_length"}


def _safetensors(value: Any) -> dict[str, Any]:
    if not value:
        raise InputError("save_safetensors=False: models are saved as safetensors, which PyTorch loads too")
    return {}


# those whose value says how they are called here
MEANT: Mapping[str, Callable[[Any], dict[str, Any]]] = {
    "train_sampling_strategy": _sampling,
    "save_safetensors": _safetensors,
    "adafactor": lambda value: {"optim": "adafactor"} if value else {},
    "include_inputs_for_metrics": lambda value: {"include_for_metrics": ("inputs",)} if value else {},
}

FOREIGN = frozenset({*RENAMED, *SETTLED, *REFUSED, *MEANT})


def translate(given: Mapping[str, Any]) -> dict[str, Any]:
    """Keywords of transformers' TrainingArguments as keywords of ours.

    Raises:
      InputError: one of them asks for what does not exist here; the sentence says what does.

    >>> translate({"evaluation_strategy": "epoch", "torch_compile": False, "train_sampling_strategy": "random"})
    {'eval_strategy': 'epoch', 'group_by_length': False}
    """
    ours: dict[str, Any] = {}
    for name, value in given.items():
        asks = value not in (None, False, "", [], (), {}, _DEFAULTS.get(name))
        if name in RENAMED:
            if RENAMED[name] in given:
                raise InputError(f"{name} is the old name of {RENAMED[name]}: give one of them")
            ours[RENAMED[name]] = value
        elif name in MEANT:
            ours |= MEANT[name](value)
        elif name in REFUSED:
            if asks or (name in _DEFAULTS and value != _DEFAULTS[name]):
                raise InputError(f"{name} is PyTorch's: {REFUSED[name]}")
        elif name in SETTLED:
            if asks:
                LOG.warning("%s has no effect: %s", name, SETTLED[name])
        else:
            ours[name] = value
    return ours


# -- optimizers --------------------------------------------------------------------------------------------------------

_ADAMW = ("adamw_torch", "adamw_torch_fused", "adamw_hf", "adamw_torch_xla", "adamw_torch_npu_fused", "adamw_apex_fused",
          "adamw_anyprecision", "paged_adamw_32bit")  # fmt: skip
_QUANTISED = {"adamw_bnb_8bit": "adamw", "adamw_8bit": "adamw", "adamw_torch_8bit": "adamw", "adamw_torch_4bit": "adamw",
              "paged_adamw_8bit": "adamw", "lion_8bit": "lion", "paged_lion_8bit": "lion",
              "rmsprop_bnb_8bit": "rmsprop"}  # fmt: skip
_SAME = {**dict.fromkeys(_ADAMW, "adamw"), "lion_32bit": "lion", "paged_lion_32bit": "lion", "rmsprop_bnb": "rmsprop",
         "rmsprop_bnb_32bit": "rmsprop"}  # fmt: skip


def optimizer_name(name: str) -> str:
    """Our name of one of transformers' optimizers; those with quantised states are had with float32 ones, with a warning.

    >>> optimizer_name("adamw_torch_fused")
    'adamw'
    """
    if name in _QUANTISED:
        LOG.warning("optim %s: its state is kept in float32 here", name)
    return {**_SAME, **_QUANTISED}.get(name, name)
