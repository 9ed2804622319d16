from __future__ import annotations

import asyncio
import copy
import dataclasses
import gc
import logging
import math
import pickle
import threading
import weakref

import httpx2
import openai
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from tenacity import RetryCallState

from lc_service.retry.errors import ErrorKind, Verdict
from lc_service.retry.event import RetryEvent, retry_call_state
from lc_service.retry.policy import RetryWithExponentialBackoff, aretry_call, decide, retry_call
from lc_service.retry.quota import RetryQuota

with_fixture = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors]
)


class Script:
    """A function that raises what it is given, in order, and then answers."""

    def __init__(self, *failures: BaseException, answer: object = "answer") -> None:
        self.failures = list(failures)
        self.answer = answer
        self.calls: list[tuple[tuple[object, ...], dict[str, object]]] = []

    def __call__(self, *args: object, **kwargs: object) -> object:
        self.calls.append((args, kwargs))
        if self.failures:
            raise self.failures.pop(0)
        return self.answer


# --------------------------------------------------------------------------------------------------------
# Waits
# --------------------------------------------------------------------------------------------------------


def test_the_first_attempts_answer_costs_no_wait(execute, fake_clock):
    func = Script()
    assert execute(RetryWithExponentialBackoff(), func, 1, two=2) == "answer"
    assert func.calls == [((1,), {"two": 2})]
    assert fake_clock.waits == []


@pytest.mark.parametrize(
    ("jitter", "waits"),
    [
        ("none", [1.0, 2.0, 4.0, 5.0, 5.0]),
        ("full", [0.5, 1.0, 2.0, 2.5, 2.5]),
        ("equal", [0.75, 1.5, 3.0, 3.75, 3.75]),
    ],
)
@pytest.mark.usefixtures("half_draw")
def test_the_exact_waits(execute, fake_clock, api_error, jitter, waits):
    policy = RetryWithExponentialBackoff(initial_delay=1.0, max_delay=5.0, jitter=jitter)
    func = Script(*[api_error() for _ in range(5)])
    assert execute(policy, func) == "answer"
    assert fake_clock.waits == waits


def test_the_defaults_are_full_jitter_from_one_second_and_five_retries(
    execute, fake_clock, half_draw, api_error
):
    func = Script(*[api_error() for _ in range(9)])
    with pytest.raises(openai.APIStatusError):
        execute(RetryWithExponentialBackoff(), func)
    assert len(func.calls) == 6
    assert fake_clock.waits == [0.5, 1.0, 2.0, 4.0, 8.0]


def test_positional_arguments_are_those_of_the_original():
    policy = RetryWithExponentialBackoff(2.0, 30.0, 7)
    assert (policy.initial_delay, policy.max_delay, policy.max_retries) == (2.0, 30.0, 7)


def test_the_multiplier(execute, fake_clock, api_error):
    policy = RetryWithExponentialBackoff(0.5, multiplier=3, jitter="none", max_retries=3)
    execute(policy, Script(*[api_error() for _ in range(3)]))
    assert fake_clock.waits == [0.5, 1.5, 4.5]


def test_full_jitter_really_draws(fake_clock, api_error):
    for _ in range(30):
        RetryWithExponentialBackoff(quota=None).execute(Script(api_error()))
    assert len(set(fake_clock.waits)) > 20
    assert min(fake_clock.waits) < 0.5 < max(fake_clock.waits) <= 1.0


def test_retry_after_takes_the_place_of_the_backoff_without_jitter(execute, fake_clock, half_draw, api_error):
    func = Script(
        api_error(429, retry_after="7"),
        api_error(503, retry_after_ms="1250"),
        api_error(429, x_ratelimit_remaining_tokens="0", x_ratelimit_reset_tokens="1m2s"),
        api_error(429, retry_after="Fri, 15 Jan 2027 08:02:00 GMT", date="Fri, 15 Jan 2027 08:01:00 GMT"),
        api_error(500),
    )
    assert execute(RetryWithExponentialBackoff(max_delay=100.0), func) == "answer"
    assert fake_clock.waits == [7.0, 1.25, 62.0, 60.0, 8.0]


