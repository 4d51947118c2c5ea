"""Workflows from submission to their end, through the public API, as the contract (3.2 to 3.12, 4.8) describes them."""

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from typing import ClassVar

import apsw
import pytest
from scripted import Do, fail, subtasks

from tilebox_local import Task, clock, ids
from tilebox_local.data import ExecutionStats, Job, JobState, ProgressIndicator, TaskIdentifier, TaskLease, TaskState
from tilebox_local.errors import ArgumentError, NotFoundError

QUEUED, RUNNING, COMPUTED = TaskState.QUEUED, TaskState.RUNNING, TaskState.COMPUTED
FAILED, SKIPPED, FAILED_OPTIONAL = TaskState.FAILED, TaskState.SKIPPED, TaskState.FAILED_OPTIONAL


def outcome(job):
    """State of a job, and how many tasks it has in each state."""
    return job.state, job.execution_stats.tasks_by_state


def versioned(version, name="tilebox.com/versioned"):
    """A task class of this version that keeps the identifier it runs under."""

    class Versioned(Task):
        seen: ClassVar[list] = []

        @staticmethod
        def identifier():
            return name, version

        def execute(self, context):
            self.seen.append(context.current_task.identifier)

    return Versioned


# -- submission (3.8, 4.8) ---------------------------------------------------------------------------------------------


def test_submitted_job(script):
    """A submitted job is SUBMITTED, counts its roots as queued, and has neither times nor progress."""
    job = script.submit("a", "b")
    stats = job.execution_stats
    assert (job.state, job.progress) == (JobState.SUBMITTED, [])
    assert (stats.first_task_started_at, stats.last_task_stopped_at) == (None, None)
    assert (stats.compute_time, stats.elapsed_time, stats.parallelism) == (timedelta(0), timedelta(0), 0.0)
    assert (stats.total_tasks, stats.tasks_by_state) == (2, {QUEUED: 2})


def test_job_id_has_time_of_submission(script):
    """The first 48 bits of a job id are the milliseconds of submitted_at; later ids are higher."""
    first, second = script.submit(), script.submit()
    for job in (first, second):
        assert job.id.int >> 80 == int(job.submitted_at.timestamp() * 1000)
    assert first.id < second.id


def test_largest_input(script):
    """An input of 2,048 bytes is accepted."""
    assert script.submit("x" * 2046).state is JobState.SUBMITTED  # and two quotes


def test_input_that_is_too_large(script):
    """An input of 2,049 bytes is refused with the task's name and both sizes, and nothing is stored."""
    message = "The input of task Do has 2049 bytes, but at most 2048 are allowed"
    with pytest.raises(ArgumentError, match=message):
        script.submit("x" * 2047)
    assert script.jobs.query() == []


def test_size_of_input_of_subtask(script):
    """An input of more than 2,048 bytes fails the task that submits it, readably."""
    job = script.play(root=subtasks("x" * 2047))
    assert outcome(job) == (JobState.FAILED, {FAILED: 1})
    assert script.displays()["root"].startswith(
        "Do\nArgumentError('The input of task Do has 2049 bytes, but at most 2048 are allowed."
    )


def test_negative_max_retries(script):
    """A negative number of retries is refused."""
    with pytest.raises(ArgumentError, match="max_retries must not be negative, but is -1"):
        script.submit(max_retries=-1)


def chain(length):
    """Behaviour of a task that submits a chain of subtasks, each of which depends on the one before."""

    def submit(context):
        last = None
        for i in range(length):
            last = context.submit_subtask(Do(f"{i:02}"), depends_on=last)

    return submit


def test_chain_of_64_groups(script):
    """A chain of 64 subtasks is accepted and runs in order."""
    assert outcome(script.play(root=chain(64))) == (JobState.COMPLETED, {COMPUTED: 65})
    assert script.ran == ["root", *(f"{i:02}" for i in range(64))]


def test_chain_of_65_groups(script):
    """A chain of 65 subtasks fails the task that submits it, with the number, the limit and a way out."""
    job = script.play(root=chain(65))
    assert outcome(job) == (JobState.FAILED, {FAILED: 1})
    assert script.displays()["root"] == (
        "Do\nArgumentError('The tasks form 65 groups of equal dependencies, but at most 64 can be submitted together. "
        "Submit a long chain step by step: each task submits the next one as its subtask.')"
    )


def test_unknown_cluster_at_submission(script):
    """A job on an unknown cluster is refused and not stored."""
    with pytest.raises(NotFoundError, match="No cluster 'mars' in this store"):
        script.jobs.submit("job", Do("root"), cluster="mars")
    assert script.jobs.query() == []


def test_unknown_cluster_of_subtask(script):
    """A subtask on an unknown cluster fails the task that submits it, readably; the others are not submitted."""
    job = script.play(root=subtasks("a", "b", cluster="mars"))
    assert outcome(job) == (JobState.FAILED, {FAILED: 1})
    assert script.displays()["root"].startswith("""Do\nNotFoundError("No cluster 'mars' in this store.""")


def test_cluster_deleted_before_report(script, client):
    """A subtask on a cluster that was deleted after the runner had looked fails the task at its report."""
    cluster = client.clusters().create("Mars", slug="mars")

    def submit_and_delete(context):
        context.submit_subtask(Do("a"), cluster="mars")
        submissions = context.submissions

        def submissions_then_delete():
            found = submissions()
            client.clusters().delete(cluster)
            return found

        context.submissions = submissions_then_delete

    job = script.play(root=submit_and_delete)
    assert outcome(job) == (JobState.FAILED, {FAILED: 1})
    assert script.displays()["root"].startswith("""Do\nNotFoundError("No cluster 'mars' in this store.""")


# -- order (3.2, 3.9, 3.12) --------------------------------------------------------------------------------------------


def test_dependency_waits_for_subtree(script):
    """A task starts when the tasks it depends on are done with all of their descendants."""

    def root(context):
        first = context.submit_subtask(Do("first"))
        context.submit_subtask(Do("after"), depends_on=first)

    assert script.play(root=root, first=subtasks("child"), child=subtasks("grandchild")).state is JobState.COMPLETED
    assert script.ran == ["root", "first", "child", "grandchild", "after"]


