"""Answers about finished jobs are kept in memory, so that asking again is next to instant.

An answer holds as long as nothing was added to the job: its times and counters, the number of its spans, and how many
of them are open, say so exactly, since spans are only ever added or ended. Thread-safe: two threads may work out the
same.
"""

from __future__ import annotations

import weakref
from collections import OrderedDict
from typing import TYPE_CHECKING, TypeVar

from tilebox_local.catalog import run

if TYPE_CHECKING:
    from collections.abc import Callable

    import apsw

    from tilebox_local.analysis.subject import Subject
    from tilebox_local.storage.store import Store

__all__ = ["remembered"]

T = TypeVar("T")

_MAX_ANSWERS = 64  # of a store

_answers: weakref.WeakKeyDictionary[Store, OrderedDict[tuple[int, str], tuple[object, object]]] = (
    weakref.WeakKeyDictionary()
)


def remembered(
    store: Store, connection: apsw.Connection, subject: Subject, question: str, answer: Callable[[], T]
) -> T:
    """What `answer` gives to a question about a job, which is named `question`; the caller must not change it.

    `connection` is in a read transaction.
    """
    if not subject.is_finished:
        return answer()
    answers = _answers.setdefault(store, OrderedDict())
    key = (subject.job_no, question)
    state = (subject, *run(connection, "trace_size", {"trace_no": subject.trace_no})[0])
    known = answers.get(key)
    if known is not None and known[0] == state:
        return known[1]  # type: ignore[return-value]
    found = answer()
    answers[key] = (state, found)
    while len(answers) > _MAX_ANSWERS:
        answers.popitem(last=False)
    return found
