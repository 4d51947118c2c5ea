"""`submit`: a job of one task, whose fields come from the command line."""

from __future__ import annotations

import sys
import types
import typing
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import click

from tilebox_local.cli.session import Session, command

__all__ = ["submit"]


@command(
    "submit",
    examples=[
        "tilebox-local submit tasks.py:Scene --arg scene_id=S2A_001",
        "tilebox-local submit tasks.py:Mosaic 'first mosaic' --input '{\"bands\": [1, 2], \"scale\": 10}'",
        "tilebox-local submit tasks.py:Scene --arg scene_id=S2A_002 --cluster default --max-retries 2 --json",
        "echo '\"S2A_003\"' | tilebox-local submit tasks.py:Scene --input-file - --quiet",
    ],
)
@click.argument("target", type=click.Path(), metavar="TARGET")
@click.argument("name", metavar="[NAME]", required=False)
@click.option("--input", "text", metavar="JSON", help="The fields as an object; of a single field its bare value, too.")
@click.option(
    "--input-file", "file", type=click.Path(allow_dash=True), metavar="FILE", help="The same from a file, or stdin (-)."
)
@click.option("--arg", "arguments", multiple=True, metavar="KEY=VALUE", help="One field; its value is text, or JSON.")
@click.option("--cluster", metavar="SLUG", help="Where it runs; default: the default cluster.")
@click.option("--max-retries", type=click.IntRange(min=0), default=0, metavar="N", help="After failures.")
@click.option("--wait", "waits", is_flag=True, help="Wait until it ends; exit code 1 unless it is completed.")
def submit(
    session: Session,
    target: str,
    name: str | None,
    text: str | None,
    file: str | None,
    arguments: tuple[str, ...],
    cluster: str | None,
    max_retries: int,
    waits: bool,
) -> int | None:
    """Submit a job of one task.

    TARGET is a task class: module:Task, or path/to/file.py:Task. NAME is the name of the job; default: that of the
    class. The id of the job is printed. The store is created if there is none.
    """
    from tilebox_local.cli.output import write_json, write_line
    from tilebox_local.cli.targets import load_task
    from tilebox_local.query.listing import find_job_key, view_job

    if text is not None and file is not None:
        raise click.UsageError("--input and --input-file exclude each other.")
    task_class = load_task(target)
    task = make_task(task_class, _read(file) if file is not None else text, arguments)
    with session.change(creates=True) as client:
        job = client.jobs().submit(name or task_class.__name__, task, cluster=cluster, max_retries=max_retries)
        store = client._open_store()
        if not session.as_json:
            session.say(f"Job {name or task_class.__name__} is submitted.")  # first: stdout may be full
            write_line(str(job.id))
        code = None
        if waits:
            from tilebox_local.cli.wait import wait_for

            code = wait_for(session, store, find_job_key(store, str(job.id)), timeout_s=None)
        if session.as_json:
            with store.snapshot() as connection:
                write_json(view_job(connection, find_job_key(store, str(job.id)).job_no))
    return code


def _read(file: str) -> str:
    from tilebox_local.errors import ArgumentError

    try:
        return sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ArgumentError(f"{file} is no text in UTF-8.") from None


def make_task(task_class: type[Any], text: str | None, arguments: tuple[str, ...]) -> Any:
    """A task with these fields. Raises ArgumentError."""
    import orjson

    from tilebox_local.errors import ArgumentError
    from tilebox_local.serialization import SKIP, decode_fields

    own = [field for field in fields(task_class) if not field.metadata.get(SKIP, False)]
    names = [field.name for field in own]
    values: dict[str, Any] = {}
    if text is not None:
        try:
            given = orjson.loads(text)
        except orjson.JSONDecodeError as error:
            raise ArgumentError(f"The input is no JSON: {error}.") from None
        # The object of a single field may be its value; it is one of fields if it has the name of the field.
        if isinstance(given, dict) and (len(own) != 1 or list(given) == names):
            values = given
        elif len(own) == 1:
            values = {names[0]: given}
        else:
            raise ArgumentError(f"The input of {task_class.__name__} is an object with the keys {', '.join(names)}.")
    values |= _from_arguments(task_class, arguments)
    if unknown := [name for name in values if name not in names]:
        raise ArgumentError(f"{task_class.__name__} has no field {unknown[0]!r}; it has {', '.join(names) or 'none'}.")
    missing = [
        field.name
        for field in own
        if field.name not in values and field.default is MISSING and field.default_factory is MISSING
    ]
    if missing:
        raise ArgumentError(f"{task_class.__name__} needs {', '.join(missing)}; pass --arg {missing[0]}=VALUE.")
    if not values:
        return task_class()
    if len(own) == 1:
        return decode_fields(task_class, orjson.dumps(values[names[0]]))
    return decode_fields(task_class, orjson.dumps(values))


def _from_arguments(task_class: type[Any], arguments: tuple[str, ...]) -> dict[str, Any]:
    """Fields of KEY=VALUE: as it stands where a text is expected, else as JSON if it is some."""
    import orjson

    try:
        hints = typing.get_type_hints(task_class)
    except NameError:  # a type that is imported for type checkers only
        hints = {}
    values: dict[str, Any] = {}
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if not equals:
            raise click.UsageError(f"--arg {argument!r} is not KEY=VALUE.")
        values[name] = value
        try:
            parsed = orjson.loads(value)
        except orjson.JSONDecodeError:
            continue
        if not _expects_text(hints.get(name), parsed):
            values[name] = parsed
    return values


def _expects_text(hint: Any, parsed: Any) -> bool:
    """Whether a field takes text, and not what this text is as JSON: `str`, and `str | None` unless it is null."""
    kinds = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    if str not in kinds:
        return False
    if isinstance(parsed, bool) or parsed is None:
        return type(parsed) not in kinds
    if isinstance(parsed, int | float):
        return not {int, float} & set(kinds)
    return set(kinds) <= {str, type(None)}
