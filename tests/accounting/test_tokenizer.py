from __future__ import annotations

import base64
import hashlib
import importlib.util
import json
import random
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import tiktoken.load
import tiktoken.model
import tiktoken.registry
from hypothesis import given, settings
from hypothesis import strategies as st

from lc_service.accounting import encoding, tokenizer
from lc_service.accounting.prompt import (
    IMAGE_TOKENS,
    LOW_DETAIL_IMAGE_TOKENS,
    PromptEstimate,
    count_messages,
    estimate_prompt,
)
from lc_service.accounting.tokenizer import MAX_EXACT_CHARACTERS, TokenEstimator, estimator_for

# Original texts with their true counts, made once with tiktoken itself.
SAMPLES = json.loads(Path(__file__).with_name("token_samples.json").read_text(encoding="utf-8"))
KINDS = {
    kind: [s for s in SAMPLES if s["kind"] == kind] for kind in dict.fromkeys(s["kind"] for s in SAMPLES)
}
MODELS = [("gpt-4.1-mini", "o200k_base"), ("gpt-4", "cl100k_base")]
MIX = ["english", "chinese", "python", "javascript", "emoji", "json", "url"]
UNKNOWN = "a-model-tiktoken-does-not-know"
ANY_TEXT = st.text(st.characters(exclude_categories=()))  # lone surrogates too


def prompt(rng, kinds):
    """One prompt of the steady mix: a text of each kind; returned with its true counts."""
    chosen = [rng.choice(KINDS[kind]) for kind in kinds]
    return "\n".join(s["text"] for s in chosen), {e: sum(s[e] for s in chosen) for _, e in MODELS}


def answers(seed, kinds, encoding, number=50, factor=1.0):
    rng = random.Random(seed)
    for _ in range(number):
        text, tokens = prompt(rng, kinds)
        yield text, round(tokens[encoding] * factor)


def learn(estimator, pairs):
    for text, true_tokens in pairs:
        estimator.calibrate(estimator.raw(text), true_tokens)


def total_error(estimator, pairs):
    pairs = list(pairs)
    return sum(estimator.estimate(text) for text, _ in pairs) / sum(true for _, true in pairs) - 1


def mean_error(estimator, pairs):
    errors = [abs(estimator.estimate(text) / true - 1) for text, true in pairs]
    return sum(errors) / len(errors)


# --- how near the estimate comes


def test_the_corpus_has_twelve_texts_of_every_kind():
    assert len(KINDS) == 12
    assert all(len(samples) >= 12 for samples in KINDS.values())


@pytest.mark.parametrize(("model", "encoding"), MODELS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_cold_estimate_is_within_35_percent_on_every_kind(kind, model, encoding):
    pairs = [(s["text"], s[encoding]) for s in KINDS[kind]]
    assert abs(total_error(TokenEstimator(model), pairs)) <= 0.35
    assert mean_error(TokenEstimator(model), pairs) <= 0.35


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("model", "encoding"), [*MODELS, (UNKNOWN, "cl100k_base")])
def test_50_answers_of_a_steady_mix_bring_it_within_8_percent(model, encoding, seed):
    estimator = TokenEstimator(model)
    assert mean_error(estimator, answers(seed, MIX, encoding)) <= 0.35
    learn(estimator, answers(seed, MIX, encoding))
    fresh = list(answers(seed + 1_000, MIX, encoding))
    assert mean_error(estimator, fresh) <= 0.08
    assert abs(total_error(estimator, fresh)) <= 0.08


@pytest.mark.parametrize(("model", "encoding"), MODELS)
@pytest.mark.parametrize("kind", KINDS)
def test_50_answers_of_one_kind_bring_its_total_within_8_percent(kind, model, encoding):
    estimator = TokenEstimator(model)
    learn(estimator, answers(7, [kind] * 3, encoding))
    assert abs(total_error(estimator, answers(8, [kind] * 3, encoding))) <= 0.08


@pytest.mark.parametrize("factor", [0.3, 0.5, 2, 4])
def test_a_very_different_tokenizer_is_learnt_within_50_answers(factor):
    estimator = TokenEstimator(UNKNOWN)
    learn(estimator, answers(3, MIX, "o200k_base", factor=factor))
    assert mean_error(estimator, answers(4, MIX, "o200k_base", factor=factor)) <= 0.08


