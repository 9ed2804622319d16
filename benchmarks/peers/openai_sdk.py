"""The bare OpenAI SDK with its defaults: two retries."""

from __future__ import annotations

from contract import API_KEY, Call, Job, main
from openai import AsyncOpenAI


async def make(job: Job, model: str) -> Call:
    client = AsyncOpenAI(base_url=job["base_url"], api_key=API_KEY)

    async def call(prompt: str) -> str:
        answer = await client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": prompt}], max_tokens=job["max_tokens"]
        )
        return answer.choices[0].message.content or ""

    return call


if __name__ == "__main__":
    main(make)
