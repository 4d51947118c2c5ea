"""What claims, reports and queries cost: each uses its index, and a claim costs the same whatever else there is."""

import re
from functools import partial
from pathlib import Path

import apsw
import pytest

import tilebox_local
from tilebox_local import ids
from tilebox_local.catalog import sql
from tilebox_local.data import TaskIdentifier, TaskSubmissionGroup, TaskSubmissions
from tilebox_local.engine.clusters import create_cluster
from tilebox_local.engine.jobs import cancel_job, submit_job
from tilebox_local.engine.tasks import (
    Position,
    claim_task,
    complete_task,
    fail_task,
    lose_task,
    runnable_identifiers,
)
from tilebox_local.storage.schema import read_schema_sql
from tilebox_local.storage.store import open_store

PACKAGE = Path(tilebox_local.__file__).parent

# -- plans -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plan_of():
    """The plan of a statement of the catalog, as lines, on the write connection."""
    store = open_store(":memory:")

    def plan_of(name):
        text = sql[name].replace(":rows", "(?)")
        values = dict.fromkeys(re.findall(r":(\w+)", text)) or (None,) * text.count("?")
        rows = store.transact(lambda connection: connection.execute(f"EXPLAIN QUERY PLAN {text}", values).fetchall())
        return [row[3] for row in rows]

    yield plan_of
    store.close()


TASK_BY_NO = "SEARCH task_records USING INTEGER PRIMARY KEY (rowid=?)"
CLAIMABLE = "SEARCH task_records USING COVERING INDEX task_records_claimable"
PLANS = {
    "oldest_claimable": [f"{CLAIMABLE} (cluster_no=? AND identifier_no=?)"],
    "oldest_claimable_between": [
        f"{CLAIMABLE} (cluster_no=? AND identifier_no=? AND task_no>? AND task_no<?)",
    ],
    "children_of": [TASK_BY_NO],
    "claim_task": [TASK_BY_NO],
    "task_for_report": [TASK_BY_NO],
    "end_attempt": [TASK_BY_NO],
    "extend_lease": [TASK_BY_NO],
    "settle_child": [TASK_BY_NO],
    "find_task_no": [
        "SEARCH task_records USING COVERING INDEX sqlite_autoindex_task_records_1 (task_id=?)",
    ],
    "release_group": [
        "SEARCH task_records USING INDEX task_records_waiting (group_no=?)",
    ],
    "groups_waiting_for": ["SEARCH group_dependency_records USING PRIMARY KEY (depends_on_no=?)"],
    "skip_queued_in_branch": ["SEARCH task_records USING COVERING INDEX task_records_queued_in_branch (branch_no=?)"],
    "running_tasks": [
        "SCAN t USING INDEX task_records_running",
        "SEARCH r USING INTEGER PRIMARY KEY (rowid=?) LEFT-JOIN",
        "SEARCH w USING INTEGER PRIMARY KEY (rowid=?) LEFT-JOIN",
    ],
    "open_spans_of_task": [
        "SEARCH span_records USING INDEX span_records_open (trace_no=? AND task_no=?)",
        "SCALAR SUBQUERY 1",
        "SEARCH t USING INTEGER PRIMARY KEY (rowid=?)",
        "SEARCH r USING COVERING INDEX trace_records_by_job (job_no=?)",
    ],
    "spans_of_trace": [
        "SEARCH s USING PRIMARY KEY (trace_no=?)",
        "SEARCH t USING INTEGER PRIMARY KEY (rowid=?) LEFT-JOIN",
    ],
    "events_of_trace": ["SEARCH event_records USING PRIMARY KEY (trace_no=?)"],
    "log_events_of_trace": [
        "SEARCH l USING PRIMARY KEY (trace_no=?)",
        "SEARCH t USING INTEGER PRIMARY KEY (rowid=?) LEFT-JOIN",
    ],
    "tasks_of_job": [
        "SEARCH t USING INDEX task_records_by_job (job_no=?)",
        "SEARCH i USING INTEGER PRIMARY KEY (rowid=?)",
    ],
}


@pytest.mark.parametrize("name", PLANS)
def test_plan(plan_of, name):
    """A hot statement is served by the index that schema.sql names for it, without sorting."""
    assert plan_of(name) == PLANS[name]


def test_plan_of_logs(plan_of):
    """Logs of a trace are read by the key of log_records, which gives their order."""
    plan = plan_of("logs_of_trace")
    assert plan[0] == "SEARCH l USING PRIMARY KEY (trace_no=?)"
    assert not any("TEMP B-TREE" in line for line in plan)


