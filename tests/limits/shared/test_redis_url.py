"""A `redis_url` that cannot be used is named where it is given, and its password never."""

from __future__ import annotations

import sys
import traceback

import pytest

from lc_service.limits.rate_limits import RateLimits

SECRET = "DISTINCTIVE#pass-0123"


@pytest.mark.parametrize(
    "url",
    [
        f"http://user:{SECRET}@localhost:6379",
        f"redis://user:{SECRET}@localhost:6379",  # its # ends what is read as the port
        f"redis://:{SECRET}@localhost:6379/0",
        "redis://localhost:port/0",
        "redis://localhost:6379?db=first",
        "redis://[localhost",
        "localhost:6379",
        "",
    ],
)
def test_an_unreadable_url_is_refused_at_once(url: str) -> None:
    with pytest.raises(ValueError, match="redis_url") as raised:
        RateLimits(redis_url=url)
    assert "DISTINCTIVE" not in "".join(traceback.format_exception(raised.value))
    assert raised.value.__context__ is None


@pytest.mark.parametrize(
    "url", ["redis://localhost", "rediss://user:word@cache.internal:6380/2", "unix:///run/redis.sock?db=1"]
)
def test_what_redis_py_reads_is_taken(url: str) -> None:
    limits = RateLimits(redis_url=url)
    assert limits.redis_url == url
    assert url not in repr(limits)


def test_a_missing_package_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "redis"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "redis", None)
    RateLimits(requests_per_minute=60)
    with pytest.raises(ImportError, match=r"lc-service\[redis\]"):
        RateLimits(redis_url="redis://localhost")
