"""What the tests of experiments share."""

import jax
import pytest


@pytest.fixture
def one_device(monkeypatch):
    """Eight take twice the time to compile for: enough experiments run on them."""
    first = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda *_: first)
