"""Makes the small bundled sets of the other tasks: `python experiments/bundled/make_tasks.py [--check]`.

Reviews, sentences with names, plain text, questions and endings, all from a few frames and words. They are there so that each
experiment runs on a machine without network; a score on them says nothing about any benchmark.
"""

import json
import random
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path

from make_paraphrase import AGENTS, OBJECTS

SIZES = {"train": 800, "validation": 160}

GOOD = ["lovely", "clever", "moving", "gentle", "funny", "bright", "honest", "graceful"]
BAD = ["dull", "clumsy", "boring", "noisy", "empty", "tired", "careless", "hollow"]
THINGS = ["film", "book", "song", "play", "story", "concert", "dinner", "journey"]
PEOPLE = ["Anna", "Ben", "Clara", "David", "Emma", "Felix", "Grace", "Hugo", "Ines", "Jonas", "Karla", "Leo"]
FAMILIES = ["Berg", "Falk", "Holm", "Lind", "Moser", "Novak", "Rossi", "Silva", "Weber", "Young"]
PLACES = ["Lisbon", "Vienna", "Oslo", "Dublin", "Prague", "Turin", "Ghent", "Bergen", "Basel", "Cork"]
FIRMS = ("Blue Harbour Bank", "Northwind Foods", "Copper Lane Press", "Silver Pine Motors", "Old Mill Paper")
WORKS = ["baker", "doctor", "farmer", "painter", "teacher", "sailor", "writer", "singer"]
AGENT = [word for group in AGENTS.split(";") for word in group.split()][:16]
OBJECT = [word for group in OBJECTS.split(";") for word in group.split()][:16]

Rows = list[list[str]]


def reviews(draw: random.Random) -> list[str]:
    """A sentence and whether it praises (1) or not (0); "not" turns it round."""
    label = draw.randrange(2)
    negated = draw.random() < 0.4
    word = draw.choice(GOOD if label != negated else BAD)
    frames = (
        "the {t} was {n}{w}",
        "what a {t} , it is {n}{w}",
        "i found this {t} {n}{w}",
        "this {t} is {n}{w} from start to end",
    )
    return [draw.choice(frames).format(t=draw.choice(THINGS), w=word, n="not " if negated else ""), str(label)]


def names(draw: random.Random) -> list[tuple[str, str]]:
    """A sentence as (token, tag), its people, places and firms tagged."""
    made = {
        "PER": draw.choice(PEOPLE) + draw.choice(("", f" {draw.choice(FAMILIES)}")),
        "LOC": draw.choice(PLACES),
        "ORG": draw.choice(FIRMS),
    }
    frames = ("PER flew to LOC in the spring .", "PER works for ORG .", "ORG has a house in LOC .", "did PER see LOC ?",
              "in LOC the doctor met PER .", "the singer sold the boat to ORG .", "PER of ORG lives near LOC .",
              "the old road was wet .")  # fmt: skip
    tagged: list[tuple[str, str]] = []
    for word in draw.choice(frames).split():
        parts = made[word].split() if word in made else [word]
        tags = [f"{'I' if i else 'B'}-{word}" for i in range(len(parts))] if word in made else ["O"]
        tagged += zip(parts, tags, strict=True)
    return tagged


def sentence(draw: random.Random) -> str:
    """A plain sentence."""
    frames = ("The {a} put the {o} near the {p} .", "A {a} who has a {o} is glad .", "In {c} the {a} sold the {o} .",
              "No {a} in {c} wants the {o} .", "The {o} of the {a} is old .")  # fmt: skip
    return draw.choice(frames).format(
        a=draw.choice(AGENT), o=draw.choice(OBJECT), p=draw.choice(OBJECT), c=draw.choice(PLACES)
    )


def question(draw: random.Random, number: int) -> dict[str, object]:
    """A context of three facts, and a question after one of them."""
    people, places = draw.sample(PEOPLE, 3), draw.sample(PLACES, 3)
    works = draw.sample(WORKS, 3)
    facts = [f"{who} lives in {where} and is a {work}." for who, where, work in zip(people, places, works, strict=True)]
    context, asked, lives = " ".join(facts), draw.randrange(3), draw.random() < 0.5
    answer = places[asked] if lives else works[asked]
    text = f"Where does {people[asked]} live?" if lives else f"What is {people[asked]}?"
    start = context.index(answer)
    return {
        "id": str(number),
        "question": text,
        "context": context,
        "answers": [{"text": answer, "answer_start": start}],
    }


def ending(draw: random.Random) -> list[str]:
    """A sentence, and four ways to go on, one of which speaks of the same thing."""
    agent, things = draw.choice(AGENT), draw.sample(OBJECT, 4)
    label = draw.randrange(4)
    verb = draw.choice(("sold", "found", "lost", "hid"))
    return [
        f"The {agent} has the {things[label]}.",
        f"Then the {agent}",
        *(f"{verb} the {thing}." for thing in things),
        str(label),
    ]


