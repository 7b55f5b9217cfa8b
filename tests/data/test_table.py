import types
import typing

import numpy as np
import pytest

from experiments.finetune import named_classes
from jaxformers.data import Table, as_table, check_labels
from jaxformers.data.table import permutation
from jaxformers.errors import DataError


@pytest.fixture
def table():
    return Table({"text": ["a", "b", "c", "d"], "label": np.array([0, 1, 1, 0])}, name="reviews")


class Source:
    """What a data source looks like: a length, rows by number, and nothing else. Counts its reads."""

    def __init__(self, size):
        self.size, self.reads = size, 0

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        self.reads += 1
        return {"text": f"row {index}", "label": index % 2}


def test_rows_columns_and_slices(table):
    assert len(table) == 4
    assert table.column_names == ("text", "label")
    assert table[1] == table[-3] == {"text": "b", "label": 1}
    assert table["text"] == ["a", "b", "c", "d"]
    assert table[1:3]["text"] == ["b", "c"]
    assert table[::-1]["label"].tolist() == [0, 1, 1, 0]
    assert [row["text"] for row in table] == ["a", "b", "c", "d"]
    with pytest.raises(IndexError, match="reviews has 4 rows, row 4"):
        table[4]


def test_a_table_does_not_change():
    texts, labels = ["a", "b"], np.array([0, 1])
    table = Table({"text": texts, "label": labels})
    texts.append("c")
    assert table["text"] == ["a", "b"]
    with pytest.raises(ValueError, match="read-only"):
        table["label"][0] = 5
    table.with_column("label", [7, 8])
    table.rename({"text": "t"})
    assert table["label"].tolist() == [0, 1]
    labels[0] = 3  # the caller's own array stays the caller's


def test_unequal_columns_are_refused():
    with pytest.raises(DataError, match=r"the columns of x differ in length: a 2, b 1"):
        Table({"a": [1, 2], "b": [1]}, name="x")
    with pytest.raises(DataError, match="column 'a' of x must be a sequence of values, it is str"):
        Table({"a": "text"}, name="x")


@pytest.mark.parametrize(
    "use",
    [
        lambda table: table["lable"],
        lambda table: table.drop(["lable"]),
        lambda table: table.rename({"lable": "y"}),
        lambda table: table.map(lambda batch: {}, remove_columns=["lable"]),
    ],
)
def test_a_missing_column_is_named_with_the_nearest(table, use):
    with pytest.raises(
        DataError, match=r"reviews has no column 'lable' \(did you mean 'label'\?\); it has text, label"
    ):
        use(table)


def test_select_shuffle_concat_rename_drop(table):
    assert table.select([3, 0])["text"] == ["d", "a"]
    with pytest.raises(DataError, match="reviews has 4 rows, rows 1 to 9 were asked for"):
        table.select([1, 9])
    assert table.shuffle(1)["text"] == table.shuffle(1)["text"]
    assert sorted(table.shuffle(1)["text"]) == ["a", "b", "c", "d"]
    assert len({tuple(table.shuffle(seed)["text"]) for seed in range(8)}) > 1
    assert table.concat(table)["text"] == ["a", "b", "c", "d"] * 2
    with pytest.raises(DataError, match="reviews has the columns text, label, reviews has text"):
        table.concat(table.drop(["label"]))
    assert table.rename({"text": "sentence"}).column_names == ("sentence", "label")
    with pytest.raises(DataError, match="two columns one name: label, label"):
        table.rename({"text": "label"})


def test_permutation_is_frozen():
    # written down once: a resumed run must see the order it began with, under any version of NumPy
    assert permutation(8, 42, 3).tolist() == [0, 6, 5, 1, 3, 7, 4, 2]
    assert sorted(permutation(100, 7).tolist()) == list(range(100))


def test_map(table):
    upper = table.map(lambda batch: {"upper": [text.upper() for text in batch["text"]]}, batch_size=3)
    assert upper.column_names == ("text", "label", "upper")
    assert upper["upper"] == ["A", "B", "C", "D"]
    assert table.map(lambda row: {"text": row["text"] * 2}, batched=False)["text"] == ["aa", "bb", "cc", "dd"]
    assert table.map(lambda batch: {"ids": np.ones((len(batch["text"]), 2))})["ids"][3].tolist() == [1, 1]


def test_map_may_change_the_number_of_rows_only_without_the_old_columns(table):
    def twice(batch):
        return {"piece": [text for text in batch["text"] for _ in range(2)]}

    assert len(table.map(twice, remove_columns=table.column_names)) == 8
    with pytest.raises(DataError, match="differ in length: text 4, label 4, piece 8"):
        table.map(twice)


