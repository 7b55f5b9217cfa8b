"""The tiny configs of the families that take sounds, their goldens' cases, and the sounds. Imports nothing of jaxformers."""

from typing import Any

import numpy as np

from tests.goldens.drawing import integers

TINY = {
    "vocab_size": 24,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "conv_dim": [16, 24],
    "conv_stride": [5, 2],
    "conv_kernel": [10, 3],
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 4,
    "classifier_proj_size": 16,
    "ctc_loss_reduction": "mean",
    "layerdrop": 0.0,  # of a few layers on every run another would be left out
}
WAV2VEC2 = {
    "model_type": "wav2vec2",
    **TINY,
    "tdnn_dim": [16, 24],
    "tdnn_kernel": [3, 2],
    "tdnn_dilation": [1, 2],
    "xvector_output_dim": 16,
    "num_codevectors_per_group": 8,
    "codevector_dim": 16,
    "proj_codevector_dim": 8,
}
HUBERT = {"model_type": "hubert", **TINY}
WHISPER = {
    "model_type": "whisper",
    "vocab_size": 64,
    "num_mel_bins": 8,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_source_positions": 8,
    "max_target_positions": 24,
    "dropout": 0.1,
    "use_cache": False,
    "pad_token_id": 1,
    "bos_token_id": 2,
    "eos_token_id": 3,
    "decoder_start_token_id": 4,
    "classifier_proj_size": 16,
}
AST = {
    "model_type": "audio-spectrogram-transformer",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "patch_size": 4,
    "frequency_stride": 3,
    "time_stride": 3,
    "max_length": 16,
    "num_mel_bins": 8,
    "hidden_dropout_prob": 0.1,
}
SPEECHT5 = {
    "model_type": "speecht5",
    "vocab_size": 64,
    "hidden_size": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    **{key: TINY[key] for key in ("conv_dim", "conv_stride", "conv_kernel", "num_conv_pos_embeddings",
                                  "num_conv_pos_embedding_groups")},
    "encoder_max_relative_position": 4,
    "num_mel_bins": 8,
    "speech_decoder_prenet_units": 16,
    "speech_decoder_prenet_dropout": 0.0,  # see `without_drops`
    "speech_decoder_postnet_layers": 3,
    "speech_decoder_postnet_units": 16,
    "speaker_embedding_dim": 16,
    "encoder_layerdrop": 0.0,
    "decoder_layerdrop": 0.0,
    "use_cache": False,
}  # fmt: skip
HIFIGAN = {
    "model_type": "speecht5_hifigan",
    "model_in_dim": 8,
    "upsample_initial_channel": 16,
    "upsample_rates": [2, 3],
    "upsample_kernel_sizes": [4, 7],
    "resblock_kernel_sizes": [3, 5],
    "resblock_dilation_sizes": [[1, 3], [1, 2]],
}
LABELS = {str(i): name for i, name in enumerate(("no", "maybe", "yes"))}

CASES: dict[str, tuple[str, str | None, dict[str, Any]]] = {  # name -> (class, head, config)
    "wav2vec2-ctc": ("Wav2Vec2ForCTC", "ctc", WAV2VEC2),
    "hubert-ctc": ("HubertForCTC", "ctc", HUBERT),
    "audio-spectrogram-transformer-classes": (
        "ASTForAudioClassification",
        "audio-classification",
        {**AST, "id2label": LABELS},
    ),
    "speecht5-speaks": ("SpeechT5ForTextToSpeech", "text-to-speech", SPEECHT5),
    "speecht5_hifigan": ("SpeechT5HifiGan", None, HIFIGAN),
    "whisper-texts": ("WhisperForConditionalGeneration", "speech-seq2seq", WHISPER),
}
FAMILIES = {config["model_type"] for _, _, config in CASES.values()}
FIXED = (
    "encoder.embed_positions.weight",
    "model.encoder.embed_positions.weight",
)  # Whisper's, which it keeps in its file
STILL = {"whisper": FIXED}  # which, once it has read them from a file, it no longer takes for fixed
# What hides frames, where none are; the quantizer's choice, which is only drawn in training; positions.
UNLEARNT = (
    *(f"{prefix}masked_spec_embed" for prefix in ("", "wav2vec2.", "hubert.", "speecht5.encoder.prenet.")),
    "quantizer.weight_proj.weight",
    "quantizer.weight_proj.bias",
    "mean",
    "scale",
)
BUFFERS = ("mean", "scale")  # of the vocoder, which its file keeps
PARTS_OF_LOSS = ("contrastive_loss", "diversity_loss")
FOR_LOSS = ("cosines", "coarse_spectrogram", "stop_logits")  # by which speakers and speaking are learnt
SAMPLES = 95


