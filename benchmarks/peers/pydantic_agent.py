"""A Pydantic AI agent with its defaults, which are the SDK's: two retries."""

from __future__ import annotations

from contract import API_KEY, Call, Job, main
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider


async def make(job: Job, model: str) -> Call:
    provider = OpenAIProvider(base_url=job["base_url"], api_key=API_KEY)
    agent = Agent(OpenAIChatModel(model, provider=provider), model_settings={"max_tokens": job["max_tokens"]})

    async def call(prompt: str) -> str:
        return (await agent.run(prompt)).output

    return call


if __name__ == "__main__":
    main(make)
