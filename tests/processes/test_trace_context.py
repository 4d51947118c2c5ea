"""Processes that continue the trace of another one: by the environment, by a carrier, and as children of a task."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from store_support import outside

if TYPE_CHECKING:
    from process_support import Stage

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"


def test_the_environment_is_continued(stage: Stage) -> None:
    """With TRACEPARENT and TRACESTATE in the environment, root spans of all tracers stand below the span they name."""
    script = """
make("one")
with spanned("two"):
    make("below", "two")
client().tracer_provider.get_tracer("mine").start_span("three").end()
job = client().jobs().submit("job", Say())
print(job.trace_parent[3:35])
""".replace("Say()", "type('Say', (Task,), {'execute': lambda self, context: None})()")
    output = stage.play_output(script, TRACEPARENT=PARENT, TRACESTATE="vendor=1")
    assert output == [TRACE]
    rows = outside(stage.path, "SELECT name, trace_id, parent_span_id, job_name FROM spans ORDER BY name")
    one, above = "b7ad6b7169203331", next(parent for name, _, parent, _ in rows if name == "below")
    assert rows == [
        ("below", TRACE, above, None),
        ("job/job", TRACE, one, "job"),
        ("one", TRACE, one, None),
        ("three", TRACE, one, None),
        ("two", TRACE, one, None),
    ]
    assert outside(stage.path, "SELECT DISTINCT trace_state FROM span_records") == [("vendor=1",)]


@pytest.mark.parametrize("value", ["", "nonsense", f"00-{'0' * 32}-b7ad6b7169203331-01", PARENT[:-2] + "00"])
def test_an_environment_that_says_nothing(value: str, stage: Stage) -> None:
    """A malformed TRACEPARENT, or one of a trace that is not recorded, is ignored: spans are stored, each a root."""
    played = stage.play_well("make('one')\nmake('two')", TRACEPARENT=value)
    assert played.names() == ["one", "two"]
    assert outside(stage.path, "SELECT count(DISTINCT trace_id), count(parent_span_id) FROM spans") == [(2, 0)]


def test_a_current_span_wins(stage: Stage) -> None:
    """Inside of a span, and with a context that names one, the environment is not asked."""
    script = f"""
make("named", carrier={{"traceparent": "00-{"1" * 32}-{"2" * 16}-01"}})
"""
    stage.play_output(script, TRACEPARENT=PARENT)
    assert outside(stage.path, "SELECT trace_id, parent_span_id FROM spans") == [("1" * 32, "2" * 16)]


SUBPROCESS = """
import subprocess
from tilebox_local.observability.logging import get_logger
from tilebox_local.observability.tracing import get_trace_parent_of_current_span

class Root(Task):
    def execute(self, context: ExecutionContext) -> None:
        with spanned("in the task", "task/Root", context.tracer):
            environment = os.environ | {"TRACEPARENT": get_trace_parent_of_current_span()}
            subprocess.run([sys.executable, __file__, "child"], env=environment, check=True)

if sys.argv[1:]:
    with spanned("child", "in the task"):
        get_logger("child").warning("from the child")
        make("below", "child")
else:
    client().jobs().submit("job", Root())
    client().runner(tasks=[Root]).run_all()
"""


def test_a_subprocess_of_a_task(stage: Stage) -> None:
    """Spans and logs of a program that a task starts with TRACEPARENT belong to the task's job, with its own pid."""
    played = stage.play(SUBPROCESS)
    assert played.code == 0, played.complaints
    assert [row for row in played.stored if "/" not in row[0]] == played.acknowledged
    assert outside(stage.path, "SELECT name, job_name FROM spans ORDER BY name") == [
        ("below", "job"),
        ("child", "job"),
        ("in the task", "job"),
        ("job/job", "job"),
        ("task/Root", "job"),
    ]
    logs = "SELECT l.body, l.job_name, s.name FROM logs l JOIN spans s ON s.span_id = l.span_id"
    assert outside(stage.path, logs) == [("from the child", "job", "child")]


def test_logs_of_a_forked_child(stage: Stage) -> None:
    """What a forked child of a task logs, outside of spans of its own, belongs to the span that the task is in."""
    script = """
class Root(Task):
    def execute(self, context: ExecutionContext) -> None:
        with context.tracer.span("in the task"):
            process = multiprocessing.get_context("fork").Process(target=context.logger.info, args=("from the child",))
            process.start()
            process.join()
        context.logger.info("from the task")

client().jobs().submit("job", Root())
client().runner(tasks=[Root]).run_all()
"""
    stage.play_output(
        "from tilebox_local.observability import logging\nlogging.configure_console_logging(enabled=False)\n" + script
    )
    query = """
SELECT l.body, s.name, l.task_id IS NOT NULL, json_extract(l.attributes, '$.task_id') = l.task_id, l.job_name
FROM logs l JOIN spans s ON s.span_id = l.span_id ORDER BY l.time_ns
"""
    assert outside(stage.path, query) == [
        ("from the child", "in the task", 1, 1, "job"),
        ("from the task", "task/Root", 1, 1, "job"),
    ]


FORKING_TASK = """
class Root(Task):
    def execute(self, context: ExecutionContext) -> None:
        pid = os.fork()
        if not pid:
            make("child", "task/Root")
            {end}
        print("child", wait_for_child(pid))
        context.progress().done(1)

client().jobs().submit("job", Root())
try:
    client().runner(tasks=[Root]).run_all()
finally:
    print("end", flush=True)
"""


