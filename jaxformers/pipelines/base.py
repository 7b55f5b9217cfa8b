"""What every pipeline is: three functions and their composition, and how a call batches input of any size.

`Pipeline` is the record of the three; `Preprocess` is a first stage in parts, so that rows can be sorted and bucketed before
they are padded; `Forward` is a second stage of compiled programs. What a task does in its stages is in one file a modality.
"""

import dataclasses
import difflib
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import chain, islice
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxformers.core.compilation import Compiled
from jaxformers.core.params import Tree
from jaxformers.data.table import as_table, is_frame
from jaxformers.errors import InputError
from jaxformers.families import Model
from jaxformers.parallel.mesh import activate

HOST = "host"  # the key under which a batch carries what only the host reads: past forward, to postprocess
BATCH_SIZE = 32
LIST_WINDOW = 64  # batches of a list that are sorted by length together
STREAM_WINDOW = 8  # batches that are at most read ahead of a stream's consumer

Row = dict[str, Any]  # one row of a batch before padding: key -> list of numbers
Batch = dict[str, Any]  # key -> array [B, ...], and HOST -> dict


def as_given(inputs: Any, **options: Any) -> tuple[Any, dict[str, Any]]:
    """What a call stands for where a task has no forms of its own: its one argument is the input, the rest are options."""
    return inputs, options


