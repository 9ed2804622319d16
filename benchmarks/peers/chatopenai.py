"""Stock `ChatOpenAI`: by default, with more SDK retries, with `with_retry`, with LangChain's rate limiter."""

from __future__ import annotations

from contract import API_KEY, Call, Job, main
from langchain_core.rate_limiters import InMemoryRateLimiter
from langchain_openai import ChatOpenAI


async def make(job: Job, model: str) -> Call:
    options = {}
    if job["variant"] == "max_retries":
        options["max_retries"] = 10
    if job["variant"] == "with_retry":
        options["max_retries"] = 0  # else each attempt is tried three times
    told = job["told"].get("requests_per_minute")
    if told:
        # with its defaults (one request in the bucket, looked at ten times a second) it would waste a fifth
        options["rate_limiter"] = InMemoryRateLimiter(
            requests_per_second=told / 60, max_bucket_size=told / 60, check_every_n_seconds=0.01
        )
    chat = ChatOpenAI(
        model=model, base_url=job["base_url"], api_key=API_KEY, max_tokens=job["max_tokens"], **options
    )
    runnable = chat.with_retry(stop_after_attempt=10) if job["variant"] == "with_retry" else chat

    async def call(prompt: str) -> str:
        return (await runnable.ainvoke(prompt)).text

    return call


if __name__ == "__main__":
    main(make)
