"""No file of the project can import, by any way we know, a module that executes what a weight file says."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# A benchmark's peer is PyTorch itself, started in a process of its own.
FILES = sorted(
    path
    for folder in ("jaxformers", "experiments")
    for path in (ROOT / folder).rglob("*.py")
    if not path.name.endswith("_peer.py")
)
BANNED = {
    "pickle", "cPickle", "_pickle", "pickletools", "torch", "joblib", "dill", "cloudpickle", "shelve", "marshal"
}  # fmt: skip
IMPORTERS = {"import_module", "__import__", "find_spec", "find_loader", "load_module", "resolve_name"}


def offences(source):
    """Line numbers and words of every import of a banned module, and of every allow_pickle that is not False."""
    found = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                named = [alias.name for alias in names]
            case ast.ImportFrom(module=str(module), level=0):
                named = [module]
            case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name), args=[ast.Constant(value=str(text)), *_]):
                named = [text] if name in IMPORTERS else []
            case ast.Subscript(value=ast.Attribute(attr="modules"), slice=ast.Constant(value=str(text))):
                named = [text]
            case _:
                named = []
        found += [(node.lineno, name) for name in named if name.split(".")[0] in BANNED]
        if isinstance(node, ast.Call):
            found += [
                (node.lineno, "allow_pickle")
                for keyword in node.keywords
                if keyword.arg == "allow_pickle"
                and not (isinstance(keyword.value, ast.Constant) and keyword.value.value is False)
            ]
    return found


def test_there_is_something_to_check():
    assert {path.name for path in FILES} >= {"torch_bin.py", "opcodes.py"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_here_can_execute_a_pickle(path):
    assert offences(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "import os, pickle as p",
        "import torch.serialization",
        "from joblib import load",
        "from torch.nn import Linear",
        "def f():\n    import _pickle",
        "importlib.import_module('torch.nn')",
        "import_module('dill')",
        "__import__('marshal')",
        "sys.modules['pickle']",
        "np.load(f, allow_pickle=True)",
        "np.load(f, allow_pickle=flag)",
        "np.load(f, allow_pickle=not False)",
    ],
)
def test_each_way_is_seen(source):
    assert len(offences(source)) == 1


@pytest.mark.parametrize(
    "source", ["import numpy", "from . import torch_bin", "from .torch import x", "np.load(f, allow_pickle=False)"]
)
def test_what_is_innocent_passes(source):
    assert offences(source) == []
