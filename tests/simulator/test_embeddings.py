from __future__ import annotations

import base64
import math
import struct

import openai
import pytest

from lc_service.simulator.embeddings import embed


def cosine(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def ask(wire, given, model="text-embedding-3-small", **extra):
    return wire.post("/embeddings", model=model, input=given, **extra)


@pytest.mark.parametrize("text", ["A cat on a mat", "猫", "?", " "])
def test_vectors_have_length_one_and_repeat(text):
    vector = embed(text, 256)
    assert math.isclose(math.sqrt(cosine(vector, vector)), 1)
    assert vector == embed(text, 256)


def test_similar_texts_are_near():
    cat, cats, tax = (
        embed(text, 1_536) for text in ("The cat sat on the mat", "Cats sat on mats", "Quarterly tax forms")
    )
    assert cosine(cat, cats) > 0.4
    assert abs(cosine(cat, tax)) < 0.2


@pytest.mark.parametrize(
    ("model", "extra", "length"),
    [
        ("text-embedding-3-small", {}, 1_536),
        ("text-embedding-ada-002", {}, 1_536),
        ("text-embedding-3-large", {}, 3_072),
        ("text-embedding-3-small", {"dimensions": 64}, 64),
    ],
)
def test_dimensions(wire, model, extra, length):
    assert len(ask(wire, "Hi", model, **extra).json()["data"][0]["embedding"]) == length


def test_order_is_kept(wire):
    texts = ["one", "two", "three"]
    data = ask(wire, texts, dimensions=32).json()["data"]
    assert [entry["index"] for entry in data] == [0, 1, 2]
    assert [entry["embedding"] for entry in data] == [embed(text, 32) for text in texts]


def test_base64_is_little_endian_float32(wire):
    plain = ask(wire, "Hi", dimensions=32).json()["data"][0]["embedding"]
    packed = ask(wire, "Hi", dimensions=32, encoding_format="base64").json()["data"][0]["embedding"]
    assert struct.unpack("<32f", base64.b64decode(packed)) == pytest.approx(plain)


@pytest.mark.parametrize(
    ("given", "count", "tokens"),
    [("Hello", 1, 1), (["Hello", "Hello you"], 2, 3), ([1, 2, 3], 1, 3), ([[1, 2], [3]], 2, 3)],
)
def test_inputs_of_every_shape_are_billed(wire, given, count, tokens):
    body = ask(wire, given, dimensions=8).json()
    assert len(body["data"]) == count
    assert body["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}
    line = wire.sim.bill.by("text-embedding-3-small", "embeddings")
    assert (line.requests, line.usage.input_tokens, line.usage.output_tokens) == (1, tokens, 0)


@pytest.mark.parametrize(
    ("given", "extra", "param"),
    [
        ([], {}, "input"), ("", {}, "input"), ([""], {}, "input"), (None, {}, "input"),
        ("word " * 9_000, {}, "input"), (["a"] * 2_049, {}, "input"), ([{}], {}, "input"),
        ("Hi", {"dimensions": 0}, "dimensions"), ("Hi", {"dimensions": 4_000}, "dimensions"),
        ("Hi", {"encoding_format": "hex"}, "encoding_format"),
    ],
)  # fmt: skip
def test_invalid_requests_name_the_parameter(wire, given, extra, param):
    response = ask(wire, given, **extra)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param
    assert wire.sim.bill.requests == 0


def test_the_sdk_reads_it(wire):
    with openai.OpenAI(base_url=wire.sim.base_url, api_key="sk-x", max_retries=0) as client:
        answer = client.embeddings.create(model="text-embedding-3-small", input=["Hi", "Ho"])
    assert len(answer.data[1].embedding) == 1_536
