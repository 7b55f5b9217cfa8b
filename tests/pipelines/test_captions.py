"""image-to-text: texts of images, equal to generation by hand; and to transformers' processor, model and tokenizer."""

import jax
import numpy as np
import pytest

import jaxformers as jf
from jaxformers.checkpoints.load import describe
from jaxformers.checkpoints.mapping import expected
from jaxformers.errors import InputError
from jaxformers.pipelines.base import HOST
from jaxformers.preprocess import ImageProcessor, Processor
from tests.families.table import write_checkpoint
from tests.goldens.make_images import picture
from tests.goldens.pixels import VISION_ENCODER_DECODER

IMAGES = [picture(*size) for size in ((20, 31), (16, 16), (9, 40))]


@pytest.fixture(scope="module")
def folder(tokenizer, tmp_path_factory):
    """A tiny captioner whose words are those of the tests' tokenizer."""
    folder = tmp_path_factory.mktemp("captioner")
    config = VISION_ENCODER_DECODER | {"decoder": VISION_ENCODER_DECODER["decoder"] | {"vocab_size": len(tokenizer)}}
    family, numbers = describe(config)
    shapes = {name: shape for name, _, shape in expected(family.declare(numbers, "vision2seq"))}
    write_checkpoint(folder, config, shapes)
    Processor(tokenizer, ImageProcessor(size=16)).save(folder)
    return folder


def test_texts_of_images(folder):
    tell = jf.pipeline("image-to-text", folder)
    many = tell(IMAGES, max_new_tokens=6)
    assert [[list(record) for record in each] for each in many] == [[["generated_text"]]] * 3
    assert tell(IMAGES, generate_kwargs={"max_new_tokens": 6}) == many
    with pytest.raises(InputError, match="max_new_tokens: given by name and in generate_kwargs"):
        tell(IMAGES, max_new_tokens=6, generate_kwargs={"max_new_tokens": 6})

    batch = tell.preprocess(IMAGES)
    ids = tell.forward(batch, max_new_tokens=6)["tokens"]
    decode = jf.load_tokenizer(str(folder)).decode
    texts = [decode(row.tolist(), skip_special_tokens=True) for row in ids[:, 0]]
    assert [each[0]["generated_text"] for each in many] == texts[:3]
    assert any(texts)
    assert tell.postprocess({"tokens": ids[:1], HOST: {"given": "one", "rows": 1}}) == many[0]
    # With a cache or without, the likeliest comes next.
    model, ids = jf.load(folder, "vision2seq"), ids[:, 0]
    run = jax.jit(lambda params: model.apply(params, pixel_values=batch["pixel_values"], decoder_input_ids=ids).logits)
    ended = np.cumsum(ids[:, 1:] == 2, axis=1) > 0
    found, likeliest = (np.where(ended, -1, each) for each in (ids[:, 1:], run(model.params).argmax(-1)[:, :-1]))
    np.testing.assert_array_equal(found, likeliest)


@pytest.mark.parity
@pytest.mark.filterwarnings("default")
def test_texts_are_those_of_transformers(folder):
    """Its own pipeline is gone since version 5: by its processor, model and tokenizer, as that did."""
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model = transformers.VisionEncoderDecoderModel.from_pretrained(folder)
    reader = transformers.AutoImageProcessor.from_pretrained(folder, use_fast=False)
    words = transformers.AutoTokenizer.from_pretrained(folder)
    given = reader([image.copy() for image in IMAGES], return_tensors="pt").pixel_values
    for options in ({"max_new_tokens": 8}, {"max_new_tokens": 8, "num_beams": 2, "num_return_sequences": 2}):
        texts = words.batch_decode(model.generate(given, **options), skip_special_tokens=True)
        found = jf.pipeline("image-to-text", folder)(IMAGES, generate_kwargs=options)
        assert [record["generated_text"] for each in found for record in each] == texts