@pytest.mark.parametrize("before", KINDS)
def test_a_changed_mix_starts_little_worse_than_cold_and_is_learnt_again(before):
    for after in KINDS:
        estimator = TokenEstimator("gpt-4.1-mini")
        learn(estimator, answers(5, [before] * 3, "o200k_base"))
        new = list(answers(6, [after] * 3, "o200k_base"))
        cold = abs(total_error(TokenEstimator("gpt-4.1-mini"), new))
        assert abs(total_error(estimator, new)) <= cold + 0.25
        learn(estimator, new)
        assert abs(total_error(estimator, answers(9, [after] * 3, "o200k_base"))) <= 0.10


# --- what holds for every text


@given(ANY_TEXT)
@settings(max_examples=300, deadline=None)
def test_any_text_has_a_plausible_count(text):
    estimator = TokenEstimator(UNKNOWN)
    count = estimator.count(text)
    assert count == estimator.estimate(text)
    assert (count == 0) == (text == "")
    assert 0 <= count <= 3 * len(text) + 1


@given(ANY_TEXT, ANY_TEXT)
@settings(max_examples=300, deadline=None)
def test_a_longer_text_never_counts_less_and_joining_never_adds(left, right):
    raw = TokenEstimator(UNKNOWN).raw
    joined = raw(left + right)
    assert joined >= max(raw(left), raw(right)) - 1e-9
    assert joined <= raw(left) + raw(right) + 1e-9
    assert joined >= raw(left) + raw(right) - 2.4  # ten bits of the seam


def test_a_text_of_many_blocks_counts_as_its_parts():
    estimator = TokenEstimator(UNKNOWN)
    text = KINDS["english"][0]["text"] * 1_000
    assert estimator.raw(text) == pytest.approx(1_000 * estimator.raw(KINDS["english"][0]["text"]), rel=0.02)


def test_a_full_block_of_letters_pays_at_its_two_ends_only():
    assert TokenEstimator(UNKNOWN).raw("a" * 65_536) == pytest.approx(65_536 * 0.02 + 4 * 0.235)


@pytest.mark.parametrize("character", ["a", " ", "7", "\n", "{", "你", "é", "😀", "\ud800"])
def test_a_megabyte_of_one_character_grows_with_its_length(character):
    raw = TokenEstimator(UNKNOWN).raw
    small, large = raw(character * 100_000), raw(character * 1_000_000)
    assert large <= 10 * small + 40
    assert large >= 9 * small


# --- what calibration survives


@pytest.mark.parametrize(
    ("estimated", "true"),
    [
        (0, 10),
        (-5, 10),
        (10, 0),
        (10, -3),
        (float("nan"), 10),
        (float("inf"), 10),
        (10, 10**400),
        (10**400, 10),
    ],
)
def test_nonsense_teaches_nothing(estimated, true):
    estimator = TokenEstimator(UNKNOWN)
    estimator.calibrate(estimated, true)
    assert estimator.scale == 1.0


@pytest.mark.parametrize("absurd", [1, 10**9])
def test_one_absurd_answer_moves_a_warm_estimate_little_and_is_forgotten(absurd):
    estimator = TokenEstimator(UNKNOWN)
    learn(estimator, answers(1, MIX, "o200k_base"))
    scale = estimator.scale
    estimator.calibrate(estimator.raw(prompt(random.Random(2), MIX)[0]), absurd)
    assert estimator.scale == pytest.approx(scale, rel=0.06)
    learn(estimator, answers(1, MIX, "o200k_base"))
    assert estimator.scale == pytest.approx(scale, rel=0.01)


def test_one_huge_absurd_prompt_has_the_say_of_four():
    estimator = TokenEstimator(UNKNOWN)
    learn(estimator, [("ordinary text " * 20, 40)] * 50)
    scale = estimator.scale
    estimator.calibrate(1e8, 10**9)
    assert estimator.scale == pytest.approx(scale, rel=0.16)


def test_an_absurd_first_answer_is_corrected():
    estimator = TokenEstimator(UNKNOWN)
    estimator.calibrate(1_000, 10**9)
    assert estimator.scale <= 2
    learn(estimator, answers(1, MIX, "o200k_base"))
    assert mean_error(estimator, answers(2, MIX, "o200k_base")) <= 0.08


