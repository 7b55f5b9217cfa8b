import gzip
import json
import time

import pytest

from jaxformers.data.files import read_file
from jaxformers.errors import DataError, InputError


@pytest.fixture
def write(tmp_path):
    def put(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return put


ROWS = [{"text": "good", "label": 1}, {"text": "bäd", "label": 0}]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.csv", "text,label\ngood,1\nbäd,0\n"),
        ("x.csv", "text,label\r\ngood,1\r\nbäd,0"),
        ("x.csv", "\ufefftext,label\n\ngood,1\nbäd,0\n\n"),
        ("x.CSV", '"text","label"\n"good","1"\n"bäd",0\n'),
        ("x.tsv", "text\tlabel\ngood\t1\nbäd\t0\n"),
        ("x.json", json.dumps(ROWS)),
        ("x.json", json.dumps({"version": 2, "data": ROWS}, indent=1)),
        ("x.json", "\n".join(map(json.dumps, ROWS))),
        ("x.jsonl", "\n\n".join(map(json.dumps, ROWS)) + "\n"),
        ("x.jsonl", b"\xef\xbb\xbf" + "\r\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS).encode()),
        ("x.csv.gz", gzip.compress(mtime=0, data="text,label\ngood,1\nbäd,0\n".encode())),
        ("x.jsonl.gz", gzip.compress(mtime=0, data="\n".join(map(json.dumps, ROWS)).encode())),
    ],
)
def test_good_files(write, name, content):
    table = read_file(write(name, content))
    assert list(table) == ROWS
    assert table.name == name


def test_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")

    (tmp_path / "label=9").mkdir()
    path = tmp_path / "label=9" / "x.parquet"  # a name that a reader of folders would take for a column
    parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    assert list(read_file(path)) == ROWS
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"x\.parquet is not a readable parquet file"):
        read_file(path)
    parquet.write_table(pyarrow.table([[1], [2]], names=["a", "a"]), path)
    with pytest.raises(DataError, match=r"x\.parquet has two columns named 'a'"):
        read_file(path)


def test_text_has_a_row_a_line(write):
    # U+2028 and form feed end a line for str.splitlines, and for nobody else
    assert read_file(write("x.txt", "one\r\n\ntwo\u2028still\x0ctwo\nthree"))["text"] == [
        "one",
        "",
        "two\u2028still\x0ctwo",
        "three",
    ]
    assert read_file(write("x.jsonl", '{"a": "x\u2028y"}\n'))["a"] == ["x\u2028y"]


def test_tsv_has_no_quoting_and_csv_has(write):
    assert read_file(write("x.tsv", 'a\tb\n" open\t"quoted"\n'))[0] == {"a": '" open', "b": '"quoted"'}
    assert read_file(write("x.csv", 'a,b\n"two\nlines, ""quoted""",z\n'))[0] == {"a": 'two\nlines, "quoted"', "b": "z"}


