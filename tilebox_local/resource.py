"""The OpenTelemetry resource of this process: what `runner_attributes` shows."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any
from urllib.parse import unquote
from uuid import UUID, uuid4

import orjson

from tilebox_local import __version__

__all__ = ["DEFAULT_SERVICE_NAME", "instance_id", "process_resource", "resource_key"]

DEFAULT_SERVICE_NAME = "tilebox-python"

_instance: tuple[int, str] | None = None


def instance_id() -> str:
    """`service.instance.id`: TILEBOX_RUNTIME_ID, else one random UUID per process (a forked child gets its own)."""
    global _instance
    pid = os.getpid()
    if _instance is None:
        given = os.environ.get("TILEBOX_RUNTIME_ID")
        _instance = (pid, str(UUID(given) if given else uuid4()))
    elif _instance[0] != pid:
        _instance = (pid, str(uuid4()))
    return _instance[1]


def process_resource(service: str | None) -> dict[str, Any]:
    """Resource attributes of this process, in a fixed order; OTEL_RESOURCE_ATTRIBUTES are merged in below ours."""
    uname = platform.uname()
    attributes: dict[str, Any] = {
        "telemetry.sdk.language": "python",
        "telemetry.sdk.name": "tilebox-local",
        "telemetry.sdk.version": __version__,
    }
    for item in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "").split(","):
        key, separator, value = item.partition("=")
        if separator and key.strip():
            attributes[key.strip()] = unquote(value.strip())
    return attributes | {
        "service.namespace": "tilebox.workflows",
        "service.name": service or os.environ.get("OTEL_SERVICE_NAME") or DEFAULT_SERVICE_NAME,
        "service.instance.id": instance_id(),
        "service.version": _package_version(),
        "process.pid": os.getpid(),
        "host.name": uname.node,
        "host.arch": uname.machine.lower(),
        "os.type": uname.system.lower(),
    }


def resource_key(attributes: dict[str, Any]) -> str:
    """JSON text that identifies a resource."""
    return orjson.dumps(attributes).decode()


def _package_version() -> str:
    try:
        return version("tilebox-local")
    except PackageNotFoundError:
        return "dev"
