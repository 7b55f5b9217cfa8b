"""The mesh, and the rules from logical axes to it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from jaxformers.errors import InputError
from jaxformers.parallel import MeshConfig, activate, make_mesh, shard, sharding_for, specification
from jaxformers.parallel.mesh import (
    ACTIVATION_RULES,
    MESH_AXES,
    PARAMETER_RULES,
    active_mesh,
    arrange,
    slices_of,
)


@pytest.mark.parametrize(
    ("config", "sizes"),
    [
        (MeshConfig(), (8, 1, 1, 1)),
        (MeshConfig(fsdp=8), (1, 8, 1, 1)),
        (MeshConfig(fsdp=2), (4, 2, 1, 1)),
        (MeshConfig(data=2, fsdp=2, tensor=2), (2, 2, 1, 2)),
        (MeshConfig(tensor=4), (2, 1, 1, 4)),
        (MeshConfig(sequence=4, tensor=2), (1, 1, 4, 2)),
        (MeshConfig(fsdp=2, slices=2), (4, 2, 1, 1)),
    ],
)
def test_what_is_not_said_is_data_parallel(config, sizes):
    mesh = make_mesh(config)
    assert dict(mesh.shape) == dict(zip(MESH_AXES, sizes, strict=True))
    assert set(mesh.axis_types) == {AxisType.Auto}
    assert mesh.devices.ravel().tolist() == jax.devices()


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (MeshConfig(data=3), "data=3 × fsdp=1 × sequence=1 × tensor=1 needs 3 devices, found 8 \\(cpu\\)"),
        (MeshConfig(fsdp=3), "data=2 × fsdp=3 × sequence=1 × tensor=1 needs 6 devices, found 8"),
        (MeshConfig(fsdp=16), "data=1 × fsdp=16 × sequence=1 × tensor=1 needs 16 devices, found 8"),
        (
            MeshConfig(fsdp=8, slices=2),
            "fsdp=8 .* does not fit 2 slices of 4 devices: only data goes over several slices",
        ),
        (MeshConfig(slices=3), "8 devices do not divide into 3 slices"),
        (MeshConfig(slices=0), "mesh.slices must be at least 1, found 0"),
        (MeshConfig(tensor=0), "mesh.tensor must be at least 1, found 0"),
        (MeshConfig(data=-1), "mesh.data must be at least 1, found -1"),
    ],
)
def test_a_mesh_that_does_not_fit_the_devices(config, words):
    with pytest.raises(InputError, match=words):
        make_mesh(config)


@dataclasses.dataclass(frozen=True)
class Pretended:
    """As much of a device as a mesh asks for."""

    id: int
    slice_index: int
    platform: str = "pretended"
    device_kind: str = "pretended"
    process_index: int = 0


def test_only_data_crosses_slices():
    """Four slices of four devices, which come in a mixed order: each other axis stays inside of one."""
    devices = [Pretended(n, n % 4) for n in range(16)]
    for config in (MeshConfig(fsdp=2, sequence=2, slices=4), MeshConfig(data=8, tensor=2, slices=4)):
        found = np.vectorize(lambda device: device.slice_index)(arrange(config, devices))
        whole = found.reshape(4, 4)
        assert (whole == whole[:, :1]).all(), "a slice is a block of rows"
        assert whole[:, 0].tolist() == [0, 1, 2, 3]
        for axis in (1, 2, 3):
            assert (found.max(axis) == found.min(axis)).all(), "this axis stays inside a slice"
    with pytest.raises(InputError, match="fsdp=8 × sequence=1 × tensor=1 does not fit 4 slices of 4 devices"):
        arrange(MeshConfig(fsdp=8, slices=4), devices)
    assert arrange(MeshConfig(fsdp=8, slices=1), devices).ravel().tolist() == devices


def test_slices_are_found_where_the_devices_say_so():
    tpus = [dataclasses.replace(Pretended(n, n // 4), platform="tpu") for n in range(8)]
    assert [[device.id for device in each] for each in slices_of(tpus)] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert len(slices_of([dataclasses.replace(device, platform="gpu") for device in tpus])) == 1
    with pytest.raises(InputError, match=r"mesh\.slices=4, but the devices stand in 2 slices"):
        slices_of(tpus, 4)
    with pytest.raises(InputError, match="slices of unequal sizes: 4, 3 devices"):
        slices_of(tpus[:7])


def test_some_of_the_devices():
    assert make_mesh(MeshConfig(fsdp=2), jax.devices()[4:6]).devices.ravel().tolist() == jax.devices()[4:6]


MESH = {"data": MeshConfig(), "fsdp": MeshConfig(fsdp=8), "all": MeshConfig(fsdp=2, tensor=2)}


@pytest.mark.parametrize(
    ("mesh", "axes", "shape", "expected"),
    [
        ("fsdp", ("embed", "mlp"), (16, 24), PartitionSpec("fsdp")),
        ("all", ("embed", "mlp"), (16, 24), PartitionSpec("fsdp", "tensor")),
        ("data", ("embed", "mlp"), (16, 24), PartitionSpec()),
        ("all", ("vocab", "table"), (7, 16), PartitionSpec(None, ("fsdp", "tensor"))),
        ("fsdp", ("vocab", "table"), (7, 16), PartitionSpec(None, "fsdp")),
        ("all", ("layers", "embed", "heads", "head_size"), (3, 16, 4, 5), PartitionSpec(None, "fsdp", "tensor")),
        ("all", (None, "embed"), (3, 16), PartitionSpec(None, "fsdp")),
        ("all", (), (), PartitionSpec()),
    ],
)
def test_the_place_of_a_parameter(mesh, axes, shape, expected):
    mesh = make_mesh(MESH[mesh])
    assert specification(axes, shape, mesh, PARAMETER_RULES) == expected
    assert sharding_for(axes, shape, mesh).spec == expected


@pytest.mark.parametrize(
    ("axes", "shape", "words"),
    [
        (("embd",), (16,), "w: unknown logical axis 'embd', known are .*did you mean 'embed'"),
        (("embed", "embed"), (16, 16), "w: axes 'embed' and 'embed' both fall on mesh axis 'fsdp'"),
        (("heads", "mlp"), (4, 4), "w: axes 'heads' and 'mlp' both fall on mesh axis 'tensor'"),
        (("embed",), (15,), "w: axis 'embed' of size 15 does not divide into 2 pieces \\(mesh axis fsdp\\)"),
        (("table",), (6,), "w: axis 'table' of size 6 does not divide into 4 pieces \\(mesh axis fsdp × tensor\\)"),
    ],
)
def test_what_cannot_be_laid_out_is_named(axes, shape, words):
    with pytest.raises(InputError, match=words):
        sharding_for(axes, shape, make_mesh(MESH["all"]), "w")


def test_axes_and_shape_must_agree():
    with pytest.raises(ValueError, match="is longer than"):
        sharding_for(("embed",), (16, 16), make_mesh())


def test_every_rule_names_axes_of_the_mesh():
    for rules in (PARAMETER_RULES, ACTIVATION_RULES):
        for rule in rules.values():
            assert rule is None or {rule} <= {*MESH_AXES} or {*rule} <= {*MESH_AXES}


def test_shard_without_a_mesh_and_on_one_device_does_nothing():
    x = jnp.ones((8, 3))
    assert shard(x, "batch", "no such axis") is x
    with activate(make_mesh(devices=jax.devices()[:1])):
        assert shard(x, "batch", "length") is x
    with activate(None):
        assert shard(x, "batch", "length") is x


def test_shard_lays_an_activation_onto_the_mesh():
    mesh = make_mesh(MESH["all"])

    @jax.jit
    def run(x):
        with activate(mesh):
            return shard(x, "batch", "length", "mlp")

    out = run(jnp.ones((8, 3, 4)))
    assert out.sharding.spec == PartitionSpec(("data", "fsdp"), None, "tensor")
    assert {piece.data.shape for piece in out.addressable_shards} == {(2, 3, 2)}


def test_shard_names_what_does_not_fit():
    with activate(make_mesh()), pytest.raises(InputError, match="activation: axis 'batch' of size 9 does not divide"):
        shard(jnp.ones((9, 3)), "batch", "length")


def test_the_mesh_is_let_go_whatever_happens():
    outer, inner = make_mesh(), make_mesh(MeshConfig(fsdp=8))

    def broken():
        with activate(inner):
            assert active_mesh() is inner
            raise KeyError

    with activate(outer):
        with pytest.raises(KeyError):
            broken()
        assert active_mesh() is outer
    assert active_mesh() is None
