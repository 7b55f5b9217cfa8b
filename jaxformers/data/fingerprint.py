"""What a function does and what it is applied to, as a key: the same code over the same values has the same one.

Of a function count its compiled code, its defaults, what it closes over and the globals it names; of functions of other packages
the name and the package's version. So an edit anywhere in one's own code makes a new key, and a comment does not.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import re
import sys
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxformers.errors import InputError

_PLAIN = (type(None), bool, int, float, complex, str, bytes, Path, np.generic, np.dtype, re.Pattern, range, slice)


def fingerprint(*values: Any) -> str:
    """A key of 32 hexadecimal digits for these values, functions among them.

    An object may say itself what it is by a method `fingerprint() -> str`; else its class and its attributes count.

    Raises:
      InputError: a value, or one that a function closes over, is nothing that can be looked into.

    >>> def longer(than): return lambda row: len(row["text"]) > than
    >>> fingerprint(longer(3)) == fingerprint(longer(3)), fingerprint(longer(3)) == fingerprint(longer(4))
    (True, False)
    """
    digest = hashlib.blake2b(digest_size=16)
    for part in _parts(values, "", {}):
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()


def _parts(value: Any, root: str, seen: dict[int, Any]) -> Iterator[bytes]:
    """What a value is made of; `root` is the package whose functions are looked into, `seen` what was met on the way."""
    yield type(value).__name__.encode()
    if isinstance(value, _PLAIN):
        yield repr(value).encode("utf-8", "surrogatepass")
        return
    if isinstance(value, np.ndarray):
        yield f"{value.dtype.str}{value.shape}".encode()
        yield value.tobytes() if value.dtype != object else repr(value.tolist()).encode()
        return
    if isinstance(value, types.BuiltinFunctionType | types.ModuleType | logging.Logger | np.ufunc):
        yield f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', value.__name__)}".encode()  # type: ignore[union-attr]
        return
    if id(value) in seen:
        yield b"again"
        return
    seen[id(value)] = value  # held, so that its number stays its own
    if isinstance(value, list | tuple):
        for item in value:
            yield from _parts(item, root, seen)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _parts(key, root, seen)
            yield from _parts(item, root, seen)
    elif isinstance(value, set | frozenset):
        yield from sorted(repr(item).encode() for item in value)
    elif isinstance(value, functools.partial):
        yield from _parts((value.func, value.args, dict(sorted(value.keywords.items()))), root, seen)
    elif isinstance(value, types.MethodType):
        yield from _parts((value.__func__, value.__self__), root, seen)
    elif isinstance(value, types.FunctionType):
        yield from _function(value, root or value.__module__.partition(".")[0], seen)
    elif isinstance(value, types.CodeType):
        yield value.co_code
        yield from _parts((value.co_names, value.co_varnames, value.co_consts), root, seen)
    elif isinstance(value, type):
        yield f"{value.__module__}.{value.__qualname__}".encode()
        if root and value.__module__.partition(".")[0] == root:
            members = {key: item for key, item in vars(value).items() if isinstance(item, types.FunctionType)}
            yield from _parts(members, root, seen)
    elif callable(getattr(value, "fingerprint", None)):
        yield value.fingerprint().encode()
    elif callable(getattr(value, "to_str", None)):  # of the library `tokenizers`
        yield value.to_str().encode()
    elif hasattr(value, "__dict__"):
        yield from _parts(type(value), root, seen)
        yield from _parts(vars(value), root, seen)
    else:
        raise InputError(
            f"what a {type(value).__module__}.{type(value).__qualname__} holds cannot be told, so what is made with it has no "
            "key in the cache: give map(key=…), a text that names this version of the function, or on_disk=False"
        )


def _function(function: types.FunctionType, root: str, seen: dict[int, Any]) -> Iterator[bytes]:
    package = function.__module__.partition(".")[0]
    if package != root:
        yield f"{function.__module__}.{function.__qualname__}".encode()
        yield str(getattr(sys.modules.get(package), "__version__", "")).encode()
        return
    for cell in function.__closure__ or ():
        yield from _parts(cell.cell_contents, root, seen)
    yield from _parts((function.__code__, function.__defaults__, function.__kwdefaults__), root, seen)
    for name in sorted(_names(function.__code__)):
        if name in function.__globals__:
            yield name.encode()
            yield from _parts(function.__globals__[name], root, seen)


def _names(code: types.CodeType) -> set[str]:
    """The globals (and attributes) that a code names, and the functions inside it."""
    inner = (constant for constant in code.co_consts if isinstance(constant, types.CodeType))
    return set(code.co_names).union(*map(_names, inner))


def plain(value: Any) -> str:
    """A JSON text for plain settings, the same in every process."""
    return json.dumps(value, sort_keys=True, default=str)