def fibonacci(n):
    """Behaviour of F(n): F(n-1) and F(n-2), then a sum that depends on both."""

    def submit(context):
        if n > 2:
            parts = context.submit_subtasks([Do(f"F{n - 1}"), Do(f"F{n - 2}")])
            context.submit_subtask(Do(f"S{n}"), depends_on=parts)

    return submit


def test_fibonacci_runs_depth_first(script):
    """Sums run after both of their subtrees, and each subtree is finished before the next one is begun."""
    job = script.play("F5", **{f"F{n}": fibonacci(n) for n in range(1, 6)})
    assert outcome(job) == (JobState.COMPLETED, {COMPUTED: 13})
    assert script.ran == ["F5", "F4", "F3", "F2", "F1", "S3", "F2", "S4", "F3", "F2", "F1", "S3", "S5"]


def test_job_is_finished_before_the_next(script):
    """A runner stays in the job it works on; other jobs come in the order of submission."""
    script.submit("a", a=subtasks("a1", "a2"))
    script.submit("b", b=subtasks("b1"))
    script.run()
    assert script.ran == ["a", "a1", "a2", "b", "b1"]


def test_group_waits_for_all_of_its_dependencies(script):
    """A task that depends on several others starts after the last of them."""

    def root(context):
        left = context.submit_subtask(Do("left"))
        right = context.submit_subtask(Do("right"), depends_on=left)
        context.submit_subtask(Do("end"), depends_on=[left, right])
        context.submit_subtask(Do("other"))

    script.play(root=root)
    assert script.ran == ["root", "left", "right", "end", "other"]


def test_no_runner_for_subtask(script):
    """run_all returns while tasks are queued that this runner cannot execute."""
    stranger = versioned("v1.0")
    job = script.play(root=lambda context: context.submit_subtask(stranger()))
    assert outcome(job) == (JobState.STARTED, {COMPUTED: 1, QUEUED: 1})


# -- failures and retries (3.2, 3.5) -----------------------------------------------------------------------------------


def test_failure_fails_the_job(script):
    """A failed task fails its job; what was queued stays queued and is not handed out."""
    job = script.play("bad", "other", bad=fail)
    assert outcome(job) == (JobState.FAILED, {QUEUED: 1, FAILED: 1})
    script.run()
    assert script.ran == ["bad"]


def test_max_retries(script):
    """max_retries=2 gives three executions of a task that always fails."""
    job = script.play(root=fail, max_retries=2)
    assert script.ran == ["root"] * 3
    assert outcome(job) == (JobState.FAILED, {FAILED: 1})
    assert script.column("attempts || '/' || retries") == {"root": "3/2"}


def test_max_retries_of_subtask(script):
    """A subtask that fails once and has a retry is computed; those before it run once."""
    attempts = iter([fail, lambda context: None])
    job = script.play(root=subtasks("flaky", max_retries=1), flaky=lambda context: next(attempts)(context))
    assert script.ran == ["root", "flaky", "flaky"]
    assert outcome(job) == (JobState.COMPLETED, {COMPUTED: 2})


def test_retry_count_of_context(script):
    """The running task knows how often it was retried."""
    seen = []

    def root(context):
        seen.append(context.current_task.retry_count)
        fail(context)

    script.play(root=root, max_retries=2)
    assert seen == [0, 1, 2]


def test_subtasks_of_failed_attempt(script):
    """A failed execution submits nothing; the one that succeeds submits once."""
    attempts = iter([fail, lambda context: None])

    def root(context):
        context.submit_subtask(Do("child"))
        next(attempts)(context)

    job = script.play(root=root, max_retries=1)
    assert script.ran == ["root", "root", "child"]
    assert outcome(job) == (JobState.COMPLETED, {COMPUTED: 2})


def test_flaky_dialogue(script):
    """FAILED, RUNNING right after retry, FAILED, RUNNING, COMPLETED: the dialogue with the official server."""
    attempts = iter([fail, fail, lambda context: None])
    job = script.submit(root=lambda context: next(attempts)(context))
    seen = [job.state]
    for _ in range(2):
        script.run()
        seen.append(script.jobs.find(job).state)
        assert script.jobs.retry(job) == 1
        seen.append(script.jobs.find(job).state)
    script.run()
    seen.append(script.jobs.find(job).state)
    assert [state.name for state in seen] == ["SUBMITTED", "FAILED", "RUNNING", "FAILED", "RUNNING", "COMPLETED"]


def test_failures_add_up_in_display(script):
    """Each failed execution adds its error to the display; a success keeps them."""
    attempts = iter([fail, fail, lambda context: None])
    script.play(root=lambda context: next(attempts)(context), max_retries=2)
    assert script.displays() == {"root": "Do\nValueError('no data')\nValueError('no data')"}


def test_retry_keeps_history(script):
    """Right after a retry the job still has the times and the compute time of the failed attempt."""
    job = script.play(root=fail)
    script.jobs.retry(job)
    before, after = job.execution_stats, script.jobs.find(job).execution_stats
    assert after.first_task_started_at == before.first_task_started_at
    assert after.last_task_stopped_at == before.last_task_stopped_at
    assert (after.compute_time, after.elapsed_time) == (before.compute_time, before.elapsed_time)
    assert after.parallelism == before.parallelism == 1.0
    assert after.tasks_by_state == {QUEUED: 1}


def test_retry_does_not_compute_again(script):
    """After a retry only failed and queued tasks run."""
    attempts = iter([fail, lambda context: None])
    job = script.play(root=subtasks("good", "flaky", "late"), flaky=lambda context: next(attempts)(context))
    assert script.jobs.retry(job) == 1
    script.run()
    assert script.ran == ["root", "good", "flaky", "flaky", "late"]
    assert outcome(script.jobs.find(job)) == (JobState.COMPLETED, {COMPUTED: 4})


def test_retry_gives_a_new_budget(script):
    """RetryJob gives a failed task as many retries as it had at first."""
    job = script.play(root=fail, max_retries=1)
    assert script.jobs.retry(job) == 1
    script.run()
    assert script.ran == ["root"] * 4
    assert script.column("retries") == {"root": 2}


def test_retry_counts_failed_tasks(script):
    """RetryJob returns the number of failed tasks, not of the queued ones that run as well."""

    def root(context):
        context.submit_subtasks([Do("bad"), Do("bad too"), Do("queued")])

    def bad(context):
        script.run()  # another runner, which fails the second task meanwhile
        fail(context)

    job = script.play(root=root, bad=bad, **{"bad too": fail})
    assert outcome(job) == (JobState.FAILED, {COMPUTED: 1, FAILED: 2, QUEUED: 1})
    assert script.jobs.retry(job) == 2


