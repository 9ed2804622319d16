"""Retry with exponential backoff: one policy, a pure decision, two thin drivers.

`decide` is arithmetic: everything it needs is an argument. `Attempts` follows one call and holds the
policy's side effects (log, hook, quota); `execute` and `aexecute` only call, sleep and raise.
"""

from __future__ import annotations

import inspect
import logging
import math
import random
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import KW_ONLY, dataclass, field
from typing import Literal, ParamSpec, TypeVar, get_args

from lc_service import clock
from lc_service.retry.errors import ErrorKind, Verdict, classify
from lc_service.retry.event import RetryEvent
from lc_service.retry.quota import RetryQuota

logger = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

Jitter = Literal["full", "equal", "none"]
RetryOn = tuple[type[BaseException], ...] | Callable[[BaseException], bool]


@dataclass(frozen=True)
class RetryWithExponentialBackoff:
    """Decide which failures to retry and how long to wait; share it between threads, loops and models.

    The wait before retry `k` (from 1) is `initial_delay * multiplier ** (k - 1)`, at most `max_delay`, with
    jitter: `"full"` draws evenly from 0 to that, `"equal"` from half of it up, `"none"` takes it as it is
    ("Exponential Backoff And Jitter", AWS Architecture Blog). A server's Retry-After takes the place of that
    wait, without jitter, capped by `max_delay` too. What may be retried is `classify`'s decision.

    Args:
        initial_delay: Seconds before the first retry, before jitter.
        max_delay: The longest single wait in seconds, whoever asks for it.
        max_retries: Retries after the first attempt, as in the OpenAI SDK; 0 means one attempt.
        multiplier: Growth of the wait from retry to retry, at least 1.
        jitter: `"full"`, `"equal"` or `"none"`.
        deadline_seconds: No retry begins later than this after the call began. A wait that would pass it is
            not begun, nor is one after a Retry-After longer than what is left (even where `max_delay` would
            have cut it): the call fails at once with the error it has. A running attempt is not interrupted;
            the model's `timeout` is for that. None means no limit.
        retry_on: Exception types, or a predicate, for failures that `classify` does not know (kind
            `UNKNOWN`, never retried otherwise); it also narrows which transient ones are retried. What
            cannot succeed is not retried whatever this says.
        on_retry: Called with a `RetryEvent` before each wait, in the calling thread or task; it should be
            quick. What it raises is logged and dropped.
        quota: The retry quota that everything using this policy shares, or None for no quota. The default one
            allows 50 failing retries and then one for every ten calls that succeed at once: a server that
            fails a quarter of its calls for long is above that, and is better met with `quota=None`.

    Raises:
        ValueError: A value is out of range; the message names it.
    """

    initial_delay: float = 1.0
    max_delay: float = 60.0
    max_retries: int = 5
    _: KW_ONLY
    multiplier: float = 2.0
    jitter: Jitter = "full"
    deadline_seconds: float | None = None
    retry_on: RetryOn | None = None
    on_retry: Callable[[RetryEvent], None] | None = None
    quota: RetryQuota | None = field(default_factory=RetryQuota, compare=False, repr=False)

    def __post_init__(self) -> None:
        _require_seconds("initial_delay", self.initial_delay)
        _require_seconds("max_delay", self.max_delay)
        if self.deadline_seconds is not None:
            _require_seconds("deadline_seconds", self.deadline_seconds)
        if (
            isinstance(self.max_retries, bool)
            or not isinstance(self.max_retries, int)
            or self.max_retries < 0
        ):
            raise ValueError(f"max_retries must be a whole number of at least 0, not {self.max_retries!r}.")
        if not (_is_number(self.multiplier) and 1 <= self.multiplier < math.inf):
            raise ValueError(f"multiplier must be a finite number of at least 1, not {self.multiplier!r}.")
        if self.on_retry is not None and inspect.iscoroutinefunction(self.on_retry):
            raise ValueError("on_retry must be a plain function: nobody would await a coroutine.")
        if self.jitter not in get_args(Jitter):
            raise ValueError(f"jitter must be one of {', '.join(get_args(Jitter))}, not {self.jitter!r}.")
        if self.retry_on is not None and not _is_retry_on(self.retry_on):
            raise ValueError(f"retry_on must be a tuple of types or a predicate, not {self.retry_on!r}.")

    def execute(self, func: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call `func(*args, **kwargs)` until it succeeds or must not be tried again.

        Args:
            func: What is called, at least once.
            *args: Its arguments, the same ones each time.
            **kwargs: Its keyword arguments.

        Returns:
            What `func` returned.

        Raises:
            Exception: The last attempt's own exception, unchanged but for a note that counts the attempts.
        """
        return retry_call(self, lambda: func(*args, **kwargs))

    async def aexecute(self, func: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """Await `func(*args, **kwargs)` until it succeeds; as `execute`. Cancellation passes through."""
        return await aretry_call(self, lambda: func(*args, **kwargs))


def _is_retry_on(value: object) -> bool:
    if isinstance(value, tuple):
        return all(isinstance(item, type) for item in value)
    return callable(value) and not isinstance(value, type)  # a lone class would say yes to every error


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _require_seconds(name: str, value: float) -> None:
    if not (_is_number(value) and 0 <= value < math.inf):
        raise ValueError(f"{name} must be a finite number of seconds of at least 0, not {value!r}.")


def decide(
    policy: RetryWithExponentialBackoff,
    verdict: Verdict,
    *,
    attempt: int,
    elapsed_seconds: float,
    draw: float,
) -> float | None:
    """Return the seconds to wait after a failure that may be retried, or None to give up. Pure.

    Args:
        policy: The bounds.
        verdict: Why the attempt failed; only its `retry_after_seconds` is used.
        attempt: The attempt that failed, counted from 1.
        elapsed_seconds: Time since the call began.
        draw: A number from 0 up to 1 for the jitter.
    """
    if attempt > policy.max_retries:
        return None
    left_seconds = math.inf if policy.deadline_seconds is None else policy.deadline_seconds - elapsed_seconds
    asked_seconds = verdict.retry_after_seconds
    if asked_seconds is None:
        wait_seconds = _backoff_seconds(policy, attempt, draw)
    elif asked_seconds >= left_seconds:
        return None
    else:
        wait_seconds = min(asked_seconds, policy.max_delay)
    return wait_seconds if wait_seconds < left_seconds else None


def _backoff_seconds(policy: RetryWithExponentialBackoff, attempt: int, draw: float) -> float:
    try:
        grown_seconds = policy.initial_delay * policy.multiplier ** (attempt - 1)
    except OverflowError:
        grown_seconds = policy.max_delay if policy.initial_delay else 0.0
    ceiling_seconds = min(grown_seconds, policy.max_delay)
    match policy.jitter:
        case "none":
            return ceiling_seconds
        case "equal":
            return ceiling_seconds * (1 + draw) / 2
        case "full":
            return ceiling_seconds * draw


class Attempts:
    """The attempts of one call: what to do after each. Belongs to that call, so it needs no lock."""

    def __init__(self, policy: RetryWithExponentialBackoff) -> None:
        self.number = 1
        self._policy = policy
        self._started = clock.now()
        self._quota_draws = 0

    def next_wait(self, error: Exception) -> RetryEvent | None:
        """Say how long to wait before the next attempt, and tell log and hook; None means raise `error`."""
        policy = self._policy
        verdict = classify(error)
        elapsed_seconds = clock.now() - self._started
        wait_seconds = None
        if _may_retry(policy, error, verdict):
            wait_seconds = decide(
                policy,
                verdict,
                attempt=self.number,
                elapsed_seconds=elapsed_seconds,
                draw=random.random(),  # noqa: S311  jitter, not cryptography
            )
        if wait_seconds is None or not self._draw_quota(verdict, error):
            if self.number > 1:
                error.add_note(f"lc_service gave up after {self.number} attempts in {elapsed_seconds:.1f} s.")
            return None
        event = RetryEvent(
            attempt=self.number,
            wait_seconds=wait_seconds,
            elapsed_seconds=elapsed_seconds,
            verdict=verdict,
            error=error,
        )
        self._announce(event)
        self.number += 1
        return event

    def succeed(self) -> None:
        """Pay the quota back for a call that came through."""
        if self._policy.quota is not None:
            self._policy.quota.give_back(self._quota_draws)

    def _draw_quota(self, verdict: Verdict, error: Exception) -> bool:
        quota = self._policy.quota
        if quota is None or verdict.kind is ErrorKind.RATE_LIMIT:
            return True
        if quota.take():
            self._quota_draws += 1
            return True
        error.add_note("lc_service did not retry: the retry quota is empty, too many calls fail.")
        logger.warning("Not retrying %s: the retry quota is empty, too many calls fail.", verdict.kind)
        return False

    def _announce(self, event: RetryEvent) -> None:
        # Only facts that carry no key and no prompt: an error's own text may quote what was sent.
        logger.warning(
            "Retry %d of %d in %.3f s after %s (HTTP %s, request id %s)",
            event.attempt,
            self._policy.max_retries,
            event.wait_seconds,
            event.verdict.kind,
            event.verdict.status_code or "-",
            event.verdict.request_id or "-",
        )
        if self._policy.on_retry is None:
            return
        try:
            self._policy.on_retry(event)
        except Exception as hook_error:  # noqa: BLE001  a hook's failure is not the call's
            # The place, but no text of it: a traceback prints the failed attempt's error along with it,
            # and that may quote what was sent.
            place = traceback.extract_tb(hook_error.__traceback__)[-1]
            logger.error(  # noqa: TRY400
                "on_retry hook failed with %s in %s:%s; the retry goes on",
                type(hook_error).__name__,
                place.filename,
                place.lineno,
            )


def _may_retry(policy: RetryWithExponentialBackoff, error: Exception, verdict: Verdict) -> bool:
    retry_on = policy.retry_on
    if retry_on is None:
        return verdict.is_transient
    if not verdict.is_transient and verdict.kind is not ErrorKind.UNKNOWN:
        return False
    return isinstance(error, retry_on) if isinstance(retry_on, tuple) else retry_on(error)


def retry_call(
    policy: RetryWithExponentialBackoff,
    func: Callable[[], T],
    on_wait: Callable[[RetryEvent], None] | None = None,
) -> T:
    """Drive `func` through its attempts; `on_wait` is told before each wait. See `execute`."""
    attempts = Attempts(policy)
    while True:
        try:
            result = func()
        except Exception as error:
            event = attempts.next_wait(error)
            if event is None:
                raise
        else:
            attempts.succeed()
            return result
        if on_wait is not None:
            on_wait(event)
        wait_seconds = event.wait_seconds
        del event  # its error's traceback holds this frame: a cycle that only the collector would free
        clock.sleep(wait_seconds)


async def aretry_call(
    policy: RetryWithExponentialBackoff,
    func: Callable[[], Awaitable[T]],
    on_wait: Callable[[RetryEvent], Awaitable[None]] | None = None,
) -> T:
    """Drive `func` through its attempts; `on_wait` is told before each wait. See `aexecute`."""
    attempts = Attempts(policy)
    while True:
        try:
            result = await func()
        except Exception as error:
            event = attempts.next_wait(error)
            if event is None:
                raise
        else:
            attempts.succeed()
            return result
        if on_wait is not None:
            await on_wait(event)
        wait_seconds = event.wait_seconds
        del event  # its error's traceback holds this frame: a cycle that only the collector would free
        await clock.async_sleep(wait_seconds)
