"""The engine against a plain model: random workflows, failures, crashes, cancellations, retries and late reports.

TILEBOX_LOCAL_TEST_EXAMPLES sets the number of random histories, e.g. 20000 for a night. With it, a history that fails
is also made shorter, which takes up to five minutes; the one that failed last is tried first.
"""

import os
from functools import partial

from engine_model import QUEUED, RUNNING, STATES, Model, Spec
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tilebox_local import ids
from tilebox_local.catalog import run
from tilebox_local.data import ProgressIndicator, TaskIdentifier, TaskSubmissionGroup, TaskSubmissions
from tilebox_local.engine import tasks as engine_tasks
from tilebox_local.engine.clusters import cluster_no, create_cluster
from tilebox_local.engine.jobs import cancel_job, retry_job, submit_job
from tilebox_local.engine.tasks import (
    Position,
    claim_task,
    complete_task,
    extend_leases,
    fail_task,
    lose_task,
    runnable_identifiers,
)
from tilebox_local.storage.store import open_store
from tilebox_local.upkeep.check import _RULES

EXAMPLES = os.environ.get("TILEBOX_LOCAL_TEST_EXAMPLES")
CRASHES = 2  # instead of 10, so that random histories get there
CLUSTERS = ("default", "gpu")
IDENTIFIERS = (("a", 1, 3), ("a", 1, 5), ("a", 2, 0), ("b", 0, 0))
EVERYTHING = (("a", 1, 9), ("a", 2, 0), ("b", 0, 0))
REGISTERED = (*[EVERYTHING] * 7, (("a", 1, 4),), (("a", 2, 1), ("b", 0, 7)), (("b", 1, 0),))
ENGINE_RULES = [name for name in _RULES if name not in ("check_running", "check_open_spans")]
MAX_JOBS, MAX_TASKS = 3, 60  # small enough to think about, large enough for branches in branches


def specs(*, optional):
    """Tasks to submit; most run once, on the default cluster, by any runner of their name."""
    return st.builds(
        Spec,
        identifier=st.sampled_from((*[IDENTIFIERS[0]] * 3, *IDENTIFIERS)),
        cluster=st.sampled_from((*[CLUSTERS[0]] * 4, *CLUSTERS)),
        max_retries=st.sampled_from((0, 0, 0, 1, 2)),
        optional=optional,
    )


@st.composite
def task_groups(draw, *, optional):
    """One to three groups in any order of dependency, without cycles: (indices of other groups, specs)."""
    count = draw(st.integers(1, 3))
    order = draw(st.permutations(range(count)))
    return [
        (
            draw(st.sets(st.sampled_from(order[: order.index(index)]))) if order.index(index) else set(),
            draw(st.lists(specs(optional=optional), min_size=1, max_size=3)),
        )
        for index in range(count)
    ]


ROOTS = task_groups(optional=st.just(value=False))
SUBTASKS = st.one_of(st.just([]), task_groups(optional=st.booleans()), task_groups(optional=st.booleans()))
# At most two labels, so that the sums have something to add up.
PROGRESS = st.dictionaries(st.sampled_from(("", "tiles")), st.tuples(st.integers(0, 9), st.integers(0, 9)))
RUNNERS = st.tuples(st.sampled_from((*[CLUSTERS[0]] * 4, *CLUSTERS)), st.sampled_from(REGISTERED))
ANY_RUNNER = (CLUSTERS[0], EVERYTHING)
PICK = st.integers(0, 1_000_000)


def to_submissions(groups):
    """The model's groups as the engine takes them; None for none."""
    if not groups:
        return None
    return TaskSubmissions(
        task_groups=[
            TaskSubmissionGroup(
                dependencies_on_other_groups=sorted(depends_on),
                inputs=[b""] * len(tasks),
                identifier_pointers=[IDENTIFIERS.index(task.identifier) for task in tasks],
                cluster_slug_pointers=[CLUSTERS.index(task.cluster) for task in tasks],
                display_pointers=[0] * len(tasks),
                max_retries_values=[task.max_retries for task in tasks],
                optional_values=[task.optional for task in tasks],
            )
            for depends_on, tasks in groups
        ],
        cluster_slug_lookup=list(CLUSTERS),
        identifier_lookup=[TaskIdentifier(name, f"v{major}.{minor}") for name, major, minor in IDENTIFIERS],
        display_lookup=["task"],
    )


def to_indicators(progress):
    """The model's progress as a runner reports it; None for no report."""
    if progress is None:
        return None
    return [ProgressIndicator(label or None, total, done) for label, (total, done) in progress.items()]


def can_run(registered):
    """Whether a runner of these may execute a task: same name, same major, at least its minor version."""
    return lambda identifier: any(
        (name, major) == identifier[:2] and minor >= identifier[2] for name, major, minor in registered
    )


