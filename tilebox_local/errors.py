"""Every exception this package raises on purpose.

TileboxLocalError
├── StoreError
│   ├── StoreClosedError          used after close()
│   ├── StoreOpenError            the path cannot be opened or created (also an OSError)
│   ├── StoreBusyError            a reader waited longer than its timeout for another process
│   ├── StoreFullError            the disk is full, or the file may not grow
│   ├── StoreCorruptError         SQLite reports a damaged file
│   ├── StoreReplacedError        the file was deleted or replaced under an open client
│   ├── ForeignOpenError          another library of this process opens, or has open, a store that is in use
│   ├── QueryTimeoutError         client.sql() took longer than its deadline (also a TimeoutError)
│   ├── NotATileboxStoreError     a database or file of somebody else; never written to
│   └── SchemaVersionError        written by a newer version of this package
├── NotFoundError (KeyError)      no such job, task or cluster
├── ArgumentError (ValueError)    a value that was passed in cannot be used
├── TargetImportError             the user's code, named on the command line, cannot be imported
├── LeaseLostError                the runner no longer owns the task it reports on
└── FlushTimeoutError (TimeoutError)

`NotFoundError` and `ArgumentError` also derive from the builtin that the official client's error of the same
name derives from, so `except KeyError` and `except ValueError` keep working.
"""

from __future__ import annotations

__all__ = [
    "ArgumentError",
    "FlushTimeoutError",
    "ForeignOpenError",
    "LeaseLostError",
    "NotATileboxStoreError",
    "NotFoundError",
    "QueryTimeoutError",
    "SchemaVersionError",
    "StoreBusyError",
    "StoreClosedError",
    "StoreCorruptError",
    "StoreError",
    "StoreFullError",
    "StoreOpenError",
    "StoreReplacedError",
    "TargetImportError",
    "TileboxLocalError",
    "hosted_only",
]


class TileboxLocalError(Exception):
    """Base of all errors of this package. `code` is stable, `hint` says what to do about it (may be None)."""

    code = "error"

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message if hint is None else f"{message} {hint}")
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        # KeyError would print its argument's repr.
        return str(self.args[0]) if self.args else ""


class StoreError(TileboxLocalError):
    """The store (one SQLite file) cannot do what was asked."""

    code = "store"


class StoreClosedError(StoreError):
    """The client or store was used after close()."""

    code = "store_closed"


class StoreOpenError(StoreError, OSError):
    """The path cannot be opened or created."""

    code = "store_open"


class StoreBusyError(StoreError):
    """Another process held a lock for longer than the timeout."""

    code = "store_busy"


class StoreFullError(StoreError):
    """The disk is full or the file may not grow; what was stored before is intact."""

    code = "store_full"


class StoreCorruptError(StoreError):
    """SQLite reports that the file is damaged."""

    code = "store_corrupt"


class StoreReplacedError(StoreError):
    """The file, or its write-ahead log, was deleted, renamed or replaced while it was open."""

    code = "store_replaced"


class ForeignOpenError(StoreError):
    """Another library of this process would open a store that is in use, or has it open; see storage/guard.py."""

    code = "foreign_open"


class QueryTimeoutError(StoreError, TimeoutError):
    """A query took longer than its deadline and was stopped; it changed nothing."""

    code = "query_timeout"


class NotATileboxStoreError(StoreError):
    """The file is no tilebox-local store; nothing was written to it."""

    code = "not_a_store"


class SchemaVersionError(StoreError):
    """The file has another schema version than this package supports."""

    code = "schema_version"

    def __init__(self, message: str, *, found: int, supported: int, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.found = found
        self.supported = supported


class NotFoundError(TileboxLocalError, KeyError):
    """No object of this `kind` ("job", "task", "cluster"; on the command line "module", "file") has this `id`."""

    code = "not_found"

    def __init__(self, kind: str, id: object, *, hint: str | None = None, place: str = "in this store") -> None:
        super().__init__(f"No {kind} {str(id)!r} {place}.", hint=hint)
        self.kind = kind
        self.id = id


class ArgumentError(TileboxLocalError, ValueError):
    """A value that was passed in cannot be used; the message names the value and the rule."""

    code = "invalid_argument"


class TargetImportError(TileboxLocalError):
    """Importing the user's code has raised `__cause__`."""

    code = "target_import"


class LeaseLostError(TileboxLocalError):
    """The task went back to the queue or to another runner; the late report changed nothing."""

    code = "lease_lost"


class FlushTimeoutError(TileboxLocalError, TimeoutError):
    """flush() gave up waiting; `pending` records are still queued in memory."""

    code = "flush_timeout"

    def __init__(self, message: str, *, pending: int) -> None:
        super().__init__(message)
        self.pending = pending


def hosted_only(feature: str) -> NotImplementedError:
    """The error for a feature that only the hosted Tilebox has."""
    return NotImplementedError(
        f"{feature} is a feature of hosted Tilebox and not available in tilebox-local. "
        f"Use the official tilebox-workflows package with a Tilebox account for it."
    )