def test_max_delay_caps_retry_after_too(execute, fake_clock, api_error):
    func = Script(api_error(429, retry_after="3600"))
    execute(RetryWithExponentialBackoff(max_delay=20.0), func)
    assert fake_clock.waits == [20.0]


def test_max_retries_zero_is_one_attempt(execute, fake_clock, api_error):
    error = api_error()
    with pytest.raises(openai.APIStatusError) as caught:
        execute(RetryWithExponentialBackoff(max_retries=0), Script(error))
    assert caught.value is error
    assert fake_clock.waits == []


# --------------------------------------------------------------------------------------------------------
# Deadline
# --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_delay", [60.0, 2.0])
def test_a_retry_after_beyond_the_deadline_fails_at_once(execute, fake_clock, api_error, max_delay):
    """Also where max_delay would have cut it: the server would still be saying no."""
    error = api_error(429, retry_after="30")
    with pytest.raises(openai.APIStatusError) as caught:
        execute(RetryWithExponentialBackoff(max_delay=max_delay, deadline_seconds=10.0), Script(error))
    assert caught.value is error
    assert fake_clock.waits == []


def test_the_deadline_counts_waits_and_attempts(execute, fake_clock, api_error):
    policy = RetryWithExponentialBackoff(jitter="none", deadline_seconds=10.0, max_retries=50)

    def slow() -> None:
        fake_clock.advance(2.0)
        raise api_error()

    begun = fake_clock.time
    with pytest.raises(openai.APIStatusError):
        execute(policy, slow)
    # 2 + 1 + 2 + 2 + 2 = 9, and 4 more would pass the deadline
    assert fake_clock.waits == [1.0, 2.0]
    assert fake_clock.time - begun == 9.0


def test_a_wait_that_ends_on_the_deadline_is_not_begun(execute, fake_clock, api_error):
    error = api_error()
    with pytest.raises(openai.APIStatusError):
        execute(RetryWithExponentialBackoff(jitter="none", deadline_seconds=1.0), Script(error))
    assert fake_clock.waits == []


def test_each_call_has_its_own_deadline(execute, fake_clock, api_error):
    policy = RetryWithExponentialBackoff(jitter="none", deadline_seconds=5.0)
    for _ in range(4):
        assert execute(policy, Script(api_error(), api_error())) == "answer"
    assert fake_clock.waits == [1.0, 2.0] * 4


# --------------------------------------------------------------------------------------------------------
# What is raised, what passes through
# --------------------------------------------------------------------------------------------------------


def test_the_last_error_is_the_very_object_with_a_note(execute, fake_clock, api_error):
    errors = [api_error(503), api_error(429), api_error(500)]
    policy = RetryWithExponentialBackoff(max_retries=2, jitter="none")
    with pytest.raises(openai.APIStatusError) as caught:
        execute(policy, Script(*errors))
    assert caught.value is errors[-1]
    assert caught.value.__notes__ == ["lc_service gave up after 3 attempts in 3.0 s."]
    assert caught.value.__context__ is None
    assert caught.value.__cause__ is None


def test_a_single_attempts_error_has_no_note(execute, fake_clock, api_error):
    with pytest.raises(openai.APIStatusError) as caught:
        execute(RetryWithExponentialBackoff(), Script(api_error(400)))
    assert not hasattr(caught.value, "__notes__")


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422])
def test_a_4xx_that_cannot_succeed_is_tried_once(execute, fake_clock, api_error, status):
    func = Script(api_error(status, retry_after="1"))
    with pytest.raises(openai.APIStatusError):
        execute(RetryWithExponentialBackoff(), func)
    assert len(func.calls) == 1


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 504])
def test_a_transient_status_is_tried_again(execute, fake_clock, api_error, status):
    func = Script(api_error(status))
    assert execute(RetryWithExponentialBackoff(), func) == "answer"
    assert len(func.calls) == 2


def test_a_hopeless_error_after_a_transient_one_stops(execute, fake_clock, api_error):
    func = Script(api_error(503), api_error(401), api_error(503))
    with pytest.raises(openai.APIStatusError) as caught:
        execute(RetryWithExponentialBackoff(), func)
    assert caught.value.status_code == 401
    assert len(func.calls) == 2


