"""The mesh that is chosen where nobody says: pretended models and devices."""

import jax
import pytest

from jaxformers.families import family_for
from jaxformers.parallel import MeshConfig
from jaxformers.parallel.plan import plan
from jaxformers.train.placement import suited_mesh

GB = 10**9


@pytest.mark.parametrize(
    ("billions", "devices", "memory", "slices", "fsdp", "words"),
    [
        (0.1, 1, None, 1, 1, "there is one device"),
        (70, 8, None, 1, 1, "memory is not known"),
        (
            0.1,
            8,
            16 * GB,
            1,
            1,
            "data parallel, for 0.1 B parameters need 1.6 GB in training, and a device has 16.0 GB",
        ),
        (1, 8, 16 * GB, 1, 2, "16.0 GB in training, 8.0 GB on each of 2 devices"),
        (7, 16, 16 * GB, 1, 16, "7.0 GB on each of 16 devices"),
        (7, 32, 16 * GB, 2, 16, "7.0 GB on each of 16 devices"),
        (7, 16, 16 * GB, 2, 8, "14.0 GB on each of 8 devices of 16.0 GB, which may be too much"),
        (7, 8, 80 * GB, 1, 4, "28.0 GB on each of 4 devices"),
        (7, 7, 16 * GB, 1, 1, "nothing divides 7 devices and widths of 1536, 4096"),
        (70, 24, 95 * GB, 1, 24, "46.7 GB on each of 24 devices"),
    ],
)
def test_the_mesh_of_a_model(billions, devices, memory, slices, fsdp, words):
    widths = (4096, 1536) if devices != 24 else (1536, 3072)
    parameters = round(billions * GB)
    found, why = plan(MeshConfig(), parameters=parameters, widths=widths, devices=devices, memory=memory, slices=slices)
    assert found == MeshConfig(fsdp=fsdp)
    assert words in why


@pytest.mark.parametrize("asked", [MeshConfig(data=8), MeshConfig(tensor=2), MeshConfig(fsdp=4, slices=2)])
def test_what_was_asked_for_holds(asked):
    assert plan(asked, parameters=10**12, widths=[8], devices=8, memory=GB) == (asked, "as asked")


def test_a_model_finds_its_mesh_and_says_why(capsys):
    """A BERT of a gigabyte in training, on eight devices that are told to have 500 MB each, and on this machine's."""
    family = family_for("bert")
    tree = family.declare(family.config_class(num_hidden_layers=4), None)
    mesh = suited_mesh(tree, MeshConfig(), memory=500 * 10**6)
    assert dict(mesh.shape) == {"data": 2, "fsdp": 4, "sequence": 1, "tensor": 1}
    assert capsys.readouterr().out == (
        "mesh: data 2 × fsdp 4: 0.1 B parameters need 0.8 GB in training, 0.2 GB on each of 4 devices of 0.5 GB\n"
    )
    assert suited_mesh(tree, MeshConfig()).shape["data"] == jax.device_count()
