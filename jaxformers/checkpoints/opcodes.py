"""Pickle instructions read as data: a table of the few that a file of weights needs, and a small machine for them.

Nothing here can import, look up an attribute or call what a file names: a GLOBAL only picks a value from the table the
caller hands over, and whatever is not in it is refused by name. Work and memory are bounded by the number of
instructions, which is bounded twice (by the bytes there are and by `_MOST_STEPS`); no instruction costs more than what
it takes off the stack, and nothing recurses, so neither deep nesting nor shared references can blow up.

Not here: what the names mean and where the storages lie (torch_bin.py). The instruction set is described in the
comments of CPython's Lib/pickletools.py and in PEP 307, 3154 and 574.
"""

import struct
from collections.abc import Callable, Mapping
from typing import Any

from jaxformers.errors import CheckpointError

_MOST_STEPS = 2_000_000  # a tensor takes about 50: room for 40,000 of them in one file
_LONGEST_INT = 16  # bytes; the longest a weight file needs is PyTorch's magic number with 10
_LONGEST_TEXT = 4096  # bytes; names of weights, no prose

# instruction: (what to do, how its argument is written)
OPCODES: dict[int, tuple[str, str]] = {
    0x80: ("skip", "u1"),  # PROTO
    0x95: ("skip", "u8"),  # FRAME
    ord("."): ("stop", ""),
    ord("("): ("mark", ""),
    ord("N"): ("none", ""),
    0x88: ("true", ""),
    0x89: ("false", ""),
    ord("K"): ("push", "u1"),
    ord("M"): ("push", "u2"),
    ord("J"): ("push", "i4"),
    ord("G"): ("push", "f8"),
    0x8A: ("push", "int1"),
    ord("X"): ("push", "text4"),
    0x8C: ("push", "text1"),
    ord("U"): ("push", "text1"),  # how Python 2 wrote its str
    ord("]"): ("list", ""),
    ord("}"): ("dict", ""),
    ord(")"): ("tuple", ""),
    0x85: ("tuple1", ""),
    0x86: ("tuple2", ""),
    0x87: ("tuple3", ""),
    ord("t"): ("tuple_from_mark", ""),
    ord("a"): ("append", ""),
    ord("e"): ("appends", ""),
    ord("s"): ("setitem", ""),
    ord("u"): ("setitems", ""),
    ord("q"): ("put", "u1"),
    ord("r"): ("put", "u4"),
    0x94: ("memoize", ""),
    ord("h"): ("get", "u1"),
    ord("j"): ("get", "u4"),
    ord("c"): ("global", "name"),
    0x93: ("stack_global", ""),
    ord("Q"): ("persistent", ""),
    ord("R"): ("reduce", ""),
    ord("b"): ("build", ""),
}

_NUMBERS = {kind: struct.Struct(code) for kind, code in {
    "u1": "<B", "u2": "<H", "i4": "<i", "u4": "<I", "u8": "<Q", "f8": ">d",
}.items()}  # fmt: skip


class _Machine:
    """The stack, the marks on it and the memo of one run; to take what is not there is an error that says so."""

    def __init__(self, data: memoryview, start: int, source: str) -> None:
        self.data, self.at, self.source = data, start, source
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def damaged(self, what: str) -> CheckpointError:
        return CheckpointError(f"{self.source} is damaged: its pickle {what} near byte {self.at}; nothing was executed")

    def take(self, count: int) -> memoryview:
        if count > len(self.data) - self.at:
            raise self.damaged("ends in the middle of an instruction")
        self.at += count
        return self.data[self.at - count : self.at]

    def argument(self, kind: str) -> Any:
        if kind in _NUMBERS:
            return _NUMBERS[kind].unpack(self.take(_NUMBERS[kind].size))[0]
        if kind == "name":
            return f"{self.line()}.{self.line()}"
        count = self.argument("u" + kind[-1])
        if kind == "int1":
            if count > _LONGEST_INT:
                raise self.damaged(f"holds an integer of {count} bytes")
            return int.from_bytes(self.take(count), "little", signed=True)
        if count > _LONGEST_TEXT:
            raise self.damaged(f"holds a name of {count} bytes")
        return self.text(self.take(count))

    def text(self, raw: memoryview) -> str:
        try:
            return str(raw, "utf-8")
        except UnicodeDecodeError:
            raise self.damaged("holds a text that is not UTF-8") from None

    def line(self) -> str:
        # Names are short: looking no further than this keeps a file of a million instructions without line ends linear.
        window = bytes(self.data[self.at : self.at + 256])
        end = window.find(b"\n")
        if end < 0:
            raise self.damaged("holds a name without an end")
        self.at += end + 1
        return self.text(memoryview(window[:end]))

    def pop(self) -> Any:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise self.damaged("takes from an empty stack")
        return self.stack.pop()

    def pop_many(self, count: int) -> list[Any]:
        return [self.pop() for _ in range(count)][::-1]

    def pop_to_mark(self) -> list[Any]:
        if not self.marks:
            raise self.damaged("looks for a mark that was not set")
        start = self.marks.pop()
        taken = self.stack[start:]
        del self.stack[start:]
        return taken

    def top(self, kind: type) -> Any:
        value = self.pop()
        if type(value) is not kind:
            raise self.damaged(f"adds to a {type(value).__name__} as if it were a {kind.__name__}")
        self.stack.append(value)
        return value

    def set_items(self, items: list[Any]) -> None:
        target = self.top(dict)
        if len(items) % 2:
            raise self.damaged("sets a key without a value")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) is not str:  # also keeps hashing away from nested tuples
                raise self.damaged(f"uses a {type(key).__name__} as a key, expected a name,")
            target[key] = value


