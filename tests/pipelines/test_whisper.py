"""What Whisper's pipeline makes of what was written: phrases, words, pieces that overlap; and as transformers' does."""

import numpy as np
import pytest

import jaxformers as jf
from jaxformers.errors import InputError
from jaxformers.pipelines.phrases import Piece, Story, characters, joined, spaced, with_marks, words
from jaxformers.pipelines.whisper import pieces_of
from jaxformers.preprocess.feature_extractors import WhisperFeatureExtractor
from tests.goldens import sounds
from tests.goldens.drawing import draw
from tests.preprocess import whisper_files

RNG = np.random.default_rng(0)
WAVES = [
    (np.sin(np.arange(length) ** 1.4 / 900) * RNG.normal(size=length)).astype(np.float32) for length in (40000, 12000)
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Whisper that hears one second at a time, with weights that are drawn, its tokenizer and its feature extractor."""
    place = tmp_path_factory.mktemp("whisper")
    ids = whisper_files.write(place)
    ended = ids["<|endoftext|>"]
    config = {
        **sounds.WHISPER,
        "vocab_size": ids["<|notimestamps|>"] + 52,
        "max_source_positions": 50,
        "max_target_positions": 40,
        "pad_token_id": ended,
        "bos_token_id": ended,
        "eos_token_id": ended,
        "decoder_start_token_id": ids["<|startoftranscript|>"],
        "median_filter_width": 3,
    }
    model = jf.load(config, "speech-seq2seq")
    names = iter(range(1000))
    import jax

    params = jax.tree.map(lambda leaf: draw(f"weight {next(names)}", leaf.shape, 0.4) + (leaf == 1), model.params)
    generation = {
        "decoder_start_token_id": ids["<|startoftranscript|>"],
        "eos_token_id": ended,
        "pad_token_id": ended,
        "bos_token_id": ended,
        "lang_to_id": {token: ids[token] for token in ("<|en|>", "<|zh|>", "<|de|>")},
        "task_to_id": {"translate": ids["<|translate|>"], "transcribe": ids["<|transcribe|>"]},
        "is_multilingual": True,
        "no_timestamps_token_id": ids["<|notimestamps|>"],
        "prev_sot_token_id": ids["<|startofprev|>"],
        "max_initial_timestamp_index": 25,
        "alignment_heads": [[0, 1], [1, 2]],
        "suppress_tokens": [*range(200, ended), *range(ended + 1, ids["<|notimestamps|>"])],
    }
    jf.save(type(model)(model.family, model.head, model.config, params, generation), place)
    WhisperFeatureExtractor(feature_size=8, chunk_length=1).save(place)
    return place


NEW = {"generate_kwargs": {"max_new_tokens": 12, "num_beams": 1}}


@pytest.fixture(scope="module")
def pipe(folder):
    return jf.pipeline("automatic-speech-recognition", folder)


def test_phrases_and_words(pipe):
    every = pipe(WAVES, return_timestamps=True, **NEW)
    for wave, found in zip(WAVES, every, strict=True):
        assert found == pipe(wave, return_timestamps=True, **NEW)
        assert found["text"] == "".join(chunk["text"] for chunk in found["chunks"])
    assert max(chunk["timestamp"][0] for chunk in every[0]["chunks"]) > 1  # beyond the first second
    timed = pipe(WAVES[0], return_timestamps="word", **NEW)
    assert "".join(chunk["text"] for chunk in timed["chunks"]) == timed["text"] == every[0]["text"]
    assert all(start <= end for start, end in (chunk["timestamp"] for chunk in timed["chunks"]))
    named = pipe(WAVES[1], return_language=True, language="zh", **NEW)
    assert {chunk["language"] for chunk in named["chunks"]} == {"chinese"}
    with pytest.raises(InputError, match="must be True, False or 'word', found 'char'"):
        pipe(WAVES[1], return_timestamps="char")
    with pytest.raises(InputError, match="hears 1 seconds at a time, found chunk_length_s 2"):
        pipe(WAVES[1], chunk_length_s=2)


def test_pieces_cover_a_sound_once():
    for samples in (5, 6, 7, 11, 23):
        kept = [n for start, end, left, right in pieces_of(samples, 6, 2, 1) for n in range(start + left, end - right)]
        assert kept == list(range(samples))


def test_joining_what_pieces_say():
    assert joined([[1, 2, 3, 4], [3, 4, 5]])[0] == [1, 2, 3, 4, 5]
    assert joined([[1, 2, 3], [3, 5]])[0] == [1, 2, 3, 3, 5]  # one token alone says nothing
    assert joined([[9, 1, 2, 7, 4], [1, 2, 3, 4, 5]])[0] == [9, 1, 2, 3, 4, 5]  # the later half is the later piece's
    spans = [[(0.0, 1.0), (1.0, 2.0)], [(0.0, 0.5), (0.5, 2.0), (2.0, 3.0)]]
    assert joined([[1, 2], [1, 2, 3]], spans)[0] == [1, 2, 1, 2, 3]  # said before, so it is not the same
    later = [spans[0], [(1.0, 1.5), (1.5, 2.0), (2.0, 3.0)]]
    assert joined([[1, 2], [1, 2, 3]], later) == ([1, 2, 3], [(0.0, 1.0), (1.5, 2.0), (2.0, 3.0)])


def test_words_of_characters(folder):
    tokenizer = jf.load_tokenizer(folder)
    ids = tokenizer(' "the cat, é', add_special_tokens=False)["input_ids"]
    parts = characters(tokenizer, ids)
    assert [text for text, _ in parts] == [" ", '"', "t", "h", "e", " cat", ",", " ", "é"] or "é" in parts[-1][0]
    assert parts[-1][1] == [len(ids) - 2, len(ids) - 1]  # two bytes
    assert with_marks([(' "', [0]), ("the", [1]), (" cat", [2]), (",", [3])]) == [(' "the', [0, 1]), (" cat,", [2, 3])]
    assert spaced([(" the", [0]), ("re", [1]), (" x", [2]), ("!", [3])], [1, 2, 3, 4], 99) == [
        (" there", [0, 1]), (" x", [2]), ("!", [3])]  # fmt: skip
    spans = [(n / 10, n / 10 + 0.1) for n in range(len(ids))]
    assert len(words(tokenizer, ids, spans, "chinese")) >= len(words(tokenizer, ids, spans, None))


def test_phrases_in_strides(folder):
    """A time that a neighbour hears as well ends nothing; what both say is said once."""
    tokenizer = jf.load_tokenizer(folder)
    first = tokenizer.convert_tokens_to_ids("<|notimestamps|>") + 1
    story = Story(tokenizer, first, 0.02, True)
    cat, the = (tokenizer(text, add_special_tokens=False)["input_ids"][0] for text in (" cat", " the"))
    story.read(Piece([first, the, cat, first + 20, first + 20, the, the, first + 45], stride=(1.0, 0.0, 0.2)))
    story.read(Piece([first, the, the, cat, first + 30], stride=(0.8, 0.2, 0.0)))
    text, chunks = story.told(False)
    assert chunks == [
        {"timestamp": (0.0, 0.4), "text": " the cat"},
        {"timestamp": (0.4, 1.2), "text": " the the cat"},
    ]
    assert text == " the cat the the cat"


CASES = {
    "short": (1, {}),
    "short, timed": (1, {"return_timestamps": True}),
    "long": (0, {"return_timestamps": True}),
    "long, untimed": (0, {}),
    "words": (0, {"return_timestamps": "word"}),
    "pieces": (0, {"chunk_length_s": 1}),
    "timed pieces": (0, {"chunk_length_s": 1, "return_timestamps": True}),
    "words of pieces": (0, {"chunk_length_s": 1, "stride_length_s": (0.3, 0.1), "return_timestamps": "word"}),
    "language": (1, {"return_language": True}),
    "beams": (1, {"return_timestamps": True, "generate_kwargs": {"max_new_tokens": 12}}),
}


@pytest.fixture(scope="module")
def theirs(folder):
    transformers = pytest.importorskip("transformers")
    return transformers.pipeline(
        "automatic-speech-recognition", str(folder), device="cpu", model_kwargs={"attn_implementation": "eager"}
    )


@pytest.mark.parity
@pytest.mark.parametrize("name", CASES)
def test_as_transformers_has_it(name, pipe, theirs):
    row, options = CASES[name]
    expected = theirs(WAVES[row].copy(), **{**NEW, **options})
    found = pipe(WAVES[row], **{**NEW, **options})
    assert found["text"] == expected["text"]
    chunks = [dict(chunk) for chunk in expected.get("chunks", ())]
    assert [chunk.get("text") for chunk in found.get("chunks", ())] == [chunk.get("text") for chunk in chunks]
    for ours, their in zip(found.get("chunks", ()), chunks, strict=True):
        assert ours.get("language") == their.get("language")
        assert ours.get("timestamp") == pytest.approx(their.get("timestamp"))


@pytest.mark.parity
def test_any_tokens_are_read_as_by_transformers(tmp_path):
    """Tokens that no model would write so, in pieces with strides or one after the other."""
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    ids = whisper_files.write(tmp_path, times=1501)
    ours, theirs = jf.load_tokenizer(tmp_path), transformers.WhisperTokenizer.from_pretrained(tmp_path)
    first, rng = ids["<|notimestamps|>"] + 1, np.random.default_rng(0)
    languages = [ids[name] for name in ("<|en|>", "<|zh|>", "<|de|>")]
    for trial in range(60):
        timed, strided, count = (False, True, "word")[trial % 3], trial % 2 == 0, trial % 4 + 1
        story, outputs = Story(ours, first, 0.02, timed), []
        for number in range(count):
            kinds = rng.random(20)
            stamps = first + np.sort(rng.integers(0, 50 if strided else 1500, 20))
            tokens = np.where(kinds < 0.3, stamps, rng.choice([256, 257, 258, 261, 97, 1, 7, 0], 20))
            tokens = np.repeat(tokens, 1 + ((kinds < 0.2) & (tokens >= first)))
            tokens = np.concatenate((rng.choice(languages, int(kinds[0] < 0.5)), tokens)).tolist()
            times = np.cumsum(rng.random(len(tokens)) * 0.1).round(2)
            stride = (1.0, 0.2 * (number > 0), 0.2 * (number < count - 1)) if strided else None
            story.read(Piece(tokens, times.tolist() if timed == "word" else None, stride))
            output = {"tokens": torch.tensor([tokens]), "token_timestamps": torch.tensor(times)[None]}
            outputs.append(output | ({"stride": stride} if strided else {}))
        text, expected = theirs._decode_asr(outputs, return_timestamps=timed, return_language=True, time_precision=0.02)
        assert story.told(True) == (text, expected["chunks"])
