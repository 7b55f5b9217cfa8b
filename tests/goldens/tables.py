"""Tables and questions that are hard to lay out, for the tests of TAPAS' tokenizer; and a vocabulary for them."""

import json
import random
from pathlib import Path

SPECIAL = ["[PAD]", "[EMPTY]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,-:/%$()?!'"
WORDS = ["how", "many", "what", "the", "of", "in", "is", "total", "actor", "age", "movies", "date", "##er", "may", "june",
         "1967", "2010", "city", "bern", "漢", "字"]  # fmt: skip
VOCAB = [*SPECIAL, *LETTERS, *(f"##{letter}" for letter in LETTERS[:36]), *WORDS]

CELLS = [
    "87", "53", "-69", "+7", "1,200", "1,200,300.5", "3.14", ".5", "5.", "1e5", "12%", "$ 4", "0", "-0.0", "007", "1st", "22nd",
    "third", "twelve", "zeroth", "inf", "nan", "NaN", "n/a", "?", "", " ", "-", "...", "_", "1 000", "12-34", "7 of 9", "2010",
    "1699", "1700", "2016", "2017", "1990s", "May 2010", "june 5", "5 June", "5 June 2010", "June 5, 2010", "Sept 5",
    "sep 5", "05-06-2010", "2010-06-05", "2010-6", "5.6.2010", "31.2.2010", "Monday, June 5", "monday, jun 5", "february 29",
    "february 29, 2012", "31 April", "December", "dec", "may", "12 may 1999 and 3 june 2001", "1999 to 2001", "Brad Pitt",
    "Leonardo Di Caprio", "actors' movies", "漢字", "北京 2008", "😀", "😀 5", "Café", "e\u0301t\u00e9", "a\u00a0b\tc", "x" * 120,
    "movieser agers", "[MASK]", "[EMPTY]", "the [MASK] of age", "٣٤", "½", "²", "1,2", "1,234,56", "10:30", "50/50",
]  # fmt: skip
QUERIES = [
    "How many movies has the actor aged 53 in May 2010?", "what is the total of 1,200 and twelve",
    "who was born before 5 June 1967?",
    "?", "x", "the first or 2nd of 87", "  2010  ", "漢字 in 1990s 😀", "more than -69 , less than +7.", "june 5",
]  # fmt: skip

SHORT = {"Actor": ["Brad Pitt", "Leonardo Di Caprio", "George Clooney"], "Age": ["56", "45", "59"],
         "Movies in 2010": ["87", "53", "69"], "Born": ["18 december 1963", "11 november 1974", "6 may 1961"]}  # fmt: skip

LONG = {"Actor": [f"actor {n} of the city" for n in range(40)], "Movies": [f"{n * n % 17} movies" for n in range(40)],
        "Year": [str(1970 + n) for n in range(40)]}  # fmt: skip


def write_tapas(folder: Path, **settings: object) -> Path:
    """A folder with the tokenizer of a TAPAS model."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(VOCAB) + "\n", encoding="utf-8")
    config = {"tokenizer_class": "TapasTokenizer", "model_max_length": 512, "do_lower_case": True, **settings}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def table(seed: int) -> dict[str, list[str]]:
    """A table that depends on nothing but `seed`: its columns are of one kind, or of any."""
    random_ = random.Random(seed)
    rows, columns = random_.randint(1, 9), random_.randint(1, 5)
    kinds = [CELLS, CELLS[:16], CELLS[34:58], [str(random_.randint(-5, 40)) for _ in range(6)]]
    made = {}
    for column in range(columns):
        cells = random_.choice(kinds)
        name = f"{random_.choice(CELLS)} {column}" if random_.random() < 0.8 else str(column)
        made[name] = [random_.choice(cells) if random_.random() < 0.9 else random_.choice(CELLS) for _ in range(rows)]
    return made


def asked(seed: int) -> list[str]:
    """Some questions."""
    random_ = random.Random(seed)
    return [
        f"{random_.choice(QUERIES)} {random_.choice(['', random_.choice(CELLS)])}" for _ in range(random_.randint(1, 3))
    ]
