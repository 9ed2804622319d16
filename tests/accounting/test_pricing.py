from __future__ import annotations

import logging
import math
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal, localcontext

import genai_prices
import pytest
from genai_prices import data_snapshot, types
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lc_service import clock
from lc_service.accounting import pricing
from lc_service.accounting.pricing import ModelPrice, price, set_price
from lc_service.accounting.usage import TokenUsage

OPENAI = next(provider for provider in data_snapshot.get_snapshot().providers if provider.id == "openai")
# Model IDs that its own rule matches, and names as servers answer with them
MODELS = [model.id for model in OPENAI.models if OPENAI.find_model(model.id) is model]
NAMES = [
    "gpt-4o-2024-08-06",
    "GPT-4o",
    "gpt-35-turbo",
    "ft:gpt-4o-mini-2024-07-18:acme::abc",
    "ft:gpt-3.5-turbo-0125:acme:name:1",
    "text-embedding-3-small",
]
TIERS = [None, "default", "standard", "auto", "flex", "priority", "fast", "batch"]
USAGE = TokenUsage(input_tokens=1_000_000, output_tokens=1_000_000)
NOW = datetime(2026, 11, 1, tzinfo=UTC)
tokens = st.one_of(
    st.sampled_from([0, 1, 128_000, 200_000, 272_000, 272_001]), st.integers(0, 10**6), st.integers(0, 10**12)
)


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    for name, empty in (("_own", {}), ("_memo", {}), ("_warned", set())):
        monkeypatch.setattr(pricing, name, empty)


@pytest.fixture
def warnings(caplog):
    caplog.set_level(logging.WARNING, logger=pricing.__name__)
    return lambda: [record.getMessage() for record in caplog.records if record.name == pricing.__name__]


def upstream(usage: TokenUsage, model: str, at: datetime, tier: str | None) -> types.PriceCalculation:
    context = {None: None, "batch": {"processing": "batch"}}.get(tier, {"service_tier": str(tier)})
    return genai_prices.calc_price(
        genai_prices.Usage(
            input_tokens=usage.input_tokens,
            cache_read_tokens=usage.cached_input_tokens,
            output_tokens=usage.output_tokens,
        ),
        model,
        provider_id="openai",
        genai_request_timestamp=at,
        price_context=context,
    )