def test_subtasks_after_failure(script):
    """Tasks that run when their job fails may finish, submit or fail; what they submit is not handed out."""
    job = script.submit(
        "slow",
        "slow too",
        "bad",
        slow=lambda context: (script.run(), context.submit_subtask(Do("late"))),
        **{"slow too": lambda context: (script.run(), fail(context))},
        bad=fail,
    )
    script.run()
    script.run()
    assert script.ran == ["slow", "slow too", "bad"]
    assert script.states() == {"slow": "COMPUTED", "slow too": "FAILED", "bad": "FAILED", "late": "QUEUED"}
    assert script.jobs.retry(job) == 2


@pytest.mark.parametrize("is_canceled", [True, False])
def test_retry_of_job_that_never_started(script, is_canceled):
    """A job that never ran is SUBMITTED after a retry, which requeues nothing."""
    job = script.submit()
    if is_canceled:
        script.jobs.cancel(job)
    assert script.jobs.retry(job) == 0
    assert script.jobs.find(job).state is JobState.SUBMITTED


def test_retry_of_completed_job(script):
    """Retrying a completed job does nothing."""
    job = script.play()
    assert script.jobs.retry(job) == 0
    script.run()
    assert (script.ran, script.jobs.find(job).state) == (["root"], JobState.COMPLETED)


def test_retry_of_unknown_job(script):
    """Retrying a job that does not exist raises."""
    with pytest.raises(NotFoundError, match="No job"):
        script.jobs.retry(ids.new_id(0))


def test_error_that_is_not_the_workflow_s(script, engine):
    """An execution that failed for no fault of the task is repeated without using up a retry."""
    job = script.submit()
    claimed = engine.claim()
    engine.fail(claimed, was_workflow_error=False)
    assert outcome(script.jobs.find(job)) == (JobState.RUNNING, {QUEUED: 1})
    assert script.column("attempts || '/' || retries") == {"root": "1/0"}
    script.run()
    assert script.jobs.find(job).state is JobState.COMPLETED


# -- optional tasks (3.3) ----------------------------------------------------------------------------------------------


def test_optional_task_fails(script):
    """Only the optional task is FAILED_OPTIONAL; what depends on it runs, and the job completes."""

    def root(context):
        bad = context.submit_subtask(Do("bad"), optional=True)
        context.submit_subtask(Do("after"), depends_on=bad)

    job = script.play(root=root, bad=fail)
    assert script.states() == {"root": "COMPUTED", "bad": "FAILED_OPTIONAL", "after": "COMPUTED"}
    assert outcome(job) == (JobState.COMPLETED, {COMPUTED: 2, FAILED_OPTIONAL: 1})


def test_optional_branch_fails(script):
    """A failure below an optional task skips what is queued in its branch; the optional task stays computed."""

    def branch(context):
        good, bad = context.submit_subtasks([Do("good"), Do("bad")])
        context.submit_subtask(Do("after"), depends_on=[good, bad])

    job = script.play(root=subtasks("branch", optional=True), branch=branch, bad=fail)
    assert script.states() == {
        "root": "COMPUTED",
        "branch": "COMPUTED",
        "good": "COMPUTED",
        "bad": "FAILED_OPTIONAL",
        "after": "SKIPPED",
    }
    assert outcome(job) == (JobState.COMPLETED, {COMPUTED: 3, FAILED_OPTIONAL: 1, SKIPPED: 1})


def test_optional_task_inside_of_branch_fails(script):
    """A failing task that is optional itself is its own branch: its siblings and dependents run."""

    def branch(context):
        bad = context.submit_subtask(Do("bad"), optional=True)
        context.submit_subtasks([Do("sibling"), Do("after")], depends_on=bad)

    job = script.play(root=subtasks("branch", optional=True), branch=branch, bad=fail)
    assert outcome(job) == (JobState.COMPLETED, {COMPUTED: 4, FAILED_OPTIONAL: 1})


def test_inner_branch_fails(script):
    """A failure skips its innermost branch only; the outer branch goes on."""
    script.play(
        root=subtasks("outer", optional=True),
        outer=lambda context: (subtasks("inner", optional=True)(context), subtasks("outer end")(context)),
        inner=subtasks("bad", "inner end"),
        bad=fail,
    )
    assert script.states() == {
        "root": "COMPUTED",
        "outer": "COMPUTED",
        "inner": "COMPUTED",
        "outer end": "COMPUTED",
        "bad": "FAILED_OPTIONAL",
        "inner end": "SKIPPED",
    }


def test_deep_in_branch(script):
    """All descendants of an optional task are its branch, however deep."""
    job = script.play(
        root=subtasks("branch", optional=True), branch=subtasks("child"), child=subtasks("bad", "other"), bad=fail
    )
    assert script.states()["other"] == "SKIPPED"
    assert job.state is JobState.COMPLETED


def test_optional_task_is_retried_first(script):
    """An optional task uses up its retries before it is FAILED_OPTIONAL."""
    job = script.play(root=subtasks("bad", optional=True, max_retries=2), bad=fail)
    assert script.ran == ["root", "bad", "bad", "bad"]
    assert outcome(job) == (JobState.COMPLETED, {COMPUTED: 1, FAILED_OPTIONAL: 1})


def test_dependent_of_branch_waits_until_it_settles(script):
    """What depends on an optional task runs after its branch has failed and what is queued in it is skipped."""

    def root(context):
        branch = context.submit_subtask(Do("branch"), optional=True)
        context.submit_subtask(Do("after"), depends_on=branch)

    def after(context):
        assert script.states()["never"] == "SKIPPED"

    job = script.play(root=root, branch=subtasks("child", "bad", "never"), bad=fail, after=after)
    assert script.ran == ["root", "branch", "child", "bad", "after"]
    assert job.state is JobState.COMPLETED


