"""Attempts to record, ledgers of each kind of database, and a real PostgreSQL server where there is one."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lc_service.accounting.ledger import UsageLedger
from lc_service.accounting.record import AttemptRecord
from lc_service.accounting.usage import TokenUsage


def attempt(**fields: Any) -> AttemptRecord:
    """Make an attempt: `input_tokens=...` and its kin go into its usage."""
    usage = {name: fields.pop(name) for name in tuple(fields) if name.endswith("put_tokens")}
    usage = usage or {"input_tokens": 100, "output_tokens": 20}
    return AttemptRecord(
        **{"run_id": uuid.uuid4(), "model": "gpt-4.1-mini", "usage": TokenUsage(**usage)} | fields
    )


def _postgres_programs() -> Path | None:
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    found = shutil.which("initdb")
    return next(iter(folders), Path(found).parent if found else None)


def _as_nobody_special() -> list[str]:
    """Return what makes a command run as a user that PostgreSQL's server accepts: it refuses root."""
    return [] if os.geteuid() else ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The URL of a server of this session's own, with a password, on loopback."""
    programs = _postgres_programs()
    if programs is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    if not os.geteuid() and (shutil.which("setpriv") is None or not _has_user("postgres")):
        pytest.skip("PostgreSQL does not run as root, and there is no user postgres to run it as")
    folder = Path(tempfile.mkdtemp(prefix="lc-service-postgres-"))  # short: a socket's path is bounded
    try:
        if not os.geteuid():
            shutil.chown(folder, "postgres", "postgres")
        port = _free_port()
        options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off"
        password = folder / "password"
        password.write_text("hunter2")
        password.chmod(0o644)
        run = [*_as_nobody_special(), str(programs / "initdb"), "-D", str(folder / "data"), "-U", "team"]
        _command([*run, "-A", "scram-sha-256", "--pwfile", str(password), "-N", "-E", "UTF8"])
        control = [*_as_nobody_special(), str(programs / "pg_ctl"), "-D", str(folder / "data"), "-w"]
        _command([*control, "-l", str(folder / "log"), "-o", options, "start"])
        try:
            yield f"postgresql://team:hunter2@127.0.0.1:{port}/"
        finally:
            _command([*control, "-m", "immediate", "stop"])
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _has_user(name: str) -> bool:
    import pwd

    return any(user.pw_name == name for user in pwd.getpwall())


def _command(command: list[str]) -> None:
    subprocess.run(  # noqa: S603  the arguments are all ours
        command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=50, cwd="/"
    )


@pytest.fixture
def postgres_url(postgres_server: str) -> str:
    """The URL of an empty database."""
    import psycopg

    name = f"ledger_{uuid.uuid4().hex}"
    with psycopg.connect(postgres_server + "postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return postgres_server + name


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a ledger can be kept, in each kind of database."""
    if request.param == "sqlite":
        return str(tmp_path / "usage.db")
    return str(request.getfixturevalue("postgres_url"))


@pytest.fixture
def open_ledger() -> Iterator[Callable[..., UsageLedger]]:
    """Open ledgers that are closed at the end."""
    ledgers: list[UsageLedger] = []

    def open_(*args: Any, **options: Any) -> UsageLedger:
        ledgers.append(UsageLedger(*args, **options))
        return ledgers[-1]

    yield open_
    for ledger in ledgers:
        ledger.close()


@pytest.fixture
def ledger(place: str, open_ledger: Callable[..., UsageLedger]) -> UsageLedger:
    return open_ledger(place)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "usage.db"


@pytest.fixture
def make_attempt() -> Callable[..., AttemptRecord]:
    return attempt


@pytest.fixture
def in_new_process() -> Callable[..., subprocess.Popen[str]]:
    """Start a Python process on a script with arguments; it finds `attempt` in `conftest`."""
    import sys

    processes: list[subprocess.Popen[str]] = []

    def start(script: str, *args: object) -> subprocess.Popen[str]:
        process = subprocess.Popen(  # noqa: S603  the script is the test's
            [sys.executable, "-c", script, *map(str, args)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parent)},
        )  # fmt: skip
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()
