"""async-batch-llm's call pool, told the limits and that they are enforced by the second."""

from __future__ import annotations

from async_batch_llm import CharacterTokenEstimator, LLMCallPool, ProcessorConfig, llm
from contract import API_KEY, Call, Job, main


async def make(job: Job, model: str) -> Call:
    told = job["told"]
    options = {}
    if "requests_per_minute" in told:
        options["max_requests_per_minute"] = told["requests_per_minute"]
    if "tokens_per_minute" in told:
        options["max_tokens_per_minute"] = int(told["tokens_per_minute"])
        options["token_estimator"] = CharacterTokenEstimator(expected_output_tokens=job["max_tokens"])
    if told:
        options["quota_burst_seconds"] = 1.0
    strategy = llm(
        f"openai-compatible:{model}",
        base_url=job["base_url"],
        api_key=API_KEY,
        generation_config={"max_tokens": job["max_tokens"]},
    )
    return LLMCallPool(strategy, config=ProcessorConfig(concurrency=job["concurrency"], **options)).submit


if __name__ == "__main__":
    main(make)
