"""Measure what estimating tokens costs, and how far the estimate is from true counts cold and warm.

True counts come from the committed samples, so nothing is downloaded; where tiktoken's files are on this
machine, the exact path is measured beside it.

Run: python benchmarks/tokenizer.py [--seconds 0.05]
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from lc_service.accounting.prompt import count_messages
from lc_service.accounting.tokenizer import TokenEstimator

SAMPLES = json.loads(
    (Path(__file__).parents[1] / "tests" / "accounting" / "token_samples.json").read_text(encoding="utf-8")
)
KINDS = list(dict.fromkeys(sample["kind"] for sample in SAMPLES))
MODELS = {"gpt-4.1-mini": "o200k_base", "gpt-4": "cl100k_base"}
MIX = ["english", "chinese", "python", "javascript", "emoji", "json", "url"]
RUNS = 21


def timed(call: Callable[[], object], seconds: float, unit: float) -> str:
    """Return the median over runs, each long enough to be timed well, and the best of them."""
    start = time.perf_counter()
    call()
    repeats = max(1, int(seconds / (time.perf_counter() - start + 1e-9)))
    runs = []
    for _ in range(RUNS):
        start = time.perf_counter()
        for _ in range(repeats):
            call()
        runs.append((time.perf_counter() - start) / repeats)
    return f"{statistics.median(runs) / unit:8.2f} ({min(runs) / unit:.2f})"


def speed(seconds: float) -> None:
    unknown, known = TokenEstimator("no such model"), TokenEstimator("gpt-4.1-mini")
    print(f"median of {RUNS} runs, best in brackets; tiktoken's file is here: {known.is_exact}")
    print("µs for 1,000 characters: estimate, exact")
    for kind in KINDS:
        text = ("\n".join(s["text"] for s in SAMPLES if s["kind"] == kind) * 10)[:1_000]
        line = f"  {kind:16}{timed(lambda text=text: unknown.estimate(text), seconds, 1e-6)}"
        if known.is_exact:
            line += timed(lambda text=text: known.count(text), seconds, 1e-6)
        print(line)
    print("ms for 1,000,000 characters")
    for name, character in {"a": "a", "space": " ", "newline": "\n", "Chinese": "你", "emoji": "😀"}.items():
        text = character * 1_000_000
        print(f"  {name:16}{timed(lambda text=text: known.count(text), 0, 1e-3)}")
    messages = [{"role": "user", "content": SAMPLES[1]["text"]}] * 10
    print("µs for a prompt of ten messages of 180 characters")
    print(f"  {'estimate':16}{timed(lambda: count_messages(unknown, messages), seconds, 1e-6)}")


def errors(estimator: TokenEstimator, pairs: list[tuple[str, int]]) -> tuple[float, float]:
    """Return the error of the total, and the mean error of a prompt."""
    counts = [(estimator.scaled(estimator.raw(text)), true) for text, true in pairs]
    total = sum(count for count, _ in counts) / sum(true for _, true in counts) - 1
    return total, statistics.mean(abs(count / true - 1) for count, true in counts)


def draw(rng: random.Random, kinds: list[str], encoding: str) -> list[tuple[str, int]]:
    """Draw 50 prompts of one text of each kind named."""
    prompts = []
    for _ in range(50):
        chosen = [rng.choice([s for s in SAMPLES if s["kind"] == kind]) for kind in kinds]
        prompts.append(("\n".join(s["text"] for s in chosen), sum(s[encoding] for s in chosen)))
    return prompts


def accuracy() -> None:
    """Print errors in percent: of single texts cold; of 50 prompts of three, after 50 others."""
    for model, encoding in MODELS.items():
        print(f"{encoding}: % error   cold: total, mean (worst)   after 50 answers: total, mean")
        for name, kinds in [(kind, [kind] * 3) for kind in KINDS] + [("steady mix", MIX)]:
            rng, estimator = random.Random(1), TokenEstimator(model)
            if name == "steady mix":
                cold = draw(rng, kinds, encoding)
            else:
                cold = [(s["text"], s[encoding]) for s in SAMPLES if s["kind"] == name]
            total, mean = errors(estimator, cold)
            worst = max((estimator.raw(text) / true - 1 for text, true in cold), key=abs)
            for text, true in draw(rng, kinds, encoding):
                estimator.calibrate(estimator.raw(text), true)
            warm_total, warm_mean = errors(estimator, draw(rng, kinds, encoding))
            print(
                f"  {name:16}{total:+8.0%}{mean:6.0%} ({worst:+.0%}){'':8}{warm_total:+8.1%}{warm_mean:7.1%}"
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=0.02, help="length of one timed run")
    speed(parser.parse_args().seconds)
    accuracy()