@given(st.lists(st.tuples(st.integers(-10, 10**10), st.integers(-10, 10**10)), max_size=100))
@settings(deadline=None)
def test_the_scale_stays_in_range_whatever_it_is_told(pairs):
    estimator = TokenEstimator(UNKNOWN)
    for estimated, true in pairs:
        estimator.calibrate(estimated, true)
    assert 1 / 16 <= estimator.scale <= 16
    assert estimator.estimate("some text") >= 1


@pytest.mark.parametrize(("true", "scale"), [(10**9, 16), (1, 1 / 16)])
def test_a_server_that_always_tells_nonsense_meets_a_bound(true, scale):
    estimator = TokenEstimator(UNKNOWN)
    for _ in range(200):
        estimator.calibrate(10_000, true)
    assert estimator.scale == scale


def test_answers_that_come_all_at_once_do_not_overshoot():
    # all of them were estimated before any of them taught: that is why the raw estimate is handed over
    estimator = TokenEstimator(UNKNOWN)
    for _ in range(200):
        estimator.calibrate(1_000, 1_500)
        assert estimator.scale <= 1.5
    assert estimator.scale == pytest.approx(1.5, rel=0.001)


def test_many_threads_count_and_calibrate_one_estimator():
    estimator, failures = TokenEstimator(UNKNOWN), []
    barrier = threading.Barrier(8)

    def work(seed):
        try:
            barrier.wait()
            for text, true_tokens in answers(seed, MIX, "o200k_base", number=200, factor=2):
                assert estimator.count(text) > 0
                estimator.calibrate(estimator.raw(text), true_tokens)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert mean_error(estimator, answers(99, MIX, "o200k_base", factor=2)) <= 0.08


def test_a_model_has_one_estimator_for_the_whole_process():
    found, barrier = [], threading.Barrier(8)

    def work():
        barrier.wait()
        found.append(estimator_for("shared-by-threads"))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(estimator) for estimator in found}) == 1
    assert estimator_for("another") is not found[0]


# --- tiktoken, where its file is there

URL = "https://files.invalid/bytes.tiktoken"
FILE = b"\n".join(base64.b64encode(bytes([byte])) + b" %d" % byte for byte in range(256)) + b"\n"
CONSTRUCTORS = f"""
from tiktoken.load import load_tiktoken_bpe

def bytes_base():
    ranks = load_tiktoken_bpe({URL!r}, expected_hash={hashlib.sha256(FILE).hexdigest()!r})
    special = {{"<|end|>": 256}}
    return {{"name": "bytes_base", "pat_str": "(?s).+", "mergeable_ranks": ranks, "special_tokens": special}}

def bytes_derived():
    return {{**bytes_base(), "name": "bytes_derived"}}

def no_source():
    return {{"name": "no_source", "pat_str": ".", "mergeable_ranks": {{}}, "special_tokens": {{}}}}
"""


