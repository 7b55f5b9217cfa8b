"""`jaxformers env`: what runs here."""

import dataclasses
import os
import platform
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

LIBRARIES = ("jaxformers", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "tokenizers", "safetensors",
             "huggingface_hub", "numpy", "grain", "tensorflow-datasets")  # fmt: skip
OPTIONAL = ("datasets", "matplotlib", "wandb", "gcsfs", "pandas", "pyarrow", "libtpu", "torch", "transformers")
VARIABLES = re.compile(
    r"(JAX|XLA|JAXFORMERS|LIBTPU|TPU)_.*|HF_(HOME|HUB_CACHE|HUB_OFFLINE|ENDPOINT)|CUDA_VISIBLE_DEVICES"
)


@dataclasses.dataclass(frozen=True)
class Env:
    """Says what runs here: versions, devices, where things are kept. Good to have in a report of a bug."""

    def __call__(self) -> None:
        print("\n".join(f"{name}: {value}" for name, value in environment().items()))


def environment() -> dict[str, str]:
    """What runs here; nothing in it is secret."""
    import jax
    from huggingface_hub import constants, get_token

    from jaxformers.core.compilation import cache_folder

    said = {"Python": platform.python_version(), "platform": platform.platform(), "processors": str(os.cpu_count())}
    for name in (*LIBRARIES, *OPTIONAL):
        try:
            said[name] = version(name)
        except PackageNotFoundError:
            said |= {} if name in OPTIONAL else {name: "not installed"}
    try:
        kinds = [device.device_kind for device in jax.devices()]
        held = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")
        each = f", {held / 2**30:.1f} GiB each" if held else ""
        devices = ", ".join(f"{kinds.count(kind)} × {kind}" for kind in dict.fromkeys(kinds))
        said["devices"] = f"{jax.default_backend()}: {devices}{each}"
    except RuntimeError as error:  # what is asked for by JAX_PLATFORMS is not there
        said["devices"] = str(error).splitlines()[0]
    compiled = jax.config.values["jax_compilation_cache_dir"] or cache_folder() / "xla"
    said |= {
        "compiled programs": str(compiled),
        "models of the hub": str(constants.HF_HUB_CACHE),
        "datasets (tfds)": os.environ.get("TFDS_DATA_DIR", str(Path.home() / "tensorflow_datasets")),
        "token of the hub": "there is one" if get_token() else "none",
    }
    return said | {name: value for name, value in sorted(os.environ.items()) if VARIABLES.fullmatch(name)}