def sample(
    config: dict[str, Any], head: str | None, batch: int | None = None, length: int = 7
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Sounds, three unless `batch` says otherwise, some shorter; and what a head learns from them. Few digits, to be stored."""
    B = 3 if batch is None else batch
    sounds = lambda name, shape: ((integers(name, shape, 0, 33) - 16) / 8).astype(np.float32)  # noqa: E731
    if config["model_type"] == "speecht5_hifigan":
        return {"spectrogram": sounds("spectra", (B, 6, config["model_in_dim"]))}, {}
    if config["model_type"] == "speecht5":
        return speecht5_sample(config, head, B, length)
    if config["model_type"] == "audio-spectrogram-transformer":
        return {"input_values": sounds("spectra", (B, config["max_length"], config["num_mel_bins"]))}, labels(
            config, head, B, 0
        )
    if config["model_type"] == "whisper":
        shape = (B, config["num_mel_bins"], 2 * config["max_source_positions"])
        given = {"input_features": sounds("input_features", shape)}
        if head != "audio-classification":
            real = (np.arange(length)[None] < np.array([length, length - 2, length - 3])[np.arange(B) % 3, None]) * 1
            given["decoder_input_ids"] = integers("decoder_input_ids", (B, length), 5, 64)
            given["decoder_attention_mask"] = real
    else:
        lengths = np.array([SAMPLES, 70, 83])[np.arange(B) % 3, None]
        given = {
            "input_values": sounds("input_values", (B, SAMPLES)),
            "attention_mask": (np.arange(SAMPLES)[None] < lengths) * 1,
        }
        if head == "pretraining":
            frames = frames_of(config, SAMPLES)
            hidden = integers("mask_time_indices", (B, frames), 0, 2)
            hidden[:, 1:3] = 1
            given["mask_time_indices"] = hidden
            own = frames * np.arange(B)[:, None, None]  # those of a sound are of the same sound
            given["sampled_negative_indices"] = own + integers("negatives", (B, frames, 4), 0, frames)
    return given, labels(config, head, B, length)


def speecht5_sample(
    config: dict[str, Any], head: str | None, B: int, length: int
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Texts or sounds on either side."""
    heard, _ = sample({"model_type": "wav2vec2"}, None, B)
    real = (np.arange(length)[None] < np.array([length, length - 2, length - 3])[np.arange(B) % 3, None]) * 1
    given = heard
    if head == "text-to-speech":
        given = {"input_ids": integers("input_ids", (B, length), 5, 64), "attention_mask": real}
    if head == "speech-seq2seq":
        ids = {"decoder_input_ids": integers("decoder_input_ids", (B, length), 5, 64), "decoder_attention_mask": real}
        return given | ids, {"labels": integers("labels", (B, length), 5, 64)}
    bands, r = config["num_mel_bins"], config.get("reduction_factor", 2)
    frames = lambda name, count, width: ((integers(name, (B, count, width), 0, 33) - 16) / 8).astype(np.float32)  # noqa: E731
    given["decoder_input_values"] = frames("decoder_input_values", length, bands)
    given["decoder_attention_mask"] = real
    given["speaker_embeddings"] = frames("speakers", 1, config["speaker_embedding_dim"])[:, 0]
    labels = np.where(np.repeat(real, r, axis=1)[..., None] != 0, frames("spectra", r * length, bands), -100.0)
    return given, {"labels": labels.astype(np.float32)}


def without_drops(model: Any) -> Any:
    """The model, whose net before frames drops nothing where nothing is to be dropped; transformers' then drops all."""
    if model.config.model_type == "speecht5" and hasattr(model, "speech_decoder_postnet"):
        model.speecht5.decoder.prenet._consistent_dropout = lambda frames, share: frames
    return model


def by_name(output: Any) -> Any:
    """What a model gives, under its name: the vocoder's waves have none."""
    return output if hasattr(output, "keys") else {"waveform": output}


def frames_of(config: dict[str, Any], samples: int) -> int:
    """How many frames so many samples make."""
    for kernel, stride in zip(config["conv_kernel"], config["conv_stride"], strict=True):
        samples = (samples - kernel) // stride + 1
    return samples


def labels(config: dict[str, Any], head: str | None, batch: int, length: int) -> dict[str, np.ndarray]:
    """What a head learns from, under transformers' names."""
    classes = len(config.get("id2label") or "ab")
    match head:
        case "ctc":
            found = integers("labels", (batch, 3), 1, 8)
            found[:, 1] = found[:, 0]  # the same letter twice
            found[batch // 2, 2:] = -100
            return {"labels": found}
        case "audio-classification" | "audio-xvector":
            return {"labels": integers("labels", (batch,), 0, classes)}
        case "audio-frame-classification":
            return {"labels": integers("labels", (batch, frames_of(config, SAMPLES)), 0, classes)}
        case "speech-seq2seq":
            return {"labels": integers("labels", (batch, length), 5, 64)}
    return {}


def as_pytorch(architecture: str, named: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """As PyTorch takes them: the classes of frames one-hot."""
    if architecture != "Wav2Vec2ForAudioFrameClassification":
        return named
    return named | {"labels": np.eye(len(LABELS), dtype=np.float32)[named["labels"]]}
