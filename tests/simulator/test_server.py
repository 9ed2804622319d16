from __future__ import annotations

import asyncio
import importlib
import threading
import time

import httpx2
import openai
import pytest

import lc_service.simulator
from lc_service.simulator import Fault, ServerLimits, Simulator, run_simulator


def test_everything_promised_is_exported():
    for name in lc_service.simulator.__all__:
        assert getattr(importlib.import_module("lc_service.simulator"), name)
    assert lc_service.simulator.__all__ == sorted(lc_service.simulator.__all__)


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_lifetime_seconds": 0},
        {"latency_seconds": -1},
        {"chunk_delay_seconds": -1},
        {"context_window_tokens": 0},
        {"faults": ["explosion"]},
    ],
)
def test_nonsense_is_refused_at_construction(wrong):
    with pytest.raises(ValueError):
        Simulator(**wrong)


def test_it_listens_on_loopback_and_says_where():
    simulator = Simulator()
    with pytest.raises(RuntimeError, match="not running"):
        _ = simulator.base_url
    with simulator:
        assert simulator.base_url.startswith("http://127.0.0.1:")
        assert simulator.is_running
        with pytest.raises(RuntimeError, match="already"):
            simulator.start()
    assert not simulator.is_running
    simulator.stop()


def test_several_run_side_by_side(wire_to):
    first, second = wire_to(), wire_to()
    first.chat()
    assert first.sim.base_url != second.sim.base_url
    assert (first.sim.bill.requests, second.sim.bill.requests) == (1, 0)


def test_it_can_be_started_again():
    simulator = Simulator()
    for _ in range(2):
        with simulator, httpx2.Client(base_url=simulator.base_url) as client:
            assert client.get("/nowhere").status_code == 404


def test_a_taken_port_is_reported(wire):
    port = int(wire.sim.base_url.rsplit(":", 1)[1].removesuffix("/v1"))
    with pytest.raises(OSError, match="in use"):
        Simulator(port=port).start()


def test_it_stops_at_once_with_a_request_hanging(wire_to):
    wire = wire_to(faults=[Fault("slow", delay_seconds=60)])
    failures: list[Exception] = []

    def ask() -> None:
        try:
            wire.chat()
        except httpx2.TransportError as error:
            failures.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    while not wire.sim.requests or wire.sim.requests[0].fault is None:
        time.sleep(0.001)
    began = time.monotonic()
    wire.sim.stop()
    thread.join()
    assert time.monotonic() - began < 0.5
    assert len(failures) == 1
    assert wire.sim.bill.interrupted_requests == 1


def test_it_stops_by_itself():
    simulator = Simulator(max_lifetime_seconds=0.02).start()
    assert simulator.wait_until_stopped(5)
    simulator.stop()


def test_reset_begins_again(wire_to):
    wire = wire_to(faults=["server_error"], limits=ServerLimits(requests_per_minute=6))
    assert [wire.chat().status_code for _ in range(3)] == [500, 200, 429]
    wire.sim.reset()
    assert wire.sim.bill.requests == 0
    assert wire.sim.requests == []
    assert [wire.chat().status_code for _ in range(3)] == [500, 200, 429]
    assert wire.sim.requests[0].number == 1


def test_limits_can_change_on_the_way(wire_to):
    wire = wire_to()
    assert "x-ratelimit-limit-requests" not in wire.chat().headers
    wire.sim.set_limits(ServerLimits(requests_per_minute=6))
    assert [wire.chat().status_code for _ in range(2)] == [200, 429]


def test_requests_are_a_snapshot_in_order_of_arrival(wire):
    wire.chat("one")
    before = wire.sim.requests
    wire.chat("two", stream=True)
    assert len(before) == 1
    first, second = wire.sim.requests
    assert (first.number, first.path, first.model, first.status) == (
        1, "/v1/chat/completions", "gpt-4.1-mini", 200,
    )  # fmt: skip
    assert (first.streamed, second.streamed) == (False, True)
    assert b'"two"' in second.body
    assert first.authorization_masked == "sk-tes********7890"


