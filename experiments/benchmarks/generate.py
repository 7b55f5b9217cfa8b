"""Generation beside transformers' `generate`: new tokens a second, greedy, the prompt's reading included.

    python -m experiments.benchmarks.generate [--stories FOLDER]

The shapes of GPT-2 small and T5-small with random weights (saved once, so that both sides read one folder): 16 tokens of prompt
and 128 new ones, batch 1 and 8; beam search of 4 over the same, and over T5's answer to 64 tokens; and, where its folder is
given, the trained stories260K, batch 1, 256 tokens. Each case and side runs in a process of its own, in turn. transformers gets
the best of its attention kernels and caches, its compiled step among them. A rate is that of the best of several calls after a
first one, which compiles and is told apart; `weights_gigabytes_a_second` is what a decoder's step reads of weights, over its
time. Needs the [parity] extra. Run it on a quiet machine.
"""

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import tyro

CASES: dict[str, dict[str, Any]] = {
    "gpt2, batch 1": {"batch": 1, "max_new_tokens": 128},
    "gpt2, batch 8": {"batch": 8, "max_new_tokens": 128},
    "gpt2, 4 beams": {"batch": 1, "max_new_tokens": 64, "num_beams": 4},
    "t5, 4 beams": {"batch": 1, "max_new_tokens": 64, "num_beams": 4},
    "stories260K, batch 1": {"batch": 1, "max_new_tokens": 256},
}
# model -> how it is built, its head, tokens of its prompt (drawn from its words)
MODELS: dict[str, tuple[dict[str, Any], str, int]] = {
    "gpt2": ({"model_type": "gpt2"}, "causal-lm", 16),
    "t5": ({"model_type": "t5", "decoder_start_token_id": 0}, "seq2seq-lm", 64),
}


@dataclasses.dataclass(frozen=True)
class Options:
    """What to measure."""

    stories: Path | None = None
    """The folder of stories260K in Hugging Face layout."""
    cases: tuple[str, ...] = ()
    """Which of the cases; all by default."""
    sides: tuple[str, ...] = ("ours", "theirs")
    """Whose figures."""
    passes: int = 3
    """Calls that are timed."""
    output: Path = Path("out/benchmarks/generate.json")
    """Where the figures go."""


def ours(folder: str, head: str, ids: np.ndarray, passes: int, options: dict[str, Any]) -> dict[str, Any]:
    """Our rate."""
    import jax

    import jaxformers as jf

    model = jf.load(folder, head=head)
    run = lambda: jf.generate(model, ids, eos_token_id=None, pad_token_id=0, **options).sequences  # noqa: E731
    first, best, sequences = timed(run, passes)
    read = {name: tree for name, tree in model.params.items() if name != "encoder"}
    count = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(read))
    rate = ids.shape[0] * options["max_new_tokens"] / best
    return {
        "rate": rate,
        "first_call_seconds": first,
        "weights_gigabytes_a_second": count / 1e9 * rate / ids.shape[0],
        "tokens": sequences[:, -options["max_new_tokens"] :].tolist(),
    }


def timed(run: Any, passes: int) -> tuple[float, float, Any]:
    """Seconds of the first call, of the best of the others, and what came out."""
    times = []
    for _ in range(passes + 1):
        start = time.perf_counter()
        result = run()
        times.append(time.perf_counter() - start)
    return times[0], min(times[1:]), result


def measure(side: str, case: str, folder: str, passes: int) -> dict[str, Any]:
    """One side's figures of one case."""
    options = dict(CASES[case])
    batch = options.pop("batch")
    name = case.split(",")[0]
    ids, head = np.ones((1, 1), np.int32), "causal-lm"
    if name in MODELS:
        head = MODELS[name][1]
        ids = np.random.default_rng(0).integers(3, 32000, (batch, MODELS[name][2]), np.int32)
    if side == "ours":
        return ours(folder, head, ids, passes, options)
    from experiments.benchmarks.generate_peer import theirs

    return theirs(folder, ids, passes, options, timed)


def main(options: Options) -> dict[str, Any]:
    """Measures every case on both sides."""
    results: dict[str, Any] = {}
    environment = {**os.environ, "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
    with tempfile.TemporaryDirectory() as folder:
        for name, (config, head, _) in MODELS.items():
            code = f"import jaxformers as jf; jf.save(jf.load({config}, head={head!r}, seed=1), {f'{folder}/{name}'!r})"
            subprocess.run([sys.executable, "-c", code], check=True)
        for case in options.cases or CASES:
            story = case.startswith("stories")
            if story and options.stories is None:
                continue
            results[case] = {}
            for side in options.sides:
                where = str(options.stories) if story else f"{folder}/{case.split(',')[0]}"
                args = [
                    sys.executable,
                    "-m",
                    "experiments.benchmarks.generate",
                    "--one",
                    side,
                    case,
                    where,
                    str(options.passes),
                ]
                done = subprocess.run(args, check=True, capture_output=True, text=True, env=environment)
                results[case][side] = json.loads(done.stdout.splitlines()[-1])
            tokens = [results[case][side].pop("tokens") for side in options.sides]
            if len(tokens) == 2:
                results[case]["times_faster"] = results[case]["ours"]["rate"] / results[case]["theirs"]["rate"]
                results[case]["same_tokens"] = float(np.mean(np.array(tokens[0]) == np.array(tokens[1])))
            print(case, json.dumps(results[case]), flush=True)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    return results


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        side, case, folder, passes = sys.argv[2:]
        print(json.dumps(measure(side, case, folder, int(passes))))
    else:
        main(tyro.cli(Options, description=__doc__))
