"""Opening the ledger's database: SQLite in WAL mode, private to its owner, brought to the newest schema."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Final

from alembic import command
from alembic.config import Config
from pydantic_core import from_json
from sqlalchemy import Engine, NullPool, create_engine, event

BUSY_MS: Final = 10_000  # another process (a backup) may hold the file for a moment
MIGRATIONS: Final = Path(__file__).parent / "migrations"


def open_database(path: Path) -> Engine:
    """The engine of the database at `path`, created with mode 0600 and migrated to the newest schema.

    Raises OSError when the file cannot be made, sqlalchemy's errors when it is no ledger.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    path.chmod(0o600)
    engine = create_engine(
        f"sqlite:///{path}",
        connect_args={"check_same_thread": False},
        pool_size=20,
        max_overflow=60,
        json_serializer=_to_json,
        json_deserializer=_from_json,
    )
    event.listen(engine, "connect", _prepare)
    _migrate(path)
    return engine


def _from_json(text: str) -> Any:
    """A job's row has a dozen columns of JSON, most of them empty: half of what reading it costs."""
    if text == "[]":
        return []
    try:
        return from_json(text)
    except ValueError:  # halves of surrogate pairs, which an environment may hold
        return json.loads(text)


def _to_json(value: Any) -> str:
    return "[]" if value == [] else json.dumps(value)


def _prepare(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    # FULL: an incarnation that was handed out must survive a power cut, or two lives would carry one number.
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.execute(f"PRAGMA busy_timeout={BUSY_MS}")
    cursor.close()


def _migrate(path: Path) -> None:
    """All steps to the newest schema, or none: whatever ends us in the middle, the old schema is there, whole."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    engine = create_engine(f"sqlite:///{path}", poolclass=NullPool)
    event.listen(engine, "connect", _prepare)
    event.listen(engine, "connect", _by_hand)
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def _by_hand(connection: Any, _record: Any) -> None:
    """Python's driver begins a transaction before INSERT and the like, but not before CREATE, ALTER and DROP."""
    connection.isolation_level = None
