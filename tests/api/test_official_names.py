"""The public API has the official package's names, signatures and values."""

from __future__ import annotations

import dataclasses
import enum
import importlib
import inspect
import sys
from typing import Any
from uuid import UUID

import pytest

pytest.importorskip("tilebox.workflows", reason="the official package is only in the dev extra")

MODULES = {
    "": ["Client", "ExecutionContext", "Job", "Runner", "Task"],
    ".data": [
        "Cluster", "ComputedTask", "ExecutionStats", "FailedTask", "Idling", "Job", "JobState", "LogRecord",
        "LogRecords", "LogSeverity", "ProgressIndicator", "QueryFilters", "RunnerContext", "Span", "Spans", "Task",
        "TaskIdentifier", "TaskLease", "TaskState", "TaskSubmissionGroup", "TaskSubmissions",
    ],
    ".task": ["ExecutionContext", "FutureTask", "ProgressUpdate", "Task", "TaskMeta"],
    ".cache": [
        "AmazonS3Cache", "AzureBlobCache", "GoogleStorageCache", "InMemoryCache", "JobCache", "LocalFileSystemCache",
        "NoCache", "NoCacheError", "ObstoreCache",
    ],
    ".client": ["Client"],
    ".jobs.client": ["JobClient"],
    ".clusters.client": ["ClusterClient", "to_cluster_slug"],
    ".runner": ["Runner", "TaskRunner"],
    ".runner.runner": ["Runner"],
    ".runner.task_runner": ["TaskRunner"],
    ".runner.executor": ["ExecutionContext", "TaskExecutor"],
    ".observability.tracing": [
        "NoopWorkflowTracer", "WorkflowTracer", "configure_otel_tracing", "configure_otel_tracing_axiom",
        "get_trace_parent_of_current_span", "start_job_span",
    ],
    ".observability.logging": [
        "ColorfulConsoleFormatter", "StructuredLogger", "configure_console_logging", "configure_log_level",
        "configure_otel_logging", "configure_otel_logging_axiom", "get_logger",
    ],
    ".automations": ["CronTask", "StorageEventTask", "StorageEventType"],
    ".storage_locations": ["LocalReference", "StorageLocation", "StorageLocationClient", "StorageType"],
}  # fmt: skip


def _pairs() -> list[tuple[str, str]]:
    return [(module, name) for module, names in MODULES.items() for name in names]


def _get(package: str, module: str, name: str) -> Any:
    return getattr(importlib.import_module(package + module), name)


@pytest.mark.parametrize(("module", "name"), _pairs())
def test_name_exists(module: str, name: str) -> None:
    """The name can be imported from the module with the same path."""
    ours, official = _get("tilebox_local", module, name), _get("tilebox.workflows", module, name)
    assert type(ours).__name__.replace("_ABCTaskify", "") or ours
    assert inspect.isclass(ours) == inspect.isclass(official)


@pytest.mark.parametrize(
    "name",
    [
        n
        for n in MODULES[".data"]
        if n not in ("Task",) and dataclasses.is_dataclass(_get("tilebox.workflows", ".data", n))
    ],
)
def test_fields(name: str) -> None:
    """Dataclasses have the official fields, in order, with the same defaults and ordering."""

    def shape(cls: Any) -> Any:
        return [(f.name, f.default is not dataclasses.MISSING, f.init, f.compare) for f in dataclasses.fields(cls)]

    ours, official = _get("tilebox_local", ".data", name), _get("tilebox.workflows", ".data", name)
    assert shape(ours) == shape(official)
    for option in ("order", "frozen", "eq", "unsafe_hash"):
        assert getattr(ours.__dataclass_params__, option) == getattr(official.__dataclass_params__, option), option


@pytest.mark.parametrize(
    "name", [n for n in MODULES[".data"] if isinstance(_get("tilebox.workflows", ".data", n), enum.EnumMeta)]
)
def test_enum_values(name: str) -> None:
    """Enums have the official members and values."""
    ours, official = _get("tilebox_local", ".data", name), _get("tilebox.workflows", ".data", name)
    assert [(member.name, member.value) for member in ours] == [(member.name, int(member.value)) for member in official]
    assert name != "JobState" or ours.QUEUED is ours.SUBMITTED


METHODS = [
    (".jobs.client", "JobClient", ["submit", "retry", "cancel", "find", "query_logs", "query_spans", "query"]),
    (".jobs.client", "JobClient", ["display", "visualize"]),
    (".clusters.client", "ClusterClient", ["create", "update", "all", "find", "delete"]),
    (".client", "Client", ["jobs", "runner", "clusters", "workflows", "automations", "storage_locations"]),
    (".client", "Client", ["configure_logging"]),
    (".runner.runner", "Runner", ["__init__", "register", "connect_to"]),
    (".runner.task_runner", "TaskRunner", ["register", "run_forever", "run_all"]),
    (".runner.executor", "ExecutionContext", ["submit_subtask", "submit_subtasks", "submit_batch", "progress"]),
    (".observability.tracing", "WorkflowTracer", ["span", "current_span"]),
    (".observability.logging", "StructuredLogger", ["bind", "log", "debug", "info", "warning", "error"]),
    (".observability.logging", "StructuredLogger", ["exception", "critical"]),
    (".task", "ProgressUpdate", ["add", "done"]),
]  # fmt: skip