GROWING = [
    *("job_records", "task_records", "group_records", "group_dependency_records", "progress_records"),
    *("trace_records", "span_records", "event_records", "log_records"),
]
PARTIAL_INDEXES = re.findall(r"CREATE (?:UNIQUE )?INDEX (\w+) ON [^;]*?WHERE", read_schema_sql())
assert sql["claim_task"]  # the catalog is read when a statement is first asked for
RECOVERY = (PACKAGE / "sql" / "upkeep.sql").read_text().split("\n-- recover: ")[1]
ELSEWHERE = {
    *("prunable_jobs", "half_pruned_jobs"),  # once per prune, on a reader
    "search_traces",  # which traces a search goes through, on a reader: all, unless a job is named
    "follow_jobs",  # once per look of `tail`, on a reader: the jobs, of which there are few beside tasks and spans
    *("prune_tasks", "prune_groups", "prune_job"),  # their plans, without foreign keys, are in the tests of prune
    *(name for name in sql if name.startswith("check_")),
    *re.findall(r"^-- name: (\w+)", RECOVERY, re.MULTILINE),  # reads everything anyway
}
STATEMENTS = [
    name for name, text in sql.items() if text.startswith(("SELECT", "UPDATE", "DELETE")) and name not in ELSEWHERE
]


@pytest.mark.parametrize("name", STATEMENTS)
def test_no_scan(plan_of, name):
    """No statement reads all of a table that grows with the work done; partial indexes hold what is open only."""
    aliases = dict(re.findall(r"(\w+_records) (?:AS )?([a-z])\b", sql[name]))
    growing = {*GROWING, *(aliases[table] for table in GROWING if table in aliases)}
    plan = [line for line in plan_of(name) if "VIRTUAL TABLE" not in line]  # json_each, which may have any alias
    scans = [line for line in plan if line.startswith("SCAN ") and line.split()[1] in growing]
    assert [line for line in scans if line.split()[-1] not in PARTIAL_INDEXES] == []


# -- steps -------------------------------------------------------------------------------------------------------------

DO, OTHER = TaskIdentifier("Do", "v1.0"), TaskIdentifier("Other", "v1.0")


def tasks(count, *, identifier=DO, cluster="", max_retries=0):
    """One group of tasks."""
    group = TaskSubmissionGroup([], [b""] * count, [0] * count, [0] * count, [0] * count, [max_retries] * count)
    return TaskSubmissions([group], [cluster], [identifier], ["task"])


class Bench:
    """Calls of the engine on one connection, in one transaction, and what they cost."""

    def __init__(self, connection):
        self.connection = connection
        self.identifiers = []

    def submit(self, submissions):
        """Submit a job; its id."""
        job_id = ids.new_id(1)
        submit_job(
            self.connection,
            job_id=job_id,
            name="job",
            trace_id=1,
            trace_parent="00-1-1-01",
            submissions=submissions,
            now_ns=1,
        )
        self.identifiers = runnable_identifiers(self.connection, [("Do", 1, 0)])
        return job_id

    def claim(self, after=None):
        """Claim a task."""
        return claim_task(
            self.connection,
            cluster_no=1,
            identifiers=self.identifiers,
            runner_no=None,
            after=after,
            now_ns=1,
            lease_expires_boot_ns=1,
        )

    def complete(self, claimed, submissions=None):
        """Report a computed task."""
        token = {"task_no": claimed.task_no, "attempt": claimed.attempt}
        complete_task(self.connection, **token, display=None, submissions=submissions, progress=(), now_ns=1)

    def fail(self, claimed):
        """Report a failed task."""
        token = {"task_no": claimed.task_no, "attempt": claimed.attempt}
        fail_task(self.connection, **token, display=None, was_workflow_error=True, progress=(), now_ns=1)

    def lose(self, claimed):
        """Give up a task."""
        lose_task(self.connection, task_no=claimed.task_no, attempt=claimed.attempt, reason="", now_ns=1)

    def steps(self, function):
        """Steps of SQLite's virtual machine, and rows visited by full scans, that a call takes; and its result."""
        profiles = []
        self.connection.trace_v2(apsw.SQLITE_TRACE_PROFILE, profiles.append, id=self)
        result = function()
        self.connection.trace_v2(0, None, id=self)
        statuses = [profile["stmt_status"] for profile in profiles]
        assert statuses
        return (
            sum(status["SQLITE_STMTSTATUS_VM_STEP"] for status in statuses),
            sum(status["SQLITE_STMTSTATUS_FULLSCAN_STEP"] for status in statuses),
        ), result


def many_roots(bench, count):
    """Queued roots of one job."""
    bench.submit(tasks(count + 1))


def many_subtasks(bench, count):
    """Queued subtasks of one task."""
    bench.submit(tasks(1))
    bench.complete(bench.claim(), tasks(count + 1))


