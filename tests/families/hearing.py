"""The rows of the families that take sounds. Their configs are in `tests.goldens.sounds`."""

from tests.families.row import Row
from tests.goldens import sounds

LARGE = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
CLASSIFY = ("audio-classification", "audio-frame-classification")
WAV2VEC2 = Row(
    family="wav2vec2",
    config=sounds.WAV2VEC2,
    whole="ctc",
    without=("audio-xvector", "pretraining"),  # these in test_sounds_parity
    brief=True,
    variants={
        "large": ((None, "ctc"), LARGE),
        "norms first": ((None,), {"do_stable_layer_norm": True}),
        "odd window": ((None,), {"num_conv_pos_embeddings": 5, "num_conv_pos_embedding_groups": 2}),
        "relu": ((None,), {"hidden_act": "relu", "feat_extract_activation": "relu"}),
        "epsilon": ((None,), {"layer_norm_eps": 1e-2}),
        "all layers weighed": (CLASSIFY, {"use_weighted_layer_sum": True}),
        "nothing to hide by": (("ctc",), {"mask_time_prob": 0.0}),
    },
)
HUBERT = Row(
    family="hubert",
    config=sounds.HUBERT,
    whole="ctc",
    brief=True,
    variants={
        "large": ((None,), LARGE),
        "no norm before the projection": ((None,), {"feat_proj_layer_norm": False}),
    },
)
WHISPER = Row(
    family="whisper",
    config=sounds.WHISPER,
    whole="speech-seq2seq",
    brief=True,
    variants={
        "128 bands": ((None,), {"num_mel_bins": 16}),
        "all layers weighed": (("audio-classification",), {"use_weighted_layer_sum": True}),
        "relu": ((None,), {"activation_function": "relu"}),
    },
)
AST = Row(
    family="audio-spectrogram-transformer",
    config=sounds.AST,
    whole="audio-classification",
    brief=True,
    variants={
        "no biases, wide steps": ((None,), {"qkv_bias": False, "frequency_stride": 4, "time_stride": 4}),
        "epsilon": (("audio-classification",), {"layer_norm_eps": 1e-2}),
    },
)
SPEECHT5 = Row(
    family="speecht5",
    config=sounds.SPEECHT5,
    whole="text-to-speech",
    without=(None, "speech-to-speech"),  # of which one takes vectors, called otherwise; the other in test_sounds_parity
    brief=True,
    variants={
        "a frame at a time": (("text-to-speech",), {"reduction_factor": 1}),
        "attention left alone": (("text-to-speech",), {"use_guided_attention_loss": False}),
        "words scaled, layers normed": (("speech-seq2seq",), {"scale_embedding": True, "feat_extract_norm": "layer"}),
        "words of the output's own": (("speech-seq2seq",), {"tie_word_embeddings": False}),
    },
)
HIFIGAN = Row(
    family="speecht5_hifigan",
    config=sounds.HIFIGAN,
    whole=None,
    brief=True,
    variants={"another slope, no norm": ((None,), {"leaky_relu_slope": 0.2, "normalize_before": False})},
)
ROWS = (WAV2VEC2, HUBERT, WHISPER, AST, SPEECHT5, HIFIGAN)
