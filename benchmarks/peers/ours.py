"""Ours: `ReliableChatOpenAI`, told nothing."""

from __future__ import annotations

from contract import API_KEY, Call, Job, main

from lc_service import ReliableChatOpenAI


async def make(job: Job, model: str) -> Call:
    options = {}
    if "rate_limits" in ReliableChatOpenAI.model_fields:
        options["rate_limits"] = "auto"
        said = {name: job[name] for name in ("redis_url", "max_concurrency") if job[name]}
        if said:
            from lc_service.limits.rate_limits import RateLimits

            options["rate_limits"] = RateLimits(**said)
    chat = ReliableChatOpenAI(
        model=model, base_url=job["base_url"], api_key=API_KEY, max_tokens=job["max_tokens"], **options
    )

    async def call(prompt: str) -> str:
        return (await chat.ainvoke(prompt)).text

    return call


if __name__ == "__main__":
    main(make)