def test_sibling_that_runs_when_branch_fails(script):
    """A task that runs while its branch fails may finish; its subtasks are skipped."""
    job = script.play(
        root=subtasks("branch", optional=True),
        branch=subtasks("slow", "bad"),
        slow=lambda context: (script.run(), context.submit_subtask(Do("too late"))),
        bad=fail,
    )
    assert script.ran == ["root", "branch", "slow", "bad"]
    assert script.states() == {
        "root": "COMPUTED",
        "branch": "COMPUTED",
        "slow": "COMPUTED",
        "bad": "FAILED_OPTIONAL",
        "too late": "SKIPPED",
    }
    assert job.state is JobState.COMPLETED


def test_optional_sibling_that_runs_when_branch_fails(script):
    """An optional task that runs while the branch around it fails may finish; its subtasks are skipped."""

    def branch(context):
        context.submit_subtask(Do("slow"), optional=True)
        context.submit_subtask(Do("bad"))

    job = script.play(
        root=subtasks("branch", optional=True),
        branch=branch,
        slow=lambda context: (script.run(), context.submit_subtask(Do("too late"))),
        bad=fail,
    )
    assert script.ran == ["root", "branch", "slow", "bad"]
    assert script.states() == {
        "root": "COMPUTED",
        "branch": "COMPUTED",
        "slow": "COMPUTED",
        "bad": "FAILED_OPTIONAL",
        "too late": "SKIPPED",
    }
    assert job.state is JobState.COMPLETED


def test_branch_in_failed_branch_goes_on(script):
    """What an optional task has submitted before the branch around it fails is a branch of its own, and goes on."""
    script.client.clusters().create("GPU", slug="gpu")

    def branch(context):
        inner = context.submit_subtask(Do("inner"), optional=True)
        context.submit_subtask(Do("bad"))
        context.submit_subtask(Do("after"), depends_on=inner)

    job = script.play(
        root=subtasks("branch", optional=True),
        branch=branch,
        inner=subtasks("child", cluster="gpu"),
        child=subtasks("grandchild"),
        bad=fail,
    )
    assert script.states()["after"] == "SKIPPED"
    script.run("gpu")
    assert script.ran == ["root", "branch", "inner", "bad", "child", "grandchild"]
    assert outcome(script.jobs.find(job)) == (JobState.COMPLETED, {COMPUTED: 5, FAILED_OPTIONAL: 1, SKIPPED: 1})


def test_no_retry_in_failed_branch(script):
    """A task that fails with a retry left after its branch has failed is skipped, not retried; its error is shown."""
    job = script.play(
        root=subtasks("branch", optional=True),
        branch=subtasks("slow", "bad", max_retries=1),
        slow=lambda context: (script.run(), fail(context)),
        bad=fail,
    )
    assert script.ran == ["root", "branch", "slow", "bad", "bad"]
    assert script.column("state || ' ' || retries") == {
        "root": "COMPUTED 0",
        "branch": "COMPUTED 0",
        "slow": "SKIPPED 0",
        "bad": "FAILED_OPTIONAL 1",
    }
    assert script.displays()["slow"] == "Do\nValueError('no data')"
    assert outcome(job) == (JobState.COMPLETED, {COMPUTED: 2, FAILED_OPTIONAL: 1, SKIPPED: 1})


GOING_BACK = {
    "released": (lambda engine, claimed: engine.fail(claimed, was_workflow_error=False), 0),
    "lost": (lambda engine, claimed: engine.lose(claimed), 1),
}


@pytest.mark.parametrize(("go_back", "crashes"), GOING_BACK.values(), ids=GOING_BACK.keys())
@pytest.mark.parametrize("optional", [False, True])
def test_going_back_into_failed_branch(script, engine, go_back, crashes, optional):
    """A task that goes back to the queue after its branch has failed is skipped, and what waits for the branch runs."""

    def root(context):
        branch = context.submit_subtask(Do("branch"), optional=True)
        context.submit_subtask(Do("after"), depends_on=branch)

    def branch(context):
        context.submit_subtask(Do("slow"), cluster="gpu", optional=optional)
        context.submit_subtask(Do("bad"))

    script.client.clusters().create("GPU", slug="gpu")
    job = script.submit(
        root=root, branch=branch, bad=lambda context: (claimed.append(engine.claim(cluster_no=2)), fail(context))
    )
    claimed = []
    script.run()
    assert script.states()["slow"] == "RUNNING"
    assert "after" not in script.ran
    assert go_back(engine, *claimed)
    assert script.column("state || ' ' || crashes")["slow"] == f"SKIPPED {crashes}"
    script.run()
    assert outcome(script.jobs.find(job)) == (JobState.COMPLETED, {COMPUTED: 3, FAILED_OPTIONAL: 1, SKIPPED: 1})


def test_retry_leaves_optional_failures(script):
    """RetryJob runs failed tasks again, but neither optional failures nor what they skipped."""
    attempts = iter([fail, lambda context: None])

    def root(context):
        branch = context.submit_subtask(Do("branch"), optional=True)
        context.submit_subtask(Do("flaky"), depends_on=branch)

    job = script.play(
        root=root, branch=subtasks("bad", "never"), bad=fail, flaky=lambda context: next(attempts)(context)
    )
    assert outcome(job) == (JobState.FAILED, {COMPUTED: 2, FAILED: 1, SKIPPED: 1, FAILED_OPTIONAL: 1})
    assert script.jobs.retry(job) == 1
    script.run()
    assert script.ran == ["root", "branch", "bad", "flaky", "flaky"]
    assert outcome(script.jobs.find(job)) == (JobState.COMPLETED, {COMPUTED: 3, SKIPPED: 1, FAILED_OPTIONAL: 1})


# -- state of the job (3.4), cancellation (3.6) ------------------------------------------------------------------------


def test_running_while_a_task_runs(script):
    """A job is RUNNING while one of its tasks runs, also if others are computed or queued."""
    seen = []
    job = script.submit(
        root=subtasks("child", "queued"), child=lambda context: seen.append(outcome(script.jobs.find(job)))
    )
    script.run()
    assert seen == [(JobState.RUNNING, {QUEUED: 1, RUNNING: 1, COMPUTED: 1})]


def test_started_between_tasks(script):
    """A job with computed and queued tasks, none of which runs, is STARTED."""
    script.client.clusters().create("GPU", slug="gpu")
    job = script.play(root=subtasks("child", cluster="gpu"))
    assert outcome(job) == (JobState.STARTED, {COMPUTED: 1, QUEUED: 1})


