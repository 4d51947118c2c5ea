"""Make a whole of rows that were found one by one: stand-ins for lost rows, counters, and what may be claimed."""

from __future__ import annotations

import uuid
from collections import Counter, defaultdict
from typing import TYPE_CHECKING

from tilebox_local import ids
from tilebox_local.catalog import run, run_many

if TYPE_CHECKING:
    import apsw

    from tilebox_local.upkeep.salvage import Table

__all__ = ["Repair"]

_SETTLED = (3, 5, 6)
_LOST = "lost"
# What a stand-in must have that is neither a number nor the word "lost".
_STAND_IN_TEXT = {
    ("resource_records", "attributes"): '{{"service.name":"lost","tilebox.recovered.resource_no":{number}}}',
    ("cluster_records", "slug"): "lost-{number}",
    ("identifier_records", "name"): "lost-{number}",
    ("scope_records", "name"): "lost-{number}",
}
_ENGINE_TABLES = frozenset({"job_records", "task_records", "group_records", "trace_records"})


class Repair:
    """Works on a new file that nobody else sees, inside of one transaction."""

    def __init__(self, connection: apsw.Connection, tables: dict[str, Table]) -> None:
        self._connection = connection
        self._tables = tables
        self._damaged_jobs: set[int] = set()
        self._shared: dict[str, int] = {}
        self.rebuilt: Counter[str] = Counter()
        self.dropped: Counter[str] = Counter()
        self.altered: Counter[str] = Counter()
        self.withheld_jobs = 0
        self.row_counts: dict[str, int] = {}

    def run(self) -> None:
        """Do all of it, in the order in which one thing needs another."""
        self._mend_attributes()
        self._drop_what_cannot_be()
        self._add_jobs_and_groups()
        self._add_traces()
        self._add_stand_ins()
        self._recount()
        self.row_counts = {name: self._count(name) for name in self._tables}

    def _count(self, table: str) -> int:
        count: int = self._connection.execute(f"SELECT count(*) FROM {table}").get
        return count

    # -- rows that nothing can be done with -----------------------------------------------------------------------

    def _mend_attributes(self) -> None:
        """Keep JSON that is damaged as text: the views could not show any row of the table otherwise."""
        for table in self._tables.values():
            for column in {"attributes", "links"} & set(table.columns):
                mended = "json_object('recovered', {0})" if column == "attributes" else "NULL"
                self._connection.execute(
                    f"UPDATE {table.name} SET {column} = {mended.format(column)} WHERE NOT json_valid({column})"
                ).fetchall()
                self.altered[table.name] += self._connection.changes()
        self.altered = +self.altered

    def _drop_what_cannot_be(self) -> None:
        connection = self._connection
        run(connection, "drop_impossible_tasks")
        self._dropped("task_records")
        self._damaged_jobs.update(job_no for (job_no,) in run(connection, "mend_groups"))
        run(connection, "drop_misplaced_tasks")
        self._dropped("task_records")
        run(connection, "drop_progress_of_no_task")
        self._dropped("progress_records")
        run(connection, "drop_attempts_of_no_task")
        self._dropped("attempt_records")
        self._damaged_jobs.update(job_no for (job_no,) in run(connection, "jobs_of_lost_dependencies"))
        run(connection, "drop_lost_dependencies")
        self._dropped("group_dependency_records")
        run(connection, "drop_empty_groups")
        self._dropped("group_records")
        run(connection, "orphan_parents")
        run(connection, "orphan_branches")

    def _dropped(self, table: str) -> None:
        if self._connection.changes():
            self.dropped[table] += self._connection.changes()

    # -- rows that others name ------------------------------------------------------------------------------------

    def _add_jobs_and_groups(self) -> None:
        connection = self._connection
        for job_no, submitted_ns, started_ns, stopped_ns, trace_id in run(connection, "lost_jobs"):
            parent = f"00-{trace_id or uuid.uuid4().hex}-{uuid.uuid4().hex[:16]}-01"
            row = (job_no, ids.new_id(submitted_ns).bytes, _LOST, parent, submitted_ns, started_ns, stopped_ns)
            run(connection, "add_job", row)
            self._rebuilt("job_records", job_no)
        for group_no, job_no in run(connection, "lost_groups"):
            run(connection, "add_group", (group_no, job_no))
            self._rebuilt("group_records", job_no)
        run(connection, "orphan_traces")

    def _add_traces(self) -> None:
        connection = self._connection
        missing = {job_no: _trace_id(trace_parent) for job_no, trace_parent in run(connection, "jobs_without_trace")}
        for trace_no, job_no in run(connection, "lost_traces"):
            trace_id = missing.pop(job_no, None)
            if trace_id is None:  # nobody knows its trace id
                run(connection, "add_trace", (trace_no, trace_no.to_bytes(16, "big", signed=trace_no < 0), None))
            else:
                run(connection, "add_trace", (trace_no, trace_id, job_no))
            self._rebuilt("trace_records")
        for job_no, trace_id in missing.items():
            run(connection, "add_trace", (None, trace_id, job_no))
            self._rebuilt("trace_records")

    def _rebuilt(self, table: str, job_no: int | None = None) -> None:
        self.rebuilt[table] += 1
        if job_no is not None:
            self._damaged_jobs.add(job_no)

    def _add_stand_ins(self) -> None:
        """For every number that names a row that is not there, as the foreign keys of the schema tell."""
        connection = self._connection
        used: dict[str, set[int]] = {
            "resource_records": {number for (number,) in run(connection, "used_resources")},
            "scope_records": {number for (number,) in run(connection, "used_scopes")},
        }
        for table in self._tables:
            for column, parent in self._references(table):
                if parent not in _ENGINE_TABLES:
                    named = connection.execute(f"SELECT DISTINCT {column} FROM {table} WHERE {column} IS NOT NULL")
                    used.setdefault(parent, set()).update(int(str(number)) for (number,) in named.fetchall())
        for table, numbers in used.items():
            for number in sorted(numbers):
                self._stand_in(table, number)

    def _references(self, table: str) -> list[tuple[str, str]]:
        """Columns of a table that name rows of others, and which tables."""
        connection = self._connection
        return [(column, parent) for column, parent in run(connection, "foreign_keys", (table,))]

    def _stand_in(self, name: str, number: int) -> None:
        """Insert a row with this number unless it is there; it says that it stands for a lost one."""
        table = self._tables[name]
        key = table.columns[table.rowid_column or 0]
        if self._connection.execute(f"SELECT 1 FROM {name} WHERE {key} = ?", (number,)).fetchall():
            return
        references = dict(self._references(name))
        values: dict[str, int | str] = {key: number}
        for column, kind, is_required in zip(table.columns, table.types, table.required, strict=True):
            if column == key or not is_required:
                continue
            if column in references:
                values[column] = self._shared_stand_in(references[column])
            elif kind == "TEXT":
                values[column] = _STAND_IN_TEXT.get((name, column), _LOST).format(number=number)
            else:
                values[column] = 0
        columns, marks = ", ".join(values), ", ".join("?" * len(values))
        self._connection.execute(
            f"INSERT OR IGNORE INTO {name} ({columns}) VALUES ({marks})", tuple(values.values())
        ).fetchall()
        self._rebuilt(name)

    def _shared_stand_in(self, name: str) -> int:
        """The row of another table that stand-ins name."""
        if name not in self._shared:
            key = self._tables[name].columns[0]
            last = self._connection.execute(f"SELECT max({key}) FROM {name}").get
            self._shared[name] = 1 + int(str(last or 0))
            self._stand_in(name, self._shared[name])
        return self._shared[name]

    # -- what follows from other rows -----------------------------------------------------------------------------

    def _recount(self) -> None:
        connection = self._connection
        run(connection, "stop_impossible_attempts")
        run(connection, "clear_leases")
        unsettled = self._recount_tasks()
        self._recount_groups(unsettled)
        for job_no, is_half_pruned, is_wrong in run(connection, "jobs_to_recount"):
            if is_half_pruned and job_no not in self._damaged_jobs:
                continue  # the next prune goes on with it
            if is_wrong:
                self._damaged_jobs.add(job_no)
            if job_no in self._damaged_jobs:
                run(connection, "recount_job", (job_no,))
        for job_no in self._damaged_jobs:
            self.withheld_jobs += len(run(connection, "withhold_job", (job_no,)))
        run(connection, "set_ready")
        run(connection, "end_lost_spans")

    def _recount_tasks(self) -> Counter[int]:
        """Children of each task; returns the unsettled tasks of each group."""
        children: defaultdict[int, list[int]] = defaultdict(lambda: [0, 0, 0])  # unsettled, first, last
        groups: Counter[int] = Counter()
        changes = []
        connection = self._connection
        for task_no, job_no, parent_no, group_no, state, *stored in run(connection, "tasks_to_recount"):
            found = children.pop(task_no, None)
            counted = [0, None, None] if found is None else list(found)
            if counted != stored:
                changes.append((*counted, task_no))
                self._damaged_jobs.add(job_no)
            is_unsettled = state not in _SETTLED or bool(counted[0])
            groups[group_no] += is_unsettled
            if parent_no is not None:
                siblings = children[parent_no]
                siblings[0] += is_unsettled
                siblings[1] = task_no
                siblings[2] = siblings[2] or task_no
        run_many(connection, "recount_task", changes)
        return groups

    def _recount_groups(self, unsettled: Counter[int]) -> None:
        connection = self._connection
        waiting: Counter[int] = Counter()
        awaited = set()
        for depends_on_no, group_no in run(connection, "dependencies_to_recount"):
            awaited.add(depends_on_no)
            waiting[group_no] += unsettled[depends_on_no] > 0
        changes = []
        for group_no, job_no, *stored in run(connection, "groups_to_recount"):
            is_counted = group_no in awaited or stored[0] is not None
            counted = [unsettled[group_no] if is_counted else None, waiting[group_no]]
            if counted != stored:
                changes.append((*counted, group_no))
                self._damaged_jobs.add(job_no)
        run_many(connection, "recount_group", changes)


def _trace_id(trace_parent: str) -> bytes:
    """The trace id of a W3C traceparent; a new one if it is damaged."""
    try:
        trace_id = bytes.fromhex(trace_parent.split("-")[1])
    except (IndexError, ValueError):
        return uuid.uuid4().bytes
    return trace_id if len(trace_id) == 16 else uuid.uuid4().bytes
