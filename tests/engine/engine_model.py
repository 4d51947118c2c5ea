"""The rules of jobs and tasks once more, slow and plain: every answer is computed from the task trees from scratch.

Written from the contract (3.2 to 3.7, 3.11, 3.12), not from the engine. Numbers of jobs, tasks and groups count up
from 1 in the order of submission, as the engine's do on an empty store.
"""

from dataclasses import dataclass, field

QUEUED, RUNNING, COMPUTED, FAILED, SKIPPED, FAILED_OPTIONAL = range(1, 7)
STATES = (QUEUED, RUNNING, COMPUTED, FAILED, SKIPPED, FAILED_OPTIONAL)
DONE = (COMPUTED, SKIPPED, FAILED_OPTIONAL)
OUTCOMES = {COMPUTED: "COMPUTED", FAILED: "FAILED", SKIPPED: "SKIPPED", FAILED_OPTIONAL: "FAILED_OPTIONAL"}


@dataclass(frozen=True)
class Spec:
    """What a submission says of one task; `identifier` is (name, major, minor)."""

    identifier: tuple = ("a", 1, 3)
    cluster: str = "default"
    max_retries: int = 0
    optional: bool = False


@dataclass(eq=False, repr=False)
class Group:
    """Tasks with the same dependencies."""

    no: int
    depends_on: list
    tasks: list

    def is_settled(self):
        return all(task.is_settled() for task in self.tasks)


@dataclass(eq=False, repr=False)
class ModelTask:
    """One task, with all of its children and the number of its failures."""

    no: int
    job: "ModelJob"
    parent: "ModelTask | None"
    group: Group
    spec: Spec
    state: int = QUEUED
    attempt: int = 0
    retries: int = 0
    retries_left: int = 0
    crashes: int = 0
    branch_failed: bool = False
    started_ns: int = 0
    children: list = field(default_factory=list)
    progress: dict = field(default_factory=dict)
    was_claimable: bool = False
    ready_ns: int | None = None  # when it last became claimable
    released_by: "ModelTask | None" = None  # whose end settled its last dependency
    ended: list = field(default_factory=list)  # attempts: (number, outcome, ready_ns, started_ns, stopped_ns)

    def attempts(self):
        """All attempts so far; the last one may still run."""
        running = [(self.attempt, "RUNNING", self.ready_ns, self.started_ns, None)] if self.state == RUNNING else []
        return self.ended + running

    def branch(self):
        """The innermost optional ancestor, not the task itself."""
        ancestor = self.parent
        while ancestor is not None and not ancestor.spec.optional:
            ancestor = ancestor.parent
        return ancestor

    def is_in_failed_branch(self):
        branch = self.branch()
        return branch is not None and branch.branch_failed

    def is_settled(self):
        """Completed, in the contract's words: done, with its whole subtree."""
        return self.state in DONE and all(child.is_settled() for child in self.children)

    def has_settled_dependencies(self):
        return all(group.is_settled() for group in self.group.depends_on)

    def is_claimable(self):
        return self.state == QUEUED and not self.job.canceled and self.has_settled_dependencies()


@dataclass(eq=False, repr=False)
class ModelJob:
    """One job; its state follows from its tasks."""

    no: int
    job_id: object
    tasks: list = field(default_factory=list)
    canceled: bool = False
    started_ns: int | None = None
    stopped_ns: int | None = None
    compute_ns: int = 0

    def count(self, *states):
        return sum(task.state in states for task in self.tasks)

    def state(self):
        if self.canceled:
            return "FAILED" if self.count(FAILED) else "CANCELED"
        if self.started_ns is None:
            return "SUBMITTED"
        if self.count(*DONE) == len(self.tasks):
            return "COMPLETED"
        if self.count(RUNNING):
            return "RUNNING"
        return "STARTED" if self.count(COMPUTED) and self.count(QUEUED) else "RUNNING"

    def total_progress(self):
        totals = {}
        for task in self.tasks:
            for label, (total, done) in task.progress.items():
                before = totals.get(label, (0, 0))
                totals[label] = (before[0] + total, before[1] + done)
        return [(label, *sums) for label, sums in totals.items()]


