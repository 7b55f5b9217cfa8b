"""Published models at their real size, without their memory: parameter counts, names and shapes, what a forward gives."""

import dataclasses
import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from jaxformers.checkpoints.mapping import expected
from jaxformers.core.params import STATS, abstract, count, decay_mask, leaves, shardings, tree_map
from jaxformers.core.transformer import Execution
from jaxformers.errors import InputError
from jaxformers.families import family_for, family_of
from jaxformers.parallel import MeshConfig, make_mesh

GOLDENS = Path(__file__).resolve().parents[1] / "goldens"
ONE_A_FAMILY = ("bert-base-uncased", "distilbert-base-uncased", "roberta-base", "xlm-roberta-base",
                "electra-small-discriminator", "albert-base-v2", "ModernBERT-base", "deberta-v2-xlarge",
                "xlm-mlm-ende-1024", "xlnet-base-cased", "tapas-base", "gpt2", "Llama-2-7b", "openai-gpt",
                "ctrl", "pythia-70m", "vit-base-patch16-224", "deit-base-distilled-patch16-224", "dinov2-base",
                "vit-mae-base", "convnext-tiny-224", "resnet-50", "swin-tiny-patch4-window7-224", "mit-b0",
                "efficientnet-b0", "beit-base-patch16-224", "wav2vec2-base", "hubert-base-ls960", "whisper-tiny",
                "ast-finetuned-audioset", "speecht5_tts", "speecht5_hifigan")  # fmt: skip
LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
BASE = {"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072}
FAIRSEQ = {"max_position_embeddings": 514, "type_vocab_size": 1, "layer_norm_eps": 1e-5}
DEBERTA = {
    "model_type": "deberta-v2",
    "relative_attention": True,
    "position_buckets": 256,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": "p2c|c2p",
    "position_biased_input": False,
    "type_vocab_size": 0,
}
T5_BASE = {"model_type": "t5", "d_model": 768, "num_layers": 12, "num_heads": 12}
BART_BASE = {
    f"{side}_{what}": n
    for side in ("encoder", "decoder")
    for what, n in (("layers", 6), ("ffn_dim", 3072), ("attention_heads", 12))
}
LLAMA3 = {"model_type": "llama", "vocab_size": 128256, "num_key_value_heads": 8, "rope_theta": 500000.0}
WIDE = {"intermediate_size": 14336, "max_position_embeddings": 131072}
PUBLISHED = {  # name -> (config.json, parameters of the bare model, pooler included)
    "bert-base-uncased": ({"model_type": "bert"}, 109_482_240),
    "bert-large-uncased": ({"model_type": "bert", **LARGE}, 335_141_888),
    "bert-base-cased": ({"model_type": "bert", "vocab_size": 28996}, 108_310_272),
    "bert-base-multilingual-cased": ({"model_type": "bert", "vocab_size": 119547}, 177_853_440),
    "distilbert-base-uncased": ({"model_type": "distilbert"}, 66_362_880),
    "distilbert-base-multilingual-cased": ({"model_type": "distilbert", "vocab_size": 119547}, 134_734_080),
    "roberta-base": ({"model_type": "roberta", **FAIRSEQ}, 124_645_632),
    "roberta-large": ({"model_type": "roberta", **FAIRSEQ, **LARGE}, 355_359_744),
    "xlm-roberta-base": ({"model_type": "xlm-roberta", "vocab_size": 250002, **FAIRSEQ}, 278_043_648),
    "electra-small-discriminator": ({"model_type": "electra"}, 13_483_008),
    "electra-base-discriminator": ({"model_type": "electra", "embedding_size": 768, **BASE}, 108_891_648),
    "albert-base-v2": ({"model_type": "albert", **BASE}, 11_683_584),
    "albert-xxlarge-v2": ({"model_type": "albert"}, 222_595_584),
    "ModernBERT-base": ({"model_type": "modernbert"}, 149_014_272),
    "ModernBERT-large": (
        {"model_type": "modernbert", **LARGE, "num_hidden_layers": 28, "intermediate_size": 2624},
        394_781_696,
    ),
    "deberta-v3-small": ({**DEBERTA, **BASE, "num_hidden_layers": 6}, 141_304_320),
    "deberta-v3-base": ({**DEBERTA, **BASE, "num_hidden_layers": 12}, 183_831_552),
    "deberta-v2-xlarge": ({**DEBERTA, "conv_kernel_size": 3, "conv_act": "gelu"}, 884_593_152),
    "xlm-mlm-en-2048": ({"model_type": "xlm"}, 667_088_896),
    "xlm-mlm-ende-1024": (
        {"model_type": "xlm", "vocab_size": 64699, "emb_dim": 1024, "n_layers": 6, "n_heads": 8, "n_langs": 2},
        142_357_504,
    ),
    "xlnet-base-cased": (
        {"model_type": "xlnet", "d_model": 768, "n_layer": 12, "n_head": 12, "d_inner": 3072},
        116_718_336,
    ),
    "tapas-base": ({"model_type": "tapas", "max_position_embeddings": 512}, 110_278_656),
    "xlnet-large-cased": ({"model_type": "xlnet"}, 360_268_800),
    "gpt2": ({"model_type": "gpt2"}, 124_439_808),
    "gpt2-xl": ({"model_type": "gpt2", "n_embd": 1600, "n_layer": 48, "n_head": 25}, 1_557_611_200),
    "Llama-2-7b": ({"model_type": "llama"}, 6_607_343_616),
    "Llama-3.1-8B": ({**LLAMA3, **WIDE}, 7_504_924_672),
    "Mistral-7B": ({"model_type": "mistral"}, 7_110_660_096),
    "Qwen2-0.5B": (
        {
            "model_type": "qwen2",
            "hidden_size": 896,
            "intermediate_size": 4864,
            "num_hidden_layers": 24,
            "num_attention_heads": 14,
            "num_key_value_heads": 2,
            "tie_word_embeddings": True,
        },
        494_032_768,
    ),
    "Qwen3-0.6B": (
        {
            "model_type": "qwen3",
            "hidden_size": 1024,
            "intermediate_size": 3072,
            "num_hidden_layers": 28,
            "num_attention_heads": 16,
            "num_key_value_heads": 8,
            "tie_word_embeddings": True,
        },
        596_049_920,
    ),
    "gemma-2b": (
        {
            "model_type": "gemma",
            "hidden_size": 2048,
            "intermediate_size": 16384,
            "num_hidden_layers": 18,
            "num_attention_heads": 8,
            "num_key_value_heads": 1,
        },
        2_506_172_416,
    ),
    "openai-gpt": ({"model_type": "openai-gpt"}, 116_534_784),
    "ctrl": ({"model_type": "ctrl"}, 1_637_718_016),
    "pythia-70m": (
        {
            "model_type": "gpt_neox",
            "vocab_size": 50304,
            "hidden_size": 512,
            "num_hidden_layers": 6,
            "num_attention_heads": 8,
            "intermediate_size": 2048,
        },
        44_670_976,
    ),
    "gemma-2-2b": ({"model_type": "gemma2"}, 2_614_341_888),
    "gemma-3-1b": (
        {
            "model_type": "gemma3_text",
            "vocab_size": 262144,
            "hidden_size": 1152,
            "intermediate_size": 6912,
            "num_attention_heads": 4,
            "num_key_value_heads": 1,
        },
        999_885_952,
    ),
    "t5-small": ({"model_type": "t5"}, 60_506_624),
    "flan-t5-base": ({**T5_BASE, "d_ff": 2048, "feed_forward_proj": "gated-gelu"}, 222_903_552),
    "mt5-small": ({"model_type": "mt5"}, 172_119_424),
    "bart-base": ({"model_type": "bart", "d_model": 768, **BART_BASE}, 139_420_416),
    "bart-large": ({"model_type": "bart"}, 406_291_456),
    "mbart-large-50": ({"model_type": "mbart", "vocab_size": 250054}, 610_879_488),
    "vit-base-patch16-224": ({"model_type": "vit"}, 86_389_248),
    "vit-large-patch32-384": ({"model_type": "vit", **LARGE, "patch_size": 32, "image_size": 384}, 306_657_280),
    "deit-base-distilled-patch16-224": ({"model_type": "deit"}, 86_390_784),
    "dinov2-base": ({"model_type": "dinov2", "image_size": 518}, 86_580_480),
    "dinov2-giant": (
        {
            "model_type": "dinov2",
            "image_size": 518,
            "hidden_size": 1536,
            "num_hidden_layers": 40,
            "num_attention_heads": 24,
            "use_swiglu_ffn": True,
        },
        1_136_480_768,
    ),
    "vit-mae-base": ({"model_type": "vit_mae"}, 85_798_656),
    "convnext-tiny-224": ({"model_type": "convnext"}, 27_820_128),
    "clip-vit-base-patch32": ({"model_type": "clip"}, 151_277_313),
    "resnet-50": ({"model_type": "resnet"}, 23_508_032),
    "swin-tiny-patch4-window7-224": ({"model_type": "swin"}, 27_519_354),
    "efficientnet-b0": (
        {"model_type": "efficientnet", "width_coefficient": 1.0, "depth_coefficient": 1.0, "hidden_dim": 1280},
        4_007_548,
    ),
    "beit-base-patch16-224": ({"model_type": "beit", "use_relative_position_bias": True}, 85_761_984),
    "vit-gpt2-image-captioning": (
        {
            "model_type": "vision-encoder-decoder",
            "encoder": {"model_type": "vit"},
            "decoder": {"model_type": "gpt2", "is_decoder": True, "add_cross_attention": True},
        },
        239_195_904,
    ),
    "wav2vec2-base": ({"model_type": "wav2vec2"}, 94_371_712),
    "wav2vec2-large-960h-lv60": (
        {
            "model_type": "wav2vec2",
            **LARGE,
            "feat_extract_norm": "layer",
            "do_stable_layer_norm": True,
            "conv_bias": True,
        },
        315_438_720,
    ),
    "hubert-base-ls960": ({"model_type": "hubert"}, 94_371_712),
    "whisper-tiny": ({"model_type": "whisper"}, 37_760_640),
    "whisper-large-v3": (
        {
            "model_type": "whisper",
            "d_model": 1280,
            "num_mel_bins": 128,
            "vocab_size": 51866,
            **{
                f"{side}_{what}": n
                for side in ("encoder", "decoder")
                for what, n in (("layers", 32), ("ffn_dim", 5120), ("attention_heads", 20))
            },
        },
        1_543_490_560,
    ),
    "ast-finetuned-audioset": ({"model_type": "audio-spectrogram-transformer"}, 86_187_264),
    "speecht5_tts": ({"model_type": "speecht5"}, 141_787_136),
    "speecht5_hifigan": ({"model_type": "speecht5_hifigan"}, 12_656_257),
    "mit-b0": ({"model_type": "segformer"}, 3_319_392),
    "nllb-200-distilled-600M": ({"model_type": "m2m_100", "vocab_size": 256206}, 615_073_792),
}
GONE = {  # counted by an older transformers, and by torchvision
    "transfo-xl-wt103": ({"model_type": "transfo-xl"}, 283_885_936),
    "vgg16": ({"model_type": "vgg"}, 138_357_544 - 4_097_000),
    "timm/vgg11_bn": ({"architecture": "vgg11_bn"}, 132_868_840 - 4_097_000),
}
TRACED = ("bert-large-uncased", "albert-xxlarge-v2", "ModernBERT-base", "deberta-v2-xlarge")  # one a lineage


def declared(raw, head=None):
    family = family_of(raw, "config.json")
    config = family.config_from_hf(raw, "config.json")
    return family, config, family.declare(config, head)


def learnt(tree):
    return {name: branch for name, branch in tree.items() if name != STATS}


@pytest.mark.parametrize("name", PUBLISHED | GONE)
def test_the_published_number_of_parameters(name):
    raw, published = (PUBLISHED | GONE)[name]
    assert count(learnt(declared(raw)[2])) == published


@pytest.mark.parity
@pytest.mark.parametrize("name", PUBLISHED)
def test_pytorch_counts_as_many(name):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    raw, published = PUBLISHED[name]
    config = transformers.AutoConfig.for_model(**raw)
    every = family_for(raw["model_type"]).architectures
    for head, architecture in every.items() if name in ONE_A_FAMILY else [(None, every[None])]:
        with torch.device("meta"):
            theirs = getattr(transformers, architecture)(config).num_parameters()
        assert count(learnt(declared(raw, head)[2])) == theirs, architecture
        assert head is not None or theirs == published


@pytest.mark.parametrize("name", ["bert-base"])
def test_names_and_shapes_are_the_checkpoints(name):
    """tests/goldens/make_goldens.py wrote them from transformers; a change here breaks every published checkpoint."""
    raw = {"model_type": name.split("-")[0]}
    published = json.loads((GOLDENS / f"{name}.shapes.json").read_text())
    ours = {name: list(shape) for name, _, shape in expected(declared(raw, "pretraining")[2])}
    assert ours == published


@pytest.mark.parametrize("name", TRACED)
def test_a_forward_at_real_size_gives_its_shapes_and_takes_no_memory(name):
    raw, _ = PUBLISHED[name]
    family, config, tree = declared(raw, "masked-lm")
    ids = jax.ShapeDtypeStruct((8, 512), jnp.int32)
    scan = Execution(layers="scan")
    run = lambda params, ids: family.forward("masked-lm")(params, ids, ids, config=config, execution=scan)  # noqa: E731
    output = jax.eval_shape(run, abstract(tree, jnp.bfloat16), ids)
    assert output.logits.shape == (8, 512, config.vocab_size)
    assert output.logits.dtype == jnp.bfloat16


@pytest.mark.parametrize(
    "mesh", [MeshConfig(), MeshConfig(fsdp=8), MeshConfig(fsdp=2, tensor=4)], ids=["data", "fsdp", "fsdp and tensor"]
)
@pytest.mark.parametrize("name", PUBLISHED)
def test_real_sizes_can_be_cut_over_eight_devices(name, mesh):
    raw = PUBLISHED[name][0]
    words = [head for head in ("causal-lm", "masked-lm", "seq2seq-lm") if head in family_for(raw["model_type"]).heads]
    _, config, tree = declared(raw, words[0] if words else None)
    convolutions = hasattr(config, "conv_dim") or not isinstance(getattr(config, "num_attention_heads", None), int)
    if convolutions:  # what has no heads is not cut by them
        mesh = dataclasses.replace(mesh, tensor=1, fsdp=8 if mesh.fsdp > 1 else 1)
        heads = mesh.tensor
    else:
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    if heads % mesh.tensor:
        with pytest.raises(InputError, match="'heads' of size"):
            shardings(tree, make_mesh(mesh))
        return
    places = zip(leaves(shardings(tree, make_mesh(mesh))), leaves(tree), strict=True)
    on_one = sum(math.prod(place.shard_shape(param.shape)) for (_, place), (_, param) in places)
    # What is not cut (biases, token types) is small.
    assert on_one == pytest.approx(count(tree) / (mesh.fsdp * mesh.tensor), rel=0.12)


def test_biases_and_norms_do_not_decay():
    _, _, tree = declared({"model_type": "bert"}, "pretraining")
    spared = {path[-1] for path, decays in leaves(decay_mask(tree)) if not decays}
    assert spared == {"bias", "scale"}
    assert all(not param.decay for path, param in leaves(tree) if path[-1] in spared)
    assert {path[-1] for path, _ in leaves(tree)} - spared == {"kernel", "word", "position", "type"}
    assert jax.tree.structure(decay_mask(tree)) == jax.tree.structure(tree_map(lambda param: 0, tree))
