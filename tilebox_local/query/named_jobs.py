"""Jobs as people name them on the command line: by the beginning of an id, by name, or the newest one."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tilebox_local.catalog import run, value
from tilebox_local.errors import ArgumentError, NotFoundError

if TYPE_CHECKING:
    from tilebox_local.storage.store import Store

__all__ = ["find_job_id"]

_BEGINNING = re.compile(r"[0-9a-f]{4}[0-9a-f-]*")


def find_job_id(store: Store, text: str) -> str:
    """The id that `text` stands for: "latest", "name:NAME" (the newest of that name), or the beginning of an id.

    Raises NotFoundError, and ArgumentError for what is none of these, or the beginning of several ids.
    """
    hint = "`tilebox-local jobs` lists the jobs of this store."
    with store.read() as connection:
        if text == "latest":
            found = value(connection, "newest_job_id")
            if found is None:
                raise NotFoundError("job", text, hint="The store has no jobs yet.")
            return str(found)
        if text.startswith("name:"):
            found = value(connection, "newest_job_id_of_name", (text.removeprefix("name:"),))
            if found is None:
                raise NotFoundError("job", text, hint=hint)
            return str(found)
        beginning = text.strip().lower()
        if not _BEGINNING.fullmatch(beginning):
            raise ArgumentError(
                f"{text!r} is no job.",
                hint="A job is named by its id or at least 4 characters of it, name:NAME, or latest.",
            )
        rows = run(connection, "job_ids_between", (beginning, beginning + "g"))  # "g" comes after all hex digits
    if not rows:
        raise NotFoundError("job", text, hint=hint)
    if len(rows) > 1:
        candidates = ", ".join(f"{job_id} ({name})" for job_id, name in rows)
        raise ArgumentError(f"{text!r} is the beginning of several job ids: {candidates}.")
    return str(rows[0][0])
