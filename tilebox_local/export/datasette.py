"""Metadata for datasette: what the views and their columns mean, facets, and the questions as canned queries."""

from __future__ import annotations

from typing import Any

from tilebox_local.export.questions import read_questions
from tilebox_local.export.schema_docs import RelationDocs, read_schema_docs

__all__ = ["datasette_metadata"]

_FACETS = {
    "jobs": ["name", "state"],
    "tasks": ["name", "state", "cluster"],
    "spans": ["name", "status", "job_name"],
    "logs": ["severity", "logger", "job_name"],
    "events": ["name", "job_name"],
    "runners": ["service", "cluster"],
    "writers": ["host"],
    "incidents": ["kind"],
    "attempts": ["name", "outcome"],
    "span_durations": ["job_name"],
    "task_durations": ["name", "job_name"],
    "queue_waits": ["name", "job_name"],
    "critical_path": ["name", "job_name"],
    "concurrency": ["job_name"],
    "runner_use": ["job_name"],
    "stragglers": ["name", "job_name"],
    "failures": ["name", "exception_type", "job_name"],
    "bottlenecks": ["basis", "job_name"],
    "trends": ["name", "state"],
}
_SORTED_DESCENDING = {
    "jobs": "submitted_at", "span_durations": "self_ms", "task_durations": "total_ms", "queue_waits": "wait_ms",
    "incidents": "time", "stragglers": "duration_ms",
}  # fmt: skip


def datasette_metadata(database: str) -> dict[str, Any]:
    """What goes into the file metadata.json of `datasette --metadata`.

    Args:
        database: The name that datasette gives the store: that of its file, without the extension.
    """
    relations = read_schema_docs().relations
    return {
        "title": "tilebox-local",
        "description": "Jobs, tasks, spans and logs of workflows that ran on this machine.",
        "databases": {
            database: {
                "description": "A store of tilebox-local. The views are for people; *_records are what is stored.",
                "queries": {
                    question.name: {
                        "title": question.title,
                        "description": _description(question.text, question.parameters),
                        "sql": question.sql,
                        "params": list(question.parameters),
                    }
                    for question in read_questions().values()
                },
                "tables": {relation.name: _table(relation) for relation in relations},
            }
        },
    }


def _description(text: str, parameters: Any) -> str:
    meanings = "; ".join(f"{name}, {meaning}" for name, meaning in parameters.items())
    return f"{text} Parameters: {meanings}." if meanings else text


def _table(relation: RelationDocs) -> dict[str, Any]:
    columns = {column.name: column.text for column in relation.columns if column.text}
    described = {"description": relation.text.replace("\n", " "), "columns": columns}
    if relation.kind == "TABLE":
        return described | {"hidden": True}
    sorting = {"sort_desc": _SORTED_DESCENDING[relation.name]} if relation.name in _SORTED_DESCENDING else {}
    names = [column.name for column in relation.columns]
    return described | {"facets": _FACETS[relation.name], "sortable_columns": names} | sorting
