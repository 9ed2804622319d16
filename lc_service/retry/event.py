"""What is told of a retry before its wait: to hooks, to the log, to LangChain's callbacks."""

from __future__ import annotations

from dataclasses import dataclass

from tenacity import RetryAction, RetryCallState, Retrying

from lc_service.retry.errors import Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryEvent:
    """What `on_retry` hooks and the log are told before a wait.

    Attributes:
        attempt: The attempt that failed, counted from 1.
        wait_seconds: The wait before the next attempt.
        elapsed_seconds: Time since the call began.
        verdict: Why the attempt failed.
        error: The exception itself. Its text may quote what was sent: log `verdict`, not this.
    """

    attempt: int
    wait_seconds: float
    elapsed_seconds: float
    verdict: Verdict
    error: BaseException


def retry_call_state(event: RetryEvent) -> RetryCallState:
    """Describe `event` as LangChain's `on_retry` callbacks expect it: tenacity's call state."""
    state = RetryCallState(Retrying(), fn=None, args=(), kwargs={})
    state.attempt_number = event.attempt
    state.set_exception((type(event.error), event.error, event.error.__traceback__))
    state.next_action = RetryAction(event.wait_seconds)
    state.upcoming_sleep = event.wait_seconds
    state.idle_for = event.elapsed_seconds
    return state