class Stop(BaseException):
    """As trio's and pytest's own: not an Exception, so not for us."""


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), SystemExit(3), asyncio.CancelledError(), Stop()], ids=repr
)
def test_an_interrupt_passes_through_at_once(fake_clock, error):
    policy = RetryWithExponentialBackoff(retry_on=(BaseException,))
    func = Script(error)
    with pytest.raises(type(error)) as caught:
        policy.execute(func)
    assert caught.value is error
    assert len(func.calls) == 1


async def test_cancellation_passes_through_an_attempt_at_once(fake_clock):
    begun, calls = asyncio.Event(), 0

    async def hang() -> None:
        nonlocal calls
        calls += 1
        begun.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(RetryWithExponentialBackoff().aexecute(hang))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (calls, fake_clock.waits) == (1, [])


async def test_cancellation_passes_through_a_wait_at_once(api_error):
    """The real clock here, and a wait of an hour: only the cancellation ends it."""
    waits = asyncio.Event()
    policy = RetryWithExponentialBackoff(
        3_600.0, 3_600.0, jitter="none", on_retry=lambda _: waits.set(), quota=None
    )
    func = Script(api_error())

    async def call() -> object:
        return func()

    task = asyncio.create_task(policy.aexecute(call))
    await waits.wait()
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(func.calls) == 1


# --------------------------------------------------------------------------------------------------------
# retry_on
# --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("retry_on", [(LookupError,), lambda error: isinstance(error, LookupError)])
def test_retry_on_adds_errors_that_say_nothing_of_a_model_call(execute, fake_clock, retry_on):
    func = Script(KeyError("k"), IndexError())
    assert execute(RetryWithExponentialBackoff(retry_on=retry_on), func) == "answer"
    func = Script(ValueError())
    with pytest.raises(ValueError):
        execute(RetryWithExponentialBackoff(retry_on=retry_on), func)


def test_retry_on_narrows_the_transient_ones(execute, fake_clock, api_error):
    policy = RetryWithExponentialBackoff(retry_on=(httpx2.TransportError,))
    assert execute(policy, Script(httpx2.ReadError("m"))) == "answer"
    with pytest.raises(openai.APIStatusError):
        execute(policy, Script(api_error(503)))


def test_retry_on_revives_nothing_hopeless(execute, fake_clock, api_error):
    func = Script(api_error(401))
    with pytest.raises(openai.APIStatusError):
        execute(RetryWithExponentialBackoff(retry_on=(Exception,)), func)
    assert len(func.calls) == 1


# --------------------------------------------------------------------------------------------------------
# Quota
# --------------------------------------------------------------------------------------------------------


def test_an_empty_quota_raises_at_once_and_says_so(execute, fake_clock, api_error, caplog):
    policy = RetryWithExponentialBackoff(quota=RetryQuota(capacity=10, retry_cost=10))
    func = Script(api_error(), api_error(), api_error())
    with pytest.raises(openai.APIStatusError):
        execute(policy, func)
    assert len(func.calls) == 2
    assert "retry quota is empty" in caplog.messages[-1]


def test_a_retry_that_succeeds_gets_its_tokens_back(execute, fake_clock, api_error):
    quota = RetryQuota(capacity=30, retry_cost=10)
    policy = RetryWithExponentialBackoff(quota=quota)
    for _ in range(10):
        assert execute(policy, Script(api_error())) == "answer"
    assert quota.available == 30


def test_a_call_that_fails_gets_nothing_back(execute, fake_clock, api_error):
    quota = RetryQuota(capacity=100, retry_cost=10)
    with pytest.raises(openai.APIStatusError):
        execute(
            RetryWithExponentialBackoff(max_retries=3, quota=quota), Script(*[api_error() for _ in range(4)])
        )
    assert quota.available == 70


def test_a_hopeless_error_draws_nothing(execute, fake_clock, api_error):
    policy = RetryWithExponentialBackoff()
    with pytest.raises(openai.APIStatusError):
        execute(policy, Script(api_error(400)))
    with pytest.raises(openai.APIStatusError):
        execute(dataclasses.replace(policy, max_retries=0), Script(api_error(503)))
    assert policy.quota.available == 500


def test_an_outage_is_answered_with_one_storm_of_fifty_retries_only(execute, fake_clock, api_error):
    policy = RetryWithExponentialBackoff()
    requests = 0

    def down() -> None:
        nonlocal requests
        requests += 1
        raise api_error(503)

    for _ in range(300):
        with pytest.raises(openai.APIStatusError):
            execute(policy, down)
    assert requests == 300 + 50