def run(
    data: memoryview,
    start: int,
    source: str,
    *,
    names: Mapping[str, Any],
    reduce: Callable[[Any, Any], Any],
    persistent: Callable[[Any], Any],
) -> tuple[Any, int]:
    """Read one pickle.

    Args:
        data: the bytes that hold it.
        start: where it starts in them.
        source: the file's name, for messages.
        names: what a GLOBAL may pick, by `module.name`.
        reduce: gives the value of one of `names` applied to arguments (untrusted, of any type).
        persistent: gives the value of a persistent id (untrusted, of any type).

    Returns:
        What it holds, and the offset of the first byte after it.

    Raises:
        CheckpointError: it is damaged, or asks for anything a file of weights does not need.
    """
    m = _Machine(data, start, source)

    def pick(name: str) -> Any:
        if name not in names:
            plain = repr(name[:120])[1:-1]  # no control characters of the file's choosing on anybody's terminal
            raise CheckpointError(
                f"{source} asks for {plain}, which is not needed to hold weights; nothing was executed"
            )
        return names[name]

    for _ in range(_MOST_STEPS):
        code = m.take(1)[0]
        if code not in OPCODES:
            raise CheckpointError(
                f"{source} holds the pickle instruction 0x{code:02x} at byte {m.at - 1}, "
                "which is not needed to hold weights; nothing was executed"
            )
        action, kind = OPCODES[code]
        argument: Any = m.argument(kind) if kind else None
        match action:
            case "push":
                m.stack.append(argument)
            case "none":
                m.stack.append(None)
            case "true":
                m.stack.append(True)
            case "false":
                m.stack.append(False)
            case "list":
                m.stack.append([])
            case "dict":
                m.stack.append({})
            case "tuple":
                m.stack.append(())
            case "tuple1" | "tuple2" | "tuple3":
                m.stack.append(tuple(m.pop_many(int(action[-1]))))
            case "tuple_from_mark":
                m.stack.append(tuple(m.pop_to_mark()))
            case "mark":
                m.marks.append(len(m.stack))
            case "append":
                item = m.pop()
                m.top(list).append(item)
            case "appends":
                items = m.pop_to_mark()
                m.top(list).extend(items)
            case "setitem":
                m.set_items(m.pop_many(2))
            case "setitems":
                m.set_items(m.pop_to_mark())
            case "put":
                m.memo[argument] = m.pop()
                m.stack.append(m.memo[argument])
            case "memoize":
                m.memo[len(m.memo)] = m.pop()
                m.stack.append(m.memo[len(m.memo) - 1])
            case "get":
                if argument not in m.memo:
                    raise m.damaged(f"recalls entry {argument}, which was not stored,")
                m.stack.append(m.memo[argument])
            case "global":
                m.stack.append(pick(argument))
            case "stack_global":
                module, name = m.pop_many(2)
                if type(module) is not str or type(name) is not str:
                    raise m.damaged("names something by other than text")
                m.stack.append(pick(f"{module[:60]}.{name[:60]}"))
            case "persistent":
                m.stack.append(persistent(m.pop()))
            case "reduce":
                function, arguments = m.pop_many(2)
                m.stack.append(reduce(function, arguments))
            case (
                "build"
            ):  # the state of an OrderedDict is its _metadata, versions of modules, which weights do not need
                m.pop()
                m.top(dict)
            case "stop":
                value = m.pop()
                if m.stack:
                    raise m.damaged("leaves values behind")
                return value, m.at
    raise CheckpointError(f"{source} has more than {_MOST_STEPS} pickle instructions, far more than weights need")