class EngineMachine(RuleBasedStateMachine):
    """Each rule does the same to the engine and to the model; then every row has to agree."""

    def __init__(self):
        super().__init__()
        self.store = open_store(":memory:")
        self.model = Model(max_crashes=CRASHES)
        self.now_ns = 1_000_000
        self._max_crashes, engine_tasks.MAX_CRASHES = engine_tasks.MAX_CRASHES, CRASHES

    def teardown(self):
        engine_tasks.MAX_CRASHES = self._max_crashes
        self.store.close()

    # -- what happens -----------------------------------------------------------------------------------------------

    @initialize(groups=ROOTS)
    def begin(self, groups):
        """The store has two clusters and a job."""
        self.store.transact(lambda connection: create_cluster(connection, "GPU", None, CLUSTERS[1]))
        self.submit(groups)

    @rule(groups=ROOTS)
    @precondition(lambda self: len(self.model.jobs) < MAX_JOBS)
    def submit(self, groups):
        """Submit a job, twice: the second delivery changes nothing."""
        now_ns = self._tick()
        job_id = ids.new_id(now_ns)
        self.model.submit(job_id, groups)
        for _ in range(2):
            self.store.transact(
                lambda connection: submit_job(
                    connection,
                    job_id=job_id,
                    name="job",
                    trace_id=len(self.model.jobs),
                    trace_parent="00-1-1-01",
                    submissions=to_submissions(groups),
                    now_ns=now_ns,
                )
            )

    @rule(runners=st.lists(RUNNERS, min_size=1, max_size=4))
    def claim(self, runners):
        """Runners that have not reported anything claim a task each."""
        for runner in runners:
            self._claim(runner)

    @rule(runner=RUNNERS, results=st.lists(st.one_of(SUBTASKS, SUBTASKS, st.none()), min_size=1, max_size=8))
    @precondition(lambda self: self.model.in_state(QUEUED))
    def work(self, runner, results):
        """A runner claims, and computes or fails, one task after the other; the last one stays running."""
        task = self._claim(runner)
        for subtasks in results:
            if task is None:
                break
            if subtasks is None and (task.branch() or task.spec.optional or task.retries_left):
                task = self._fail(task, {"": (1, 0)}, runner)
            else:  # a failure of the job would end the work too early
                task = self._compute(task, subtasks or [], {"": (1, 1)}, runner)

    @rule(pick=PICK, runner=RUNNERS, subtasks=SUBTASKS, progress=PROGRESS)
    @precondition(lambda self: self.model.in_state(RUNNING))
    def compute(self, pick, runner, subtasks, progress):
        """A running task is computed, maybe with subtasks, and its runner claims the next."""
        self._compute(self._running(pick), subtasks, progress, runner)

    @rule(pick=PICK, runner=RUNNERS, progress=PROGRESS, is_workflow_error=st.sampled_from((True, True, False)))
    @precondition(lambda self: self.model.in_state(RUNNING))
    def fail(self, pick, runner, progress, is_workflow_error):
        """A running task fails, for its own fault or not, and its runner claims the next."""
        self._fail(self._running(pick), progress, runner, is_workflow_error)

    @rule(pick=PICK)
    @precondition(lambda self: self.model.in_state(RUNNING))
    def give_back(self, pick):
        """A runner is told to stop: it gives its task back, reports no progress, and claims nothing."""
        self._fail(self._running(pick), None, None, is_workflow_error=False)

    @rule(pick=PICK, runner=RUNNERS)
    @precondition(lambda self: any(task.branch() for task in self.model.in_state(RUNNING)))
    def fail_in_branch(self, pick, runner):
        """A running task below an optional one fails, while others may run below it."""
        tasks = [task for task in self.model.in_state(RUNNING) if task.branch()]
        for _ in range(2):
            self._claim(ANY_RUNNER)
        self._fail(tasks[pick % len(tasks)], {}, runner)

    @rule(pick=PICK, runner=RUNNERS, subtasks=SUBTASKS, end=st.sampled_from(("compute", "fail", "release", "crash")))
    @precondition(lambda self: self._running_in_failed_branches())
    def end_in_failed_branch(self, pick, runner, subtasks, end):
        """A task ends that was running when another one of its optional branch failed."""
        tasks = self._running_in_failed_branches()
        task = tasks[pick % len(tasks)]
        if end == "compute":
            self._compute(task, subtasks, {}, runner)
        elif end == "crash":
            self._lose(task)
        else:
            self._fail(task, {}, runner, is_workflow_error=end == "fail")

    @rule(pick=PICK)
    @precondition(lambda self: self.model.in_state(RUNNING))
    def crash(self, pick):
        """The runner of a task dies."""
        self._lose(self._running(pick))

    @rule(pick=PICK, crashes=st.lists(st.booleans(), min_size=2, max_size=5))
    @precondition(lambda self: self.model.in_state(RUNNING))
    def give_trouble(self, pick, crashes):
        """One task after the other fails or crashes; mostly it is the same one again."""
        task = self._running(pick)
        for is_crash in crashes:
            if task is None:
                break
            if is_crash:
                self._lose(task)
                task = self._claim(ANY_RUNNER)
            else:
                task = self._fail(task, {}, ANY_RUNNER)

    @rule(pick=PICK, is_retry=st.booleans())
    def cancel_or_retry(self, pick, is_retry):
        """A job is canceled or retried, whether that has an effect or not."""
        job = self.model.jobs[pick % len(self.model.jobs)]
        if is_retry:
            self._retry(job)
        else:
            assert self.store.transact(partial(cancel_job, job_id=job.job_id)) is self.model.cancel(job)

    @rule(pick=PICK)
    @precondition(lambda self: any(job.canceled for job in self.model.jobs))
    def resume(self, pick):
        """A failed or canceled job is retried, and goes on."""
        canceled = [job for job in self.model.jobs if job.canceled]
        self._retry(canceled[pick % len(canceled)])
        self._claim(ANY_RUNNER)

    @rule(pick=PICK, subtasks=SUBTASKS, progress=PROGRESS, is_workflow_error=st.booleans(), age=st.integers(-1, 3))
    @precondition(lambda self: any(task.attempt for task in self.model.tasks))
    def report_late(self, pick, subtasks, progress, is_workflow_error, age):
        """A runner reports, in all possible ways, on an attempt that is not running any more: nothing changes."""
        claimed = [task for task in self.model.tasks if task.attempt]
        task = claimed[pick % len(claimed)]
        if task.state == RUNNING and age == 0:
            age = 1
        late = {"task_no": task.no, "attempt": task.attempt - age}
        report = {**late, "display": "late", "progress": to_indicators(progress), "now_ns": self._tick()}
        before = self._everything()
        answers = [
            self.store.transact(partial(complete_task, **report, submissions=to_submissions(subtasks))),
            self.store.transact(partial(fail_task, **report, was_workflow_error=is_workflow_error)),
            self.store.transact(partial(lose_task, **late, reason="late", now_ns=self.now_ns)),
            self.store.transact(partial(extend_leases, attempts=[tuple(late.values())], lease_expires_boot_ns=1)),
        ]
        assert answers == [False, False, False, set()]
        assert self._everything() == before

    # -- how ----------------------------------------------------------------------------------------------------------

    def _tick(self):
        self.now_ns += 1000
        return self.now_ns

    def _running(self, pick):
        found = self.model.in_state(RUNNING)
        return found[pick % len(found)]

    def _running_in_failed_branches(self):
        return [task for task in self.model.in_state(RUNNING) if task.is_in_failed_branch()]

    def _compute(self, task, subtasks, progress, runner):
        now_ns = self._tick()
        if len(self.model.tasks) > MAX_TASKS:
            subtasks = []
        report = partial(
            complete_task,
            **token(task),
            display=None,
            submissions=to_submissions(subtasks),
            progress=to_indicators(progress),
            now_ns=now_ns,
        )
        self.model.compute(task, subtasks, progress, now_ns)
        return self._claim(runner, report=report, job=task.job, below=task if subtasks else task.parent)

    def _lose(self, task):
        now_ns = self._tick()
        assert self.store.transact(partial(lose_task, **token(task), reason="died", now_ns=now_ns))
        self.model.lose(task, now_ns)

    def _fail(self, task, progress, runner, is_workflow_error=True):
        now_ns = self._tick()
        report = partial(
            fail_task,
            **token(task),
            display=None,
            was_workflow_error=is_workflow_error,
            progress=to_indicators(progress),
            now_ns=now_ns,
        )
        self.model.fail(task, is_workflow_error, progress, now_ns)
        if runner is None:
            assert self.store.transact(report)
            return None
        return self._claim(runner, report=report, job=task.job, below=task.parent)

    def _claim(self, runner, report=None, job=None, below=None):
        """As runners do: report on a task, and claim the next in the same transaction. The task that is handed out."""
        cluster, registered = runner
        expected = self.model.next_task(cluster, can_run(registered), job, below)

        def step(connection):
            is_accepted = report is None or report(connection)
            claimed = claim_task(
                connection,
                cluster_no=cluster_no(connection, cluster),
                identifiers=runnable_identifiers(connection, registered),
                runner_no=None,
                after=None if job is None else Position(job.no, None if below is None else below.no),
                now_ns=self.now_ns,
                lease_expires_boot_ns=self.now_ns,
            )
            return is_accepted, claimed

        is_accepted, claimed = self.store.transact(step)
        assert is_accepted
        assert number(expected) == (None if claimed is None else claimed.task_no)
        if expected is not None:
            assert not expected.job.canceled
            self.model.note(self.now_ns)
            self.model.claim(expected, self.now_ns)
            assert claimed.attempt == expected.attempt
        return expected

    def _retry(self, job):
        rescheduled = self.store.transact(partial(retry_job, job_id=job.job_id, now_ns=self._tick()))
        assert rescheduled == self.model.retry(job)

    def _everything(self):
        """All rows of the engine."""
        with self.store.snapshot() as connection:
            return {
                table: connection.execute(f"SELECT * FROM {table}").fetchall()
                for table in ("job_records", "task_records", "attempt_records", "group_records", "progress_records")
            }

    # -- what must hold -----------------------------------------------------------------------------------------------

    @invariant()
    def tasks_agree(self):
        """Each task has the model's state; `ready` marks exactly what may be claimed; its counters are right."""
        with self.store.read() as connection:
            found = connection.execute(
                "SELECT task_no, job_no, parent_no, branch_no, state, ready, unsettled_count, branch_failed, attempt,"
                " retry_count, crash_count, lease_expires_boot_ns IS NOT NULL FROM task_records ORDER BY task_no"
            ).fetchall()
        assert found == [
            (
                task.no,
                task.job.no,
                number(task.parent),
                number(task.branch()),
                task.state,
                task.is_claimable(),
                sum(not child.is_settled() for child in task.children),
                task.branch_failed,
                task.attempt,
                task.retries,
                task.crashes,
                task.state == RUNNING,
            )
            for task in self.model.tasks
        ]

    @invariant()
    def attempts_agree(self):
        """Every attempt is there once, with its outcome and its times; each released task names what released it."""
        self.model.note(self.now_ns)
        with self.store.read() as connection:
            found = connection.execute(
                "SELECT task_no, attempt, outcome, ready_ns, started_ns, stopped_ns FROM attempts"
                " ORDER BY task_no, attempt"
            ).fetchall()
            released = connection.execute("SELECT released_by_no FROM task_records ORDER BY task_no").fetchall()
        assert found == [(task.no, *attempt) for task in self.model.tasks for attempt in task.attempts()]
        assert released == [(number(task.released_by),) for task in self.model.tasks]

    @invariant()
    def groups_agree(self):
        """Each group counts the unsettled groups it depends on, and its unsettled tasks if others depend on it."""
        with self.store.read() as connection:
            found = connection.execute(
                "SELECT group_no, dependency_count, iif(EXISTS (SELECT 1 FROM group_dependency_records d"
                " WHERE d.depends_on_no = g.group_no), unsettled_count, NULL) FROM group_records g ORDER BY group_no"
            ).fetchall()
        awaited = {other for group in self.model.groups for other in group.depends_on}
        assert found == [
            (
                group.no,
                sum(not other.is_settled() for other in group.depends_on),
                sum(not task.is_settled() for task in group.tasks) if group in awaited else None,
            )
            for group in self.model.groups
        ]

    @invariant()
    def jobs_agree(self):
        """Each job has the model's state, counts and times."""
        with self.store.read() as connection:
            found = connection.execute(
                "SELECT v.state, queued, running, computed, failed, skipped, failed_optional, first_started_ns,"
                " last_stopped_ns, compute_duration_ns FROM jobs v JOIN job_records USING (job_no) ORDER BY job_no"
            ).fetchall()
        assert found == [
            (job.state(), *map(job.count, STATES), job.started_ns, job.stopped_ns, job.compute_ns)
            for job in self.model.jobs
        ]

    @invariant()
    def progress_agrees(self):
        """The progress of a job is the sum of the last reports of its tasks."""
        with self.store.read() as connection:
            found = [sorted(run(connection, "progress_of_job", (job.no,))) for job in self.model.jobs]
        assert found == [sorted(job.total_progress()) for job in self.model.jobs]

    @invariant()
    def checks_find_nothing(self):
        """The rules that `check` knows hold after every step (there are no runners here, nor spans)."""
        with self.store.read() as connection:
            assert [text for name in ENGINE_RULES for (text,) in run(connection, name)] == []


def token(task):
    """What a report must show: the task and its current attempt."""
    return {"task_no": task.no, "attempt": task.attempt}


def number(task):
    """Number of a task of the model; None for none."""
    return None if task is None else task.no


TestEngine = EngineMachine.TestCase
TestEngine.settings = settings(
    max_examples=int(EXAMPLES or 80),
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=list(Phase) if EXAMPLES else (Phase.reuse, Phase.generate),
)
