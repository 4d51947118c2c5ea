"""Full-text search in texts that no index holds: SQLite's FTS5 over a few of them at a time, in memory.

An index in the store would double the cost of a log record, which is written a thousand times for each time that
somebody searches.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Self

import apsw

from tilebox_local.errors import ArgumentError
from tilebox_local.storage.connection import close_quietly, open_private

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["MAX_QUERY_CHARS", "TextIndex", "required_word"]

MAX_QUERY_CHARS = 1000
_FORMS = (
    'Write words (all of them must occur), "a phrase", beg* for words that begin so, AND, OR, NOT, (...), '
    "NEAR(one two, 5). What contains other characters than letters and digits is quoted"
)
# Words and phrases that all must occur; what has any other syntax is not looked into.
_CONJUNCTION = re.compile(r'\s*(?:(?:\w+|"[^"]*")\s*\*?\s*)+', re.ASCII)
_PHRASE_OR_WORD = re.compile(r'"[^"]*"|\w+', re.ASCII)
_PLAIN = re.compile(r"[A-Za-z0-9]+")


class TextIndex:
    """One query, and the texts that it is asked about. Not for two threads at once; closed by its `with` block.

    Args:
        query: In the query language of FTS5; case and diacritics are folded.

    Raises:
        ArgumentError: the query has an error.
    """

    def __init__(self, query: str) -> None:
        _check(query)
        self._query = query
        self._connection = open_private()
        try:
            # Without a copy of the texts and their sizes, which only the few that match need.
            self._connection.execute(
                "CREATE VIRTUAL TABLE candidate USING fts5(body, content='', columnsize=0, "
                "tokenize='unicode61 remove_diacritics 2')"
            )
            self._connection.execute(
                "CREATE VIRTUAL TABLE match USING fts5(body, tokenize='unicode61 remove_diacritics 2')"
            )
            self.matches([])
        except apsw.SQLError as error:
            close_quietly(self._connection)
            quoted = '"' + query.replace('"', '""') + '"'
            raise ArgumentError(
                f"The search text {query!r} has an error: {error}.", hint=f"{_FORMS}: {quoted}."
            ) from None
        except BaseException:
            close_quietly(self._connection)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        close_quietly(self._connection)

    def matches(self, texts: Sequence[str]) -> list[int]:
        """Positions of the texts that match, ascending."""
        connection = self._connection
        connection.execute("BEGIN")
        try:
            connection.executemany("INSERT INTO candidate (rowid, body) VALUES (?, ?)", enumerate(texts)).fetchall()
            found: list[Any] = connection.execute(
                "SELECT rowid FROM candidate WHERE candidate MATCH ? ORDER BY rowid", (self._query,)
            ).fetchall()
        finally:
            connection.execute("ROLLBACK")
        return [position for (position,) in found]

    def snippets(self, texts: Sequence[str]) -> list[str]:
        """Up to 16 words of each text, which matches, around what was found, that in brackets: "… the [word] is …"."""
        connection = self._connection
        connection.execute("BEGIN")
        try:
            connection.executemany("INSERT INTO match (rowid, body) VALUES (?, ?)", enumerate(texts)).fetchall()
            found: list[Any] = connection.execute(
                "SELECT snippet(match, 0, '[', ']', '…', 16) FROM match WHERE match MATCH ? ORDER BY rowid",
                (self._query,),
            ).fetchall()
        finally:
            connection.execute("ROLLBACK")
        return [snippet for (snippet,) in found]


def _check(query: str) -> None:
    if not isinstance(query, str):
        raise ArgumentError(f"The search text is a str, not {type(query).__name__}.")
    if not query.strip():
        raise ArgumentError("The search text is empty.", hint=f"{_FORMS}.")
    if len(query) > MAX_QUERY_CHARS:
        raise ArgumentError(f"A search text has at most {MAX_QUERY_CHARS} characters, not {len(query)}.")
    # SQLite ends the query at U+0000, cannot encode surrogates, and takes "*..." for a command to itself.
    if "\0" in query or any("\ud800" <= char <= "\udfff" for char in query) or query.lstrip().startswith("*"):
        raise ArgumentError(f"The search text {query!r} begins with * or contains what is no text.", hint=f"{_FORMS}.")


def required_word(query: str) -> str | None:
    """The longest run of ASCII letters and digits that every match of only ASCII characters contains, in any case.

    None where that is not certain. Texts with other characters may match without it: "é" folds to "e", and the Kelvin
    sign to "k".
    """
    if not query.isascii() or not _CONJUNCTION.fullmatch(query):
        return None
    parts = _PHRASE_OR_WORD.findall(query)
    if not {"OR", "NOT", "NEAR"}.isdisjoint(parts):
        return None
    words = [word for part in parts if part != "AND" for word in _PLAIN.findall(part)]
    return max(words, key=len, default=None)
