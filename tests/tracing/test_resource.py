"""Who made a span or log record: the resource of the process, as runner_attributes show it."""

from __future__ import annotations

import os
import platform
from typing import TYPE_CHECKING
from uuid import UUID

import orjson
from tilebox.workflows.observability.logging import _get_default_resource as official_resource
from trace_support import run_in_task, run_script, table

from tilebox_local import Client, __version__
from tilebox_local.resource import process_resource

if TYPE_CHECKING:
    from pathlib import Path

SHOW = """
import json, sys
from tilebox_local import Client
with Client(sys.argv[1], name=sys.argv[2] if len(sys.argv) > 2 else None) as client:
    with client.tracer.span("span"):
        pass
"""


def resources(client: Client) -> list[dict[str, object]]:
    """All resources in the store, in the order of their first use."""
    return [
        orjson.loads(text) for (text,) in table(client, "SELECT attributes FROM resource_records ORDER BY resource_no")
    ]


def test_attributes(client: Client) -> None:
    """The attributes of this process, in their order and with their types."""
    with client.tracer.span("span"):
        pass
    (found,) = resources(client)
    assert str(UUID(str(found["service.instance.id"]))) == found["service.instance.id"]
    assert list(found.items()) == [
        ("telemetry.sdk.language", "python"),
        ("telemetry.sdk.name", "tilebox-local"),
        ("telemetry.sdk.version", __version__),
        ("service.namespace", "tilebox.workflows"),
        ("service.name", "tests"),
        ("service.instance.id", found["service.instance.id"]),
        ("service.version", __version__),
        ("process.pid", os.getpid()),
        ("host.name", platform.node()),
        ("host.arch", platform.machine().lower()),
        ("os.type", platform.system().lower()),
    ]


def test_same_keys_as_the_official_package() -> None:
    """The keys are those of the official package, and so are the values that describe process and machine."""
    ours, theirs = process_resource(None), dict(official_resource().attributes)
    assert set(ours) == set(theirs)
    of_each_package = {
        "telemetry.sdk.name",
        "telemetry.sdk.version",
        "service.version",
        "service.instance.id",
    }
    assert {key: ours[key] for key in set(ours) - of_each_package} == {
        key: theirs[key] for key in set(theirs) - of_each_package
    }


def test_spans_and_logs_share_the_resource(client: Client) -> None:
    """All spans and log records of a client in one process have one resource; queries show it decoded."""
    job = run_in_task(client, lambda context: context.logger.info("log"))
    spans, logs = client.jobs().query_spans(job), client.jobs().query_logs(job)
    (found,) = resources(client)
    assert [one.runner_attributes for one in (*spans, *logs)] == [found] * 3
    assert table(client, "SELECT DISTINCT runner FROM spans") == [(found["service.instance.id"],)]
    assert table(client, "SELECT runner, service, pid FROM runners") == [
        (found["service.instance.id"], "tests", os.getpid())
    ]


def test_service_names(client: Client, tmp_path: Path) -> None:
    """service.name is the client's name, else OTEL_SERVICE_NAME, else tilebox-python; processes differ in their ids."""
    run_script(SHOW, client.path, env={"OTEL_SERVICE_NAME": ""})
    run_script(SHOW, client.path, env={"OTEL_SERVICE_NAME": "from-environment"})
    run_script(SHOW, client.path, "given", env={"OTEL_SERVICE_NAME": "from-environment"})
    with Client(client.path, name="second") as second, second.tracer.span("span"):
        pass
    found = resources(client)
    assert [one["service.name"] for one in found] == ["tilebox-python", "from-environment", "given", "second"]
    assert len({one["service.instance.id"] for one in found}) == 4


def test_runtime_id(client: Client) -> None:
    """TILEBOX_RUNTIME_ID is the service.instance.id, in its canonical form."""
    identifier = UUID(int=0xABCDEF)
    run_script(SHOW, client.path, env={"TILEBOX_RUNTIME_ID": identifier.hex.upper()})
    assert [one["service.instance.id"] for one in resources(client)] == [str(identifier)]


def test_attributes_from_the_environment(client: Client) -> None:
    """OTEL_RESOURCE_ATTRIBUTES are added, percent-decoded; they cannot replace ours; what is malformed is left out."""
    given = "deployment=test, team = a%20b ,service.name=no,broken,=empty,x="
    run_script(SHOW, client.path, "mine", env={"OTEL_RESOURCE_ATTRIBUTES": given})
    (found,) = resources(client)
    assert {key: found[key] for key in ("deployment", "team", "x", "service.name")} == {
        "deployment": "test",
        "team": "a b",
        "x": "",
        "service.name": "mine",
    }
    assert not {"broken", ""} & set(found)