class Model:
    """All jobs, and what may happen to them."""

    def __init__(self, max_crashes):
        self.max_crashes = max_crashes
        self.jobs = []
        self.tasks = []
        self.groups = []

    def in_state(self, *states):
        return [task for task in self.tasks if task.state in states]

    def submit(self, job_id, groups):
        self.jobs.append(ModelJob(len(self.jobs) + 1, job_id))
        self._insert(self.jobs[-1], None, groups)

    def _insert(self, job, parent, groups):
        """`groups` holds pairs: (indices of the groups it depends on, specs of its tasks)."""
        new = [Group(len(self.groups) + 1 + i, [], []) for i in range(len(groups))]
        for group, (depends_on, specs) in zip(new, groups, strict=True):
            group.depends_on = [new[other] for other in sorted(depends_on)]
            for spec in specs:
                task = ModelTask(len(self.tasks) + 1, job, parent, group, spec, retries_left=spec.max_retries)
                if parent is not None and parent.is_in_failed_branch():
                    task.state = SKIPPED
                for owner in (self, job, group):
                    owner.tasks.append(task)
                if parent is not None:
                    parent.children.append(task)
        self.groups += new

    def next_task(self, cluster, can_run, job=None, below=None):
        """Depth first from `below` (None: the roots) up the tree of `job`, else the oldest of all."""
        mine = [t for t in self.tasks if t.is_claimable() and t.spec.cluster == cluster and can_run(t.spec.identifier)]
        while job is not None:
            siblings = [task for task in mine if task.job is job and task.parent is below]
            if siblings:
                return siblings[0]
            if below is None:
                break
            below = below.parent
        return mine[0] if mine else None

    def claim(self, task, now_ns):
        task.state, task.attempt, task.started_ns = RUNNING, task.attempt + 1, now_ns
        task.was_claimable = False
        if task.job.started_ns is None:
            task.job.started_ns = now_ns

    def note(self, now_ns):
        """Take down what has become claimable."""
        for task in self.tasks:
            if task.is_claimable() and not task.was_claimable:
                task.ready_ns = now_ns
            task.was_claimable = task.is_claimable()

    def _end(self, task, state, now_ns, outcome=None):
        waiting = [other for other in task.job.tasks if not other.has_settled_dependencies()]
        task.ended.append((task.attempt, outcome or OUTCOMES[state], task.ready_ns, task.started_ns, now_ns))
        task.state, task.job.stopped_ns = state, now_ns
        task.job.compute_ns += now_ns - task.started_ns
        return waiting

    def _release(self, task, waiting):
        """`task` has ended: it has released those of the waiting tasks that have nothing left to wait for."""
        for other in waiting:
            if other.state == QUEUED and other.has_settled_dependencies():
                other.released_by = task

    def compute(self, task, groups, progress, now_ns):
        waiting = self._end(task, COMPUTED, now_ns)
        task.progress = progress
        self._insert(task.job, task, groups)
        self._release(task, waiting)

    def fail(self, task, was_workflow_error, progress, now_ns):
        task.progress = task.progress if progress is None else progress
        if not was_workflow_error:
            self._requeue(task, now_ns, "RELEASED")
        elif task.retries_left:
            if self._requeue(task, now_ns, "FAILED"):
                task.retries, task.retries_left = task.retries + 1, task.retries_left - 1
        else:
            self._fail_for_good(task, now_ns)

    def lose(self, task, now_ns):
        if task.crashes < self.max_crashes:
            self._requeue(task, now_ns, "LOST")
            task.crashes += 1
        else:
            self._fail_for_good(task, now_ns)

    def _requeue(self, task, now_ns, outcome):
        """Whether it is queued: in a failed branch nothing is."""
        is_queued = not task.is_in_failed_branch()
        if is_queued:
            self._end(task, QUEUED, now_ns, outcome)
        else:
            self._release(task, self._end(task, SKIPPED, now_ns))
        return is_queued

    def _fail_for_good(self, task, now_ns):
        branch = task.branch()
        if task.spec.optional:
            self._release(task, self._end(task, FAILED_OPTIONAL, now_ns))
        elif branch is not None:
            waiting = self._end(task, FAILED_OPTIONAL, now_ns)
            branch.branch_failed = True
            for other in task.job.tasks:
                if other.state == QUEUED and other.branch() is branch:
                    other.state = SKIPPED
            self._release(task, waiting)
        else:
            self._end(task, FAILED, now_ns)
            task.job.canceled = True

    def cancel(self, job):
        """Whether it changed anything."""
        changes = not job.canceled and job.count(*DONE) < len(job.tasks)
        job.canceled = job.canceled or changes
        return changes

    def retry(self, job):
        failed = [task for task in job.tasks if task.state == FAILED]
        for task in failed:
            task.state, task.retries_left, task.crashes = QUEUED, task.spec.max_retries, 0
        job.canceled = False
        return len(failed)