def many_jobs(bench, count):
    """Queued roots of many jobs."""
    for _ in range(count // 10):
        bench.submit(tasks(10))


def many_running(bench, count):
    """Running tasks."""
    bench.submit(tasks(count + 1))
    for _ in range(count):
        bench.claim()


def many_computed(bench, count):
    """Computed tasks."""
    bench.submit(tasks(count + 1))
    for _ in range(count):
        bench.complete(bench.claim())


def many_of_another_kind(bench, count):
    """Tasks that the runner has no class for, or that are on another cluster."""
    create_cluster(bench.connection, "GPU", None, "gpu")
    bench.submit(tasks(count, identifier=OTHER))
    bench.submit(tasks(count, cluster="gpu"))
    bench.submit(tasks(1))


def many_withheld(bench, count):
    """Queued tasks of a canceled job."""
    cancel_job(bench.connection, bench.submit(tasks(count)))
    bench.submit(tasks(1))


def many_waiting(bench, count):
    """Tasks whose dependencies are not settled."""
    submissions = tasks(1)
    submissions.task_groups += tasks(count).task_groups
    submissions.task_groups[1].dependencies_on_other_groups.append(0)
    bench.submit(submissions)


SITUATIONS = [
    many_roots,
    many_subtasks,
    many_jobs,
    many_running,
    many_computed,
    many_of_another_kind,
    many_withheld,
    many_waiting,
]


def cost(situation, count, action):
    """What the action costs in the situation."""
    store = open_store(":memory:")

    def measure(connection):
        bench = Bench(connection)
        situation(bench, count)
        return action(bench)

    try:
        return store.transact(measure)
    finally:
        store.close()


def claim(bench):
    """Claim the oldest task; the steps."""
    steps, claimed = bench.steps(bench.claim)
    assert claimed is not None
    return steps


def claim_depth_first(bench):
    """Claim below a task of the first job, up to its roots."""
    steps, claimed = bench.steps(partial(bench.claim, Position(1, 1)))
    assert claimed is not None
    return steps


@pytest.mark.parametrize("action", [claim, claim_depth_first], ids=lambda action: action.__name__)
@pytest.mark.parametrize("situation", SITUATIONS, ids=lambda situation: situation.__name__)
def test_claim_costs_the_same(situation, action):
    """A claim takes the same steps with 10 and with 20,000 other tasks, and scans nothing."""
    few, many = cost(situation, 10, action), cost(situation, 20_000, action)
    assert few == many
    assert many[1] == 0
    assert many[0] < 500


def report(method, **options):
    """An action: claim a task, then report on it; the steps of the report."""

    def action(bench):
        return bench.steps(partial(getattr(bench, method), bench.claim(), **options))[0]

    return action


REPORTS = {
    "computed": report("complete"),
    "computed with subtasks": report("complete", submissions=tasks(3)),
    "retried": report("fail"),
    "lost": report("lose"),
}


def many_roots_with_retry(bench, count):
    """Queued roots of one job, each with a retry."""
    bench.submit(tasks(count + 1, max_retries=1))


@pytest.mark.parametrize("action", REPORTS.values(), ids=REPORTS.keys())
def test_report_costs_the_same(action):
    """A report takes the same steps with 10 and with 20,000 other tasks, and scans nothing."""
    few, many = cost(many_roots_with_retry, 10, action), cost(many_roots_with_retry, 20_000, action)
    assert few == many
    assert many[1] == 0


def second_failure(bench):
    """Two tasks run; one fails, and cancels its job; the steps of the other one's failure."""
    first, second = bench.claim(), bench.claim()
    bench.fail(first)
    return bench.steps(partial(bench.fail, second))[0]


def test_further_failure_costs_the_same():
    """The failure of a task whose job has failed already does not go through the job's queued tasks again."""
    few, many = cost(many_roots, 10, second_failure), cost(many_roots, 20_000, second_failure)
    assert few == many
    assert many[1] == 0


def test_submission_scans_nothing(store):
    """Submitting a job does not look at the tasks of others (foreign keys are only checked upwards)."""

    def measure(connection):
        bench = Bench(connection)
        bench.submit(tasks(20_000))
        return bench.steps(partial(bench.submit, tasks(1)))[0]

    assert store.transact(measure)[1] == 0


# -- views -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("view", ["spans", "logs", "events", "tasks"])
def test_views_of_one_job_read_nothing_else(view):
    """What people ask a view about one job begins with an index of its id."""
    store = open_store(":memory:")
    with store.read() as connection:
        rows = connection.execute(f"EXPLAIN QUERY PLAN SELECT * FROM {view} WHERE job_id = 'x'").fetchall()
    store.close()
    plan = [row[3] for row in rows]
    assert "SEARCH j USING INDEX job_records_by_job_id_text (job_id_text=?)" in plan
    assert [line for line in plan if line.startswith("SCAN ") and line != "SCAN events"] == []
