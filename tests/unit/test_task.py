"""Task classes, their metadata and the grouping of subtasks, compared with the official package."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Generic, TypeVar

import pytest
import tilebox.workflows
from hypothesis import given, settings
from hypothesis import strategies as st
from tilebox.workflows import task as official

from tilebox_local import Client
from tilebox_local import task as local
from tilebox_local.data import TaskIdentifier, TaskSubmissionGroup, TaskSubmissions
from tilebox_local.runner.executor import ExecutionContext as RunningContext
from tilebox_local.task import (
    ExecutionContext,
    FutureTask,
    ProgressUpdate,
    Task,
    TaskMeta,
    deserialize_task,
    merge_future_tasks_to_submissions,
    serialize_task,
)

BASES = [Task, tilebox.workflows.Task]


class Plain(Task):
    x: int


class OfficialPlain(tilebox.workflows.Task):
    x: int

    @staticmethod
    def identifier() -> tuple[str, str]:
        return "example.com/plain", "v2.3"

    def execute(self, context: Any) -> None:
        pass


def local_context() -> RunningContext:
    """A context without a runner."""
    return RunningContext(None, None, None)


def test_subclasses_are_dataclasses() -> None:
    """Fields, defaults, inheritance, repr and equality are those of a dataclass."""

    class Base(Task):
        a: int
        b: list[int] = field(default_factory=list)

    class Derived(Base):
        c: str = "x"

    assert [member.name for member in fields(Derived)] == ["a", "b", "c"]
    assert Derived(1) == Derived(1, [], "x")
    assert Derived(1) != Derived(2)
    assert repr(Derived(1, [2])) == f"{Derived.__qualname__}(a=1, b=[2], c='x')"


@pytest.mark.parametrize("base", BASES)
def test_dataclass_rules_hold(base: Any) -> None:
    """Mutable defaults and fields without a default after others are refused as by dataclasses."""
    with pytest.raises(ValueError, match="mutable default <class 'list'> for field a is not allowed"):

        class Mutable(base):
            a: list[int] = []  # noqa: RUF012 -- the mistake under test

    with pytest.raises(TypeError, match="non-default argument 'b' follows default argument"):

        class Order(base):
            a: int = 1
            b: int


def test_abstract_mixins_and_generics_combine_with_tasks() -> None:
    """A task may derive from an ABC or a Generic; abstract tasks cannot be instantiated."""
    t = TypeVar("t")

    class Mixin(ABC):
        @abstractmethod
        def area(self) -> str: ...

    class Abstract(Task, Mixin):
        x: int

    class Concrete(Abstract, Generic[t]):
        def area(self) -> str:
            return "a"

    assert Concrete(1).area() == "a"
    assert Concrete._deserialize(b"1") == Concrete(1)
    with pytest.raises(TypeError, match="abstract"):
        Abstract(1)


def body(**members: Any) -> dict[str, Any]:
    return members


def execute_of(annotation: Any) -> Callable[..., Any]:
    def execute(self: Any, context: Any) -> Any: ...

    execute.__annotations__ = {"return": annotation}
    return execute


def identifier_of(name: Any, version: Any = "v1.0") -> Any:
    return staticmethod(lambda: (name, version))


def raising(error: Exception) -> Any:
    def identifier() -> Any:
        raise error

    return staticmethod(identifier)


REFUSED_BODIES: dict[str, dict[str, Any]] = {
    "empty name": body(identifier=identifier_of("")),
    "long name": body(identifier=identifier_of("a" * 257)),
    "version without v": body(identifier=identifier_of("a", "1.0")),
    "version with three parts": body(identifier=identifier_of("a", "v1.0.0")),
    "name is no text": body(identifier=identifier_of(5)),
    "version is no text": body(identifier=identifier_of("a", None)),
    "one value": body(identifier=staticmethod(lambda: ("a",))),
    "three values": body(identifier=staticmethod(lambda: ("a", "v1.0", "b"))),
    "no tuple": body(identifier=staticmethod(lambda: None)),
    "instance method": body(identifier=lambda self: ("a", "v1.0")),
    "no method": body(identifier="a"),
    "raises TypeError": body(identifier=raising(TypeError("inner"))),
    "raises ValueError": body(identifier=raising(ValueError("inner"))),
    "no context": body(execute=lambda self: None),
    "two contexts": body(execute=lambda self, context, more: None),
    "static execute": body(execute=staticmethod(lambda context: None)),
    "returns int": body(execute=execute_of(int)),
    "returns text": body(execute=execute_of("int")),
    "returns optional": body(execute=execute_of(int | None)),
    "returns list": body(execute=execute_of(list[None])),
    "returns awaitable int": body(execute=execute_of(Awaitable[int])),
    "returns bare awaitable": body(execute=execute_of(Awaitable)),
    "returns coroutine": body(execute=execute_of(Coroutine[None, None, str])),
    "returns unknown": body(execute=execute_of("Unknown")),
}


@pytest.mark.parametrize("members", REFUSED_BODIES.values(), ids=REFUSED_BODIES)
def test_refused_classes_have_the_official_error(members: dict[str, Any]) -> None:
    """Mistakes in a class body raise the error and the text of the official package."""
    errors = []
    for base in BASES:
        with pytest.raises(TypeError) as caught:
            type(base)("Sample", (base,), dict(members))
        errors.append((type(caught.value), str(caught.value)))
    assert errors[0] == errors[1]


def test_execute_of_a_base_sets_the_expected_signature() -> None:
    """The error shows the execute that is overridden."""

    class Base:
        def execute(self, context: int) -> None: ...

    errors = []
    for base in BASES:
        with pytest.raises(TypeError) as caught:
            type(base)("Sample", (base, Base), body(execute=lambda self: None))
        errors.append(str(caught.value))
    assert errors[0] == errors[1]
    assert errors[0].startswith("Expected a function signature of Sample.execute(self, context: int) -> None, but got ")


ACCEPTED_RETURNS: list[Any] = [
    None,
    "None",
    "Awaitable[None]",
    inspect.Signature.empty,
    type(None),
    Awaitable[None],
    Coroutine[Any, Any, None],
    Awaitable[None] | None,
    Coroutine[Any, Any, None] | Awaitable[None],
]


@pytest.mark.parametrize("annotation", ACCEPTED_RETURNS, ids=str)
@pytest.mark.parametrize("base", BASES)
def test_execute_may_be_annotated_to_return_nothing(base: Any, annotation: Any) -> None:
    """No annotation, None and awaitables of None are accepted."""
    cls = type(base)("Sample", (base,), body(execute=execute_of(annotation)))
    assert TaskMeta.for_task(cls) == TaskMeta(TaskIdentifier("Sample", "v0.0"), True)


@pytest.mark.parametrize("annotation", ["None", "Awaitable[None]"])
@pytest.mark.parametrize("base", BASES)
def test_texts_of_accepted_annotations_need_no_import(base: Any, annotation: str) -> None:
    """Postponed annotations with names that exist for type checkers only are compared as text."""
    namespace: dict[str, Any] = {}
    exec(f"def execute(self, context: 'Unknown') -> '{annotation}': ...", namespace)
    cls = type(base)("Sample", (base,), body(execute=namespace["execute"]))
    assert TaskMeta.for_task(cls).executable is True


@pytest.mark.parametrize("base", BASES)
def test_typing_override_switches_the_checks_off(base: Any) -> None:
    """A method marked with typing.override (which sets this attribute) is taken as it is."""

    def execute(self: Any, *args: Any) -> int: ...

    execute.__override__ = True  # type: ignore[attr-defined]
    sample = type(base)("Sample", (base,), body(execute=execute))

    assert TaskMeta.for_task(sample).executable is True


@pytest.mark.parametrize("base", BASES)
def test_class_is_executable_if_it_defines_execute_itself(base: Any) -> None:
    """An inherited execute does not make a task that can be run; async methods do."""

    class Runs(base):
        async def execute(self, context: ExecutionContext) -> None: ...

    class Inherits(Runs):
        pass

    class Submits(base):
        x: int

    executable = [TaskMeta.for_task(cls).executable for cls in (Runs, Inherits, Submits)]
    assert executable == [True, False, False]


@pytest.mark.parametrize("base", BASES)
def test_identifier_may_be_static_or_a_class_method(base: Any) -> None:
    """The default is the class name and v0.0; an inherited identifier counts."""

    class Default(base):
        pass

    class Static(base):
        @staticmethod
        def identifier() -> tuple[str, str]:
            return "example.com/static", "v3.14"

    class Inherited(Static):
        pass

    class FromClass(base):
        @classmethod
        def identifier(cls) -> tuple[str, str]:
            return cls.__name__.lower(), "v10.0"

    identifiers = [TaskMeta.for_task(cls).identifier for cls in (Default, Static, Inherited, FromClass)]
    assert identifiers == [
        TaskIdentifier("Default", "v0.0"),
        TaskIdentifier("example.com/static", "v3.14"),
        TaskIdentifier("example.com/static", "v3.14"),
        TaskIdentifier("fromclass", "v10.0"),
    ]


def test_metadata_is_that_of_the_class() -> None:
    """Tasks and task classes, ours and official ones, give metadata of our types."""
    expected = TaskMeta(TaskIdentifier("example.com/plain", "v2.3"), True)
    assert TaskMeta.for_task(Plain(1)) is TaskMeta.for_task(Plain)
    assert [TaskMeta.for_task(task) for task in (OfficialPlain, OfficialPlain(1))] == [expected, expected]
    assert type(TaskMeta.for_task(OfficialPlain).identifier) is TaskIdentifier


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (5, "int"),
        (Task, "Task"),
        (tilebox.workflows.Task, "Task"),
        (dict, "dict"),
        (None, "NoneType"),
        (dataclass(type("Other", (), {})), "Other"),
    ],
)
def test_other_objects_are_no_tasks(value: Any, name: str) -> None:
    """The TypeError has the text of the official package; the base class is no task either."""
    errors = []
    for meta in (TaskMeta, official.TaskMeta):
        with pytest.raises(TypeError) as caught:
            meta.for_task(value)
        errors.append(str(caught.value))
    assert errors == [f"{name} is not a task!"] * 2


def test_functions_and_methods_serialize_alike() -> None:
    """serialize_task and deserialize_task are what Task._serialize and Task._deserialize do."""
    assert (serialize_task(Plain(1)), Plain(1)._serialize()) == (b"1", b"1")
    assert (deserialize_task(Plain, b"1"), Plain._deserialize(b"1", None)) == (Plain(1), Plain(1))


@pytest.mark.parametrize("value", [5, "x", object(), None])
def test_only_dataclasses_are_serialized(value: Any) -> None:
    """Anything else is a TypeError with the text of the official package."""
    errors = []
    for module in (local, official):
        with pytest.raises(TypeError) as caught:
            module.serialize_task(value)
        errors.append(str(caught.value))
    assert errors == ["Cannot serialize the given task - did you inherit from Task?"] * 2


def test_future_task_describes_its_task() -> None:
    """Identifier, input and display come from the task, also from one of the official package."""
    ours = FutureTask(0, Plain(1), [], None, 0, False)
    theirs = FutureTask(1, OfficialPlain(2), [0], "c", 3, True)  # type: ignore[arg-type]
    assert (ours.identifier(), ours.input(), ours.display()) == (
        TaskIdentifier("Plain", "v0.0"),
        b"1",
        "Plain",
    )
    assert (theirs.identifier(), theirs.input(), theirs.display()) == (
        TaskIdentifier("example.com/plain", "v2.3"),
        b"2",
        "OfficialPlain",
    )


def test_no_subtasks_are_no_submission() -> None:
    """An empty list has nothing to submit."""
    assert merge_future_tasks_to_submissions([], "c") is None


def test_subtasks_are_grouped_with_their_look_ups() -> None:
    """Three maps and a reducer on all of them are two groups; equal texts are listed once."""
    future_tasks = [
        FutureTask(0, Plain(0), [], None, 0, False),
        FutureTask(1, OfficialPlain(1), [], "gpu", 2, True),  # type: ignore[arg-type]
        FutureTask(2, Plain(2), [], "", 0, False),
        FutureTask(3, Plain(3), [2, 0, 1, 0], "gpu", 1, False),
    ]
    assert merge_future_tasks_to_submissions(future_tasks, "cpu") == TaskSubmissions(
        task_groups=[
            TaskSubmissionGroup(
                dependencies_on_other_groups=[],
                inputs=[b"0", b"1", b"2"],
                identifier_pointers=[0, 1, 0],
                cluster_slug_pointers=[0, 1, 0],
                display_pointers=[0, 1, 0],
                max_retries_values=[0, 2, 0],
                optional_values=[False, True, False],
            ),
            TaskSubmissionGroup([0], [b"3"], [0], [1], [0], [1], [False]),
        ],
        cluster_slug_lookup=["cpu", "gpu"],
        identifier_lookup=[TaskIdentifier("Plain", "v0.0"), TaskIdentifier("example.com/plain", "v2.3")],
        display_lookup=["Plain", "OfficialPlain"],
    )


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sets(st.integers(0, 20)), max_size=12), st.booleans())
def test_groups_are_those_of_the_official_package(edges: list[set[int]], shares_lists: bool) -> None:
    """Any graph of subtasks is grouped alike, whether or not tasks share a list of dependencies."""
    shared: dict[tuple[int, ...], list[int]] = {}
    futures: list[tuple[Any, ...]] = []
    for index, dependencies in enumerate(edges):
        depends_on = [dependency for dependency in dependencies if dependency < index]
        if shares_lists:
            depends_on = shared.setdefault(tuple(depends_on), depends_on)
        futures.append((index, OfficialPlain(index), depends_on, None, 0, False))
    ours = merge_future_tasks_to_submissions([FutureTask(*future) for future in futures], "c")
    theirs = official.merge_future_tasks_to_submissions([official.FutureTask(*future) for future in futures], "c")
    expected = None
    if theirs is not None:
        expected = asdict(theirs)
        for group in expected["task_groups"]:
            group["dependencies_on_other_groups"].sort()  # theirs is in the order of a set
    assert (None if ours is None else asdict(ours)) == expected


def test_shared_dependencies_are_not_counted_per_task() -> None:
    """20,000 tasks that depend on the same 20,000, so 400 million edges, are merged at once."""
    mappers = [FutureTask(index, Plain(0), [], None, 0, False) for index in range(20_000)]
    everything = list(range(20_000))
    reducers = [FutureTask(20_000 + index, Plain(1), everything, None, 0, False) for index in range(20_000)]
    merged = merge_future_tasks_to_submissions(mappers + reducers, "c")
    assert merged is not None
    groups = [(group.dependencies_on_other_groups, len(group.inputs)) for group in merged.task_groups]
    assert groups == [([], 20_000), ([0], 20_000)]


def test_unknown_dependency_is_refused() -> None:
    """An index outside of the subtasks is a ValueError with the text of submit_subtask."""
    with pytest.raises(ValueError, match=r"^Dependent task 7 does not exist$"):
        merge_future_tasks_to_submissions([FutureTask(0, Plain(1), [7], None, 0, False)], "c")


def test_progress_counts_up() -> None:
    """Each call adds to what was reported before."""
    progress = ProgressUpdate("tiles")
    progress.add(5)
    progress.add(2)
    progress.done(3)
    assert (progress._label, progress._total, progress._done) == ("tiles", 7, 3)


def test_execution_context_has_the_official_members() -> None:
    """Users annotate with ExecutionContext: its members and signatures are the official ones."""
    assert ExecutionContext.__abstractmethods__ == official.ExecutionContext.__abstractmethods__
    assert set(ExecutionContext.__annotations__) == set(official.ExecutionContext.__annotations__)
    for name in ("submit_subtask", "submit_subtasks", "submit_batch", "progress"):
        ours = inspect.signature(getattr(ExecutionContext, name)).parameters.values()
        theirs = inspect.signature(getattr(official.ExecutionContext, name)).parameters.values()
        assert [(p.name, p.default, p.kind) for p in ours] == [(p.name, p.default, p.kind) for p in theirs]
    with pytest.raises(TypeError, match="abstract"):
        ExecutionContext()  # type: ignore[abstract]


def test_public_names_cover_the_official_module() -> None:
    """What the official module defines for users can be imported from ours."""
    defined = {
        name
        for name, value in vars(official).items()
        if getattr(value, "__module__", "") == official.__name__ and not name.startswith("_")
    }
    assert defined - set(local.__all__) == set()


@pytest.mark.parametrize("task", [Plain, OfficialPlain])
def test_class_instead_of_instance(task: Any) -> None:
    """Submitting a class raises TypeError where it is submitted, and says what to submit."""
    with Client(":memory:") as client:
        uses = (
            lambda: client.jobs().submit("j", task),
            lambda: client.jobs().submit("j", [task(1), task]),
            lambda: local_context().submit_subtask(task),
            lambda: local_context().submit_subtasks([task(1), task]),
        )
        for use in uses:
            with pytest.raises(TypeError) as caught:
                use()
            name = task.__name__
            assert str(caught.value) == f"{name} is a class; submit an instance: {name}(...)"
        with pytest.raises(TypeError, match=r"^int is not a task!$"):
            client.jobs().submit("j", int)
        assert client.jobs().query() == []
