from __future__ import annotations

import math
import time
from datetime import UTC, datetime
from email.utils import format_datetime, formatdate

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lc_service.retry.retry_after import parse_duration, retry_after_seconds

with_fixture = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def headers(**values: str) -> httpx2.Headers:
    return httpx2.Headers({name.replace("_", "-"): value for name, value in values.items()})


def at(seconds_from_fake_now: float) -> str:
    return formatdate(1_800_000_000 + seconds_from_fake_now, usegmt=True)


@pytest.mark.parametrize(
    ("given_headers", "seconds"),
    [
        ({"retry_after_ms": "1500"}, 1.5),
        ({"retry_after_ms": "0.5"}, 0.0005),
        ({"retry_after": "7"}, 7.0),
        ({"retry_after": " 7 "}, 7.0),
        ({"retry_after": "0.25"}, 0.25),
        ({"retry_after": at(30)}, 30.0),
        # milliseconds win, and readable ones only
        ({"retry_after_ms": "200", "retry_after": "9"}, 0.2),
        ({"retry_after_ms": "soon", "retry_after": "9"}, 9.0),
        ({"retry_after_ms": "inf", "retry_after": "9"}, 9.0),
        # zero, negative and past are no request to wait
        ({"retry_after_ms": "0", "retry_after": "9"}, None),
        ({"retry_after": "0"}, None),
        ({"retry_after": "-1"}, None),
        ({"retry_after": "nan"}, None),
        ({"retry_after": "inf"}, None),
        ({"retry_after": "1e999"}, None),
        ({"retry_after": at(-1)}, None),
        ({"retry_after": "tomorrow"}, None),
        ({"retry_after": ""}, None),
        ({}, None),
        # the reset of an exhausted bucket, the longer of two
        ({"x_ratelimit_remaining_requests": "0", "x_ratelimit_reset_requests": "6m0s"}, 360.0),
        ({"x_ratelimit_remaining_tokens": "0", "x_ratelimit_reset_tokens": "350ms"}, 0.35),
        (
            {
                "x_ratelimit_remaining_requests": "0",
                "x_ratelimit_reset_requests": "1s",
                "x_ratelimit_remaining_tokens": "0",
                "x_ratelimit_reset_tokens": "1.2s",
            },
            1.2,
        ),
        ({"x_ratelimit_remaining_requests": "12", "x_ratelimit_reset_requests": "6m0s"}, None),
        ({"x_ratelimit_remaining_requests": "0"}, None),
        ({"x_ratelimit_remaining_requests": "0", "x_ratelimit_reset_requests": "0s"}, None),
        ({"x_ratelimit_remaining_requests": "0", "x_ratelimit_reset_requests": "9" * 400 + "s"}, None),
        # a Retry-After that can be read beats the reset time
        ({"retry_after": "2", "x_ratelimit_remaining_tokens": "0", "x_ratelimit_reset_tokens": "1m"}, 2.0),
        ({"retry_after": "?", "x_ratelimit_remaining_tokens": "0", "x_ratelimit_reset_tokens": "1m"}, 60.0),
    ],
)
def test_every_form(fake_clock, given_headers, seconds):
    assert retry_after_seconds(headers(**given_headers)) == (seconds and pytest.approx(seconds))


def test_a_date_is_read_against_the_servers_own_clock(fake_clock):
    """The client's clock is an hour behind: the wait is what the server meant all the same."""
    assert retry_after_seconds(headers(retry_after=at(3_600 + 20), date=at(3_600))) == 20.0


def test_an_unreadable_date_header_leaves_our_own_clock(fake_clock):
    assert retry_after_seconds(headers(retry_after=at(20), date="now")) == 20.0


@pytest.mark.parametrize("zone", ["UTC", "Asia/Tokyo", "America/New_York"])
@pytest.mark.parametrize(
    "text",
    [
        "Fri, 15 Jan 2027 08:00:30 GMT",
        "Friday, 15-Jan-27 08:00:30 GMT",
        "Fri Jan 15 08:00:30 2027",
        "Fri, 15 Jan 2027 08:00:30 -0000",
    ],
)
def test_the_three_date_formats_mean_utc_wherever_the_client_stands(fake_clock, monkeypatch, zone, text):
    """RFC 9110, 5.6.7: a recipient accepts all three; asctime's names no zone and is UTC."""
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        assert retry_after_seconds(headers(retry_after=text)) == 30.0
    finally:
        monkeypatch.undo()
        time.tzset()


@with_fixture
@given(milliseconds=st.integers(1, 10**9))
def test_milliseconds_round_trip(milliseconds):
    assert retry_after_seconds(headers(retry_after_ms=str(milliseconds))) == milliseconds / 1000


@given(seconds=st.floats(min_value=1e-9, max_value=1e9))
def test_seconds_round_trip(seconds):
    assert retry_after_seconds(headers(retry_after=repr(seconds))) == seconds


@given(
    sent=st.datetimes(datetime(1971, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
    wait=st.integers(1, 10**6),
)
def test_dates_round_trip_against_the_date_header(sent, wait):
    sent = sent.replace(microsecond=0)
    until = datetime.fromtimestamp(sent.timestamp() + wait, UTC)
    answer = retry_after_seconds(
        headers(retry_after=format_datetime(until, usegmt=True), date=format_datetime(sent, usegmt=True))
    )
    assert answer == wait


@given(st.integers(0, 30), st.integers(0, 23), st.integers(0, 59), st.integers(0, 59), st.integers(0, 999))
def test_durations_round_trip(days, hours, minutes, seconds, milliseconds):
    text = f"{days}d{hours}h{minutes}m{seconds}s{milliseconds}ms"
    whole = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    assert parse_duration(text) == pytest.approx(whole + milliseconds / 1000)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1.2s", 1.2), ("6m0s", 360.0), ("1h2m3.5s", 3_723.5), ("350ms", 0.35), ("15µs", 15e-6), ("1us", 1e-6)],
)
def test_the_durations_openai_sends(text, seconds):
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "5", "s", "-1s", "1s ago", "1 s", "1.s", ".5s", "٣s", "1e3s", "infs"])
def test_what_is_no_duration(text):
    assert parse_duration(text) is None


names = st.sampled_from(
    [
        "retry-after-ms",
        "retry-after",
        "date",
        "x-ratelimit-remaining-requests",
        "x-ratelimit-reset-requests",
        "x-ratelimit-remaining-tokens",
        "x-ratelimit-reset-tokens",
    ]
)
date_like = st.builds(
    "{}, {} {} {} {}:{}:{} {}".format,
    st.sampled_from(["Mon", "Sun", "x"]),
    st.integers(-1, 40),
    st.sampled_from(["Jan", "Feb", "Dec", "Foo"]),
    st.integers(-5, 100_000),
    st.integers(-1, 99),
    st.integers(-1, 99),
    st.integers(-1, 99),
    st.sampled_from(["GMT", "-0000", "+9999", "+99999999999", "EST", ""]),
)
garbage = st.one_of(
    st.text(max_size=40),
    st.floats().map(repr),
    st.integers().map(str),
    st.from_regex(r"(\d{1,400}(\.\d+)?(ms|us|d|h|m|s)){1,3}", fullmatch=True),
    date_like,
    st.sampled_from(["0", "-0", "inf", "-inf", "nan", "1_000", "0x10", "1e308", "5e-324"]),
)


@settings(max_examples=500)
@given(st.dictionaries(names, garbage))
def test_garbage_never_raises_and_never_makes_a_senseless_wait(values):
    seconds = retry_after_seconds(values)
    assert seconds is None or (seconds > 0 and math.isfinite(seconds))
