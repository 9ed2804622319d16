"""A ledger that cannot work is refused when it is made, in words that say what to do."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from lc_service.accounting.ledger import LedgerError, UsageLedger, migration
from lc_service.accounting.record import AttemptRecord

Open = Callable[..., UsageLedger]
MakeAttempt = Callable[..., AttemptRecord]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_its_files_are_for_their_owner_only(path: Path, open_ledger: Open, make_attempt: MakeAttempt) -> None:
    before = os.umask(0)
    try:
        open_ledger(path).record(make_attempt())
    finally:
        os.umask(before)
    files = sorted(path.parent.iterdir())
    assert [file.name for file in files] == ["usage.db", "usage.db-shm", "usage.db-wal"]
    assert {mode(file) for file in files} == {0o600}


@pytest.mark.parametrize("form", ["path", "text", "url", "relative"])
def test_a_place_can_be_told_in_several_ways(
    path: Path, form: str, open_ledger: Open, make_attempt: MakeAttempt, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(path.parent)
    forms = {"path": path, "text": str(path), "url": f"sqlite:///{path}", "relative": "usage.db"}
    open_ledger(forms[form]).record(make_attempt())
    assert len(list(UsageLedger(path).records())) == 1


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg2", "postgresql+asyncpg"])
def test_any_postgresql_url_means_psycopg(postgres_url: str, scheme: str, open_ledger: Open) -> None:
    ledger = open_ledger(postgres_url.replace("postgresql", scheme, 1))
    assert list(ledger.records()) == []
    assert "hunter2" not in repr(ledger)


@pytest.mark.parametrize(
    "place", ["", ":memory:", "sqlite://", "mysql://host/db", "http://x", "postgresql://h:port/"]
)
def test_what_is_no_place_is_refused(place: str) -> None:
    with pytest.raises(LedgerError):
        UsageLedger(place)


def test_arguments_are_checked(path: Path) -> None:
    with pytest.raises(ValueError, match="durability"):
        UsageLedger(path, durability="none")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="busy_timeout_seconds"):
        UsageLedger(path, busy_timeout_seconds=0)
    assert not path.exists()


def test_a_missing_folder_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match=r"is not there\. Make it first"):
        UsageLedger(tmp_path / "nowhere" / "usage.db")
    with pytest.raises(LedgerError, match="is a folder"):
        UsageLedger(tmp_path)


def test_another_kind_of_file_is_refused(path: Path) -> None:
    path.write_text("model,tokens\n" * 1_000)
    with pytest.raises(LedgerError, match="is not a SQLite database"):
        UsageLedger(path)
    assert path.read_text() == "model,tokens\n" * 1_000


@pytest.mark.parametrize("damage", ["torn", "scribbled"])
def test_a_damaged_file_is_refused(path: Path, damage: str, make_attempt: MakeAttempt) -> None:
    with UsageLedger(path) as ledger:
        ledger.record_many(make_attempt() for _ in range(500))
    content = bytearray(path.read_bytes())
    if damage == "torn":
        content = content[: len(content) // 2]
    else:
        content[len(content) // 2 : len(content) // 2 + 8_192] = b"\xa5" * 8_192
    path.write_bytes(content)
    with pytest.raises(LedgerError, match="is damaged"):
        UsageLedger(path)


def test_an_empty_file_becomes_a_ledger(path: Path, open_ledger: Open) -> None:
    path.touch()
    assert open_ledger(path).lines() == {}


READ_ONLY = """
import os, sys
from lc_service.accounting.ledger import LedgerError, UsageLedger
from lc_service.accounting.ledger import courier, place, reading, reservation, writer  # root can read them
if os.geteuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)  # root writes everywhere
try:
    UsageLedger(sys.argv[1])
except LedgerError as error:
    print(error)