def test_running_after_first_attempt_was_given_back(script, engine):
    """A job that has started, with nothing computed and nothing running, is RUNNING."""
    job = script.submit()
    engine.fail(engine.claim(), was_workflow_error=False)
    assert script.jobs.find(job).state is JobState.RUNNING


def test_cancel(script):
    """A canceled job is CANCELED at once, and its queued tasks are not handed out until it is retried."""
    job = script.submit()
    script.jobs.cancel(job)
    script.run()
    assert outcome(script.jobs.find(job)) == (JobState.CANCELED, {QUEUED: 1})
    assert script.jobs.retry(job) == 0
    script.run()
    assert outcome(script.jobs.find(job)) == (JobState.COMPLETED, {COMPUTED: 1})
    assert script.ran == ["root"]


def test_cancel_while_running(script):
    """A task that runs during the cancellation is computed and submits; its subtasks wait for a retry."""
    job = script.submit(root=lambda context: (script.jobs.cancel(job), context.submit_subtask(Do("child"))))
    script.run()
    assert outcome(script.jobs.find(job)) == (JobState.CANCELED, {COMPUTED: 1, QUEUED: 1})
    assert script.jobs.retry(job) == 0
    assert script.jobs.find(job).state is JobState.STARTED
    script.run()
    assert script.ran == ["root", "child"]
    assert script.jobs.find(job).state is JobState.COMPLETED


def test_cancel_before_dependency_settles(script):
    """A dependency that settles in a canceled job releases its dependents when the job is retried."""

    def root(context):
        first = context.submit_subtask(Do("first"))
        context.submit_subtask(Do("after"), depends_on=first)

    job = script.submit(root=root, first=lambda context: script.jobs.cancel(job))
    script.run()
    assert outcome(script.jobs.find(job)) == (JobState.CANCELED, {COMPUTED: 2, QUEUED: 1})
    script.jobs.retry(job)
    script.run()
    assert script.ran == ["root", "first", "after"]


def test_cancel_before_retry_of_a_task(script):
    """A task that fails with a retry left in a canceled job waits for the job to be retried."""
    attempts = iter([lambda context: (script.jobs.cancel(job), fail(context)), lambda context: None])
    job = script.submit(root=lambda context: next(attempts)(context), max_retries=1)
    script.run()
    assert outcome(script.jobs.find(job)) == (JobState.CANCELED, {QUEUED: 1})
    script.jobs.retry(job)
    script.run()
    assert outcome(script.jobs.find(job)) == (JobState.COMPLETED, {COMPUTED: 1})


def test_canceled_job_with_failure(script):
    """A failure in a canceled job makes it FAILED."""
    job = script.submit(root=lambda context: (script.jobs.cancel(job), fail(context)))
    script.run()
    assert outcome(script.jobs.find(job)) == (JobState.FAILED, {FAILED: 1})


def test_cancel_of_finished_job(script):
    """Canceling a completed job changes nothing."""
    job = script.play()
    script.jobs.cancel(job)
    assert script.jobs.find(job) == job


def test_cancel_of_failed_job(script):
    """Canceling a failed job changes nothing."""
    job = script.play(root=fail)
    script.jobs.cancel(job)
    assert script.jobs.find(job) == job


def test_cancel_leaves_other_jobs(script):
    """Other jobs run on when one is canceled."""
    canceled, other = script.submit("a"), script.submit("b")
    script.jobs.cancel(canceled)
    script.run()
    assert [script.jobs.find(job).state for job in (canceled, other)] == [JobState.CANCELED, JobState.COMPLETED]


# -- progress (3.7) ----------------------------------------------------------------------------------------------------


def test_progress_of_all_tasks(script):
    """The progress of a job is the sum over its tasks, per label."""

    def root(context):
        context.progress().add(5)
        context.progress("tiles").add(2)
        context.submit_subtasks([Do("leaf") for _ in range(5)])

    def leaf(context):
        context.progress(None).done(1)
        context.progress("").done(0)

    assert script.play(root=root, leaf=leaf).progress == [
        ProgressIndicator(None, 5, 5),
        ProgressIndicator("tiles", 2, 0),
    ]


def test_progress_label_is_one_object(script):
    """A label always gives the same indicator; None and "" are one label."""

    def root(context):
        assert context.progress("a") is context.progress("a")
        assert context.progress() is context.progress("") is context.progress(None)
        assert context.progress() is not context.progress("a")

    assert script.play(root=root).state is JobState.COMPLETED


def test_progress_of_failed_execution(script):
    """A failed execution reports its progress, too."""

    def root(context):
        context.progress("tiles").add(3)
        context.progress("tiles").done(1)
        fail(context)

    assert script.play(root=root).progress == [ProgressIndicator("tiles", 3, 1)]


def test_progress_of_last_execution(script):
    """The report of a later execution of a task replaces the earlier one, all labels of it."""

    def first(context):
        context.progress("tiles").add(3)
        context.progress("once").add(1)
        fail(context)

    def second(context):
        context.progress("tiles").add(4)
        context.progress("tiles").done(4)

    attempts = iter([first, second])
    job = script.play(root=lambda context: next(attempts)(context), max_retries=1)
    assert job.progress == [ProgressIndicator("tiles", 4, 4)]


def test_too_many_progress_labels(script):
    """The 1,002nd label of an execution raises ValueError inside of the task."""

    def root(context):
        for i in range(1001):
            context.progress(str(i)).add(1)
        with pytest.raises(ValueError, match="Cannot create more than 1000 progress indicators per task"):
            context.progress("one too many")

    assert len(script.play(root=root).progress) == 1001


# -- statistics (3.11) -------------------------------------------------------------------------------------------------


def test_times_of_one_task(script, frozen):
    """Compute time and elapsed time of one task are its run time."""
    job = script.submit(root=lambda context: frozen.advance(2.5))
    frozen.advance(100)
    script.run()
    stats = script.jobs.find(job).execution_stats
    assert stats.first_task_started_at == job.submitted_at + timedelta(seconds=100)
    assert stats.last_task_stopped_at == job.submitted_at + timedelta(seconds=102.5)
    assert (stats.compute_time, stats.elapsed_time) == (timedelta(seconds=2.5), timedelta(seconds=2.5))
    assert stats.parallelism == 1.0


