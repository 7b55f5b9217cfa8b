"""The first look at a pod, on the CPU's devices."""

import jax
import numpy as np
import pytest

from tpu import check
from tpu.chips import CHIPS, Chip

TINY = ["--size", "32", "--megabytes", "1"]


def test_all_is_well(tmp_path, capsys):
    assert check.main([*TINY, "--storage", str(tmp_path / "new" / "folder")]) == 0
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 4
    assert all(line.startswith("[host 0] ok: ") for line in said)
    assert said[0].endswith("8 of 8 devices (cpu), host 0 of 1")
    assert "over 8 devices" in said[1]
    assert not [*(tmp_path / "new" / "folder").iterdir()], "nothing is left in the storage"


def test_a_storage_that_cannot_be_written_is_named_and_the_rest_is_checked(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert check.main([*TINY, "--storage", str(tmp_path / "file" / "folder")]) == 1
    said = capsys.readouterr().out
    assert "FAILED: storage: " in said
    assert said.count("ok: ") == 3


def test_a_wrong_sum_and_a_slow_chip_are_found(monkeypatch):
    monkeypatch.setitem(CHIPS, "cpu", Chip("cpu", 1, 1e18, 1, 1))
    with pytest.raises(ArithmeticError, match="multiplies at"):
        check.matrix_products(32)
    real = jax.make_array_from_callback
    monkeypatch.setattr(
        jax, "make_array_from_callback", lambda *a: real(a[0], a[1], lambda at: a[2](at) + np.float32(1))
    )
    with pytest.raises(ArithmeticError, match="the sum over 8 devices is 44, expected 36"):
        check.all_reduce(16)
