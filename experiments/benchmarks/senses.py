"""Images and sounds beside PyTorch transformers, the same random weights on both sides: seconds of each, and what both compute.

    python -m experiments.benchmarks.senses --rounds 3

Images a second, forward alone and a training step (AdamW, clipping, no dropout), of ViT base and ConvNeXT tiny; a minute of sound
written down by a Whisper of tiny's shape, spectrum and 2 × 128 greedy tokens; twenty seconds through a Wav2Vec2 of base's shape.
Each case and side runs in a process of its own, in turn; PyTorch as it comes and with its model compiled by torch.compile, the
better of which is its best. A side's time is the least of several calls after the first two, which compile; the median over the
rounds is told. Needs the [parity] extra. Run it on a quiet machine.
"""

import dataclasses
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from experiments.benchmarks.finetune import bare

WHISPER = {"model_type": "whisper", "d_model": 384, "encoder_layers": 4, "decoder_layers": 4, "encoder_attention_heads": 6,
           "decoder_attention_heads": 6, "encoder_ffn_dim": 1536, "decoder_ffn_dim": 1536}  # fmt: skip
MODELS: dict[str, tuple[dict[str, Any], str]] = {
    "vit": (
        {"model_type": "vit", "num_labels": 1000, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
        "image-classification",
    ),
    "convnext": ({"model_type": "convnext", "num_labels": 1000}, "image-classification"),
    "whisper": (WHISPER, "speech-seq2seq"),
    "wav2vec2": ({"model_type": "wav2vec2", "vocab_size": 32}, "ctc"),
}
EXTRACTORS = {
    "whisper": {"feature_extractor_type": "WhisperFeatureExtractor", "feature_size": 80, "sampling_rate": 16000,
                "hop_length": 160, "chunk_length": 30, "n_fft": 400, "padding_value": 0.0, "padding_side": "right"},
    "wav2vec2": {"feature_extractor_type": "Wav2Vec2FeatureExtractor", "feature_size": 1, "sampling_rate": 16000,
                 "do_normalize": True, "padding_value": 0.0, "padding_side": "right", "return_attention_mask": False},
}  # fmt: skip
CASES: dict[str, dict[str, Any]] = {
    "ViT base, forward": {"model": "vit", "rows": 8, "training": False},
    "ViT base, training step": {"model": "vit", "rows": 4, "training": True},
    "ConvNeXT tiny, forward": {"model": "convnext", "rows": 8, "training": False},
    "ConvNeXT tiny, training step": {"model": "convnext", "rows": 4, "training": True},
    "Whisper tiny, 60 s of sound": {"model": "whisper", "seconds": 60, "tokens": 128},
    "Wav2Vec2 base, 20 s of sound": {"model": "wav2vec2", "seconds": 20},
}
START = 50258  # the token that Whisper's texts start with


@dataclasses.dataclass(frozen=True)
class Options:
    """What to measure."""

    cases: tuple[str, ...] = tuple(CASES)
    """Which."""
    calls: int = 5
    """Calls that are timed, in each process."""
    rounds: int = 3
    """Processes of each side."""
    output: Path = Path("out/benchmarks/senses.json")
    """Where the figures go."""


def given(case: dict[str, Any]) -> np.ndarray:
    """Pixels [B, H, W, 3] or a wave."""
    draw = np.random.default_rng(0)
    if "rows" in case:
        return draw.normal(size=(case["rows"], 224, 224, 3)).astype(np.float32)
    return (0.1 * draw.normal(size=case["seconds"] * 16000)).astype(np.float32)


def timed(call: Callable[[], Any], calls: int) -> dict[str, Any]:
    """Seconds of the best call, those that compile apart, and the first numbers of what the first gave."""
    seconds = []
    for count in range(calls + 2):
        start = time.perf_counter()
        result = np.asarray(call())
        seconds.append(time.perf_counter() - start)
        if not count:
            said = result.reshape(-1)[:256].tolist()
    return {"seconds": min(seconds[2:]), "first_seconds": sum(seconds[:2]), "said": said}


def ours(case: dict[str, Any], folder: str, calls: int) -> dict[str, Any]:
    """Our side of one case."""
    import jax

    import jaxformers as jf
    from jaxformers.parallel.mesh import MeshConfig, make_mesh
    from jaxformers.train import TrainingArguments, make_train_step

    model = jf.load(folder, MODELS[case["model"]][1])
    inputs = given(case)
    if case.get("training"):
        step = make_train_step(
            model,
            TrainingArguments(learning_rate=1e-4, lr_scheduler_type="constant"),
            num_training_steps=100,
            mesh=make_mesh(MeshConfig(data=1), jax.devices()[:1]),
        )
        batch = step.put({"pixel_values": inputs, "labels": np.arange(len(inputs), dtype=np.int32)})
        states = [step.init()]

        def train() -> Any:
            state, metrics = step(states.pop(), batch)
            states.append(state)
            return metrics["loss_sum"] / metrics["loss_count"]

        return timed(train, calls)
    forward = jax.jit(lambda params, values: model.apply(params, **values).logits)
    if "rows" in case:
        return timed(lambda: forward(model.params, {"pixel_values": inputs}), calls)
    extractor = jf.load_feature_extractor(folder)
    if case["model"] == "wav2vec2":
        return timed(lambda: forward(model.params, {"input_values": extractor.batch([inputs])["input_values"]}), calls)

    def transcribe() -> Any:
        features = extractor.batch(np.split(inputs, 2))["input_features"]
        return jf.generate(
            model, input_features=features, decoder_start_token_id=START, eos_token_id=None,
            pad_token_id=0, max_new_tokens=case["tokens"],
        ).sequences[:, 1:]  # fmt: skip

    return timed(transcribe, calls)


def side(who: str, case: dict[str, Any], folder: str, calls: int) -> dict[str, Any]:
    """One process."""
    if who == "jaxformers":
        return ours(case, folder, calls)
    from experiments.benchmarks.senses_peer import theirs

    return theirs(case, folder, given(case), calls, timed, compiled=who.endswith("compiled"))


def main(options: Options) -> None:
    """Runs all sides in turn and tells."""
    if unknown := {*options.cases} - {*CASES}:
        sys.exit(f"cases must be some of {', '.join(map(repr, CASES))}, found {min(unknown)!r}")
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, (config, head) in MODELS.items():
            code = f"import jaxformers as jf; jf.save(jf.load({config!r}, {head!r}, seed=1), {f'{folder}/{name}'!r})"
            subprocess.run([sys.executable, "-c", code], check=True, env=bare())
            if name in EXTRACTORS:
                (Path(folder) / name / "preprocessor_config.json").write_text(json.dumps(EXTRACTORS[name]))
        for case in options.cases:
            runs: dict[str, list[dict[str, Any]]] = {}
            for _ in range(options.rounds):
                for who in ("jaxformers", "PyTorch", "PyTorch, compiled"):
                    job = json.dumps([who, CASES[case], f"{folder}/{CASES[case]['model']}", options.calls])
                    command = [sys.executable, "-m", "experiments.benchmarks.senses", "side", job]
                    done = subprocess.run(command, env=bare(), capture_output=True, text=True, check=False)
                    if done.returncode:
                        sys.exit(f"{who} failed at {case}:\n{done.stderr[-4000:]}")
                    runs.setdefault(who, []).append(json.loads(done.stdout.splitlines()[-1]))
            seconds = {who: statistics.median(each["seconds"] for each in them) for who, them in runs.items()}
            first, second = (np.array(runs[who][0]["said"]) for who in ("jaxformers", "PyTorch"))
            apart = float(np.abs(first - second).max())
            best = min(seconds["PyTorch"], seconds["PyTorch, compiled"])
            found[case] = {"seconds": seconds, "apart": apart, "ratio": best / seconds["jaxformers"], "runs": runs}
            told = ", ".join(f"{who} {value:.3f} s" for who, value in seconds.items())
            print(f"{case}: {told}; {best / seconds['jaxformers']:.2f} times as fast as its best; apart by {apart:.1e}")
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["side"]:
        print(json.dumps(side(*json.loads(sys.argv[2]))))
    else:
        main(tyro.cli(Options, description=__doc__))
