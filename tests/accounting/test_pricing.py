from __future__ import annotations

import logging
import math
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal, localcontext
from uuid import UUID

import genai_prices
import pytest
from genai_prices import data_snapshot, types
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lc_service import clock
from lc_service.accounting.pricing import ModelPrice, cost, max_cost, price, set_price, tables
from lc_service.accounting.record import AttemptRecord
from lc_service.accounting.usage import TokenUsage

OPENAI = next(provider for provider in data_snapshot.get_snapshot().providers if provider.id == "openai")
# Model IDs that its own rule matches, and names as servers answer with them
MODELS = [model.id for model in OPENAI.models if OPENAI.find_model(model.id) is model]
AUDIO_MODELS = [
    model.id
    for model in OPENAI.models
    if getattr(model.prices, "input_audio_mtok", None) and not getattr(model.prices, "input_image_mtok", None)
]
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
    monkeypatch.setattr(cost, "_own", {})
    monkeypatch.setattr(cost, "_warned", set())
    monkeypatch.setattr(tables, "_memo", {})


@pytest.fixture
def warnings(caplog):
    caplog.set_level(logging.WARNING, logger=cost.__name__)
    return lambda: [record.getMessage() for record in caplog.records if record.name == cost.__name__]


def upstream(
    usage: TokenUsage, model: str, at: datetime, tier: str | None, cached_audio: int = 0
) -> types.PriceCalculation:
    context = {None: None, "batch": {"processing": "batch"}}.get(tier, {"service_tier": str(tier)})
    return genai_prices.calc_price(
        genai_prices.Usage(
            input_tokens=usage.input_tokens,
            cache_read_tokens=usage.cached_input_tokens,
            cache_write_tokens=usage.cache_write_tokens,
            input_audio_tokens=usage.audio_input_tokens,
            cache_audio_read_tokens=cached_audio,
            output_tokens=usage.output_tokens,
            output_audio_tokens=usage.audio_output_tokens,
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
        counts=st.tuples(tokens, tokens, tokens, tokens),
        at=st.datetimes(datetime(2024, 1, 1), datetime(2027, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
        tier=st.sampled_from(TIERS),
        operation=st.sampled_from(["chat", "embeddings"]),
    )
    def test_is_what_genai_prices_calculates(self, model, counts, at, tier, operation):
        uncached, cached, written, output = counts
        usage = TokenUsage(
            input_tokens=uncached + cached + written,
            cached_input_tokens=cached,
            cache_write_tokens=written,
            output_tokens=output,
            reasoning_tokens=output // 2,
        )
        ours = price(usage, model, at=at, operation=operation, service_tier=tier)
        if ours is not None:
            assert ours == upstream(usage, model, at, tier).total_price
        elif tier in (None, "default", "standard", "auto"):
            prices = upstream(usage, model, at, None).model_price
            is_text = prices.input_mtok is not None and prices.output_mtok is not None
            assert not is_text or any("image" in kind for kind in vars(prices))

    @settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        model=st.sampled_from(AUDIO_MODELS),
        counts=st.tuples(tokens, tokens, tokens, tokens),
        has_cached_text=st.booleans(),
    )
    def test_audio_is_priced_as_genai_prices_does(self, model, counts, has_cached_text):
        text, audio, output, audio_output = counts
        cached = text // 3 if has_cached_text and not audio else 0
        usage = TokenUsage(
            input_tokens=text + audio,
            cached_input_tokens=cached,
            audio_input_tokens=audio,
            output_tokens=output + audio_output,
            audio_output_tokens=audio_output,
        )
        ours = price(usage, model, at=NOW)
        if ours is None:
            assert "transcribe" in model  # which have no price for sound as output
            assert audio_output
        else:
            assert ours == upstream(usage, model, NOW, None).total_price

    def test_cached_audio_is_priced_where_there_is_no_other_input(self):
        usage = TokenUsage(input_tokens=10**6, cached_input_tokens=400_000, audio_input_tokens=10**6)
        ours = price(usage, "gpt-4o-realtime-preview", at=NOW)
        assert ours == upstream(usage, "gpt-4o-realtime-preview", NOW, None, 400_000).total_price
        all_cached = TokenUsage(input_tokens=10**6, cached_input_tokens=10**6, audio_input_tokens=400_000)
        ours = price(all_cached, "gpt-4o-realtime-preview", at=NOW)
        assert ours == upstream(all_cached, "gpt-4o-realtime-preview", NOW, None, 400_000).total_price

    def test_who_knows_how_much_of_the_cached_input_was_audio(self, warnings):
        usage = TokenUsage(input_tokens=10, cached_input_tokens=5, audio_input_tokens=5)
        assert price(usage, "gpt-4o-realtime-preview", at=NOW) is None
        assert "how much of the cached input was audio" in warnings()[0]
        # where cached input has no price of its own, it does not matter
        assert price(usage, "gpt-audio", at=NOW) == (5 * Decimal("2.5") + 5 * 32) / 10**6

    def test_audio_without_a_price_is_unknown_not_text(self, warnings):
        heard = TokenUsage(input_tokens=10, audio_input_tokens=1)
        spoken = TokenUsage(output_tokens=10, audio_output_tokens=1)
        for usage in (heard, spoken):
            assert upstream(usage, "gpt-4o-audio-preview", NOW, None).total_price > 0
            assert price(usage, "gpt-4o-audio-preview", at=NOW) is None
        assert len(warnings()) == 1
        assert price(TokenUsage(input_tokens=10), "gpt-4o-audio-preview", at=NOW) == Decimal("0.000025")

    @pytest.mark.parametrize(("model", "tier"), [("gpt-5.6-sol", None), ("gpt-6-luna", "flex")])
    def test_writing_the_cache_costs_more(self, model, tier):
        plain = price(TokenUsage(input_tokens=1_000), model, at=NOW, service_tier=tier)
        written = price(
            TokenUsage(input_tokens=1_000, cache_write_tokens=1_000), model, at=NOW, service_tier=tier
        )
        assert written == plain * Decimal("1.25")

    def test_writing_the_cache_costs_as_input_where_it_has_no_price(self):
        usage = TokenUsage(input_tokens=1_000, cache_write_tokens=600)
        assert price(usage, "gpt-4o", at=NOW) == price(TokenUsage(input_tokens=1_000), "gpt-4o", at=NOW)

    def test_predictions_are_in_the_output_already(self):
        usage = TokenUsage(
            output_tokens=1_000_000, accepted_prediction_tokens=300_000, rejected_prediction_tokens=700_000
        )
        assert price(usage, "gpt-4o", at=NOW) == Decimal(10)

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

    @pytest.mark.parametrize("model", ["gpt-image-1", "gpt-realtime"])
    def test_images_with_a_price_of_their_own_are_not_priced_as_text(self, model):
        assert price(USAGE, model, at=NOW) is None

    @pytest.mark.parametrize(
        "usage",
        [
            TokenUsage(input_tokens=10, cached_input_tokens=11),
            TokenUsage(input_tokens=10, cached_input_tokens=-1),
            TokenUsage(input_tokens=-1),
            TokenUsage(output_tokens=-1),
            TokenUsage(input_tokens=10, cache_write_tokens=-1),
            TokenUsage(input_tokens=10, cached_input_tokens=6, cache_write_tokens=5),
            TokenUsage(input_tokens=10, audio_input_tokens=11),
            TokenUsage(input_tokens=10, audio_input_tokens=-1),
            TokenUsage(output_tokens=10, reasoning_tokens=11),
            TokenUsage(output_tokens=10, audio_output_tokens=11),
            TokenUsage(output_tokens=10, accepted_prediction_tokens=11),
            TokenUsage(output_tokens=10, rejected_prediction_tokens=-1),
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
        monkeypatch.setattr(cost, "MAX_MEMO", 8)
        monkeypatch.setattr(tables, "MAX_MEMO", 8)
        for number in range(50):
            assert price(USAGE, f"model-{number}", at=NOW) is None
        assert len(tables._memo) <= 8
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

    FULL = ModelPrice(
        input_usd_per_million=4,
        output_usd_per_million=8,
        cached_input_usd_per_million=1,
        cache_write_usd_per_million=5,
        audio_input_usd_per_million=40,
        cached_audio_input_usd_per_million=2,
        audio_output_usd_per_million="80.5",
    )

    def test_each_kind_of_token_can_have_its_price(self):
        set_price("private", self.FULL)
        usage = TokenUsage(
            input_tokens=10, cached_input_tokens=3, cache_write_tokens=2, output_tokens=7, reasoning_tokens=1
        )
        assert price(usage, "private") == Decimal(5 * 4 + 3 * 1 + 2 * 5 + 7 * 8) / 10**6
        heard = TokenUsage(input_tokens=10, audio_input_tokens=4, output_tokens=7, audio_output_tokens=6)
        assert price(heard, "private") == (6 * 4 + 4 * 40 + 1 * 8 + 6 * Decimal("80.5")) / 10**6
        cached = TokenUsage(input_tokens=10, audio_input_tokens=10, cached_input_tokens=3)
        assert price(cached, "private") == Decimal(7 * 40 + 3 * 2) / 10**6

    @pytest.mark.parametrize(
        "usage",
        [
            TokenUsage(input_tokens=10, audio_input_tokens=4, cached_input_tokens=1),
            TokenUsage(input_tokens=10, audio_input_tokens=4, cache_write_tokens=1),
        ],
    )
    def test_an_untold_overlap_has_no_price(self, usage):
        set_price("private", self.FULL)
        assert price(usage, "private") is None

    def test_own_prices_do_not_guess_those_of_audio(self):
        set_price("private", self.OWN)
        assert price(TokenUsage(input_tokens=2, audio_input_tokens=1), "private") is None
        assert price(TokenUsage(output_tokens=2, audio_output_tokens=1), "private") is None
        assert price(TokenUsage(input_tokens=10**6, cache_write_tokens=10**6), "private") == Decimal("0.5")
        half = ModelPrice(
            input_usd_per_million=4,
            output_usd_per_million=8,
            cached_input_usd_per_million=1,
            audio_input_usd_per_million=40,
        )
        set_price("private", half)
        cached = TokenUsage(input_tokens=10, audio_input_tokens=10, cached_input_tokens=3)
        assert price(cached, "private") is None

    def test_is_found_by_the_name_that_was_asked_for(self):
        set_price("my-deployment", self.OWN)
        assert price(USAGE, "gpt-4o-2024-08-06", at=NOW) == Decimal("12.5")
        asked = {"requested_model": "my-deployment", "at": NOW}
        assert price(USAGE, "gpt-4o-2024-08-06", **asked) == Decimal("2.5")
        assert price(USAGE, "no-such-model", **asked) == Decimal("2.5")
        assert price(USAGE, "gpt-4o", requested_model="another", at=NOW) == Decimal("12.5")
        assert price(USAGE, "no-such-model", requested_model="gpt-4o", at=NOW) is None

    def test_the_answers_name_comes_before_the_one_asked_for(self):
        set_price("asked", self.OWN)
        set_price("answered", ModelPrice(input_usd_per_million=1, output_usd_per_million=1))
        assert price(USAGE, "answered", requested_model="asked") == 2
        set_price("answered", None)
        assert price(USAGE, "answered", requested_model="asked") == Decimal("2.5")
        set_price("answered", self.OWN, service_tier="scale")
        assert price(USAGE, "answered", requested_model="asked", service_tier="flex") is None

    def test_a_record_is_priced_by_both_names(self):
        set_price("my-deployment", self.OWN)
        record = AttemptRecord(
            run_id=UUID(int=1), model="my-deployment", response_model="gpt-4o-2024-08-06", usage=USAGE
        )
        assert record.cost_usd == Decimal("2.5")

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
        assert {model: len(tiers) for model, tiers in cost._own.items()} == {
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


class TestMaxCost:
    @settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        model=st.sampled_from(MODELS + NAMES),
        counts=st.lists(tokens, min_size=6, max_size=6),
        at=st.datetimes(datetime(2024, 1, 1), datetime(2027, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
        tiers=st.sampled_from(
            [
                *((asked, answered) for asked in (None, "auto") for answered in TIERS[:-1]),
                *(("default", answered) for answered in ("default", None)),
                *((asked, answered) for asked in ("flex", "priority") for answered in (asked, "default")),
                *(("fast", answered) for answered in ("fast", "priority", "default")),
                ("batch", "batch"),
            ]
        ),
        has_audio=st.booleans(),
    )
    def test_no_answer_costs_more(self, model, counts, at, tiers, has_audio):
        uncached, cached, written, output, *spare = counts
        asked, answered = tiers
        usage = TokenUsage(
            input_tokens=uncached + cached + written,
            cached_input_tokens=cached,
            cache_write_tokens=written,
            audio_input_tokens=uncached if has_audio else 0,
            output_tokens=output,
            audio_output_tokens=output if has_audio else 0,
        )
        most = max_cost(usage.input_tokens + spare[0], output + spare[1], model, at=at, service_tier=asked)
        cost = price(usage, model, at=at, service_tier=answered)
        if most is not None and cost is not None:
            assert cost <= most
        if asked in (None, "auto", "default") and answered in (None, "default") and not has_audio:
            assert (most is None) == (cost is None)

    @pytest.mark.parametrize(
        ("model", "tokens_each", "expected"),
        [
            ("gpt-4", 1_000, 30 + 60),
            ("gpt-4o", 1_000, "4.25 + 17"),  # as priority
            ("gpt-audio", 1_000, 32 + 64),
        ],
    )
    def test_is_the_dearest_of_everything(self, model, tokens_each, expected):
        if isinstance(expected, str):
            expected = sum(Decimal(each) for each in expected.split(" + "))
        assert max_cost(tokens_each, tokens_each, model, at=NOW) == expected * Decimal(tokens_each) / 10**6

    def test_counts_the_surcharge_for_writing_the_cache(self):
        most = max_cost(1_000, 0, "gpt-5.6-sol", at=NOW, service_tier="default")
        written = TokenUsage(input_tokens=1_000, cache_write_tokens=1_000)
        assert (
            most
            == price(written, "gpt-5.6-sol", at=NOW)
            > price(TokenUsage(input_tokens=1_000), "gpt-5.6-sol", at=NOW)
        )

    def test_the_standard_tier_is_bounded_exactly(self):
        usage = TokenUsage(input_tokens=900, output_tokens=100)
        assert max_cost(900, 100, "gpt-5", at=NOW, service_tier="default") == price(usage, "gpt-5", at=NOW)
        assert max_cost(900, 100, "gpt-5", at=NOW) == price(usage, "gpt-5", at=NOW, service_tier="priority")

    def test_flex_may_be_served_as_standard(self):
        usage = TokenUsage(input_tokens=900, output_tokens=100)
        assert max_cost(900, 100, "gpt-5", at=NOW, service_tier="flex") == price(usage, "gpt-5", at=NOW)

    def test_a_long_prompt_costs_more(self):
        at_most = {"at": NOW, "service_tier": "default"}
        short, long = (max_cost(n, 0, "gpt-5.4", **at_most) for n in (272_000, 272_001))
        assert short == 272_000 * Decimal("2.5") / 10**6
        assert long == 272_001 * Decimal(5) / 10**6

    def test_what_is_unknown_is_none_and_one_warning(self, warnings):
        assert max_cost(1, 1, "no-such-model") is None
        assert price(USAGE, "no-such-model") is None
        assert len(warnings()) == 1
        assert max_cost(1, 1, "gpt-4o", at=NOW, service_tier="ultrafast") is None
        assert max_cost(1, 1, "text-embedding-3-small", at=NOW) is None
        assert len(warnings()) == 3

    def test_embeddings_have_input_only(self):
        most = max_cost(10**6, 0, "text-embedding-3-small", at=NOW, operation="embeddings")
        assert most == Decimal("0.02")

    def test_own_prices_bound_it_too(self):
        set_price("private", TestOwnPrice.FULL)
        assert max_cost(100, 10, "private") == (100 * 40 + 10 * Decimal("80.5")) / 10**6
        set_price(
            "private", ModelPrice(input_usd_per_million=90, output_usd_per_million=0), service_tier="scale"
        )
        assert max_cost(100, 0, "private") == Decimal(9_000) / 10**6
        assert max_cost(100, 0, "private", service_tier="default") == Decimal(4_000) / 10**6
        assert max_cost(100, 0, "private", service_tier="priority") is None


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