def cache_key(url):
    return hashlib.sha1(url.encode(), usedforsecurity=False).hexdigest()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A tiktoken that knows a tiny encoding (a token a byte), and a cache directory with its file in it."""
    names = {}
    exec(CONSTRUCTORS, names)
    tiktoken.list_encoding_names()
    for name in ("bytes_base", "bytes_derived", "no_source"):
        monkeypatch.setitem(tiktoken.registry.ENCODING_CONSTRUCTORS, name, names[name])
        monkeypatch.setitem(tiktoken.model.MODEL_TO_ENCODING, f"model-{name}", name)
    monkeypatch.setattr(tiktoken.registry, "ENCODINGS", {})
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(tiktoken.load, "read_file", refuse)
    (tmp_path / cache_key(URL)).write_bytes(FILE)
    return tmp_path


def refuse(blobpath):
    pytest.fail(f"tiktoken was about to fetch {blobpath}")


def cached_file(cache):
    return next(cache.iterdir())


@pytest.mark.parametrize("model", ["model-bytes_base", "model-bytes_derived"])
def test_where_the_file_is_the_count_is_exact(cache, model):
    estimator = TokenEstimator(model)
    assert estimator.is_exact
    assert estimator.count("größer") == 8
    assert estimator.count("") == 0
    assert estimator.count("<|end|>") == 7  # a user's text, no special token
    assert estimator.count("\ud800") > 0
    estimator.calibrate(1_000, 4_000)
    assert estimator.count("größer") == 8
    assert estimator.estimate("größer") != 8


def test_the_other_directory_variable_is_read_too(cache, monkeypatch):
    monkeypatch.setenv("DATA_GYM_CACHE_DIR", str(cache))
    monkeypatch.delenv("TIKTOKEN_CACHE_DIR")
    assert TokenEstimator("model-bytes_base").is_exact


def test_texts_too_long_for_tiktoken_are_estimated(cache, monkeypatch):
    estimator = TokenEstimator("model-bytes_base")
    assert estimator.count("a" * MAX_EXACT_CHARACTERS) == MAX_EXACT_CHARACTERS
    text = "a" * (MAX_EXACT_CHARACTERS + 1)
    assert estimator.count(text) == estimator.estimate(text) < MAX_EXACT_CHARACTERS


def test_a_text_that_tiktoken_refuses_is_estimated(cache):
    class Refusing:
        def encode_ordinary(self, text):
            raise ValueError("no")

    estimator = TokenEstimator("model-bytes_base")
    assert estimator.is_exact
    estimator._encoding = Refusing()
    assert estimator.count("some text") == estimator.estimate("some text") > 0


def test_a_damaged_file_counts_as_absent_and_stays(cache):
    cached_file(cache).write_bytes(FILE + b"x")
    assert not TokenEstimator("model-bytes_base").is_exact
    assert cached_file(cache).exists()


@pytest.mark.parametrize("case", ["no file", "no directory", "a directory in its place"])
def test_a_missing_file_is_never_fetched(cache, monkeypatch, case):
    cached = cached_file(cache)
    cached.unlink()
    (cache / "something else").touch()
    if case == "no directory":
        monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(cache / "absent"))
    elif case == "a directory in its place":
        cached.mkdir()
    estimator = TokenEstimator("model-bytes_base")
    assert not estimator.is_exact
    assert estimator.count("some text") > 0


def test_an_empty_directory_variable_does_not_mean_the_working_directory(cache, monkeypatch):
    monkeypatch.chdir(cache)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", "")
    assert not TokenEstimator("model-bytes_base").is_exact


@pytest.mark.parametrize("model", [UNKNOWN, "", "model-no_source"])
def test_a_model_without_a_known_source_is_estimated(cache, model):
    assert not TokenEstimator(model).is_exact


@pytest.mark.parametrize("name", ["o200k_base", "cl100k_base", "o200k_harmony"])
def test_contract_an_encodings_constructor_names_one_url_and_its_hash(name, tmp_path, monkeypatch):
    tiktoken.list_encoding_names()
    urls, hashes = encoding._sources(name, tiktoken.registry.ENCODING_CONSTRUCTORS)
    assert len(urls) == len(hashes) == 1
    # and tiktoken looks for it where we do
    url = urls.pop()
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(tiktoken.load, "read_file", refuse)
    (tmp_path / cache_key(url)).write_bytes(b"as cached")
    assert tiktoken.load.read_file_cached(url) == b"as cached"


def test_contract_tiktoken_loads_its_files_in_the_order_of_directories_that_we_assume(monkeypatch, tmp_path):
    monkeypatch.delenv("TIKTOKEN_CACHE_DIR", raising=False)
    monkeypatch.delenv("DATA_GYM_CACHE_DIR", raising=False)
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    assert encoding._cache_directory() == tmp_path / "data-gym-cache"
    (tmp_path / "data-gym-cache").mkdir()
    (tmp_path / "data-gym-cache" / cache_key(URL)).write_bytes(b"as cached")
    monkeypatch.setattr(tiktoken.load, "read_file", refuse)
    assert tiktoken.load.read_file_cached(URL) == b"as cached"


def test_our_choice_of_a_vocabulary_agrees_with_tiktokens():
    old = [m for m, encoding in tiktoken.model.MODEL_TO_ENCODING.items() if encoding == "cl100k_base"]
    new = [m for m, encoding in tiktoken.model.MODEL_TO_ENCODING.items() if encoding == "o200k_base"]
    assert all(tokenizer._OLD_MODEL.match(m) for m in [*old, "gpt-4-turbo", "ft:gpt-3.5-turbo:x"])
    assert not any(
        tokenizer._OLD_MODEL.match(m) for m in [*new, "gpt-4o-mini", "ft:gpt-4o:x", "gpt-4.1-mini"]
    )


def test_importing_it_and_counting_without_a_file_imports_no_tokenizer(tmp_path):
    path = importlib.util.find_spec("lc_service.accounting.tokenizer").origin
    code = f"""