@pytest.mark.parametrize(("module", "cls", "method"), [(m, c, x) for m, c, names in METHODS for x in names])
def test_signature(module: str, cls: str, method: str) -> None:
    """Methods take the official parameters, in order, of the same kind, with the same defaults."""

    def shape(function: Any) -> Any:
        return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]

    ours = shape(getattr(_get("tilebox_local", module, cls), method))
    official = shape(getattr(_get("tilebox.workflows", module, cls), method))
    assert ours[: len(official)] == official
    assert all(kind is inspect.Parameter.KEYWORD_ONLY for _, kind, _ in ours[len(official) :])


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (".observability.logging", n)
        for n in (
            "configure_console_logging",
            "configure_log_level",
            "get_logger",
            "configure_otel_logging",
            "configure_otel_logging_axiom",
        )
    ]
    + [(".observability.tracing", n) for n in ("configure_otel_tracing", "configure_otel_tracing_axiom")],
)
def test_function_signature(module: str, name: str) -> None:
    """Functions take the official parameters with the same defaults."""

    def shape(function: Any) -> Any:
        return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]

    assert shape(_get("tilebox_local", module, name)) == shape(_get("tilebox.workflows", module, name))


def test_official_task_classes_run_unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    """A task class written for the official package runs on our runner, with its subtasks, inputs and spans."""
    from tilebox.workflows import ExecutionContext as OfficialContext
    from tilebox.workflows import Task as OfficialTask

    from tilebox_local import Client
    from tilebox_local.data import JobState

    class Leaf(OfficialTask):  # type: ignore[misc]
        number: int
        name: str

        def execute(self, context: OfficialContext) -> None:
            with context.tracer.span("leaf-work") as span:
                span.set_attribute("number", self.number)

    class Root(OfficialTask):  # type: ignore[misc]
        def execute(self, context: OfficialContext) -> None:
            first = context.submit_subtasks([Leaf(number=1, name="a"), Leaf(number=2, name="b")])
            context.submit_subtask(Leaf(number=3, name="c"), depends_on=first)

    with Client(":memory:") as client:
        job = client.jobs().submit("official", Root())
        client.runner(tasks=[Root, Leaf]).run_all()
        assert client.jobs().find(job).state is JobState.COMPLETED
        spans = client.jobs().query_spans(job)
        assert [span.name for span in spans] == ["job/official", "task/Root"] + ["task/Leaf", "leaf-work"] * 3
        assert [s.attributes["number"] for s in spans if s.name == "leaf-work"] == [1, 2, 3]


def test_the_current_task_is_what_its_type_says() -> None:
    """Type checkers know all that the running task has: the official names, its id and how often it was retried."""
    from tilebox_local import Client, ExecutionContext, Task
    from tilebox_local.task import CurrentTask

    def names(protocol: Any) -> set[str]:
        return {name for name in [*vars(protocol), *protocol.__annotations__] if not name.startswith("_")}

    assert names(CurrentTask) == names(_get("tilebox.workflows", ".task", "CurrentTask")) | {"id", "retry_count"}
    seen: list[Any] = []

    class Look(Task):
        def execute(self, context: ExecutionContext) -> None:
            task = context.current_task
            seen.extend([type(task.id), task.display, task.retry_count, task.job.id, task.job.name])

    with Client(":memory:") as client:
        job = client.jobs().submit("job", Look())
        client.runner(tasks=[Look]).run_all()
    assert seen == [UUID, "Look", 0, job.id, "job"]


def test_records_equal_those_of_the_official_client() -> None:
    """to_pandas() gives the official columns and dtypes, for spans and for logs."""
    from tilebox.workflows import data as official

    from tilebox_local import Client, ExecutionContext, Task

    class Work(Task):
        def execute(self, context: ExecutionContext) -> None:
            context.logger.info("hello", n=1)
            with context.tracer.span("inner"):
                context.logger.warning("there")

    with Client(":memory:") as client:
        job = client.jobs().submit("frames", Work())
        client.runner(tasks=[Work]).run_all()
        spans, logs = client.jobs().query_spans(job), client.jobs().query_logs(job)
        frames = [spans.to_pandas(), logs.to_pandas()]
        expected = [
            official.Spans([official.Span(**dataclasses.asdict(span)) for span in spans]).to_pandas(),
            official.LogRecords([official.LogRecord(**dataclasses.asdict(log)) for log in logs]).to_pandas(),
        ]
        after = [spans.to_pandas(), logs.to_pandas()]  # now from objects
    for ours, objects, theirs in zip(frames, after, expected, strict=True):
        assert list(ours.columns) == list(theirs.columns)
        assert ours.dtypes.to_dict() == theirs.dtypes.to_dict()
        assert objects.dtypes.to_dict() == theirs.dtypes.to_dict()
        assert ours.to_dict("records") == theirs.to_dict("records")


def test_hosted_modules_do_not_load_the_official_package() -> None:
    """Using our API imports nothing of the official package."""
    import subprocess

    code = "from tilebox_local import *; import tilebox_local.automations, sys; print('tilebox' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