def test_models(wire):
    listed = wire.client.get("/models").json()
    assert listed["object"] == "list"
    assert {"gpt-4.1-mini", "text-embedding-3-small"} <= {card["id"] for card in listed["data"]}
    assert wire.client.get("/models/gpt-4.1-mini").json()["id"] == "gpt-4.1-mini"
    assert wire.client.get("/models/none").json()["error"]["code"] == "model_not_found"
    with openai.OpenAI(base_url=wire.sim.base_url, api_key="sk-x") as client:
        assert len(client.models.list().data) == len(listed["data"])
    del wire.client.headers["authorization"]
    assert wire.client.get("/models").status_code == 401


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/nowhere", 404), ("POST", "/models", 405), ("GET", "/chat/completions", 405)],
)
def test_unknown_paths_and_methods(wire, method, path, status):
    response = wire.client.request(method, path)
    assert response.status_code == status
    assert response.json()["error"]["type"] == "invalid_request_error"
    assert response.headers["x-request-id"] == "req_000001"


def test_another_process_can_ask_for_the_bill(wire):
    usage = wire.chat().json()["usage"]
    root = wire.sim.base_url.removesuffix("/v1")
    bill = wire.client.get(f"{root}/__simulator/bill").json()
    assert bill["requests"] == 1
    assert bill["total"]["total_tokens"] == usage["total_tokens"]
    assert bill["lines"][0]["model"] == "gpt-4.1-mini"
    assert bill["lines"][0]["usage"]["input_tokens"] == usage["prompt_tokens"]
    assert wire.client.post(f"{root}/__simulator/reset").status_code == 200
    assert wire.sim.bill.requests == 0


def test_another_process_can_change_the_limits(wire):
    limits = wire.sim.base_url.removesuffix("/v1") + "/__simulator/limits"
    said = wire.client.post(limits, json={"requests_per_minute": 6}).json()
    assert (said["requests_per_minute"], said["tokens_per_minute"]) == (6, None)
    assert [wire.chat().status_code for _ in range(2)] == [200, 429]
    assert wire.client.post(limits, json={"requests_per_minute": None}).status_code == 200
    assert wire.chat().status_code == 200


@pytest.mark.parametrize("body", [b"[]", b"{", b'{"requests_per_minute": -1}', b'{"nope": 1}'])
def test_limits_that_cannot_be_are_refused(wire, body):
    limits = wire.sim.base_url.removesuffix("/v1") + "/__simulator/limits"
    response = wire.client.post(limits, content=body)
    assert response.status_code == 400
    assert response.json()["error"]["message"]


async def test_it_serves_concurrent_requests(wire_to):
    wire = wire_to(latency_seconds=0.01)
    headers = {"authorization": "Bearer sk-test"}
    async with httpx2.AsyncClient(base_url=wire.sim.base_url, headers=headers) as client:
        answers = await asyncio.gather(
            *(client.post("/chat/completions", json=wire.body(f"{i}?")) for i in range(20))
        )
    texts = [answer.json()["choices"][0]["message"]["content"] for answer in answers]
    assert all(f"“{i}?”" in text for i, text in enumerate(texts))
    assert wire.sim.bill.requests == 20


def test_the_foreground_server_returns_its_bill():
    seen: list[int] = []

    def use(simulator: Simulator) -> None:
        headers = {"authorization": "Bearer sk-test"}
        with httpx2.Client(base_url=simulator.base_url, headers=headers) as client:
            body = {"model": "text-embedding-3-small", "input": "Hello"}
            seen.append(client.post("/embeddings", json=body).status_code)

    bill = run_simulator(port=0, stop_after_seconds=0.3, on_start=use)
    assert seen == [200]
    assert bill.requests == 1


@pytest.mark.parametrize("host", ["0.0.0.0", "example.com", "::"])  # noqa: S104  # they are refused
def test_the_foreground_server_refuses_other_hosts(host):
    with pytest.raises(ValueError, match="loopback"):
        run_simulator(host=host)