@pytest.mark.parametrize(
    ("texts", "values"),
    [
        (["1", "-2", "0"], [1, -2, 0]),
        (["1.5", "2", "-3e-2"], [1.5, 2.0, -0.03]),
        (["5.000", "3.80"], [5.0, 3.8]),
        (["007", "1"], ["007", "1"]),
        (["00.5", "1"], ["00.5", "1"]),
        (["1", ""], ["1", ""]),
        (["1_000", "1"], ["1_000", "1"]),
        (["+1", " 1"], ["+1", " 1"]),
        (["nan", "inf"], ["nan", "inf"]),
        (["1e999", "1"], ["1e999", "1"]),
        (["12345678901234567890", "1"], ["12345678901234567890", "1"]),
        (["١", "1"], ["١", "1"]),
    ],
)
def test_numbers_only_where_every_value_is_one(write, texts, values):
    table = read_file(write("x.csv", "n,t\n" + "".join(f"{text},x\n" for text in texts)))
    assert table["n"] == values
    assert list(map(type, table["n"])) == list(map(type, values))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "dev.tsv",
            b"a\tb\n" * 11 + b"12345\xff\tb\n",
            r"^dev\.tsv line 12 is not UTF-8 \(byte 0xff at column 6\); pass encoding='latin-1' if that is what it is$",
        ),
        ("x.txt", b"\xef\xbb\xbfab\xe9", r"^x\.txt line 1 is not UTF-8 \(byte 0xe9 at column 3\)"),
        ("x.txt", "é\né".encode() + b"\xe9", r"line 2 is not UTF-8 \(byte 0xe9 at column 2\)"),
        ("x.csv", "a,b\n1,2\n".encode("utf-16"), r"pass encoding='utf-16'"),
        ("x.csv", b"a,b\n1,\x00\n", r"x\.csv line 2 holds a NUL byte"),
        ("x.csv", "a,b,a\n1,2,3\n", r"x\.csv has two columns named 'a'"),
        ("x.csv", "a,,c\n1,2,3\n", r"x\.csv has no name for column 2 in its first line"),
        ("x.csv", "a,b\n1,2\n1,2,3\n", r"x\.csv line 3 has 3 fields, the header has 2"),
        ("x.csv", 'a,b\n"1\n1",2\n1\n', r"x\.csv line 4 has 1 fields, the header has 2"),
        ("x.tsv", "a\tb\n1\n", r"x\.tsv line 2 has 1 fields, the header has 2"),
        ("x.csv", 'a,b\n1,2\n"open,3\n4,5\n', r"x\.csv line 3 is not valid csv: unexpected end of data"),
        ("x.csv", "a,b\n", r"x\.csv is empty: it holds no rows"),
        ("x.csv", "", r"x\.csv is empty"),
        ("x.json", "", r"x\.json is empty"),
        ("x.json", "[]", r"x\.json is empty"),
        ("x.json", '{"a": 1}', r'x\.json must hold a list of objects or \{"data": \[\.\.\.\]\}, it holds a JSON dict'),
        ("x.json", "[1]", r"the rows of x\.json must be dicts, row 0 is int"),
        ("x.json", '[{"a": 1]', r"x\.json is not valid JSON: .* line 1 column 9"),
        ("x.json", "[" * 100_000, r"x\.json is not valid JSON"),
        ("x.jsonl", '{"a": 1}\n\n{"a": \n', r"x\.jsonl line 3 is not valid JSON"),
        ("x.jsonl", '{"a": 1}\n[2]\n', r"x\.jsonl line 2 must be a JSON object, it is list"),
        ("x.txt", "", r"x\.txt is empty"),
        ("x.txt.gz", b"not gzip", r"x\.txt\.gz is not a complete gzip file"),
        ("x.txt.gz", gzip.compress(mtime=0, data=b"abc" * 1000)[:-12], r"x\.txt\.gz is not a complete gzip file"),
        ("x.jsnl", "{}", r"'\.jsnl' is not one of .* \(did you mean '\.jsonl'\?\)"),
        ("x.parquet.gz", b"", r"is not a data file"),
    ],
)  # fmt: skip
def test_bad_files_say_what_and_where(write, name, content, message):
    with pytest.raises(DataError, match=message):
        read_file(write(name, content))


def test_other_encodings(write):
    path = write("x.csv", "a\nbäd\n".encode("latin-1"))
    assert read_file(path, encoding="latin-1")["a"] == ["bäd"]
    with pytest.raises(DataError, match=r"x\.csv line 2 is not ASCII \(byte 0xe4 at column 2\)$"):
        read_file(path, encoding="ascii")
    with pytest.raises(InputError, match="encoding 'latin-99' is not known"):
        read_file(path, encoding="latin-99")


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(DataError, match=r"there is no file .*x\.csv"):
        read_file(tmp_path / "x.csv")


def test_a_field_may_be_long(write):
    assert len(read_file(write("x.csv", "a,b\n" + "y" * 1_000_000 + ",1\n"))["a"][0]) == 1_000_000


@pytest.mark.parametrize("name", ["x.csv", "x.jsonl", "x.txt"])
def test_reading_is_linear(write, name):
    line = {"x.csv": "some text,1\n", "x.jsonl": '{"a": "some text", "b": 1}\n', "x.txt": "some text\n"}[name]

    def seconds(count):
        path = write(name, ("a,b\n" if name == "x.csv" else "") + line * count)
        begin = time.perf_counter()
        read_file(path)
        return time.perf_counter() - begin

    small = min(seconds(10_000) for _ in range(3))
    assert min(seconds(100_000) for _ in range(2)) < 40 * small  # 100 times, were it quadratic


def test_columns_of_a_file_without_a_header_line(write):
    bare = write("a.tsv", "gj04\t1\t\tShe sang.\ngj04\t0\t*\tSang she.\n")
    names = ("source", "label", "mark", "sentence")
    table = read_file(bare, column_names=names)
    assert table.column_names == names
    assert table["label"] == [1, 0]
    headed = write("b.tsv", "sentence\tlabel\nShe sang.\t1\n")  # names that are there are not overridden
    assert read_file(headed, column_names=names).column_names == ("sentence", "label")
    with pytest.raises(DataError, match="no name for column 3"):
        read_file(bare)


@pytest.mark.parametrize("blank", ["\t", " "])
def test_conll(write, blank):
    lines = ["-DOCSTART- -X- O", "", "Anna NNP B-PER", "sings VBZ O", "", "", "In IN O", "Oslo NNP B-LOC"]
    table = read_file(write("x.conll", "\n".join(line.replace(" ", blank) for line in lines)))
    assert table["tokens"] == [["Anna", "sings"], ["In", "Oslo"]]
    assert table["ner_tags"] == [["B-PER", "O"], ["O", "B-LOC"]]


def test_a_conll_token_without_a_tag(write):
    with pytest.raises(DataError, match=r"x\.conll line 2 has a token and no tag: 'Oslo'"):
        read_file(write("x.conll", "Anna B-PER\nOslo\n"))
