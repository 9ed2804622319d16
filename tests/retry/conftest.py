"""What every test of this room needs: errors as the SDK raises them, and one way to call both drivers."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import httpx2
import openai
import pytest
from hypothesis import settings

from lc_service.retry.policy import RetryWithExponentialBackoff

# A busy machine is no failure: laws are checked here, not speed.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")


@pytest.fixture
def api_error() -> Callable[..., openai.APIStatusError]:
    """Make the error the SDK raises for a status, with its headers."""

    def make(status: int = 503, message: str = "m", **headers: str) -> openai.APIStatusError:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        request = httpx2.Request("POST", "https://api.test/v1/chat/completions")
        response = httpx2.Response(status, headers=named, request=request)
        return openai.APIStatusError(message, response=response, body=None)

    return make


@pytest.fixture(params=["execute", "aexecute"])
def execute(request: pytest.FixtureRequest) -> Callable[..., object]:
    """Run a plain function under a policy, through either driver: both must do the same."""

    def sync(policy: RetryWithExponentialBackoff, func: Callable[..., object], *args, **kwargs) -> object:
        return policy.execute(func, *args, **kwargs)

    def async_(policy: RetryWithExponentialBackoff, func: Callable[..., object], *args, **kwargs) -> object:
        async def afunc(*args, **kwargs) -> object:
            return func(*args, **kwargs)

        return asyncio.run(policy.aexecute(afunc, *args, **kwargs))

    return sync if request.param == "execute" else async_


@pytest.fixture
def half_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every jitter draw 0.5."""
    monkeypatch.setattr(random, "random", lambda: 0.5)