@dataclasses.dataclass(frozen=True)
class Preprocess:
    """A first stage in parts: raw input to items, items to rows, rows to one padded batch.

    Args:
      read: (one raw input, what to call it in an error) -> item; raises `InputError` for what is no input.
      encode: (items, **options) -> (rows, host), where an item may become several rows; the length of a row is that of
        its first value, and `host` is what postprocess needs to know.
      collate: rows -> arrays [B, ...], padded to one of few lengths.
      multiple: batches have a multiple of so many rows, one share for each data-parallel device.
      arrange: (arguments of a call) -> (inputs, options), for a task whose inputs have several forms.
      most_rows: length of a batch's longest row -> the most rows it has, where `batch_size` would allow more.
      window: batches of a list that are sorted by length together, and whose results wait in memory for postprocess.
    """

    read: Callable[[Any, str], Any]
    encode: Callable[..., tuple[list[Row], dict[str, Any]]]
    collate: Callable[[list[Row]], Batch]
    multiple: int = 1
    arrange: Callable[..., tuple[Any, dict[str, Any]]] = as_given
    most_rows: Callable[[int], int] | None = None
    window: int = LIST_WINDOW

    def __call__(self, *arguments: Any, **named: Any) -> Batch:
        """One padded batch of all of the inputs, given as in a call of the pipeline."""
        inputs, options = self.arrange(*arguments, **named)
        given = how_given(inputs)
        items = self.items(inputs) if given == "many" else [self.read(inputs, "the input")]
        rows, host = self.encode(list(items), **options)
        return {**self.batch(rows, BATCH_SIZE), HOST: {**host, "given": given, "rows": len(rows)}}

    def items(self, inputs: Any) -> Iterator[Any]:
        """Reads many raw inputs, one by one."""
        return (self.read(item, f"input {index}") for index, item in enumerate(each(inputs)))

    def batch(self, rows: list[Row], batch_size: int) -> Batch:
        """The arrays of these rows; the last row is repeated until there are as many as a program is compiled for."""
        size = rows_for(len(rows), batch_size)
        size = -(-size // self.multiple) * self.multiple
        return self.collate(rows + rows[-1:] * (size - len(rows)))


class Forward:
    """A second stage: `compute(params, arrays) -> arrays`, compiled once for each shape of batch.

    Args:
      model: whose parameters are closed over.
      compute: pure; takes and returns dicts of arrays [B, ...].
      mesh: what the parameters are sharded over, and batches will be; None means one device.

    `compiled` counts its programs.
    """

    def __init__(self, model: Model, compute: Callable[[Tree, Batch], Batch], mesh: Mesh | None = None) -> None:
        options: dict[str, Any] = {}
        self.params = model.params
        if mesh is not None:
            places = jax.tree.map(lambda leaf: leaf.sharding, self.params)
            options["in_shardings"] = (places, NamedSharding(mesh, PartitionSpec(("data", "fsdp"))))
            options["out_shardings"] = NamedSharding(mesh, PartitionSpec())

        def forward(params: Tree, batch: Batch) -> Batch:
            with activate(mesh):
                return compute(params, batch)

        self.compiled = Compiled(forward, **options)

    def __call__(self, batch: Batch) -> Batch:
        """Computes; what the batch holds under `HOST` is passed on."""
        outputs = self.compiled(self.params, _arrays(batch))
        return {**outputs, HOST: batch[HOST]} if HOST in batch else outputs

    def prepare(self, batches: Iterable[Batch]) -> None:
        """Compiles what these batches need, several programs at a time."""
        self.compiled.prepare(self.params, map(_arrays, batches))


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """Three pure stages. A call is their composition, and adds batching and order.

    An option of a stage (a parameter with a default) can be given with a call, `clf(x, top_k=None)`, or for good by
    `with_options`. `dataclasses.replace` swaps a stage.

    Args:
      preprocess: what the user has -> one padded batch, a dict of numpy arrays.
      forward: batch -> dict of arrays.
      postprocess: forward's result -> plain Python values, one for each input of a list.
      batch_size: rows that are computed at a time.
    """

    preprocess: Callable[..., Any]
    forward: Callable[..., Any]
    postprocess: Callable[..., Any]
    batch_size: int = BATCH_SIZE

    def __call__(self, *inputs: Any, batch_size: int | None = None, **options: Any) -> Any:
        """Runs the three stages over one input or many.

        Args:
          *inputs: one argument: one input; a list (or tuple) of them; or a stream: an iterator, a `Table`, anything with
            rows. Some tasks know other forms, such as `qa(question=..., context=...)`.
          batch_size: in place of the pipeline's own.
          **options: options of the stages, for this call.

        Returns:
          One result; a list of results in the order of the inputs; or, for a stream, an iterator over results that reads
          a window of inputs ahead.

        Raises:
          InputError: something in `inputs` is no input, or no stage has such an option.
        """
        arrange = self.preprocess.arrange if isinstance(self.preprocess, Preprocess) else as_given
        arranged, options = arrange(*inputs, **options)
        pipe = self.with_options(**options) if options else self
        if batch_size is not None:
            pipe = dataclasses.replace(pipe, batch_size=batch_size)
        if not isinstance(pipe.batch_size, int) or pipe.batch_size < 1:
            raise InputError(f"batch_size must be a positive int, found {pipe.batch_size!r}")
        given = how_given(arranged)
        if given != "many":
            return pipe._one(arranged, given)
        results = pipe._many(arranged)
        return list(results) if isinstance(arranged, list | tuple) else results

    def with_options(self, **options: Any) -> "Pipeline":
        """This pipeline with other values for options of its stages.

        >>> pipe = compose(str.split, len, lambda n, scale=1: n * scale)
        >>> pipe.with_options(scale=10)("three words here")
        30
        """
        stages = {name: getattr(self, name) for name in ("preprocess", "forward", "postprocess")}
        known = {name: options_of(stage) for name, stage in stages.items()}
        for option in options:
            if not any(option in names for names in known.values()):
                names = sorted(chain(*known.values()))
                close = difflib.get_close_matches(option, names, 1)
                hint = f" (did you mean {close[0]!r}?)" if close else ""
                raise InputError(
                    f"this pipeline has no option {option!r}{hint}; it has {', '.join(names) or 'none'}, batch_size"
                )
        bound: dict[str, Any] = {
            name: _bind(stage, {option: value for option, value in options.items() if option in known[name]})
            for name, stage in stages.items()
        }
        return dataclasses.replace(self, **bound)

    def _one(self, inputs: Any, given: str) -> Any:
        if isinstance(self.preprocess, Preprocess):
            return self._items([self.preprocess.read(inputs, "the input")], given)
        return self.postprocess(self.forward(self.preprocess(inputs)))

    def _many(self, inputs: Any) -> Iterator[Any]:
        """Results in order, a window of inputs at a time."""
        from tqdm import tqdm

        whole = isinstance(inputs, list | tuple)
        work = self._part
        items = each(inputs)
        most = LIST_WINDOW
        if isinstance(self.preprocess, Preprocess):
            most = self.preprocess.window
            work = partial(self._items, given="many")
            items = self.preprocess.items(inputs)
            if whole:
                items = iter(list(items))  # everything is looked at before anything is computed
        # Only for work that takes more than two seconds, and only where somebody watches.
        watched = whole and sys.stderr.isatty()
        with tqdm(total=len(inputs) if whole else None, delay=2, disable=not watched, unit=" inputs") as bar:
            for window in _windows(items, self.batch_size, whole, most):
                yield from work(window, tell=bar.update)

    def _part(self, inputs: list[Any], tell: Callable[[float], Any]) -> list[Any]:
        """The results of a window of inputs where `preprocess` is one function: a batch at a time, in order."""
        results: list[Any] = []
        for start in range(0, len(inputs), self.batch_size):
            part = inputs[start : start + self.batch_size]
            made = self.postprocess(self.forward(self.preprocess(part)))
            if not isinstance(made, list | tuple) or len(made) != len(part):
                found = f"{len(made)} results" if isinstance(made, list | tuple) else f"a {type(made).__name__}"
                raise InputError(
                    f"postprocess must return a list with a result for each of {len(part)} inputs, found {found}"
                )
            results.extend(made)
            tell(len(part))
        return results

    def _items(self, items: list[Any], given: str, tell: Callable[[float], Any] = lambda done: None) -> Any:
        """The results of a window of items: their rows are sorted by length, computed, and put back in order."""
        assert isinstance(self.preprocess, Preprocess)
        rows, host = self.preprocess.encode(items)
        outputs = self._rows(rows, lambda done: tell(done * len(items) / len(rows)))
        return self.postprocess({**outputs, HOST: {**host, "given": given, "rows": len(rows)}})

    def _rows(self, rows: list[Row], tell: Callable[[float], Any]) -> dict[str, list[np.ndarray]]:
        """What forward gives for these rows, computed in batches of similar length and put back in order."""
        assert isinstance(self.preprocess, Preprocess)
        order = sorted(
            range(len(rows)), key=lambda index: -_length(rows[index])
        )  # longest first: too large fails early
        parts: list[list[int]] = []
        batches: list[Batch] = []
        start = 0
        while start < len(order):
            size = self.batch_size
            if self.preprocess.most_rows is not None:
                size = min(size, self.preprocess.most_rows(_length(rows[order[start]])))
            parts.append(order[start : start + size])
            batches.append(self.preprocess.batch([rows[index] for index in parts[-1]], size))
            start += size
        if isinstance(self.forward, Forward):
            self.forward.prepare(batches)
        outputs: dict[str, list[Any]] = {}
        waiting = None
        for part, batch in chain(zip(parts, batches, strict=True), [([], None)]):
            sent = None if batch is None else self.forward(batch)
            if waiting is not None:  # read a result once the next batch is on its way: the device never waits
                indices, result = waiting
                for key, array in jax.device_get(result).items():
                    column = outputs.setdefault(key, [None] * len(rows))
                    for index, row in zip(indices, array, strict=False):  # rows that only fill the batch come last
                        column[index] = row
                tell(len(indices))
            waiting = part, sent
        return outputs


def compose(
    preprocess: Callable[..., Any],
    forward: Callable[..., Any],
    postprocess: Callable[..., Any],
    *,
    batch_size: int = BATCH_SIZE,
) -> Pipeline:
    """A pipeline of one's own three functions.

    A list (or a stream) reaches `preprocess` in lists of at most `batch_size` inputs, and `postprocess` returns a list with
    a result for each; a single input goes through as it is. Their parameters with defaults are the pipeline's options.

    Args:
      preprocess: one input, or a list of inputs, to what `forward` takes. A `Preprocess` in parts gets buckets, too.
      forward: to what `postprocess` takes.
      postprocess: to the result, or the list of results.
      batch_size: inputs that are computed at a time.

    Raises:
      InputError: one of the three is no function.

    >>> import numpy as np
    >>> shout = compose(
    ...     lambda texts: np.array([len(text) for text in texts]),
    ...     lambda lengths: lengths * 2,
    ...     lambda doubled, unit="": [f"{n}{unit}" for n in doubled],
    ... )
    >>> shout(["a", "abc"], unit=" cm")
    ['2 cm', '6 cm']
    """
    for name, stage in (("preprocess", preprocess), ("forward", forward), ("postprocess", postprocess)):
        if not callable(stage):
            raise InputError(f"{name} must be a function, found {type(stage).__name__}")
    return Pipeline(preprocess, forward, postprocess, batch_size)


def how_given(inputs: Any) -> str:
    """How a call was made: `"text"` (a bare str), `"one"` (any other single input) or `"many"`."""
    if isinstance(inputs, str):
        return "text"
    if isinstance(inputs, bytes | Mapping):
        return "one"
    if isinstance(inputs, np.ndarray):  # an array of numbers is an image or a sound
        return "many" if inputs.dtype.kind in "OUST" else "one"
    rows = hasattr(inputs, "__len__") and hasattr(inputs, "__getitem__")
    return "many" if rows or isinstance(inputs, Iterator) else "one"


def each(inputs: Any) -> Iterator[Any]:
    """Many inputs, one by one: the elements of a list, the rows of a dataset."""
    if is_frame(inputs):
        inputs = as_table(inputs)
    return iter(inputs) if hasattr(inputs, "__iter__") else (inputs[index] for index in range(len(inputs)))


def fetch(outputs: Batch) -> tuple[dict[str, Any], dict[str, Any]]:
    """Forward's result on the host: (key -> rows, without those that only filled the batch; what preprocess noted)."""
    host = outputs[HOST]
    return {key: jax.device_get(rows)[: host["rows"]] for key, rows in _arrays(outputs).items()}, host


def rows_for(count: int, batch_size: int) -> int:
    """The number of rows that `count` rows are filled up to: a power of four, `batch_size`, or a multiple of it.

    >>> [rows_for(count, batch_size=32) for count in (1, 2, 5, 17, 32, 33)]
    [1, 4, 16, 32, 32, 64]
    """
    size = 1
    while size < count:
        size *= 4
    return min(size, -(-count // batch_size) * batch_size)


def options_of(stage: Callable[..., Any]) -> list[str]:
    """The names of a stage's parameters that have a default."""
    function = stage.encode if isinstance(stage, Preprocess) else stage
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # some built-in functions tell nothing about themselves
        return []
    return [parameter.name for parameter in parameters if parameter.default is not parameter.empty]


def _bind(stage: Callable[..., Any], options: dict[str, Any]) -> Callable[..., Any]:
    if not options:
        return stage
    if isinstance(stage, Preprocess):
        return dataclasses.replace(stage, encode=partial(stage.encode, **options))
    return partial(stage, **options)


def _length(row: Row) -> int:
    return len(next(iter(row.values())))


def _arrays(batch: Batch) -> Batch:
    return {key: value for key, value in batch.items() if key != HOST}


def _windows(inputs: Iterator[Any], batch_size: int, whole: bool, most: int) -> Iterator[list[Any]]:
    """Cuts inputs into windows. A stream's first is one batch, so that results come early; then they grow."""
    batches = most if whole else 1
    while window := list(islice(inputs, batches * batch_size)):
        yield window
        batches = batches if whole else min(2 * batches, STREAM_WINDOW, most)