PERSONS = {"baker": "der Bäcker", "doctor": "die Ärztin", "farmer": "der Bauer", "painter": "die Malerin",
           "teacher": "der Lehrer", "sailor": "die Seglerin", "child": "das Kind", "singer": "die Sängerin"}  # fmt: skip
GOODS = {"boat": "das Boot", "apple": "den Apfel", "lamp": "die Lampe", "book": "das Buch", "chair": "den Stuhl",
         "clock": "die Uhr", "horse": "das Pferd", "basket": "den Korb"}  # fmt: skip
DOES = {"sees": "sieht", "buys": "kauft", "finds": "findet", "sells": "verkauft", "paints": "malt", "has": "hat"}


def translation(draw: random.Random) -> list[str]:
    """A sentence in English and in German, where the verb may come before the one who acts."""
    who, what, does = (draw.choice([*words.items()]) for words in (PERSONS, GOODS, DOES))
    where = draw.choice(PLACES)
    english, german = draw.choice(
        (
            ("The {who} {does} the {what}.", "{who} {does} {what}."),
            ("In {where} the {who} {does} the {what}.", "In {where} {does} {who} {what}."),
            ("Today the {who} {does} the {what} in {where}.", "Heute {does} {who} {what} in {where}."),
        )
    )
    texts = [
        frame.format(who=who[side], what=what[side], does=does[side], where=where)
        for side, frame in enumerate((english, german))
    ]
    return [text[0].upper() + text[1:] for text in texts]


def dialogue(draw: random.Random) -> dict[str, str]:
    """Two people who speak, and what it comes to."""
    (one, two), where, thing = draw.sample(PEOPLE, 2), draw.choice(PLACES), draw.choice(OBJECT)
    bought = draw.random() < 0.5
    lines = [f"{one}: Hello {two}, where are you?", f"{two}: I am in {where}."]
    if bought:
        lines += [f"{one}: Did you find a {thing}?", f"{two}: Yes, I bought one for you.", f"{one}: That is kind."]
    else:
        lines += [f"{one}: I need a {thing}.", f"{two}: There is none here.", f"{one}: That is a pity."]
    end = f"bought a {thing} for {one}" if bought else f"cannot find a {thing} for {one}"
    return {"dialogue": "\n".join(lines), "summary": f"{two} is in {where} and {end}."}


def _distinct(draw: random.Random, size: int, make: Callable[[random.Random], list[str]]) -> Rows:
    rows: Rows = []
    seen: set[tuple[str, ...]] = set()
    for _ in count():
        if len(rows) == size:
            return rows
        row = make(draw)
        if tuple(row) not in seen or len(seen) > size // 2:  # few frames: repeats are let in once most are there
            seen.add(tuple(row))
            rows.append(row)
    raise AssertionError


def make() -> dict[str, str]:
    """File name -> contents."""
    files = {}
    for split, size in SIZES.items():
        draw = random.Random(f"tasks {split}")
        rows = [["sentence", "label"], *_distinct(draw, size, reviews)]
        files[f"sentiment/{split}.tsv"] = "\n".join("\t".join(row) for row in rows) + "\n"
        tagged = [names(draw) for _ in range(size)]
        files[f"ner/{split}.conll"] = "\n".join("".join(f"{t}\t{tag}\n" for t, tag in each) for each in tagged)
        files[f"text/{split}.txt"] = "\n".join(sentence(draw) for _ in range(2 * size)) + "\n"
        asked = [question(draw, number) for number in range(size)]
        files[f"questions/{split}.jsonl"] = "".join(json.dumps(each) + "\n" for each in asked)
        header = ["sent1", "sent2", *(f"ending{i}" for i in range(4)), "label"]
        rows = [header, *_distinct(draw, size, ending)]
        files[f"endings/{split}.tsv"] = "\n".join("\t".join(row) for row in rows) + "\n"
        draw = random.Random(f"texts {split}")
        rows = [["en", "de"], *_distinct(draw, size, translation)]
        files[f"translation/{split}.tsv"] = "\n".join("\t".join(row) for row in rows) + "\n"
        spoken = [json.dumps(dialogue(draw)) + "\n" for _ in range(size)]
        files[f"dialogues/{split}.jsonl"] = "".join(spoken)
    return files


def main(arguments: list[str]) -> int:
    """Writes the files, or with --check says whether they are what would be written."""
    for name, text in make().items():
        path = Path(__file__).parent / name
        if arguments == ["--check"]:
            if not path.is_file() or path.read_text("utf-8") != text:
                print(f"{name} is not what this script makes")
                return 1
        else:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
