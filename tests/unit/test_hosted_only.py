"""Features of hosted Tilebox: what names them imports and is defined, what uses them raises a clear error."""

import inspect
from importlib import import_module
from uuid import UUID

import pytest

from tilebox_local.automations import CronTask, StorageEventTask, StorageEventType
from tilebox_local.automations.client import AutomationClient
from tilebox_local.data import RunnerContext, TaskIdentifier
from tilebox_local.storage_locations import (
    AWSS3StorageLocation,
    AzureBlobStorageLocation,
    GCSStorageLocation,
    LocalReference,
    StorageLocation,
    StorageType,
)
from tilebox_local.storage_locations.client import StorageLocationClient
from tilebox_local.task import ExecutionContext, TaskMeta
from tilebox_local.workflows.client import WorkflowClient

HINT = (
    "is a feature of hosted Tilebox and not available in tilebox-local. "
    "Use the official tilebox-workflows package with a Tilebox account for it."
)
LOCATION = StorageLocation(UUID(int=1), "/data", StorageType.LOCAL)


class Nightly(CronTask):
    """A task as users write it."""

    region: str

    def execute(self, context: ExecutionContext) -> None:
        self.seen = self.trigger


class OnUpload(StorageEventTask):
    """A task as users write it."""

    @staticmethod
    def identifier() -> tuple[str, str]:
        return "tilebox.com/on-upload", "v1.2"

    def execute(self, context: ExecutionContext) -> None:
        self.seen = self.trigger


USES = {
    "Listing automations": lambda: AutomationClient().all(),
    "Finding an automation": lambda: AutomationClient().find(UUID(int=1)),
    "The cron automation 'n'": lambda: AutomationClient().create_cron_automation("n", Nightly("eu"), "0 0 * * *"),
    "The storage event automation 's'": lambda: AutomationClient().create_storage_event_automation(
        "s", OnUpload(), [(LOCATION, "*.tif")], cluster="c", max_retries=1
    ),
    "Deleting an automation": lambda: AutomationClient().delete("id", cancel_jobs=True),
    "Listing storage locations": lambda: StorageLocationClient().all(),
    "Finding a storage location": lambda: StorageLocationClient().find(LOCATION),
    "The storage location 'x'": lambda: StorageLocationClient().create("x", LocalReference("/data")),
    "Renaming a storage location": lambda: StorageLocationClient().update(LOCATION, "y"),
    "Reading from the storage location /data": lambda: LOCATION.read("a.tif"),
    "The workflow 'w'": lambda: WorkflowClient().create("w", "summary"),
    "Listing workflows": lambda: WorkflowClient().all(),
    "Finding a workflow": lambda: WorkflowClient().find("w"),
    "Updating a workflow": lambda: WorkflowClient().update("w", summary=""),
    "Deleting a workflow": lambda: WorkflowClient().delete("w"),
    "Unpublishing a release": lambda: WorkflowClient().unpublish_release("w", UUID(int=1)),
    "Deploying a release": lambda: WorkflowClient().deploy_release("w", "r", clusters=["c"]),
    "Undeploying a release": lambda: WorkflowClient().undeploy_release("w", "r"),
    "CronTask.once": lambda: Nightly("eu").once(),
    "StorageEventTask.once": lambda: OnUpload().once(LOCATION, "a.tif"),
    "Submitting Nightly, a task of an automation,": lambda: Nightly("eu")._serialize(),
    "The trigger of OnUpload": lambda: OnUpload().execute(None),
}


@pytest.mark.parametrize("feature", USES)
def test_use_raises(feature):
    """Each use names the feature and the package that has it."""
    with pytest.raises(NotImplementedError) as caught:
        USES[feature]()
    assert str(caught.value) == f"{feature} {HINT}"


def test_task_classes_can_be_defined_and_registered():
    """Modules that define such tasks keep working: they have an identifier and can be given to a runner."""
    assert TaskMeta.for_task(Nightly) == TaskMeta(TaskIdentifier("Nightly", "v0.0"), True)
    assert TaskMeta.for_task(OnUpload) == TaskMeta(TaskIdentifier("tilebox.com/on-upload", "v1.2"), True)
    assert (repr(Nightly("eu")), Nightly("eu") == Nightly("eu")) == ("Nightly(region='eu')", True)


def test_execute_can_be_tested():
    """A test may assign a trigger of its own and call execute()."""
    task = Nightly("eu")
    task.trigger = "midnight"
    task.execute(None)
    assert task.seen == "midnight"


@pytest.mark.parametrize(
    ("module", "names"),
    [
        ("automations", ["CronTask.once", "StorageEventTask.once"]),
        ("automations.client", ["AutomationClient"]),
        ("storage_locations.client", ["StorageLocationClient"]),
        ("workflows.client", ["WorkflowClient"]),
    ],
)
def test_methods_have_official_signatures(module, names):
    """Public methods and their parameters are those of the official classes."""
    for name in names:
        described = []
        for package in ("tilebox_local", "tilebox.workflows"):
            found = import_module(f"{package}.{module}")
            for part in name.split("."):
                found = getattr(found, part)
            methods = vars(found) if inspect.isclass(found) else {name: found}
            described.append(
                {
                    method: [
                        (p.name, p.kind, getattr(p.default, "name", p.default))
                        for p in inspect.signature(function).parameters.values()
                    ]
                    for method, function in methods.items()
                    if not method.startswith("_")
                }
            )
        assert described[0] == described[1]


@pytest.mark.parametrize("module", ["automations", "storage_locations"])
def test_official_names(module):
    """Every name that the official module exports can be imported from ours."""
    mine, official = (import_module(f"{package}.{module}") for package in ("tilebox_local", "tilebox.workflows"))
    assert mine.__all__ == official.__all__
    assert all(hasattr(mine, name) for name in mine.__all__)


def test_storage_values_are_official():
    """Enums have the official members, and the values the official fields, defaults, order and text."""
    official = import_module("tilebox.workflows.storage_locations")
    mine = import_module("tilebox_local.storage_locations")
    for enum in ("StorageType", "StorageEventType"):
        assert {m.name: m.value for m in getattr(mine, enum)} == {m.name: m.value for m in getattr(official, enum)}
    for cls in (AWSS3StorageLocation, AzureBlobStorageLocation, GCSStorageLocation, StorageLocation):
        extra = {"storage_account_resource_id": "/subscriptions/1"} if cls is AzureBlobStorageLocation else {}
        for kind in StorageType:
            location = cls(UUID(int=1), "bucket", kind, name="n", **extra)
            expected = getattr(official, cls.__name__)(
                UUID(int=1), "bucket", official.StorageType(kind.value), name="n", **extra
            )
            assert (repr(location), str(location)) == (repr(expected), str(expected))
    second = StorageLocation(UUID(int=2), "a", StorageType.GCS)
    assert sorted([second, LOCATION]) == [LOCATION, second]


def test_runner_context_takes_storage_locations():
    """A runner context finds locations by id."""
    context = RunnerContext(tracer=object(), storage_locations=[LOCATION])
    assert dict(context.storage_locations) == {UUID(int=1): LOCATION}


def test_event_type_is_shared():
    """The event type of automations is that of storage locations."""
    assert StorageEventType is import_module("tilebox_local.storage_locations").StorageEventType