import importlib.util, sys
spec = importlib.util.spec_from_file_location("tokenizer_alone", {path!r})
module = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = module
spec.loader.exec_module(module)
assert module.estimator_for("gpt-4.1").count("some text") > 0
print(sorted({{"tiktoken", "openai", "langchain_core", "requests"}} & set(sys.modules)))
"""
    result = subprocess.run(  # noqa: S603  our own code
        [sys.executable, "-c", code],
        capture_output=True, text=True, check=True, env={"TIKTOKEN_CACHE_DIR": str(tmp_path / "absent")},
    )  # fmt: skip
    assert result.stdout.strip() == "[]"


# --- whole prompts; a token a byte makes the sums easy to see


@pytest.fixture
def exact(cache):
    return TokenEstimator("model-bytes_base")


CALL = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": '{"at":1}'}}


@pytest.mark.parametrize(
    ("message", "tokens"),
    [
        ({"role": "user", "content": "hello"}, 4 + 5),
        ({"role": "user", "content": ""}, 4),
        ({"role": "user", "content": "hello", "name": "Ada"}, 4 + 5 + 1 + 3),
        ({"role": "user", "content": [{"type": "text", "text": "hello"}, {"type": "text", "text": "!"}]},
         4 + 6),
        ({"role": "assistant", "content": None, "tool_calls": [CALL, CALL]}, 4 + 2 * (3 + 4 + 8)),
        ({"role": "assistant", "content": None, "function_call": CALL["function"]}, 4 + 3 + 4 + 8),
        ({"role": "assistant", "tool_calls": [{"type": "custom", "custom": {"name": "run", "input": "ls"}}]},
         4 + 3 + 5),
        ({"role": "assistant", "content": None, "refusal": "No."}, 4 + 3),
        ({"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}, 4 + 3),
        ({"role": "tool", "tool_call_id": "call_1", "content": "done"}, 4 + 4),
        ({"role": "user", "content": ["hello", {"type": "text", "text": ""}, {"type": "text"}]}, 4 + 5),
        ({}, 4),
    ],
)  # fmt: skip
def test_a_message_costs_its_texts_and_three_and_its_role(exact, message, tokens):
    assert count_messages(exact, [message]) == 3 + tokens
    assert count_messages(exact, [message, message]) == 3 + 2 * tokens


def test_no_messages_cost_the_priming_of_the_answer(exact):
    assert count_messages(exact, []) == 3


@pytest.mark.parametrize(
    ("part", "tokens"),
    [
        ({"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 10_000}}, IMAGE_TOKENS),
        ({"type": "image_url", "image_url": {"url": "a.png", "detail": "low"}}, LOW_DETAIL_IMAGE_TOKENS),
        ({"type": "input_image", "image_url": "a.png", "detail": "low"}, LOW_DETAIL_IMAGE_TOKENS),
        ({"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}, IMAGE_TOKENS),
        ({"type": "file", "file": {"file_id": "file-1"}}, IMAGE_TOKENS),
    ],
)
def test_pictures_and_files_cost_a_flat_figure_and_teach_nothing(exact, part, tokens):
    messages = [{"role": "user", "content": [{"type": "text", "text": "what?"}, part]}]
    assert estimate_prompt(exact, messages) == PromptEstimate(3 + 4 + 5 + tokens, 0)
    unknown = TokenEstimator(UNKNOWN)
    assert estimate_prompt(unknown, messages).tokens - tokens == pytest.approx(9, abs=2)
    assert estimate_prompt(unknown, messages).raw_tokens == 0


PARAMETERS = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "description": "Where"},
        "unit": {"type": "string", "enum": ["c", "f"]},
        "any": True,
        "stops": {"type": "array", "items": {"type": "object", "properties": {"at": {"type": "integer"}}}},
    },
    "required": ["city"],
}
CITY, UNIT, ANY, STOPS = "city:string:Where", "unit:string:", "any::", "stops:array:"


@pytest.mark.parametrize("is_flat", [False, True])
def test_tools_cost_their_names_descriptions_and_schemas_at_any_depth(exact, is_flat):
    function = {"name": "weather", "description": "Tell it.", "parameters": PARAMETERS}
    tool = {"type": "function"} | (function if is_flat else {"function": function})
    properties = 3 + 4 * 3 + len(CITY) + len(UNIT) + len(ANY) + len(STOPS) + 3 + len("cf")
    nested = 3 + 3 + len("at:integer:")
    one = 7 + len("weather:Tell it") + properties + nested
    assert count_messages(exact, [], [tool]) == 3 + 12 + one
    assert count_messages(exact, [], [tool, tool]) == 3 + 12 + 2 * one
    assert count_messages(exact, [], []) == 3


def test_a_custom_tools_grammar_counts(exact):
    """It is part of the prompt, as a function's schema is."""
    said = {"name": "sql", "description": "Ask."}
    free = {"type": "custom", "custom": said}
    grammar = {"type": "grammar", "grammar": {"syntax": "lark", "definition": 'start: "SELECT"'}}
    bound = {"type": "custom", "custom": said | {"format": grammar}}
    assert count_messages(exact, [], [bound]) == count_messages(exact, [], [free]) + len(json.dumps(grammar))