@pytest.mark.parametrize(
    ("end", "code", "complaint"),
    [
        ("sys.exit(3)", 3, ""),
        ("raise KeyboardInterrupt", -2, "KeyboardInterrupt"),
        ("raise ValueError('no data')", 1, "came back from its execute()"),
        ("return", 1, "came back from its execute()"),
        ("client().close(); os._exit(0)", 0, ""),
    ],
)
def test_a_task_that_forks(end: str, code: int, complaint: str, stage: Stage) -> None:
    """However a child that a task has forked ends, it reports nothing: the task is the parent's, and done once."""
    played = stage.play(FORKING_TASK.format(end=end))
    assert played.code == 0
    assert [line for line in played.output if line.startswith("child")] == [f"child {code}"]
    assert complaint in played.complaints
    assert [row for row in played.stored if row[0] == "child"] == played.acknowledged
    assert outside(stage.path, "SELECT name, state, attempts, crashes FROM tasks") == [("Root", "COMPUTED", 1, 0)]
    assert outside(stage.path, "SELECT sum(done) FROM progress_records") == [(1,)]
    assert outside(stage.path, "SELECT name, status FROM spans WHERE name LIKE 'task/%'") == [("task/Root", "UNSET")]
    assert outside(stage.path, "SELECT count(*), count(stopped_at) FROM runners") == [(1, 1)]


THREADS_OF_A_TASK = """
from tilebox_local.observability import logging
logging.configure_console_logging(enabled=False)

class Root(Task):
    def execute(self, context: ExecutionContext) -> None:
        @context.tracer.span("decorated")
        def decorated():
            pass

        def work(number):
            with spanned(f"bare {number}", "task/Root", context.tracer):
                make(f"below {number}", f"bare {number}")
                with spanned(f"root {number}", None, context.tracer, context=Context()):
                    pass
            with spanned(f"with arguments {number}", "task/Root", context.tracer, attributes={"a": 1}):
                pass
            context.logger.bind(number=number).info("from a thread")

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(work, range(10)))
            pool.submit(decorated).result()
        with spanned("outer", "task/Root", context.tracer):
            make("in the task", "outer")

from opentelemetry.context import Context
client().jobs().submit("first", Root())
client().jobs().submit("second", Root())
client().runner(tasks=[Root]).run_all()
"""


def test_threads_of_a_task(stage: Stage) -> None:
    """In threads of a pool, which have no current span, spans of context.tracer and logs belong to the task's span."""
    played = stage.play(THREADS_OF_A_TASK)
    assert (played.code, played.complaints) == (0, "")
    rest = [row for row in played.stored if "/" not in row[0] and row[0] != "decorated"]
    assert sorted(rest, key=str) == played.acknowledged
    query = "SELECT job_name, count(*), count(DISTINCT task_id), count(task_id) FROM spans GROUP BY 1 ORDER BY 1"
    # 2 x (10 x (bare, below, with arguments) + decorated, outer, in the task, task, job); the roots asked for no parent
    assert outside(stage.path, query) == [(None, 20, 2, 20), ("first", 35, 1, 34), ("second", 35, 1, 34)]
    logs = """
SELECT l.job_name, s.name, count(*), count(DISTINCT json_extract(l.attributes, '$.number'))
FROM logs l JOIN spans s ON s.span_id = l.span_id AND s.task_id = l.task_id GROUP BY 1, 2 ORDER BY 1
"""
    assert outside(stage.path, logs) == [("first", "task/Root", 10, 10), ("second", "task/Root", 10, 10)]
    decorated = "SELECT p.name FROM spans s JOIN spans p ON p.span_id = s.parent_span_id WHERE s.name = 'decorated'"
    assert outside(stage.path, decorated) == [("task/Root",)] * 2


def test_a_child_of_the_second_job_of_a_trace(stage: Stage) -> None:
    """A job submitted by a task shares its trace; forked children of its tasks belong to it, by their parent span."""
    script = """
class Inner(Task):
    def execute(self, context: ExecutionContext) -> None:
        with multiprocessing.get_context("fork").Pool(2) as pool:
            pool.starmap(make, [("inner 0", "task/Inner"), ("inner 1", "task/Inner")])

class Outer(Task):
    def execute(self, context: ExecutionContext) -> None:
        client().jobs().submit("inner", Inner())
        with multiprocessing.get_context("fork").Pool(2) as pool:
            pool.starmap(make, [("outer 0", "task/Outer"), ("outer 1", "task/Outer")])

client().jobs().submit("outer", Outer())
client().runner(tasks=[Outer, Inner]).run_all()
"""
    played = stage.play(script)
    assert (played.code, played.complaints) == (0, "")
    assert [row for row in played.stored if "/" not in row[0]] == played.acknowledged
    assert outside(stage.path, "SELECT count(DISTINCT trace_id) FROM spans") == [(1,)]
    assert outside(stage.path, "SELECT name, job_name FROM spans WHERE name NOT LIKE '%/%' ORDER BY name") == [
        ("inner 0", "inner"),
        ("inner 1", "inner"),
        ("outer 0", "outer"),
        ("outer 1", "outer"),
    ]