class TestTables:
    @settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        model=st.sampled_from(MODELS + NAMES),
        counts=st.tuples(tokens, tokens, tokens),
        at=st.datetimes(datetime(2024, 1, 1), datetime(2027, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
        tier=st.sampled_from(TIERS),
        operation=st.sampled_from(["chat", "embeddings"]),
    )
    def test_is_what_genai_prices_calculates(self, model, counts, at, tier, operation):
        uncached, cached, output = counts
        usage = TokenUsage(
            input_tokens=uncached + cached,
            cached_input_tokens=cached,
            output_tokens=output,
            reasoning_tokens=1,
        )
        ours = price(usage, model, at=at, operation=operation, service_tier=tier)
        if ours is not None:
            assert ours == upstream(usage, model, at, tier).total_price
        elif tier in (None, "default", "standard", "auto"):
            prices = upstream(usage, model, at, None).model_price
            is_text = prices.input_mtok is not None and prices.output_mtok is not None
            assert not is_text or any("audio" in kind or "image" in kind for kind in vars(prices))

    @pytest.mark.parametrize("model", ["gpt-4o", "gpt-4.1-mini", "o4-mini", "gpt-5", "gpt-5.4", *NAMES[:5]])
    def test_knows_what_chat_services_answer_with(self, model):
        assert price(USAGE, model, at=NOW) > 0

    def test_every_text_model_has_a_price(self):
        priced = [model for model in MODELS if price(USAGE, model, at=NOW) is not None]
        assert len(priced) > 60

    def test_a_dated_snapshot_has_its_own_price(self):
        assert price(USAGE, "gpt-4o-2024-05-13", at=NOW) == Decimal(20)
        assert price(USAGE, "gpt-4o-2024-08-06", at=NOW) == price(USAGE, "gpt-4o", at=NOW) == Decimal("12.5")

    def test_fine_tuned_models_cost_more_than_their_base(self):
        tuned = price(USAGE, "ft:gpt-4o-mini-2024-07-18:acme::abc", at=NOW)
        assert tuned == 2 * price(USAGE, "gpt-4o-mini", at=NOW)

    def test_at_picks_the_price_of_its_day(self):
        before, after = datetime(2025, 6, 9, 23, 59, 59, tzinfo=UTC), datetime(2025, 6, 10, tzinfo=UTC)
        assert price(USAGE, "o3", at=before) == Decimal(50)
        assert price(USAGE, "o3", at=after) == Decimal(10)

    def test_days_are_in_utc_and_so_is_a_time_without_zone(self):
        tokyo = timezone(timedelta(hours=9))
        assert price(USAGE, "o3", at=datetime(2025, 6, 10, 8, 59, tzinfo=tokyo)) == Decimal(50)
        assert price(USAGE, "o3", at=datetime(2025, 6, 10, 9, tzinfo=tokyo)) == Decimal(10)
        assert price(USAGE, "o3", at=datetime(2025, 6, 10)) == Decimal(10)  # noqa: DTZ001

    def test_without_at_it_is_now_even_after_midnight(self, monkeypatch):
        moment = datetime(2025, 6, 9, 23, 59, tzinfo=UTC).timestamp()
        monkeypatch.setattr(clock, "wall", lambda: moment)
        assert price(USAGE, "o3") == Decimal(50)
        moment += 60
        assert price(USAGE, "o3") == Decimal(10)

    def test_cached_input_has_its_own_price(self):
        cached = TokenUsage(input_tokens=1_000_000, cached_input_tokens=400_000)
        assert price(cached, "gpt-4o", at=NOW) == Decimal("0.6") * Decimal("2.5") + Decimal("0.4") * Decimal(
            "1.25"
        )

    def test_cached_input_without_price_costs_as_input(self):
        cached = TokenUsage(input_tokens=1_000_000, cached_input_tokens=400_000)
        assert price(cached, "gpt-4", at=NOW) == Decimal(30)

    def test_reasoning_is_in_the_output_already(self):
        usage = TokenUsage(output_tokens=1_000_000, reasoning_tokens=900_000)
        assert price(usage, "o4-mini", at=NOW) == Decimal("4.4")

    def test_a_long_prompt_costs_more_for_every_token(self):
        short = TokenUsage(input_tokens=272_000)
        long = TokenUsage(input_tokens=272_001)
        assert price(short, "gpt-5.4", at=NOW) == short.input_tokens * Decimal("2.5") / 10**6
        assert price(long, "gpt-5.4", at=NOW) == long.input_tokens * Decimal(5) / 10**6

    def test_embeddings_have_no_output_to_pay_for(self, warnings):
        usage = TokenUsage(input_tokens=1_000_000)
        assert price(usage, "text-embedding-3-small", at=NOW, operation="embeddings") == Decimal("0.02")
        assert not warnings()
        assert price(usage, "text-embedding-3-small", at=NOW) is None

    def test_nothing_used_costs_nothing(self):
        nothing = price(TokenUsage(), "gpt-4o", at=NOW)
        assert nothing == 0
        assert str(nothing) == "0"

    def test_the_callers_decimal_context_rounds_nothing(self):
        usage = TokenUsage(input_tokens=1_234_567, output_tokens=7_654_321)
        with localcontext(prec=2):
            rounded = price(usage, "gpt-4o", at=NOW)
        assert rounded == price(usage, "gpt-4o", at=NOW) == Decimal("79.6296275")


class TestServiceTier:
    def test_tiers_have_their_prices(self):
        standard = price(USAGE, "gpt-5", at=NOW)
        assert price(USAGE, "gpt-5", at=NOW, service_tier="flex") == standard / 2
        assert price(USAGE, "gpt-5", at=NOW, service_tier="batch") == standard / 2
        assert price(USAGE, "gpt-5", at=NOW, service_tier="priority") == standard * 2

    @pytest.mark.parametrize("tier", [None, "default", "standard", "auto"])
    def test_names_of_the_standard_tier(self, tier):
        assert price(USAGE, "gpt-5", at=NOW, service_tier=tier) == Decimal("11.25")

    def test_an_unknown_tier_is_unknown_and_not_standard(self, warnings):
        assert upstream(USAGE, "gpt-4o", NOW, "scale").total_price == price(USAGE, "gpt-4o", at=NOW)
        for _ in range(3):
            assert price(USAGE, "gpt-4o", at=NOW, service_tier="scale") is None
        assert len(warnings()) == 1
        assert "'scale'" in warnings()[0]
        assert "'gpt-4o'" in warnings()[0]

    def test_a_tier_that_this_model_does_not_have_is_unknown(self):
        assert price(USAGE, "gpt-4o", at=NOW, service_tier="flex") is None

    def test_a_tier_before_the_tables_know_it_is_unknown(self):
        assert price(USAGE, "gpt-5", at=datetime(2026, 10, 11, tzinfo=UTC), service_tier="flex") is None
        assert price(USAGE, "gpt-5", at=datetime(2026, 10, 12, tzinfo=UTC), service_tier="flex") is not None


class TestUnknown:
    @pytest.mark.parametrize(
        "model", ["no-such-model", "gpt-4o-my-own", "", "llama-3.1-8b", "claude-opus-4-5"]
    )
    def test_an_unknown_model_is_none_and_one_warning(self, model, warnings):
        for day in range(3):
            for operation, tier in (("chat", None), ("embeddings", None), ("chat", "flex")):
                at = NOW + timedelta(days=day)
                assert price(USAGE, model, at=at, operation=operation, service_tier=tier) is None
        (warning,) = warnings()
        assert repr(model) in warning
        assert "set_price" in warning

    def test_each_unknown_model_is_warned_about(self, warnings):
        for model in ("one", "two", "one"):
            price(USAGE, model)
        assert len(warnings()) == 2

    @pytest.mark.parametrize("model", ["whisper-1", "tts-1", "omni-moderation-latest"])
    def test_a_model_without_token_prices_is_unknown_not_free(self, model):
        assert upstream(USAGE, model, NOW, None).total_price == 0
        assert price(USAGE, model, at=NOW) is None

    def test_tokens_of_several_kinds_and_prices_are_not_priced_as_text(self):
        assert price(USAGE, "gpt-audio", at=NOW) is None

    @pytest.mark.parametrize(
        "usage",
        [
            TokenUsage(input_tokens=10, cached_input_tokens=11),
            TokenUsage(input_tokens=10, cached_input_tokens=-1),
            TokenUsage(input_tokens=-1),
            TokenUsage(output_tokens=-1),
        ],
    )
    def test_usage_that_cannot_be_has_no_price(self, usage, warnings):
        assert price(usage, "gpt-4o", at=NOW) is None
        assert price(usage, "gpt-4o", at=NOW) is None
        assert len(warnings()) == 1

    def test_a_name_cannot_fill_or_forge_the_log(self, warnings):
        price(USAGE, "x\nERROR forged" + "y" * 10_000)
        assert "\n" not in warnings()[0]
        assert len(warnings()[0]) < 600

    def test_many_names_take_bounded_memory(self, monkeypatch, warnings):
        monkeypatch.setattr(pricing, "_MAX_MEMO", 8)
        for number in range(50):
            assert price(USAGE, f"model-{number}", at=NOW) is None
        assert len(pricing._memo) <= 8
        assert len(warnings()) == 8

    def test_threads_warn_once_and_agree(self, warnings):
        start = threading.Barrier(8)

        def work(_):
            start.wait()
            return [price(USAGE, model, at=NOW) for model in ("gpt-4o", "no-such-model", "gpt-5.4") * 50]

        with ThreadPoolExecutor(8) as pool:
            first, *others = pool.map(work, range(8))
        assert all(each == first for each in others)
        assert len(warnings()) == 1


class TestTimeOfDay:
    def test_a_price_that_changes_within_a_day_is_looked_up_each_time(self, monkeypatch):
        night = types.ConditionalPrice(
            types.TimeOfDateConstraint(time(0), time(6)),
            prices=types.ModelPrice(input_mtok=Decimal(1), output_mtok=Decimal(1)),
        )
        day = types.ConditionalPrice(
            types.StartDateConstraint(date(2020, 1, 1)),
            prices=types.ModelPrice(input_mtok=Decimal(2), output_mtok=Decimal(2)),
        )
        model = types.ModelInfo(id="owl", match=types.ClauseEquals("owl"), prices=[day, night])
        provider = types.Provider(id="openai", name="OpenAI", api_pattern="x", models=[model])
        monkeypatch.setattr(
            data_snapshot, "_custom_snapshot", data_snapshot.DataSnapshot([provider], from_auto_update=False)
        )
        assert price(USAGE, "owl", at=NOW.replace(hour=12)) == Decimal(4)
        assert price(USAGE, "owl", at=NOW.replace(hour=3)) == Decimal(2)
        assert price(USAGE, "owl", at=NOW.replace(hour=13)) == Decimal(4)


class TestOwnPrice:
    OWN = ModelPrice(
        input_usd_per_million="0.5", output_usd_per_million=2, cached_input_usd_per_million="0.05"
    )

    def test_prices_a_private_model(self, warnings):
        set_price("private", self.OWN)
        usage = TokenUsage(input_tokens=1_000, cached_input_tokens=400, output_tokens=100)
        assert price(usage, "private") == Decimal("0.00052")
        assert price(usage, "private", operation="embeddings") == Decimal("0.00052")
        assert price(TokenUsage(), "private") == 0
        assert not warnings()

    def test_cached_input_costs_as_input_unless_told(self):
        set_price("private", ModelPrice(input_usd_per_million=Decimal(1), output_usd_per_million=Decimal(2)))
        assert price(TokenUsage(input_tokens=10**6, cached_input_tokens=10**6), "private") == 1

    def test_comes_before_the_tables_until_removed(self):
        listed = price(USAGE, "gpt-4o", at=NOW)
        set_price("gpt-4o", self.OWN)
        assert price(USAGE, "gpt-4o", at=NOW) == Decimal("2.5")
        set_price("gpt-4o", None)
        assert price(USAGE, "gpt-4o", at=NOW) == listed

    def test_replaces_an_earlier_one_and_an_unknown(self):
        assert price(USAGE, "private") is None
        set_price("private", self.OWN)
        set_price("private", ModelPrice(input_usd_per_million=1, output_usd_per_million=1))
        assert price(USAGE, "private") == 2
        set_price("private", None)
        assert price(USAGE, "private") is None

    def test_removing_what_is_not_there_is_fine(self):
        set_price("private", None)
        set_price("private", None, service_tier="flex")

    def test_own_and_list_prices_are_not_mixed(self, warnings):
        set_price("gpt-5", self.OWN)
        assert price(USAGE, "gpt-5", at=NOW, service_tier="default") == Decimal("2.5")
        assert price(USAGE, "gpt-5", at=NOW, service_tier="flex") is None
        assert len(warnings()) == 1
        set_price("gpt-5", ModelPrice(input_usd_per_million=0, output_usd_per_million=1), service_tier="flex")
        assert price(USAGE, "gpt-5", at=NOW, service_tier="flex") == 1

    def test_a_tier_alone_leaves_the_others_to_the_tables(self):
        set_price("gpt-4o", self.OWN, service_tier="scale")
        assert price(USAGE, "gpt-4o", at=NOW, service_tier="scale") == Decimal("2.5")
        assert price(USAGE, "gpt-4o", at=NOW) == Decimal("12.5")
        assert price(USAGE, "gpt-4o", at=NOW, service_tier="batch") == Decimal("6.25")

    def test_impossible_usage_has_no_price_here_either(self):
        set_price("private", self.OWN)
        assert price(TokenUsage(input_tokens=1, cached_input_tokens=2), "private") is None

    def test_threads_set_and_read(self):
        def work(number):
            model = f"private-{number % 4}"
            for _ in range(100):
                set_price(model, self.OWN)
                set_price(model, self.OWN, service_tier=f"tier-{number}")
                assert price(USAGE, model) == Decimal("2.5")

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(work, range(8)))
        assert {model: len(tiers) for model, tiers in pricing._own.items()} == {
            f"private-{number}": 3 for number in range(4)
        }

    @pytest.mark.parametrize("value", [0.5, True, math.nan, None, b"1", [1]])
    def test_refuses_what_is_not_exact_money(self, value):
        with pytest.raises(TypeError, match="input_usd_per_million takes Decimal, int or str"):
            ModelPrice(input_usd_per_million=value, output_usd_per_million=1)

    @pytest.mark.parametrize("value", ["", "free", "-1", -1, "NaN", "Infinity", Decimal("-0.1")])
    def test_refuses_what_is_no_price(self, value):
        with pytest.raises(ValueError, match="cached_input_usd_per_million"):
            ModelPrice(input_usd_per_million=1, output_usd_per_million=1, cached_input_usd_per_million=value)

    def test_keeps_decimals(self):
        assert self.OWN.input_usd_per_million == Decimal("0.5")
        assert isinstance(self.OWN.output_usd_per_million, Decimal)


def test_genai_prices_is_imported_by_the_first_price_and_no_network_thread_with_it():
    program = """
import sys, threading
from lc_service.accounting.pricing import ModelPrice, price, set_price
from lc_service.accounting.usage import TokenUsage
usage = TokenUsage(input_tokens=1)
set_price("private", ModelPrice(input_usd_per_million=1, output_usd_per_million=1))
assert price(usage, "private") is not None
assert "genai_prices" not in sys.modules
def refuse(event, args):
    assert event not in ("socket.connect", "socket.getaddrinfo"), event
sys.addaudithook(refuse)
assert price(usage, "gpt-4o") is not None
assert "genai_prices" in sys.modules
assert threading.active_count() == 1
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=50)  # noqa: S603
