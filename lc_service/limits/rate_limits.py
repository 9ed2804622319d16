"""`RateLimits`: what a user says about limits; everything unsaid is learned from the server.

A value. Knows nothing of how limits are kept.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class RateLimits:
    """Caps on what is learned from the server; None leaves a limit to be learned alone.

    Models with equal limits, the same endpoint, key and model name share them, in all threads and event loops
    of the process; with `redis_url`, in all processes that name the same Redis.

    Args:
        requests_per_minute: At most so many attempts a minute, paced: about a second's worth at once.
        tokens_per_minute: At most so many tokens a minute, input and output together. An attempt is charged
            its prompt's estimate and its `max_tokens`, or where it names none what 95 % of recent answers
            took; what it did not use is given back.
        max_concurrency: At most so many attempts under way at once. None: 64 at first, more while the latency
            holds.
        redis_url: A Redis server that several processes share these limits through, such as
            `redis://cache.internal:6379/0` (extra `redis`). While it cannot be reached each process keeps to
            what it learns by itself.

    Raises:
        ValueError: A limit is not a positive number, or the URL is none of Redis.
        ImportError: There is a URL, and redis-py is not installed.
    """

    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    max_concurrency: int | None = None
    redis_url: str | None = field(default=None, repr=False)  # it may hold a password

    def __post_init__(self) -> None:
        for name in ("requests_per_minute", "tokens_per_minute"):
            value = getattr(self, name)
            if value is not None and not (_is_number(value) and 0 < value < math.inf):
                raise ValueError(f"{name} must be a positive number, or None to learn it; not {value!r}.")
        concurrency = self.max_concurrency
        if concurrency is not None and not (type(concurrency) is int and concurrency > 0):
            raise ValueError(
                f"max_concurrency must be an integer of at least 1, or None; not {concurrency!r}."
            )
        if self.redis_url is not None and not self.redis_url.startswith(("redis://", "rediss://", "unix://")):
            raise ValueError("redis_url must begin with redis://, rediss:// or unix://.")
        if self.redis_url is not None and not _is_readable(self.redis_url):
            raise ValueError("redis_url is none that redis-py reads: look at its port, database and options.")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_readable(url: str) -> bool:
    try:
        from redis.connection import parse_url  # noqa: PLC0415  the extra `redis`
    except ModuleNotFoundError as error:
        raise ImportError('redis_url needs redis-py: pip install "lc-service[redis]".') from error
    try:
        parse_url(url)  # type: ignore[no-untyped-call]  # redis-py has no types here
    except ValueError:  # its text may name a password
        return False
    return True


LEARNED = RateLimits()
"""Nothing is said: all is learned. What `rate_limits="auto"` means."""


def read_rate_limits(value: object) -> RateLimits | None:
    """Read what a model or a service was given as `rate_limits`.

    Returns:
        The limits; None for None, which switches the limiter off.

    Raises:
        ValueError: It is neither `"auto"`, nor `RateLimits`, nor None.
    """
    if value is None or isinstance(value, RateLimits):
        return value
    if value == "auto":
        return LEARNED
    raise ValueError(f'rate_limits must be "auto", RateLimits(...) or None, not {value!r}.')
