"""`jaxformers convert`, `estimate`, `summary` and `look`: what is done with a model and not with its task."""

import contextlib
import dataclasses
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import tyro

from jaxformers.checkpoints.files import locate, read_json
from jaxformers.cli.tasks import Texts, tell
from jaxformers.core.messages import LOG
from jaxformers.errors import InputError
from jaxformers.families import Model
from jaxformers.parallel.mesh import MeshConfig

Source = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]


@dataclasses.dataclass(frozen=True)
class Convert:
    """Writes a checkpoint of any format as safetensors in Hugging Face layout, which PyTorch transformers opens, or by Orbax."""

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    """A folder or hub id (safetensors, flax_model.msgpack, pytorch_model.bin), or a training checkpoint, out/checkpoints/300."""
    target: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="TARGET")]
    """The folder to write."""
    to: str = "safetensors"
    """Or orbax: config.json and params/, for JAX programs that read with Orbax alone."""
    head: str | None = None
    """The head, such as masked-lm; what config.json names by default."""
    dtype: str = "float32"
    """How the numbers are stored."""
    tokenizer: str | None = None
    """A folder or hub id; what stands beside the model by default."""
    revision: str | None = None
    """Branch, tag or commit of the hub id."""
    max_shard_size: str = "5GB"
    """Weights beyond that go into several files."""

    def __call__(self) -> None:
        from jaxformers.checkpoints import load, save
        from jaxformers.checkpoints.orbax_folder import is_orbax, load_orbax, save_orbax
        from jaxformers.families import head_of

        if self.to not in ("safetensors", "orbax"):
            raise InputError(f"--to must be safetensors (which PyTorch opens, too) or orbax, found {self.to!r}")
        target = Path(self.target)
        folder = Path(self.source) if is_orbax(self.source) else locate(self.source, revision=self.revision)
        if target.exists() and target.samefile(folder):
            raise InputError(f"source and target are the same folder, {target}: choose another target")
        if is_orbax(folder):
            model = load_orbax(folder, self.head, dtype=self.dtype)
        else:
            head = self.head or head_of(read_json(folder / "config.json"), str(folder))
            model = load(folder, head, dtype=self.dtype)
        tokenizer = self._tokenizer(folder)
        if self.to == "orbax":
            save_orbax(model, target, tokenizer)
        else:
            save(model, target, tokenizer, max_shard_size=self.max_shard_size)
        print(f"{model.family.architectures[model.head]}, {self.dtype}: {target}", file=sys.stderr)

    def _tokenizer(self, folder: Path) -> Any:
        """The one that was asked for, or the one beside the model; None, and a line, where there is none that we read."""
        from jaxformers.preprocess import load_tokenizer

        if self.tokenizer is not None:
            return load_tokenizer(self.tokenizer)
        try:
            return load_tokenizer(folder)
        except InputError as error:
            LOG.warning("no tokenizer is written: %s", error)
            return None


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Says what a training step needs, memory of each device and operations, without allocating or running anything."""

    model: Source
    """A folder, a config.json, a hub id, or a published name such as bert-base-uncased or llama-2-7b; no weights are needed."""
    head: str | None = None
    """The head, such as sequence-classification; what config.json names by default."""
    batch: int = 8
    """Rows on each data-parallel device in one micro-batch."""
    length: int = 128
    """Tokens of each."""
    target_length: int | None = None
    """Tokens of what an encoder-decoder writes; --length by default."""
    accumulation: int = 1
    """Micro-batches of a step."""
    optimizer: str = "adamw"
    """As --optim of a run."""
    bf16: bool = False
    """Compute in bfloat16, with float32 masters."""
    gradient_checkpointing: bool = False
    """Recompute layers in the backward pass."""
    mesh: MeshConfig = MeshConfig(data=1)  # noqa: RUF009 (frozen)
    """Devices along each axis; as many are pretended, where they are not there, on the CPU."""
    compile: bool = True
    """Ask XLA's compiler, too: seconds to minutes."""
    json: bool = False
    """One JSON line in place of a table."""

    def __call__(self) -> None:
        import jax

        from jaxformers.parallel import make_mesh
        from jaxformers.train import TrainingArguments
        from jaxformers.train.estimate import batch_of, estimate

        sizes = [getattr(self.mesh, axis) or 1 for axis in ("data", "fsdp", "sequence", "tensor")]
        wanted = math.prod(sizes)
        with contextlib.suppress(RuntimeError):  # a program that calls this has its devices already
            jax.config.update("jax_num_cpu_devices", max(wanted, 1))
        devices = jax.devices() if len(jax.devices()) >= wanted else jax.devices("cpu")
        mesh = make_mesh(self.mesh, devices[:wanted])
        model = without_weights(self.model, self.head)
        args = TrainingArguments(
            optim=self.optimizer,
            bf16=self.bf16,
            gradient_checkpointing=self.gradient_checkpointing,
            gradient_accumulation_steps=self.accumulation,
        )
        rows = self.batch * sizes[0] * sizes[1]
        batch = batch_of(model, rows * self.accumulation, self.length, self.target_length)
        found = estimate(model, args, batch, mesh=mesh, compiles=self.compile)
        if self.json:
            tell({**dataclasses.asdict(found), "total": found.total})
            return
        axes = " × ".join(f"{axis} {n}" for axis, n in mesh.shape.items() if n > 1) or "1 device"
        name = model.family.architectures[model.head]
        print(f"{name}, {found.parameters:,} parameters; {rows} × {self.length} tokens at a time on {axes}")
        print("of each device, GiB:")
        for part in ("weights", "gradients", "optimizer", "copies", "activations", "total"):
            note = {"copies": "the weights in bfloat16", "activations": "kept for the backward pass, before XLA fuses"}
            print(f"  {part:<12}{getattr(found, part) / 2**30:9.3f}  {note.get(part, '')}".rstrip())
        if found.compiled is not None:
            print(f"  {'compiled':<12}{found.compiled / 2**30:9.3f}  what XLA's compiler for {found.platform} says")
        print(f"operations: {found.flops / 1e12:.3f} TFLOP a step, by the model, over all devices")


