"""Create, check and migrate the schema of a store. `schema.sql` is the only DDL.

`application_id` says that a file is ours, `user_version` (major * 1000 + minor) which schema it has. Both are checked
before anything is written: a file of somebody else and a file of a newer major version are refused untouched.
"""

from __future__ import annotations

import re
import uuid
from functools import cache
from importlib import resources
from pathlib import Path

import apsw

from tilebox_local import clock
from tilebox_local.errors import NotATileboxStoreError, SchemaVersionError, StoreError
from tilebox_local.storage.connection import enable_wal, immediate, open_private

__all__ = [
    "APPLICATION_ID",
    "SCHEMA_VERSION",
    "check_schema",
    "check_version",
    "columns_of_script",
    "ensure_schema",
    "read_schema_sql",
]

APPLICATION_ID = 0x54424C58  # "TBLX"
SCHEMA_VERSION = 1000


@cache
def read_schema_sql() -> str:
    """Text of schema.sql: the wheel's copy, else the one at the root of the checkout."""
    packaged = resources.files("tilebox_local").joinpath("schema.sql")
    if packaged.is_file():
        return packaged.read_text(encoding="utf-8")
    return (Path(__file__).parents[2] / "schema.sql").read_text(encoding="utf-8")


def statements(sql: str) -> list[str]:
    """The statements of a script, one by one. A trigger's body belongs to its statement."""
    result: list[str] = []
    current: list[str] = []
    in_trigger = False
    for line in sql.splitlines():
        code = line.split("--", 1)[0].rstrip()
        if not current and not code:
            continue
        current.append(line)
        in_trigger = in_trigger or bool(re.match(r"\s*CREATE\s+TRIGGER\b", code))
        if code.endswith(";") and (not in_trigger or re.fullmatch(r"\s*END;", code)):
            result.append("\n".join(current))
            current, in_trigger = [], False
    if any(line.split("--", 1)[0].strip() for line in current):
        raise ValueError("The script ends in the middle of a statement.")
    return result


def columns_of_script(script: str) -> dict[str, list[tuple[str, str]]]:
    """Names and types of the columns of each table and view that a script creates, as SQLite has them."""
    connection = open_private()
    try:
        for statement in statements(script):
            connection.execute(statement).fetchall()
        rows = connection.execute(
            "SELECT s.name, c.name, c.type FROM sqlite_schema s, pragma_table_xinfo(s.name) c "
            "WHERE s.type IN ('table', 'view') ORDER BY s.rowid, c.cid"
        ).fetchall()
    finally:
        connection.close()
    columns: dict[str, list[tuple[str, str]]] = {}
    for relation, column, kind in rows:
        columns.setdefault(str(relation), []).append((str(column), str(kind)))
    return columns


def ensure_schema(connection: apsw.Connection, path: str) -> None:
    """Make sure that the file behind `connection` has this version's schema.

    The caller holds the store's lock file, so that no two processes create or migrate at once.

    Raises:
        NotATileboxStoreError: the file holds something else. It is not changed.
        SchemaVersionError: a newer major version wrote the file. It is not changed.
    """
    application_id = connection.pragma("application_id")
    version = connection.pragma("user_version")
    if application_id == APPLICATION_ID and version == 0:
        raise StoreError(f"{path} is half created: it has our application_id but no schema version.")
    if application_id != APPLICATION_ID:
        if application_id or version or connection.execute("SELECT count(*) FROM sqlite_schema").get:
            raise NotATileboxStoreError(
                f"{path} is a SQLite database of another program.",
                hint="Nothing was written to it; choose another path for the store.",
            )
        _create(connection)
    _refuse_newer(version, path)
    if application_id == APPLICATION_ID and version < SCHEMA_VERSION:
        _migrate(connection, path, version)
    enable_wal(connection)


def check_version(connection: apsw.Connection, path: str) -> None:
    """Make sure that nobody has migrated the file beyond what this version knows, while it was open.

    Raises SchemaVersionError: somebody has.
    """
    _refuse_newer(connection.execute("PRAGMA user_version").get, path)


def _refuse_newer(version: int, path: str) -> None:
    if version // 1000 > SCHEMA_VERSION // 1000:
        raise SchemaVersionError(
            f"{path} was written by a newer tilebox-local (schema {version}, this version knows {SCHEMA_VERSION}).",
            found=version,
            supported=SCHEMA_VERSION,
            hint="Upgrade the package tilebox-local.",
        )


def check_schema(connection: apsw.Connection, path: str) -> None:
    """Make sure that this version can read the file behind `connection`, without changing it.

    Raises:
        NotATileboxStoreError: the file holds something else, or nothing.
        SchemaVersionError: a newer major version wrote the file, or it has to be migrated first.
    """
    if connection.pragma("application_id") != APPLICATION_ID:
        raise NotATileboxStoreError(f"{path} is no store of tilebox-local.")
    version = connection.pragma("user_version")
    if version < SCHEMA_VERSION or version // 1000 > SCHEMA_VERSION // 1000:
        is_newer = version > SCHEMA_VERSION
        raise SchemaVersionError(
            f"{path} has schema {version}, this version reads {SCHEMA_VERSION}.",
            found=version,
            supported=SCHEMA_VERSION,
            hint="Upgrade the package tilebox-local." if is_newer else "Open it once with a Client that may write.",
        )


def _create(connection: apsw.Connection) -> None:
    # Both take effect only before the first table is there.
    connection.pragma("page_size", 4096)
    connection.pragma("auto_vacuum", 2)  # incremental: pruning can give space back in slices
    enable_wal(connection)
    with immediate(connection):
        for statement in statements(read_schema_sql()):
            connection.execute(statement).fetchall()
        connection.execute(
            "INSERT INTO store_records (key, value) VALUES ('created_ns', ?), ('store_id', ?)",
            (clock.wall_ns(), str(uuid.uuid4())),
        )
        connection.pragma("application_id", APPLICATION_ID)
        connection.pragma("user_version", SCHEMA_VERSION)
    # So that the file says what it is, whatever becomes of its log.
    connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)


def migration_files() -> dict[int, str]:
    """Version that each migration leads to -> its SQL, ascending."""
    folder = resources.files("tilebox_local.storage").joinpath("migrations")
    found: dict[int, str] = {}
    if folder.is_dir():
        for file in folder.iterdir():
            match = re.fullmatch(r"(\d{4})_\w+\.sql", file.name)
            if match:
                found[int(match[1])] = file.read_text(encoding="utf-8")
    return dict(sorted(found.items()))


def _migrate(connection: apsw.Connection, path: str, version: int) -> None:
    """Run the migrations after `version`, all in one transaction."""
    steps = {to: sql for to, sql in migration_files().items() if version < to <= SCHEMA_VERSION}
    if not steps or max(steps) != SCHEMA_VERSION:
        raise SchemaVersionError(
            f"{path} has schema {version}, and there is no way from it to {SCHEMA_VERSION}.",
            found=version,
            supported=SCHEMA_VERSION,
        )
    with immediate(connection):
        for sql in steps.values():
            for statement in statements(sql):
                connection.execute(statement).fetchall()
        connection.pragma("user_version", SCHEMA_VERSION)
