from __future__ import annotations

import threading

from lc_service.simulator import Bill, BillLine, Usage

USAGE = Usage(input_tokens=5, cached_input_tokens=2, output_tokens=3, reasoning_tokens=1)


def test_usages_add_up_field_by_field():
    assert Usage(input_tokens=10, cached_input_tokens=4, output_tokens=6, reasoning_tokens=2) == USAGE + USAGE
    assert USAGE.total_tokens == 8


def test_lines_are_kept_by_model_and_operation():
    bill = Bill()
    bill.record("a", "chat", USAGE)
    bill.record("a", "chat", USAGE, interrupted=True)
    bill.record("b", "embeddings", USAGE)
    assert bill.by("a") == BillLine(requests=2, usage=USAGE + USAGE, interrupted_requests=1)
    assert set(bill.lines) == {("a", "chat"), ("b", "embeddings")}
    assert (bill.requests, bill.interrupted_requests) == (3, 1)
    assert bill.total == USAGE + USAGE + USAGE
    assert bill.by("unknown", "embeddings") == BillLine()


def test_reset_forgets_everything():
    bill = Bill()
    bill.record("a", "chat", USAGE)
    bill.reset()
    assert bill.requests == 0
    assert bill.total == Usage()


def test_it_shows_what_it_has():
    bill = Bill()
    bill.record("a", "chat", USAGE)
    assert repr(bill) == f"Bill(requests=1, total={USAGE!r})"


def test_no_line_is_lost_between_threads():
    bill = Bill()

    def record() -> None:
        for _ in range(500):
            bill.record("a", "chat", Usage(input_tokens=1))

    threads = [threading.Thread(target=record) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert bill.by("a").usage.input_tokens == 2_000
