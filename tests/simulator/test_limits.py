from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lc_service.simulator import ServerLimits
from lc_service.simulator.limits import RateLimiter, format_duration


def limiter(**limits) -> RateLimiter:
    return RateLimiter(ServerLimits(**limits))


def headers(decision) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in decision.headers}


def admitted(limiter, count, now, tokens=1, model="m") -> int:
    return sum(limiter.admit(model, tokens, now).is_admitted for _ in range(count))


@pytest.mark.parametrize(
    "wrong",
    [{"requests_per_minute": 0}, {"tokens_per_minute": -1}, {"burst_seconds": 0},
     {"headers": "all"}, {"neighbour_share": 1.0}, {"neighbour_share": -0.1}],
)  # fmt: skip
def test_nonsense_is_refused_at_construction(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ServerLimits(**wrong)


def test_no_limits_admit_everything_and_say_nothing():
    decision = RateLimiter(None).admit("m", 10**9, 0.0)
    assert decision.is_admitted
    assert decision.headers == []


def test_the_burst_then_the_rate():
    limits = limiter(requests_per_minute=600, burst_seconds=1)
    assert admitted(limits, 50, 0.0) == 10
    assert admitted(limits, 50, 0.5) == 5
    assert admitted(limits, 50, 60.0) == 10


def test_one_request_always_fits_a_burst():
    assert admitted(limiter(requests_per_minute=6, burst_seconds=1), 5, 0.0) == 1


def test_tokens_are_charged_at_admission():
    limits = limiter(tokens_per_minute=6_000, burst_seconds=60)
    assert admitted(limits, 3, 0.0, tokens=2_500) == 2


def test_more_than_a_minutes_tokens_never_fit():
    decision = limiter(tokens_per_minute=1_000, burst_seconds=60).admit("m", 1_001, 0.0)
    assert not decision.is_admitted
    assert decision.retry_after_seconds is None
    assert decision.exceeded == "tokens"
    assert "retry-after" not in headers(decision)


def test_more_than_the_burst_fits_a_full_bucket_and_leaves_a_debt():
    limits = limiter(tokens_per_minute=6_000, burst_seconds=1)  # a burst of 100, 100 a second
    assert limits.admit("m", 600, 0.0).is_admitted
    rejected = limits.admit("m", 600, 1.0)
    assert rejected.retry_after_seconds == pytest.approx(5.0)
    assert limits.admit("m", 600, 6.0).is_admitted


def test_a_rejection_says_how_long_to_wait_and_is_right():
    limits = limiter(requests_per_minute=600, burst_seconds=0.1)
    limits.admit("m", 1, 0.0)
    rejected = limits.admit("m", 1, 0.0)
    assert headers(rejected)["retry-after-ms"] == "100"
    assert headers(rejected)["retry-after"] == "1"
    assert not limits.admit("m", 1, 0.099).is_admitted
    assert limits.admit("m", 1, 0.1).is_admitted


def test_true_headers_describe_the_enforced_bucket():
    limits = limiter(requests_per_minute=600, tokens_per_minute=6_000, burst_seconds=1)
    assert headers(limits.admit("m", 40, 0.0)) == {
        "x-ratelimit-limit-requests": "600",
        "x-ratelimit-remaining-requests": "9",
        "x-ratelimit-reset-requests": "100ms",
        "x-ratelimit-limit-tokens": "6000",
        "x-ratelimit-remaining-tokens": "60",
        "x-ratelimit-reset-tokens": "400ms",
    }


def test_minute_headers_describe_a_minutes_bucket_over_a_seconds_enforcement():
    limits = limiter(requests_per_minute=600, burst_seconds=1, headers="minute")
    assert admitted(limits, 20, 0.0) == 10
    said = headers(limits.admit("m", 1, 0.0))
    assert said["x-ratelimit-remaining-requests"] == "590"
    assert said["x-ratelimit-reset-requests"] == "1s"
    assert said["retry-after-ms"] == "100"


def test_no_headers_means_no_hint_either():
    limits = limiter(requests_per_minute=6, headers="none")
    limits.admit("m", 1, 0.0)
    assert limits.admit("m", 1, 0.0).headers == []


def test_rejected_requests_use_up_capacity_when_charged():
    polite = limiter(requests_per_minute=60, charge_rejected=True)
    rude = limiter(requests_per_minute=60, charge_rejected=True)
    for limits in (polite, rude):
        assert limits.admit("m", 1, 0.0).is_admitted
    assert not any(rude.admit("m", 1, step / 10).is_admitted for step in range(1, 10))
    assert polite.admit("m", 1, 1.0).is_admitted
    assert not rude.admit("m", 1, 1.0).is_admitted
    assert rude.admit("m", 1, 2.0).is_admitted


def test_a_neighbour_slows_the_refill_and_the_headers_do_not_tell():
    limits = limiter(requests_per_minute=600, neighbour_share=0.5)
    assert admitted(limits, 20, 0.0) == 10
    assert admitted(limits, 20, 1.0) == 5
    assert headers(limits.admit("m", 1, 1.0))["x-ratelimit-limit-requests"] == "600"


def test_models_do_not_share_limits():
    limits = limiter(requests_per_minute=6)
    assert admitted(limits, 2, 0.0, model="a") == 1
    assert admitted(limits, 2, 0.0, model="b") == 1


def test_a_rejection_may_keep_to_itself_when_to_come_again():
    limits = limiter(requests_per_minute=60, sends_retry_after=False)
    limits.admit("m", 1, 0.0)
    said = headers(limits.admit("m", 1, 0.0))
    assert said["x-ratelimit-reset-requests"] == "1s"
    assert not any(name.startswith("retry-after") for name in said)


def test_limits_can_change_on_the_way_and_buckets_stay_as_full():
    limits = limiter(requests_per_minute=600)
    assert admitted(limits, 5, 0.0) == 5  # 5 of 10 are left
    limits.set_limits(ServerLimits(requests_per_minute=1_200), 0.0)
    assert admitted(limits, 20, 0.0) == 10  # 10 of 20 were
    limits.set_limits(ServerLimits(requests_per_minute=600), 0.1)  # until here 20 a second hold
    assert admitted(limits, 20, 0.1) == 1
    assert admitted(limits, 20, 0.6) == 5
    limits.set_limits(None, 0.6)
    assert admitted(limits, 50, 0.6) == 50


def test_a_limit_that_is_new_starts_full():
    limits = limiter(requests_per_minute=600)
    admitted(limits, 10, 0.0)
    limits.set_limits(ServerLimits(requests_per_minute=600, tokens_per_minute=6_000), 1.0)
    said = headers(limits.admit("m", 40, 1.0))
    assert said["x-ratelimit-remaining-tokens"] == "60"


def test_a_change_keeps_the_minute_that_is_shown_too():
    limits = limiter(requests_per_minute=600, headers="minute")
    admitted(limits, 6, 0.0)
    limits.set_limits(ServerLimits(requests_per_minute=300, headers="minute"), 0.0)
    assert headers(limits.admit("m", 1, 0.0))["x-ratelimit-remaining-requests"] == "296"


def test_reset_fills_the_buckets():
    limits = limiter(requests_per_minute=6)
    admitted(limits, 2, 0.0)
    limits.reset()
    assert admitted(limits, 2, 0.0) == 1


@pytest.mark.parametrize(
    ("seconds", "written"),
    [(0, "0ms"), (0.35, "350ms"), (1.2, "1.2s"), (60, "1m0s"), (360, "6m0s"), (0.0001, "1ms"),
     (61.5, "1m1.5s"), (3_600, "1h0m0s")],
)  # fmt: skip
def test_durations_are_written_as_the_headers_do(seconds, written):
    assert format_duration(seconds) == written


arrivals = st.lists(
    st.tuples(st.floats(0, 3), st.integers(1, 400)), min_size=1, max_size=60
)  # gaps in seconds, tokens


@given(arrivals, st.sampled_from([0.5, 1, 10, 60]), st.sampled_from([0.0, 0.5]), st.booleans())
def test_never_admits_more_than_burst_plus_rate_times_time(arrivals, burst, share, is_charged):
    limits = limiter(
        requests_per_minute=120,
        tokens_per_minute=6_000,
        burst_seconds=burst,
        neighbour_share=share,
        charge_rejected=is_charged,
    )
    now = 0.0
    taken: list[tuple[float, int]] = []
    for gap, tokens in arrivals:
        now += gap
        if limits.admit("m", tokens, now).is_admitted:
            taken.append((now, tokens))
    for first, (start, _) in enumerate(taken):
        for last in range(first, len(taken)):
            span = (taken[last][0] - start) * (1 - share)
            inside = taken[first : last + 1]
            assert len(inside) <= max(1, 2 * burst) + 2 * span + 1e-3
            # the last one may be larger than the burst: it is admitted on a full bucket, on debt
            spent = sum(tokens for _, tokens in inside[:-1])
            assert spent <= max(100 * burst, inside[0][1]) + 400 + 100 * span + 1e-3


@given(arrivals)
def test_the_told_wait_is_enough_and_not_too_long(arrivals):
    limits = limiter(requests_per_minute=120, tokens_per_minute=6_000, burst_seconds=1)
    now = 0.0
    for gap, tokens in arrivals:
        now += gap
        decision = limits.admit("m", tokens, now)
        if not decision.is_admitted:
            wait = decision.retry_after_seconds
            assert not limits.admit("m", tokens, now + wait * 0.9).is_admitted
            assert limits.admit("m", tokens, now + wait).is_admitted
            now += wait


@given(arrivals)
def test_the_same_arrivals_get_the_same_decisions(arrivals):
    def run() -> list[object]:
        limits = limiter(requests_per_minute=120, tokens_per_minute=6_000)
        now, decisions = 0.0, []
        for gap, tokens in arrivals:
            now += gap
            decisions.append(limits.admit("m", tokens, now))
        return decisions

    assert run() == run()