"""


@pytest.fixture
def public_folder() -> Iterator[Path]:
    """A folder that every user can look into."""
    import tempfile

    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)


@pytest.mark.parametrize("what", ["file", "folder", "folder of a new file"])
def test_what_cannot_be_written_is_refused(
    public_folder: Path, what: str, in_new_process: Callable[..., subprocess.Popen[str]]
) -> None:
    path = public_folder / "usage.db"
    if what != "folder of a new file":
        UsageLedger(path).close()
        path.chmod(0o444 if what == "file" else 0o666)
    public_folder.chmod(0o777 if what == "file" else 0o555)
    words, errors = in_new_process(READ_ONLY, path).communicate(timeout=30)
    assert not errors
    assert str(path) in words
    assert "cannot be made" in words if what == "folder of a new file" else "cannot be" in words


def test_a_newer_schema_is_refused_and_left_alone(
    place: str, monkeypatch: pytest.MonkeyPatch, make_attempt: MakeAttempt
) -> None:
    def add_column(connection: sa.Connection) -> None:
        connection.exec_driver_sql("ALTER TABLE attempts ADD COLUMN mood TEXT")

    with monkeypatch.context() as future:
        future.setattr(migration, "MIGRATIONS", (*migration.MIGRATIONS, add_column))
        with UsageLedger(place) as ledger:
            ledger.record(make_attempt())
    version = len(migration.MIGRATIONS)
    with pytest.raises(
        LedgerError, match=rf"version {version + 1}, this one knows {version}\. Upgrade"
    ) as caught:
        UsageLedger(place)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("version", range(1, len(migration.MIGRATIONS) + 1))
def test_every_older_schema_is_brought_up_to_date_with_its_rows(
    place: str, version: int, monkeypatch: pytest.MonkeyPatch, open_ledger: Open, make_attempt: MakeAttempt
) -> None:
    from lc_service.accounting.ledger.place import find
    from lc_service.accounting.ledger.row import FIELDS, to_row
    from lc_service.accounting.ledger.schema import attempts, migrations

    old = make_attempt()
    database = find(place, "process", 1)
    with monkeypatch.context() as past:
        past.setattr(migration, "MIGRATIONS", migration.MIGRATIONS[:version])
        database.prepare()
    with database.engine.begin() as connection:
        connection.execute(attempts.insert().values(dict(zip(FIELDS, to_row(old), strict=True))))
    ledger = open_ledger(place)
    new = make_attempt()
    ledger.record(new)
    assert list(ledger.records()) == [old, new]
    with database.engine.connect() as connection:
        versions = connection.scalars(sa.select(migrations.c.version).order_by("version")).all()
        assert versions == list(range(1, len(migration.MIGRATIONS) + 1))
        tables = {"attempts", "reservations", "ledger_migrations"}
        assert tables <= set(sa.inspect(connection).get_table_names())
        assert sa.inspect(connection).get_view_names() == ["attempts_readable"]


def test_a_change_that_fails_leaves_nothing_behind(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(connection: sa.Connection) -> None:
        connection.exec_driver_sql("CREATE TABLE half (x)")
        connection.exec_driver_sql("nonsense")

    with monkeypatch.context() as future:
        future.setattr(migration, "MIGRATIONS", (*migration.MIGRATIONS, fail))
        with pytest.raises(LedgerError, match="nonsense"):
            UsageLedger(path)
    with sqlite3.connect(path) as shell:
        assert shell.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)
    shell.close()


def test_a_table_of_something_else_is_not_taken_for_ours(path: Path) -> None:
    with sqlite3.connect(path) as shell:
        shell.execute("CREATE TABLE attempts (mine TEXT)")
    shell.close()
    with pytest.raises(LedgerError, match="table attempts already exists"):
        UsageLedger(path)


def test_a_server_that_is_not_there_is_refused_without_its_password() -> None:
    with pytest.raises(
        LedgerError, match=r"postgresql://team:\*\*\*@127\.0\.0\.1:1/db cannot be used"
    ) as caught:
        UsageLedger("postgresql://team:hunter2@127.0.0.1:1/db")
    assert "hunter2" not in str(caught.value)


def test_a_missing_driver_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(LedgerError, match=r'pip install "lc-service\[postgres\]"'):
        UsageLedger("postgresql://127.0.0.1/db")


def test_loading_the_ledgers_name_loads_no_sqlalchemy() -> None:
    script = "import sys, lc_service.accounting.ledger; print('sqlalchemy' in sys.modules)"
    command = [sys.executable, "-c", script]
    result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=50)  # noqa: S603  ours
    assert result.stdout.strip() == "False"
