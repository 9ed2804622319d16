"""LiteLLM's Router over one deployment that is told its limits, with ten retries."""

from __future__ import annotations

import os

from contract import API_KEY, Call, Job, main

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else it asks the internet for prices at import

from litellm import Router


async def make(job: Job, model: str) -> Call:
    told = {name: int(job["told"][long]) for name, long in _LIMITS.items() if long in job["told"]}
    deployment = {"model": f"openai/{model}", "api_base": job["base_url"], "api_key": API_KEY, **told}
    router = Router(model_list=[{"model_name": "chat", "litellm_params": deployment}], num_retries=10)

    async def call(prompt: str) -> str:
        answer = await router.acompletion(
            model="chat", messages=[{"role": "user", "content": prompt}], max_tokens=job["max_tokens"]
        )
        return answer.choices[0].message.content or ""

    return call


_LIMITS = {"rpm": "requests_per_minute", "tpm": "tokens_per_minute"}

if __name__ == "__main__":
    main(make)