def test_replace_shares_the_quota_and_a_new_policy_has_its_own():
    policy = RetryWithExponentialBackoff()
    assert dataclasses.replace(policy, max_retries=1).quota is policy.quota
    assert copy.copy(policy).quota is policy.quota
    assert RetryWithExponentialBackoff().quota is not policy.quota


def test_policies_are_equal_and_hashable_whatever_their_quota():
    assert RetryWithExponentialBackoff() == RetryWithExponentialBackoff()
    assert hash(RetryWithExponentialBackoff()) == hash(RetryWithExponentialBackoff())
    assert RetryWithExponentialBackoff(max_retries=1) != RetryWithExponentialBackoff()


# --------------------------------------------------------------------------------------------------------
# Hook and log
# --------------------------------------------------------------------------------------------------------

KEY, PROMPT = "sk-proj-hunter2hunter2", "my confidential prompt"


def leaky_error(api_error, status: int = 429, **headers: str) -> openai.APIStatusError:
    return api_error(status, f"Rate limit for {KEY} while answering '{PROMPT}'", **headers)


def whole_text_of(records: list[logging.LogRecord]) -> str:
    """Everything a handler could get out of the records: text, arguments, traceback, extra fields."""
    formatter = logging.Formatter("%(message)s")
    return "\n".join(formatter.format(record) + repr(vars(record)) for record in records)


def test_the_hook_is_told_with_a_frozen_record(execute, fake_clock, api_error):
    events: list[RetryEvent] = []
    errors = [api_error(429, retry_after="3", x_request_id="req_1"), api_error(503)]
    policy = RetryWithExponentialBackoff(jitter="none", on_retry=events.append)
    execute(policy, Script(*errors))
    assert events == [
        RetryEvent(
            attempt=1,
            wait_seconds=3.0,
            elapsed_seconds=0.0,
            verdict=Verdict(
                kind=ErrorKind.RATE_LIMIT,
                is_transient=True,
                retry_after_seconds=3.0,
                status_code=429,
                request_id="req_1",
            ),
            error=errors[0],
        ),
        RetryEvent(
            attempt=2,
            wait_seconds=2.0,
            elapsed_seconds=3.0,
            verdict=Verdict(kind=ErrorKind.SERVER_ERROR, is_transient=True, status_code=503),
            error=errors[1],
        ),
    ]
    with pytest.raises(dataclasses.FrozenInstanceError):
        events[0].attempt = 9  # type: ignore[misc]


def test_the_hook_is_told_before_the_wait(execute, fake_clock, api_error):
    waited: list[int] = []
    policy = RetryWithExponentialBackoff(on_retry=lambda _: waited.append(len(fake_clock.waits)))
    execute(policy, Script(api_error(), api_error()))
    assert waited == [0, 1]


def test_the_hook_is_not_told_of_the_last_failure(execute, fake_clock, api_error):
    events: list[RetryEvent] = []
    policy = RetryWithExponentialBackoff(max_retries=1, on_retry=events.append)
    with pytest.raises(openai.APIStatusError):
        execute(policy, Script(api_error(), api_error()))
    assert [event.attempt for event in events] == [1]