def test_times_of_parallel_tasks(script, frozen):
    """Parallelism is compute time by elapsed time when tasks overlap."""

    def slow(context):
        frozen.advance(2)
        script.run()  # another runner works for six seconds meanwhile
        frozen.advance(2)

    job = script.play("slow", "quick", slow=slow, quick=lambda context: frozen.advance(6))
    stats = job.execution_stats
    assert (stats.compute_time, stats.elapsed_time) == (timedelta(seconds=16), timedelta(seconds=10))
    assert stats.parallelism == 1.6


def test_parallelism_of_pauses(script, frozen):
    """Parallelism is at least 1.0: time without a runner counts as elapsed, not against it."""
    job = script.play("a", a=lambda context: (frozen.advance(1), fail(context)))
    frozen.advance(8)
    script.jobs.retry(job)
    script.behaviour["a"] = lambda context: frozen.advance(1)
    script.run()
    stats = script.jobs.find(job).execution_stats
    assert (stats.compute_time, stats.elapsed_time) == (timedelta(seconds=2), timedelta(seconds=10))
    assert stats.parallelism == 1.0


def test_times_while_first_task_runs(script, frozen):
    """While the first task runs, the job has a start but no end, and no compute time yet."""
    seen = []
    job = script.submit(root=lambda context: (frozen.advance(3), seen.append(script.jobs.find(job).execution_stats)))
    script.run()
    (stats,) = seen
    assert (stats.first_task_started_at, stats.last_task_stopped_at) == (job.submitted_at, None)
    assert (stats.compute_time, stats.elapsed_time, stats.parallelism) == (timedelta(0), timedelta(0), 0.0)


def test_wall_clock_set_back(script, frozen):
    """A wall clock that is set back while a task runs makes no negative times."""
    stats = script.play(root=lambda context: frozen.advance(-3600)).execution_stats
    assert (stats.compute_time, stats.elapsed_time) == (timedelta(0), timedelta(0))
    assert stats.last_task_stopped_at == stats.first_task_started_at


@pytest.mark.parametrize("seed", range(5))
def test_wall_clock_jumps(script, monkeypatch, seed):
    """A wall clock that jumps by up to a day at each look changes no state, loses no span and breaks no question."""
    jumps = random.Random(seed)
    monkeypatch.setattr(clock, "wall_ns", lambda: 1_800_000_000_000_000_000 + jumps.randint(-(10**14), 10**14))

    def fan(context):
        context.submit_subtasks([Do("leaf 1"), Do("leaf 2")])
        context.progress("p").add(2)
        with context.tracer.span("work"):
            context.logger.info("working")

    job = script.submit(root=fan)
    script.run()
    found = script.jobs.find(job)
    assert found.state is JobState.COMPLETED
    assert found.execution_stats.compute_time >= timedelta(0)
    names = sorted(span.name for span in script.jobs.query_spans(job))
    assert names == ["job/job", "task/Do", "task/Do", "task/Do", "work"]
    assert [record.body for record in script.jobs.query_logs(job)] == ["working"]
    with script.client._store.read() as connection:
        assert connection.execute("SELECT count(*) FROM spans WHERE duration_ms < 0").get == 0
        assert connection.execute("SELECT count(*) FROM tasks WHERE duration_ms < 0").get == 0


# -- dispatch (3.12) ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("version", "is_run"), [("v1.2", False), ("v1.3", True), ("v1.5", True), ("v2.0", False)])
def test_versions(client, version, is_run):
    """A v1.3 task runs on runners of v1.3 and v1.5, under the runner's identifier, but not of v1.2 or v2.0."""
    job = client.jobs().submit("job", versioned("v1.3")())
    runner_class = versioned(version)
    client.runner(tasks=[runner_class]).run_all()
    assert runner_class.seen == ([TaskIdentifier("tilebox.com/versioned", version)] if is_run else [])
    assert client.jobs().find(job).state is (JobState.COMPLETED if is_run else JobState.SUBMITTED)


def test_version_in_span(client):
    """The span of a task has the identifier of the class that ran, not of the one that was submitted."""
    job = client.jobs().submit("job", versioned("v1.3")())
    client.runner(tasks=[versioned("v1.5")]).run_all()
    span = client.jobs().query_spans(job)[1]
    assert (span.name, span.attributes["identifier.version"]) == ("task/Versioned", "v1.5")


@pytest.mark.parametrize(("registered", "runs"), [(["v1.5", "v1.3"], "v1.3"), (["v1.4", "v1.6", "v1.5"], "v1.6")])
def test_choice_among_versions(client, registered, runs):
    """Of several compatible classes the exact version runs, else the newest."""
    classes = {version: versioned(version) for version in registered}
    client.jobs().submit("job", versioned("v1.3")())
    client.runner(tasks=list(classes.values())).run_all()
    assert [version for version, cls in classes.items() if cls.seen] == [runs]


def test_other_name(client):
    """A task does not run on a runner of another name, whatever the version."""
    job = client.jobs().submit("job", versioned("v1.0")())
    client.runner(tasks=[versioned("v1.0", name="tilebox.com/other")]).run_all()
    assert client.jobs().find(job).state is JobState.SUBMITTED


def test_task_registered_later(client):
    """A runner runs tasks that are registered after it was idle, and kinds of task the store has not seen before."""
    early, late = versioned("v1.0", name="early"), versioned("v1.0", name="late")
    runner = client.runner(tasks=[early])
    job = client.jobs().submit("job", [early(), late()])
    runner.run_all()
    runner.register(late)
    runner.run_all()
    assert outcome(client.jobs().find(job)) == (JobState.COMPLETED, {COMPUTED: 2})


def test_clusters(script, client):
    """A task runs on a runner of its cluster only, across dependencies; both runners together finish the job."""
    client.clusters().create("GPU", slug="gpu")

    def root(context):
        here = context.submit_subtask(Do("here"))
        there = context.submit_subtask(Do("there"), depends_on=here, cluster="gpu")
        context.submit_subtask(Do("here again"), depends_on=there)

    job = script.submit(root=root)
    ran = []
    for cluster in ("gpu", None, "gpu", None):
        script.run(cluster)
        ran.append(script.ran.copy())
        script.ran.clear()
    assert ran == [[], ["root", "here"], ["there"], ["here again"]]
    assert script.jobs.find(job).state is JobState.COMPLETED


