"""Which limiter is whose."""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from lc_service.limits import registry
from lc_service.limits.admission import Outcome
from lc_service.limits.limiter import RateLimiter
from lc_service.limits.rate_limits import LEARNED, RateLimits
from lc_service.limits.registry import limiter_for


def limiter(limits: RateLimits = LEARNED, **about: str) -> RateLimiter:
    return limiter_for(limits, **({"endpoint": "http://a", "credential": "k", "model": "m"} | about))


def test_the_same_is_shared_and_anything_else_is_not():
    one = limiter()
    assert limiter(RateLimits()) is one
    others = [
        limiter(endpoint="http://b"), limiter(credential="l"), limiter(model="n"),
        limiter(RateLimits(max_concurrency=1)), limiter(RateLimits(tokens_per_minute=1)),
    ]  # fmt: skip
    assert len({id(each) for each in [one, *others]}) == 6


def test_threads_that_meet_share_one():
    with ThreadPoolExecutor(8) as pool:
        assert len(set(map(id, pool.map(lambda _: limiter(), range(200))))) == 1


def test_the_one_that_was_longest_unused_is_forgotten(monkeypatch):
    monkeypatch.setattr(registry, "_MAX_LIMITERS", 3)
    used = limiter(model="used")
    for number in range(10):
        limiter(model=str(number))
        assert limiter(model="used") is used
    assert len(registry._limiters) == 3


def test_threads_that_make_many_do_not_disturb_each_other(monkeypatch):
    monkeypatch.setattr(registry, "_MAX_LIMITERS", 3)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda number: limiter(model=str(number % 17)), range(2_000)))
    finally:
        sys.setswitchinterval(interval)
    assert len(registry._limiters) <= 3


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_begins_anew():
    """The parent's lock may be held, and its places are not the child's."""
    parents = limiter(RateLimits(max_concurrency=1))
    permit = parents.acquire(0)
    with parents._lock:
        child = os.fork()
        if not child:
            code = 1
            try:
                own = limiter(RateLimits(max_concurrency=1))
                own.acquire(0).settle(Outcome())
                permit.settle(Outcome())  # a stream of the parent's, closed here: not blocked by its lock
                code = 0 if own is not parents else 2
            finally:
                os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert parents.admission.in_flight_count == 1
