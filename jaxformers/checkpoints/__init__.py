"""Hugging Face checkpoints in and out: finding files, reading formats, the two-way mapping, loading and saving.

`files` finds them (a folder or a hub id), `readers` (with `torch_bin` and `flax_msgpack`) reads tensors and executes
nothing, `mapping` turns one side's array into the other's, `load` and `save` join these with a family's declarations.
`lora` adapts a model, `peft` reads and writes its adapter.
"""

from jaxformers.checkpoints.load import load
from jaxformers.checkpoints.lora import lora, merge, unload
from jaxformers.checkpoints.save import save

__all__ = ["load", "lora", "merge", "save", "unload"]