@pytest.mark.parametrize("cluster", [None, "", "default"])
def test_default_cluster(script, cluster):
    """No cluster and "" mean the default cluster."""
    job = script.jobs.submit("job", Do("root"), cluster=cluster)
    script.run()
    assert script.jobs.find(job).state is JobState.COMPLETED


def test_subtasks_stay_on_the_cluster_of_their_runner(script, client):
    """Subtasks that name no cluster go to the one of the runner, not to the default one."""
    client.clusters().create("GPU", slug="gpu")
    script.behaviour["root"] = subtasks("child")
    script.jobs.submit("job", Do("root"), cluster="gpu")
    script.run("gpu")
    assert script.column("cluster") == {"root": "gpu", "child": "gpu"}
    assert script.states() == {"root": "COMPUTED", "child": "COMPUTED"}


def test_idle_runner(client):
    """run_all ends where there is nothing to run, also without any registered task."""
    client.runner(tasks=[]).run_all()
    client.runner(tasks=[Do]).run_all()
    assert client.jobs().query() == []


def test_task_as_it_sees_itself(script):
    """A running task knows its state, input, lease and job; of its job, the id, the name and the time of submission."""
    seen = []
    job = script.submit(root=lambda context: seen.append(replace(context.current_task)))
    script.run()
    (task,) = seen
    assert (task.state, task.identifier, task.input) == (RUNNING, TaskIdentifier("Do", "v0.0"), b'"root"')
    assert (task.display, task.retry_count, task.parent_id, task.depends_on) == ("Do", 0, None, [])
    assert task.lease == TaskLease(30, 5)
    no_stats = ExecutionStats(None, None, timedelta(0), timedelta(0), 0.0, 0, {})
    assert task.job == Job(job.id, job.name, job.trace_parent, JobState.UNSPECIFIED, job.submitted_at, [], no_stats)


# -- display (3.5, 4.8, 5.2) -------------------------------------------------------------------------------------------


def test_display_of_task(script):
    """A task is displayed by the name of its class until it sets its own display."""
    script.play("plain", "named", named=lambda context: setattr(context.current_task, "display", "Tile 32/U"))
    assert script.displays() == {"plain": "Do", "named": "Tile 32/U"}


def test_empty_display_keeps_the_stored_one(script):
    """An empty display counts as none."""
    script.play(root=lambda context: setattr(context.current_task, "display", ""))
    assert script.displays() == {"root": "Do"}


def test_long_display(script):
    """A display is cut at 1,024 characters."""
    script.play(root=lambda context: setattr(context.current_task, "display", "é" * 1025))
    assert script.displays() == {"root": "é" * 1024}


def test_display_of_failure(script):
    """A failed task shows its display and the error."""
    script.play(root=fail)
    assert script.displays() == {"root": "Do\nValueError('no data')"}


def test_long_display_of_failure(script):
    """A failure's display is cut at 1,024 characters, with the beginning of the error."""

    def root(context):
        raise ValueError("x" * 3000)

    script.play(root=root)
    assert script.displays() == {"root": "Do\nValueError('" + "x" * (1024 - 15)}


def test_display_none_of_failure(script):
    """A failed task without a display shows None, as the official runner does."""

    def root(context):
        context.current_task.display = None
        fail(context)

    script.play(root=root)
    assert script.displays() == {"root": "None\nValueError('no data')"}


# -- reports that cannot be stored -------------------------------------------------------------------------------------


class Unprintable:
    """Cannot be shown."""

    def __str__(self):
        raise RuntimeError("no text")


class Unspeakable(Task):
    """Has a name that is no text."""

    @staticmethod
    def identifier():
        return "task \udcff", "v1.0"


class Textual(Task):
    """Has an input that is text."""

    def _serialize(self):
        return "text"


class UnprintableError(Exception):
    """Cannot be shown."""

    def __repr__(self):
        raise RuntimeError("no repr")


def _raise_unprintable(context):
    raise UnprintableError


UNFIT = {
    "error without repr": _raise_unprintable,
    "display that is no string": lambda context: setattr(context.current_task, "display", 5),
    "display with a lone surrogate": lambda context: setattr(context.current_task, "display", "tile \udcff"),
    "display without text": lambda context: setattr(context.current_task, "display", Unprintable()),
    "progress that is no integer": lambda context: context.progress().add(1.5),
    "progress of 2**70": lambda context: context.progress().add(2**70),
    "progress label with a lone surrogate": lambda context: context.progress("tile \udcff").add(1),
    "name of a subtask with a lone surrogate": lambda context: context.submit_subtask(Unspeakable()),
    "input of a subtask that is no bytes": lambda context: context.submit_subtask(Textual()),
    "max_retries that is no integer": lambda context: context.submit_subtask(Do("a"), max_retries=2.5),
    "max_retries of 2**70": lambda context: context.submit_subtask(Do("a"), max_retries=2**70),
    "optional that is no bool": lambda context: context.submit_subtask(Do("a"), optional=None),
}


@pytest.mark.parametrize("behaviour", UNFIT.values(), ids=UNFIT.keys())
def test_report_that_cannot_be_stored(script, behaviour):
    """A report with unfit values ends its task, one way or the other; the runner survives and runs the next task."""
    unfit = script.submit("unfit", unfit=behaviour)
    other = script.submit("other")
    script.run()
    assert script.jobs.find(other).state is JobState.COMPLETED
    assert script.jobs.find(unfit).state in (JobState.FAILED, JobState.COMPLETED)


class BadStr(Exception):
    """Cannot be shown, like most exceptions whose __repr__ needs the text."""

    def __str__(self):
        raise RuntimeError("no text")

    __repr__ = __str__


def _label_then_raise(label, error):
    def root(context):
        context.current_task.display = label
        raise error

    return root


@pytest.mark.parametrize(
    ("label", "error", "display"),
    [
        ("Tile 7", BadStr(), "Tile 7\n<unprintable BadStr>"),
        (Unprintable(), ValueError("no data"), "<unprintable Unprintable>\nValueError('no data')"),
        (Unprintable(), BadStr(), "<unprintable Unprintable>\n<unprintable BadStr>"),
    ],
    ids=["error", "label", "both"],
)
def test_failure_that_cannot_be_shown(script, label, error, display):
    """Of a label and an error, each is kept although the other cannot be shown."""
    job = script.play(root=_label_then_raise(label, error))
    assert outcome(job) == (JobState.FAILED, {FAILED: 1})
    assert script.displays() == {"root": display}