def test_the_cookbooks_own_example_is_estimated_within_15_percent_of_the_101_the_api_counted():
    messages = [
        {"role": "system",
         "content": "You are a helpful assistant that can answer to questions about the weather."},
        {"role": "user", "content": "What's the weather like in San Francisco?"},
    ]  # fmt: skip
    location = {"type": "string", "description": "The city and state, e.g. San Francisco, CA"}
    units = ["celsius", "fahrenheit"]
    unit = {"type": "string", "description": "The unit of temperature to return", "enum": units}
    function = {
        "name": "get_current_weather",
        "description": "Get the current weather in a given location",
        "parameters": {"type": "object", "properties": {"location": location, "unit": unit}},
    }
    tools = [{"type": "function", "function": function}]
    assert count_messages(TokenEstimator("gpt-4o"), messages, tools) == pytest.approx(101, rel=0.15)


@pytest.mark.parametrize(
    "tool",
    [{"type": "web_search"}, {"type": "function", "function": {"name": "now"}}, {},
     {"type": "custom", "custom": {"name": "run", "description": "Run it."}},
     {"function": {"name": "f", "parameters": {"anyOf": [{"$ref": "#/$defs/A"}], "$defs": {"A": {}}}}}],
)  # fmt: skip
def test_tools_of_other_forms_are_counted_too(tool):
    assert count_messages(TokenEstimator(UNKNOWN), [], [tool]) > count_messages(TokenEstimator(UNKNOWN), [])


def test_a_schema_thousands_of_levels_deep_is_no_failure():
    schema = {"type": "string"}
    for _ in range(5_000):
        schema = {"type": "object", "properties": {"in": schema}}
    assert (
        count_messages(TokenEstimator(UNKNOWN), [], [{"function": {"name": "f", "parameters": schema}}])
        > 5_000
    )


def test_a_prompts_raw_tokens_calibrate_the_next_count():
    estimator = TokenEstimator(UNKNOWN)
    messages = [{"role": "user", "content": KINDS["english"][1]["text"] * 5}]
    cold = estimate_prompt(estimator, messages)
    assert cold.tokens == cold.raw_tokens
    for _ in range(50):
        estimator.calibrate(estimate_prompt(estimator, messages).raw_tokens, 2 * cold.tokens)
    warm = estimate_prompt(estimator, messages)
    assert warm.raw_tokens == cold.raw_tokens
    assert warm.tokens == pytest.approx(2 * cold.tokens, rel=0.08)


def test_an_exact_prompt_teaches_the_estimate_of_long_texts(exact):
    messages = [{"role": "user", "content": KINDS["english"][1]["text"]}]
    for _ in range(50):
        exact.calibrate(estimate_prompt(exact, messages).raw_tokens, count_messages(exact, messages))
    long_text = KINDS["english"][1]["text"] * 500
    assert len(long_text) > MAX_EXACT_CHARACTERS
    assert exact.count(long_text) == pytest.approx(len(long_text), rel=0.15)