def test_map_refuses_what_is_no_set_of_columns(table):
    with pytest.raises(DataError, match="mapped over reviews must return a dict, it returned list"):
        table.map(lambda batch: [1, 2])
    with pytest.raises(DataError, match="returned the columns a for the first rows and b for rows 2 to 3"):
        table.map(lambda batch: {"a" if "a" in batch["text"] else "b": [0, 0]}, batch_size=2)


def test_as_table_of_everything():
    pandas = pytest.importorskip("pandas")
    rows = [{"text": "a", "label": 0}, {"text": "b", "label": 1}]
    columns = {"text": ["a", "b"], "label": [0, 1]}
    for data in (rows, columns, pandas.DataFrame(columns), Table(columns), as_table(rows)):
        table = as_table(data, "x")
        assert list(table) == rows
        assert table.name == "x"
    for wrong in ("text", 3, None, np.zeros(3), [1, 2]):
        with pytest.raises(DataError, match=r"x must be a Table|rows of x must be dicts, row 0 is int"):
            as_table(wrong, "x")
    with pytest.raises(DataError, match="two columns named 'a'"):
        as_table(pandas.DataFrame([[1, 2]], columns=["a", "a"]), "x")


def test_rows_of_a_source_are_read_when_used_and_once():
    source = Source(1000)
    table = as_table(source, "big")
    assert source.reads == 1  # for the names of the columns
    part = table.shuffle(0)[:10]
    assert source.reads == 1
    assert part[3] == {"text": f"row {permutation(1000, 0)[3]}", "label": permutation(1000, 0)[3] % 2}
    assert source.reads == 2
    mapped = table.map(lambda batch: {"n": [len(text) for text in batch["text"]]}, remove_columns=["text"])
    assert source.reads == 1002
    assert mapped["n"][10] == len("row 10")
    assert table.concat(table)["text"][1999] == "row 999"


def test_a_source_with_a_bad_row():
    class Bad(Source):
        def __getitem__(self, index):
            return {"text": "x"} if index == 2 else super().__getitem__(index)

    with pytest.raises(DataError, match="row 2 of bad has no 'label'; it has text"):
        list(as_table(Bad(3), "bad"))


def test_numbers_that_a_source_names():
    class Named(Source):
        features: typing.ClassVar = {"label": types.SimpleNamespace(names=["cat", "dog"]), "text": types.SimpleNamespace(),
                    "tags": types.SimpleNamespace(feature=types.SimpleNamespace(names=["O", "B-animal"]))}  # fmt: skip

        def __getitem__(self, index):
            return {"text": "x", "label": index - 1, "tags": [index % 2]}

    table = as_table(Named(3), "named").rename({"label": "class"}).select([2, 1, 0])
    assert table["class"].class_names == ("cat", "dog")
    assert [*map(named_classes(table["class"]), table["class"])] == ["dog", "cat", -1]  # a label that is not told
    assert named_classes(table["tags"])(table[1]["tags"][0]) == "B-animal"
    assert table["text"].class_names is None
    assert named_classes(table["class"])(None) is None
    assert named_classes([3])(3) == 3
    Named.features = np.ones((3, 2))  # another thing of that name
    assert table["class"].class_names is None


def test_check_labels():
    table = Table(
        {"label": [0, 1, 1, 7], "score": [0.5, 1, 1, 1], "tags": [[0, 1], [-100, 1], [2], []]}, name="reviews"
    )
    check_labels(table, "label", 8)
    check_labels(table, "tags", 3)
    with pytest.raises(DataError, match=r"^label 7 at record 3 of reviews, model has 2 classes \(0\.\.1\)$"):
        check_labels(table, "label", 2)
    with pytest.raises(DataError, match="label 2 at record 2 of reviews, model has 2 classes"):
        check_labels(table, "tags", 2)
    with pytest.raises(DataError, match=r"label 0\.5 at record 0 of reviews is not an integer"):
        check_labels(table, "score", 2)
    with pytest.raises(DataError, match="label -1 at record 1"):
        check_labels(Table({"label": np.array([0, -1])}), "label", 2)
    with pytest.raises(DataError, match="label -100 at record 0"):  # only labels of tokens may be left out
        check_labels(Table({"label": [-100]}), "label", 2)
    with pytest.raises(DataError, match="label None at record 0"):
        check_labels(Table({"label": [None]}), "label", 2)