def test_numpy_integers_in_report(script):
    """NumPy's integers are integers: in progress, and as max_retries of subtasks."""
    numpy = pytest.importorskip("numpy")

    def root(context):
        context.progress().add(numpy.int64(5))
        context.submit_subtask(Do("child"), max_retries=numpy.int32(2))

    job = script.play(root=root)
    assert outcome(job) == (JobState.COMPLETED, {COMPUTED: 2})
    assert job.progress == [ProgressIndicator(None, 5, 0)]


def test_report_that_cannot_be_stored_spares_others(store):
    """What the database refuses undoes its own transaction, not that of others that commit at the same time."""
    started, go_on = threading.Event(), threading.Event()

    def block(connection):
        started.set()
        go_on.wait()

    def insert(attributes):
        text = "INSERT INTO resource_records (attributes) VALUES (?)"
        return lambda connection: connection.execute(text, (attributes,)).fetchall()

    with ThreadPoolExecutor(3) as threads:
        threads.submit(store.transact, block)
        started.wait()
        good, bad = threads.submit(store.transact, insert("{}")), threads.submit(store.transact, insert(None))
        while len(store.writer._commands) < 2:
            pass  # both wait for the same next transaction
        go_on.set()
        assert good.exception() is None
        with pytest.raises(ArgumentError, match="NOT NULL constraint failed"):
            bad.result()
    with store.read() as connection:
        assert connection.execute("SELECT attributes FROM resource_records").fetchall() == [("{}",)]


@pytest.mark.parametrize(
    ("statement", "cause"),
    [
        ("INSERT INTO resource_records (attributes) VALUES (NULL)", apsw.ConstraintError),
        ("INSERT INTO resource_records (resource_no, attributes) VALUES ('one', '{}')", apsw.MismatchError),
        ("INSERT INTO group_records (job_no, dependency_count) VALUES (7, 0)", apsw.ConstraintError),
        ("SELECT zeroblob(1 << 30)", apsw.TooBigError),
    ],
)
def test_database_refuses_a_value(store, statement, cause):
    """What a constraint, a type or a limit forbids is the fault of who asked for it, not of the store."""
    with pytest.raises(ArgumentError) as raised:
        store.transact(lambda connection: connection.execute(statement).fetchall())
    assert type(raised.value.__cause__) is cause
    assert store.stats().failed_transaction_count == 0


def refuse(store, state):
    """From now on the database refuses to let a task with a certain display end in this state."""
    store.transact(
        lambda connection: connection.execute(
            "CREATE TRIGGER refuse BEFORE UPDATE OF state ON task_records"
            f" WHEN new.state = {state.value} AND new.display = 'refuse me'"
            " BEGIN SELECT RAISE(ABORT, 'no such display'); END"
        ).fetchall()
    )


def test_database_refuses_a_report(script):
    """A report that the database refuses fails its task, readably; the runner survives and runs the next one."""
    refuse(script.client._store, COMPUTED)
    refused = script.submit("bad", bad=lambda context: setattr(context.current_task, "display", "refuse me"))
    other = script.submit("other")
    script.run()
    assert outcome(script.jobs.find(refused)) == (JobState.FAILED, {FAILED: 1})
    assert script.displays() == {"bad": "Do\nArgumentError(':memory:: no such display.')", "other": "Do"}
    assert script.jobs.find(other).state is JobState.COMPLETED


class Unwritable(str):
    """A label that cannot be written down."""

    __slots__ = ()

    def __str__(self):
        raise RuntimeError("no text")


def test_failure_report_that_cannot_be_stored(script):
    """A failed task whose progress cannot be stored fails without it; the runner survives."""
    script.behaviour["bad"] = lambda context: (context.progress(Unwritable("tiles")).add(1), fail(context))
    bad, other = script.submit("bad"), script.submit("other")
    script.run()
    assert outcome(script.jobs.find(bad)) == (JobState.FAILED, {FAILED: 1})
    assert script.jobs.find(other).state is JobState.COMPLETED


# -- crashes (3.2, 3.13) -----------------------------------------------------------------------------------------------


def test_crash_is_not_a_retry(script, engine):
    """A task whose runner died runs again, without using up a retry."""
    job = script.submit()
    engine.lose(engine.claim())
    assert outcome(script.jobs.find(job)) == (JobState.RUNNING, {QUEUED: 1})
    assert script.column("retries || '/' || crashes") == {"root": "0/1"}
    script.run()
    assert script.jobs.find(job).state is JobState.COMPLETED


def test_twelve_crashes(script, engine):
    """The eleventh crash fails the task with the reason; there is no twelfth until the job is retried."""
    job = script.submit()
    crashes = 0
    for _ in range(12):
        claimed = engine.claim()
        if claimed is not None:
            engine.lose(claimed, "The runner died (process 7 on host).")
            crashes += 1
    assert crashes == 11
    assert outcome(script.jobs.find(job)) == (JobState.FAILED, {FAILED: 1})
    assert script.displays() == {"root": "Do\nThe runner died (process 7 on host)."}
    assert script.jobs.retry(job) == 1
    engine.lose(engine.claim())
    assert outcome(script.jobs.find(job)) == (JobState.RUNNING, {QUEUED: 1})


def test_crashes_in_optional_branch(script, engine):
    """Too many crashes inside of an optional branch fail the branch, not the job."""
    job = script.submit(root=subtasks("branch", optional=True))
    script.behaviour["branch"] = subtasks("bad", "never", cluster="gpu")
    script.client.clusters().create("GPU", slug="gpu")
    script.run()
    for _ in range(11):
        engine.lose(engine.claim(cluster_no=2))
    assert script.states() == {"root": "COMPUTED", "branch": "COMPUTED", "bad": "FAILED_OPTIONAL", "never": "SKIPPED"}
    assert script.jobs.find(job).state is JobState.COMPLETED


def test_crash_keeps_progress(script, engine):
    """A lost execution reports nothing: the progress of the one before stays until the next report."""
    job = script.submit(root=lambda context: (context.progress().add(7), fail(context)), max_retries=1)
    assert script.jobs.find(job).progress == []
    engine.fail(engine.claim(), progress=[ProgressIndicator(None, 7, 0)])
    engine.lose(engine.claim())
    assert script.jobs.find(job).progress == [ProgressIndicator(None, 7, 0)]
