"""The service that a command asks: the user's own server, or a simulator where there is no key.

Invariant: what is simulated is said on stderr, and enters no ledger and no budget.
"""

# ruff: noqa: PLC0415  importing what a command needs takes longer than printing the help

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rich.console import Console

if TYPE_CHECKING:
    from lc_service.retry.event import RetryEvent
    from lc_service.service import OpenAIService

_LIFETIME_SECONDS = 86_400


def connect(
    stack: contextlib.ExitStack,
    err: Console,
    base_url: str | None,
    *,
    on_retry: Callable[[RetryEvent], None] | None = None,
    **options: Any,
) -> OpenAIService:
    """Make the service; without a key and a URL, start a simulator for as long as `stack` is open.

    Args:
        stack: What closes the simulator.
        err: Where it is said that answers are simulated.
        base_url: The user's own URL; None for the settings'.
        on_retry: Told of every retry.
        **options: Further options of the service.

    Raises:
        ValueError: A setting is wrong.
    """
    from lc_service.service import OpenAIService
    from lc_service.settings import ServiceSettings

    settings = ServiceSettings.load(base_url=base_url)
    policy = replace(settings.retry_policy(), on_retry=on_retry)
    key = settings.api_key.get_secret_value() if settings.api_key else ""
    url = settings.base_url
    if not key and url is None:
        from lc_service.simulator import Simulator

        simulator = Simulator(
            latency_seconds=0.3, chunk_delay_seconds=0.02, max_lifetime_seconds=_LIFETIME_SECONDS
        )
        url = stack.enter_context(simulator).base_url
        options |= {"budget": (), "ledger": False}  # what is simulated costs nothing
        err.print("No OPENAI_API_KEY: answers come from the built-in simulator.", style="yellow")
    # a server of one's own may need no key, but the SDK needs a word
    return OpenAIService(key or "none", base_url=url, retry=policy, **options)
