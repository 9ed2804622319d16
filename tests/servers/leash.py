"""Run a program that ends with whoever started this: `python leash.py SECONDS PROGRAM ARGUMENT…`.

The program and its children are ended, by the id of their process group, when standard input closes, which it
does however the starter ends, or when the seconds are over. Restarts nothing.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time


def main() -> int:
    deadline = time.monotonic() + float(sys.argv[1])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    process = subprocess.Popen(sys.argv[2:], stdin=subprocess.DEVNULL, start_new_session=True)  # noqa: S603  ours
    try:
        while process.poll() is None and time.monotonic() < deadline:
            if select.select([sys.stdin], [], [], 0.2)[0] and not os.read(sys.stdin.fileno(), 1):
                break
    finally:
        end(process)
    return process.returncode


def end(process: subprocess.Popen[bytes]) -> None:
    for how in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, how)
            process.wait(5)
        except subprocess.TimeoutExpired:
            continue
        except ProcessLookupError:
            process.wait()
        return


if __name__ == "__main__":
    sys.exit(main())
