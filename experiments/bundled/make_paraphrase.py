"""Makes the bundled paraphrase pairs: `python experiments/bundled/make_paraphrase.py [--check]`.

A pair says the same twice, in other words and another frame, or it does not: one of the two denies what the other says, or
speaks of somebody or something else. Both kinds have the same frames, lengths and words. What is held out shares neither a
frame nor a pair of content words with training:

* every class of synonyms has four words. The words of a sentence all have one number, those of its partner another; training
  and validation use different pairs of numbers, so no word of a held-out sentence meets a word of its partner in training;
* the classes are numbered too. The three classes of a training sentence differ modulo 4, those of a held-out one agree, so no
  two words that stand in one held-out sentence stand in one training sentence;
* the frames of the two are different, made of the same function words.
"""

import random
import sys
from pathlib import Path

AGENTS = """doctor physician medic clinician; child kid youngster youth; lawyer attorney advocate counsellor;
teacher tutor instructor educator; farmer grower planter rancher; thief robber burglar crook; soldier trooper fighter warrior;
manager boss supervisor chief; writer author novelist scribbler; sailor seaman mariner boatman; singer vocalist crooner
chorister; merchant trader dealer seller"""

OBJECTS = """house cottage cabin dwelling; boat ship vessel yacht; road street lane avenue; picture painting drawing portrait;
stone rock boulder pebble; box crate chest carton; field meadow pasture paddock; car automobile sedan motorcar; letter note
message memo; coat jacket cloak parka; rope cord cable line; bag sack pouch satchel"""

# base/past/participle; one form stands for all three where past and participle add -ed.
VERBS = """buy/bought/bought purchase/purchased/purchased acquire/acquired/acquired obtain; repair fix mend
restore/restored/restored; hide/hid/hidden conceal bury/buried/buried cover; admire/admired/admired
praise/praised/praised adore/adored/adored respect; destroy wreck ruin demolish; find/found/found discover
locate/located/located uncover; want desire/desired/desired crave/craved/craved covet; inspect
examine/examined/examined check study/studied/studied; move/moved/moved shift haul
carry/carried/carried; describe/described/described depict portray sketch; guard protect defend shield;
choose/chose/chosen select pick elect"""

# {a} agent, {o} object, {b} {p} {c} the verb's base, past and participle. Everything else is a function word.
FRAMES = {
    "train": (
        ("the {a} {p} the {o}", "the {a} did not {b} the {o}"),
        ("the {a} did {b} the {o}", "the {a} has not {c} the {o}"),
        ("the {a} has {c} the {o}", "by the {a} the {o} was not {c}"),
        ("the {o} was {c} by the {a}", "the {o} was not {c} by the {a}"),
        ("it was the {a} who {p} the {o}", "it was not the {a} who {p} the {o}"),
        ("it was the {o} that the {a} {p}", "it was not the {o} that the {a} {p}"),
        ("by the {a} the {o} had been {c}", "by the {a} the {o} had not been {c}"),
        ("the {o} was what the {a} {p}", "the {o} was not what the {a} {p}"),
    ),
    "validation": (
        ("the {a} had {c} the {o}", "the {a} had not {c} the {o}"),
        ("the {o} has been {c} by the {a}", "the {o} has not been {c} by the {a}"),
        ("what the {a} {p} was the {o}", "what the {a} {p} was not the {o}"),
        ("it is the {a} who has {c} the {o}", "it is not the {a} who has {c} the {o}"),
        ("it is the {o} that was {c} by the {a}", "it is not the {o} that was {c} by the {a}"),
        ("the {o} is what the {a} {p}", "the {o} is not what the {a} {p}"),
    ),
}

NUMBERS = {"train": ((0, 1), (2, 3), (0, 2), (1, 3)), "validation": ((0, 3), (1, 2))}
SIZES = {"train": 8000, "validation": 400}
# How often the first sentence is negative. Seldomer in training, where "not" is then a first clue; no clue in what is held out.
NEGATED = {"train": 0.35, "validation": 0.5}
DENIED = 0.85  # share of the different pairs in which one sentence denies the other

Classes = list[list[tuple[str, str, str]]]


def classes(text: str) -> Classes:
    """`a b/c/d; …` as classes of (base, past, participle)."""
    read = []
    for group in text.split(";"):
        words = [word.split("/") for word in group.split()]
        read.append([(w[0], w[1], w[2]) if len(w) == 3 else (w[0], w[0] + "ed", w[0] + "ed") for w in words])
    return read


LEXICON = {"a": classes(AGENTS), "v": classes(VERBS), "o": classes(OBJECTS)}
Meaning = tuple[int, int, int]  # classes of agent, verb and object


def allowed(meaning: Meaning, split: str) -> bool:
    """Whether these classes may stand together in a sentence of `split`."""
    return len({number % 4 for number in meaning}) == (3 if split == "train" else 1)


def sentence(meaning: Meaning, number: int, frame: str) -> str:
    """The sentence that says `meaning` in the words of one number."""
    (base, past, participle) = LEXICON["v"][meaning[1]][number]
    agent, thing = (LEXICON[slot][meaning[place]][number][0] for slot, place in (("a", 0), ("o", 2)))
    text = frame.format(a=agent, o=thing, b=base, p=past, c=participle)
    return text[0].upper() + text[1:] + "."


def pair(draw: random.Random, split: str, label: int) -> tuple[str, str]:
    """Two sentences that say the same (1) or do not (0)."""
    while True:
        first = second = (draw.randrange(12), draw.randrange(12), draw.randrange(12))
        if not allowed(first, split):
            continue
        negated = [draw.random() < NEGATED[split]] * 2
        if label == 0 and draw.random() < DENIED:
            negated[1] = not negated[0]
        elif label == 0:
            slot = draw.randrange(3)
            changed = list(first)
            changed[slot] = draw.randrange(12)
            second = (changed[0], changed[1], changed[2])
            if second == first or not allowed(second, split):
                continue
        numbers = list(draw.choice(NUMBERS[split]))
        draw.shuffle(numbers)
        frames = draw.sample(FRAMES[split], 2)
        each = zip((first, second), numbers, negated, frames, strict=True)
        one, two = (sentence(meaning, number, frame[no]) for meaning, number, no, frame in each)
        return one, two


def make() -> dict[str, str]:
    """The two files' contents by split."""
    files = {}
    for split, size in SIZES.items():
        draw = random.Random(f"paraphrase {split}")
        rows: list[tuple[str, str, int]] = []
        seen = set()
        while len(rows) < size:
            label = len(rows) % 2
            texts = pair(draw, split, label)
            if frozenset(texts) not in seen:
                seen.add(frozenset(texts))
                rows.append((*texts, label))
        draw.shuffle(rows)
        lines = ["sentence1\tsentence2\tlabel", *(f"{one}\t{two}\t{label}" for one, two, label in rows)]
        files[split] = "\n".join(lines) + "\n"
    return files


def main(arguments: list[str]) -> int:
    """Writes the files, or with --check says whether they are what would be written."""
    folder = Path(__file__).parent / "paraphrase"
    for split, text in make().items():
        path = folder / f"{split}.tsv"
        if arguments == ["--check"]:
            if not path.is_file() or path.read_text("utf-8") != text:
                print(f"{path.name} is not what this script makes")
                return 1
        else:
            folder.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
