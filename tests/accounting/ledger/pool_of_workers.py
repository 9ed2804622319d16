"""A program for a test: workers record into a buffered ledger, and end at once."""

import multiprocessing
import sys

from conftest import attempt

from lc_service.accounting.ledger import UsageLedger


def work(path):
    ledger = UsageLedger(path, durability="buffered")
    for _ in range(10):
        ledger.record(attempt())
    KEPT.append(ledger)


KEPT = []

if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[2])
    workers = [context.Process(target=work, args=(sys.argv[1],)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
