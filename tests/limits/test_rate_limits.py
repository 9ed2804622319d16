"""What a user may say about limits, and what is refused."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from lc_service.limits.rate_limits import LEARNED, RateLimits, read_rate_limits


def test_nothing_said_is_all_learned():
    assert RateLimits() == LEARNED
    assert read_rate_limits("auto") is LEARNED


def test_none_switches_it_off_and_limits_are_taken_as_they_are():
    limits = RateLimits(requests_per_minute=60)
    assert read_rate_limits(None) is None
    assert read_rate_limits(limits) is limits


@pytest.mark.parametrize("value", ["off", "Auto", "", 60, True, {"requests_per_minute": 60}])
def test_anything_else_is_refused_by_name(value):
    with pytest.raises(ValueError, match=r'rate_limits must be "auto", RateLimits\(\.\.\.\) or None'):
        read_rate_limits(value)


@pytest.mark.parametrize("name", ["requests_per_minute", "tokens_per_minute"])
@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), True, "60"])
def test_a_rate_is_a_positive_number(name, value):
    with pytest.raises(ValueError, match=name):
        RateLimits(**{name: value})


@pytest.mark.parametrize("value", [0, -1, 1.0, True, "4"])
def test_a_concurrency_is_a_whole_number_of_at_least_one(value: Any):
    with pytest.raises(ValueError, match="max_concurrency"):
        RateLimits(max_concurrency=value)


def test_the_least_of_each_is_taken():
    limits = RateLimits(requests_per_minute=0.5, tokens_per_minute=1, max_concurrency=1)
    assert (limits.requests_per_minute, limits.tokens_per_minute, limits.max_concurrency) == (0.5, 1, 1)


def test_equal_limits_are_one_key():
    assert len({RateLimits(requests_per_minute=60), RateLimits(requests_per_minute=60.0)}) == 1


@pytest.mark.parametrize("url", ["redis://cache:6379/0", "rediss://cache", "unix:///run/redis.sock"])
def test_a_url_of_redis_is_taken(url):
    assert RateLimits(redis_url=url).redis_url == url


@pytest.mark.parametrize("url", ["", "http://cache", "cache:6379", "redis"])
def test_another_url_is_refused(url):
    with pytest.raises(ValueError, match="must begin with"):
        RateLimits(redis_url=url)


def test_a_password_is_in_no_error_and_no_repr():
    url = "redis://:hunter2@cache:6379/0"
    assert "hunter2" not in repr(RateLimits(redis_url=url))
    with pytest.raises(ValueError, match="none that redis-py reads") as caught:
        RateLimits(redis_url=url.replace("6379", "hunter2"))
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


def test_a_url_without_redis_py_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "redis.connection", None)
    with pytest.raises(ImportError, match=r"lc-service\[redis\]"):
        RateLimits(redis_url="redis://cache")