def test_a_raising_hook_does_not_disturb_and_its_traceback_leaks_nothing(
    execute, fake_clock, api_error, caplog
):
    def hook(event: RetryEvent) -> None:
        raise RuntimeError(f"cannot send {event.error}")

    policy = RetryWithExponentialBackoff(jitter="none", on_retry=hook)
    assert execute(policy, Script(leaky_error(api_error))) == "answer"
    assert fake_clock.waits == [1.0]
    (failure,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "RuntimeError" in failure.getMessage()
    assert "test_policy.py" in failure.getMessage()
    text = whole_text_of(caplog.records)
    assert KEY not in text
    assert PROMPT not in text


def test_one_warning_per_retry_with_the_facts_and_no_key_or_prompt(execute, fake_clock, api_error, caplog):
    caplog.set_level(logging.DEBUG)
    func = Script(
        leaky_error(api_error, 429, retry_after="7", x_request_id="req_1"),
        leaky_error(api_error, 503),
        httpx2.ReadError(f"{KEY} {PROMPT}"),
        leaky_error(api_error, 401),
    )
    with pytest.raises(openai.APIStatusError):
        execute(RetryWithExponentialBackoff(jitter="none"), func, PROMPT, api_key=KEY)
    records = [record for record in caplog.records if record.name.startswith("lc_service")]
    assert [record.levelno for record in records] == [logging.WARNING] * 3
    assert [record.getMessage() for record in records] == [
        "Retry 1 of 5 in 7.000 s after rate_limit (HTTP 429, request id req_1)",
        "Retry 2 of 5 in 2.000 s after server_error (HTTP 503, request id -)",
        "Retry 3 of 5 in 4.000 s after connection (HTTP -, request id -)",
    ]
    text = whole_text_of(caplog.records)
    assert KEY not in text
    assert PROMPT not in text


def test_a_call_that_needs_no_retry_logs_nothing(execute, fake_clock, api_error, caplog):
    caplog.set_level(logging.DEBUG, "lc_service")
    execute(RetryWithExponentialBackoff(), Script())
    with pytest.raises(openai.APIStatusError):
        execute(RetryWithExponentialBackoff(), Script(api_error(400)))
    assert [record for record in caplog.records if record.name.startswith("lc_service")] == []


def test_on_wait_comes_after_log_and_hook_and_before_the_wait(fake_clock, api_error):
    order: list[str] = []
    policy = RetryWithExponentialBackoff(on_retry=lambda _: order.append(f"hook {len(fake_clock.waits)}"))
    retry_call(
        policy, Script(api_error()), lambda event: order.append(f"{event.attempt} {len(fake_clock.waits)}")
    )

    async def on_wait(event: RetryEvent) -> None:
        order.append(f"{event.attempt} {len(fake_clock.waits)}")

    func = Script(api_error())

    async def afunc() -> object:
        return func()

    asyncio.run(aretry_call(policy, afunc, on_wait))
    assert order == ["hook 0", "1 0", "hook 1", "1 1"]


def test_langchains_call_state(api_error):
    error = api_error()
    event = RetryEvent(
        attempt=2,
        wait_seconds=4.0,
        elapsed_seconds=9.0,
        verdict=Verdict(kind=ErrorKind.SERVER_ERROR, is_transient=True),
        error=error,
    )
    state = retry_call_state(event)
    assert isinstance(state, RetryCallState)
    assert state.attempt_number == 2
    assert state.outcome is not None
    assert state.outcome.exception() is error
    assert state.next_action is not None
    assert state.next_action.sleep == state.upcoming_sleep == 4.0


# --------------------------------------------------------------------------------------------------------
# Construction, pickling, sharing
# --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["initial_delay", "max_delay", "deadline_seconds", "multiplier"])
@pytest.mark.parametrize("value", [-1, -0.001, math.nan, math.inf, -math.inf, "1", True, [1]])
def test_a_wrong_number_is_named(field, value):
    with pytest.raises(ValueError, match=f"^{field} "):
        RetryWithExponentialBackoff(**{field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_retries", -1),
        ("max_retries", 2.0),
        ("max_retries", True),
        ("max_retries", None),
        ("multiplier", 0.99),
        ("multiplier", None),
        ("initial_delay", None),
        ("jitter", "half"),
        ("jitter", None),
        ("jitter", ["full"]),
        # a lone class is callable and would say yes to every error
        ("retry_on", ConnectionError),
        ("retry_on", ("ConnectionError",)),
        ("retry_on", [ConnectionError]),
        ("retry_on", "all"),
    ],
)
def test_a_wrong_value_is_named(field, value):
    with pytest.raises(ValueError, match=f"^{field} "):
        RetryWithExponentialBackoff(**{field: value})


def test_replace_validates_too():
    with pytest.raises(ValueError, match="max_delay"):
        dataclasses.replace(RetryWithExponentialBackoff(), max_delay=-1)


def test_zero_delays_are_allowed(execute, fake_clock, api_error):
    policy = RetryWithExponentialBackoff(0, 0, 3, deadline_seconds=1)
    assert execute(policy, Script(*[api_error() for _ in range(3)])) == "answer"
    assert fake_clock.waits == [0, 0, 0]


def test_only_three_arguments_are_positional():
    with pytest.raises(TypeError):
        RetryWithExponentialBackoff(1.0, 60.0, 5, 2.0)  # type: ignore[misc]


def test_a_policy_pickles_and_works(fake_clock, api_error):
    policy = RetryWithExponentialBackoff(
        2.0, 9.0, 4, jitter="equal", deadline_seconds=80, retry_on=(LookupError,), on_retry=print
    )
    assert policy.quota is not None
    policy.quota.take()
    copied = pickle.loads(pickle.dumps(policy))
    assert copied == policy
    assert copied.quota.available == 490
    assert copied.execute(Script(KeyError())) == "answer"


def test_threads_share_one_policy(fake_clock, api_error):
    policy = RetryWithExponentialBackoff(0.0, quota=RetryQuota(capacity=100, retry_cost=1))
    answers: list[object] = []

    def work(who: int) -> None:
        answers.extend(policy.execute(Script(api_error(), answer=(who, n))) for n in range(50))

    threads = [threading.Thread(target=work, args=(who,)) for who in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [(who, n) for who in range(4) for n in range(50)]
    assert policy.quota is not None
    assert policy.quota.available == 100


# --------------------------------------------------------------------------------------------------------
# Laws of the attempt machine
# --------------------------------------------------------------------------------------------------------

seconds = st.floats(0, 1e6) | st.sampled_from([0.0, 5e-324, 1e300])
draws = st.floats(0, 1, exclude_max=True)


def policies_with(seconds: st.SearchStrategy[float]) -> st.SearchStrategy[RetryWithExponentialBackoff]:
    return st.builds(
        RetryWithExponentialBackoff,
        initial_delay=seconds,
        max_delay=seconds,
        max_retries=st.integers(0, 12) | st.just(10**6),
        multiplier=st.floats(1, 10) | st.integers(1, 10) | st.just(1e300),
        jitter=st.sampled_from(["full", "equal", "none"]),
        deadline_seconds=st.none() | seconds,
        quota=st.none(),
    )


policies = policies_with(seconds)
asked = st.none() | st.floats(1e-9, 1e6)
attempts = st.integers(1, 14) | st.integers(1, 10**4)


def verdict_of(retry_after_seconds: float | None) -> Verdict:
    return Verdict(kind=ErrorKind.RATE_LIMIT, is_transient=True, retry_after_seconds=retry_after_seconds)


@given(policy=policies, asked=asked, attempt=attempts, elapsed=seconds, draw=draws)
def test_a_wait_never_passes_max_delay_nor_the_deadline_nor_max_retries(
    policy, asked, attempt, elapsed, draw
):
    wait = decide(policy, verdict_of(asked), attempt=attempt, elapsed_seconds=elapsed, draw=draw)
    if attempt > policy.max_retries:
        assert wait is None
    if wait is not None:
        assert 0 <= wait <= policy.max_delay
        if policy.deadline_seconds is not None:
            assert wait < policy.deadline_seconds - elapsed


@given(policy=policies, asked=st.floats(1e-9, 1e6), attempt=attempts, elapsed=seconds, draw=draws)
def test_retry_after_is_obeyed_cut_or_given_up_but_never_shortened_by_jitter(
    policy, asked, attempt, elapsed, draw
):
    wait = decide(policy, verdict_of(asked), attempt=attempt, elapsed_seconds=elapsed, draw=draw)
    left = math.inf if policy.deadline_seconds is None else policy.deadline_seconds - elapsed
    if attempt > policy.max_retries or asked >= left:
        assert wait is None
    else:
        assert wait == min(asked, policy.max_delay)


@given(policy=policies, attempt=attempts, draw=draws)
def test_the_jitter_stays_in_its_bounds(policy, attempt, draw):
    policy = dataclasses.replace(policy, max_retries=10**6, deadline_seconds=None)

    def wait(jitter: str, draw: float = draw) -> float:
        changed = dataclasses.replace(policy, jitter=jitter)
        answer = decide(changed, verdict_of(None), attempt=attempt, elapsed_seconds=0.0, draw=draw)
        assert answer is not None
        return answer

    ceiling = wait("none")
    assert 0 <= wait("full") <= ceiling
    assert ceiling / 2 <= wait("equal") <= ceiling
    assert wait("full", 0.0) == 0.0
    assert wait("full", 0.5) == pytest.approx(ceiling / 2)
    assert wait("equal", 0.0) == pytest.approx(ceiling / 2)


@given(policy=policies, attempt=attempts)
def test_the_ceiling_never_falls_from_retry_to_retry_and_follows_the_formula(policy, attempt):
    policy = dataclasses.replace(policy, jitter="none", max_retries=10**6, deadline_seconds=None)
    this, following = (
        decide(policy, verdict_of(None), attempt=number, elapsed_seconds=0.0, draw=0.0)
        for number in (attempt, attempt + 1)
    )
    assert this is not None
    assert following is not None
    assert this <= following
    if policy.multiplier < 100 and attempt < 20:
        formula = policy.initial_delay * policy.multiplier ** (attempt - 1)
        assert this == pytest.approx(min(formula, policy.max_delay))


@given(policy=policies, attempt=attempts, elapsed=seconds, later=st.floats(0, 1e3), draw=draws)
def test_once_too_late_is_always_too_late(policy, attempt, elapsed, later, draw):
    assume(policy.deadline_seconds is not None)
    first = decide(policy, verdict_of(None), attempt=attempt, elapsed_seconds=elapsed, draw=draw)
    if first is None:
        afterwards = decide(
            policy, verdict_of(None), attempt=attempt, elapsed_seconds=elapsed + later, draw=draw
        )
        assert afterwards is None


failure_scripts = st.lists(
    st.tuples(
        st.sampled_from([429, 503, 408, 400, 401]),
        st.none() | st.integers(1, 100_000),
        st.floats(0, 30),  # how long the attempt takes
    ),
    max_size=10,
)


@with_fixture
@given(policy=policies_with(st.floats(0, 1e3)), failures=failure_scripts)
def test_any_call_keeps_every_bound(execute, fake_clock, api_error, policy, failures):
    fake_clock.waits.clear()
    fake_clock.time = 0.0
    made = 0
    errors: list[BaseException] = []

    def func() -> str:
        nonlocal made
        made += 1
        if made > len(failures):
            return "answer"
        status, retry_after_ms, took = failures[made - 1]
        fake_clock.advance(took)
        headers = {} if retry_after_ms is None else {"retry_after_ms": str(retry_after_ms)}
        errors.append(api_error(status, **headers))
        raise errors[-1]

    try:
        outcome = execute(policy, func)
    except openai.APIStatusError as error:
        outcome = error
    assert made <= policy.max_retries + 1
    assert len(fake_clock.waits) == made - 1
    assert all(0 <= wait <= policy.max_delay for wait in fake_clock.waits)
    if policy.deadline_seconds is not None and fake_clock.waits:
        took = sum(failure[2] for failure in failures[: made - 1])
        assert sum(fake_clock.waits) + took <= policy.deadline_seconds + 1e-6  # sums of floats
    assert outcome == "answer" or outcome is errors[-1]
    # the one before a hopeless failure is the last: 400 and 401 are never tried again
    assert all(failure[0] not in {400, 401} for failure in failures[: made - 1])


def test_an_empty_quota_says_so_on_the_error(fake_clock):
    policy = RetryWithExponentialBackoff(quota=RetryQuota(capacity=0))
    with pytest.raises(ConnectionError) as caught:
        policy.execute(_always_lost)
    assert "quota is empty" in "".join(caught.value.__notes__)


def _always_lost() -> None:
    raise ConnectionError("lost")


def test_a_coroutine_function_is_no_hook():
    async def hook(event) -> None: ...

    with pytest.raises(ValueError, match="on_retry"):
        RetryWithExponentialBackoff(on_retry=hook)


def test_a_retried_call_leaves_no_cycle(fake_clock):
    class Big:
        pass

    seen = []

    def fail_once() -> str:
        big = Big()
        if not seen:
            seen.append(weakref.ref(big))
            raise ConnectionError("lost")
        return "answer"

    gc.collect()
    gc.disable()
    try:
        assert RetryWithExponentialBackoff().execute(fail_once) == "answer"
        assert seen[0]() is None, "the failed attempt's frame is still alive"
    finally:
        gc.enable()