@dataclasses.dataclass(frozen=True)
class Summary:
    """Lists a model's parameters: shapes, axes, counts."""

    model: Source
    """A folder, a config.json, a hub id, or a published name such as bert-base-uncased; no weights are needed."""
    head: str | None = None
    """The head; what config.json names by default."""

    def __call__(self) -> None:
        from jaxformers.families.summary import summary

        print(summary(without_weights(self.model, self.head)))


@dataclasses.dataclass(frozen=True)
class Look:
    """Shows what a model looks at: attention weights as a picture, hidden states as a file."""

    model: Source
    """A folder or hub id."""
    texts: Texts = ()
    """A text, or the two of a pair."""
    image: str | None = None
    """In place of a text an image file."""
    head: str | None = None
    """The model's head; what config.json names by default."""
    heat_map: str | None = None
    """The PNG to write: how much each token looks at each."""
    overlay: str | None = None
    """The PNG to write: the image, and over it in red where its first token looks."""
    layer: int = -1
    """Of which layer; the last by default."""
    attention_head: int | None = None
    """Of which of its heads; the mean over all by default."""
    states: str | None = None
    """The safetensors file to write, with all hidden_states and attentions."""

    def __call__(self) -> None:
        from jaxformers.checkpoints import load
        from jaxformers.families import head_of
        from jaxformers.pipelines.look import look
        from jaxformers.preprocess import load_image_processor, load_tokenizer

        if (self.image is None) == (not self.texts) or len(self.texts) > 2:
            raise InputError("give a text, the two texts of a pair, or --image")
        if not (self.heat_map or self.overlay or self.states):
            raise InputError("say what to write: --heat-map FILE.png, --overlay FILE.png, --states FILE.safetensors")
        folder = locate(self.model)
        model = load(folder, self.head or head_of(read_json(folder / "config.json"), str(folder)))
        if self.image is not None:
            seen = look(model, load_image_processor(folder), self.image)
        else:
            seen = look(model, load_tokenizer(folder), *self.texts)
        if self.heat_map:
            seen.heat_map(self.heat_map, self.layer, self.attention_head)
        if self.overlay:
            seen.overlay(self.overlay, self.layer, self.attention_head)
        if self.states:
            seen.save(self.states)


def without_weights(source: str, head: str | None) -> Model:
    """The outline of a model, by whose config.json its head is known where none is given."""
    from jaxformers.checkpoints.load import outline
    from jaxformers.checkpoints.published import described
    from jaxformers.families import head_of

    found = described(source)
    raw = found if isinstance(found, Mapping) else read_json(locate(found, weights=False) / "config.json")
    return outline(raw, head or head_of(raw, source))
