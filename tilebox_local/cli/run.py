"""`run`: runners for the tasks of the user's modules and files."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tilebox_local.cli.running import FAILED, OK
from tilebox_local.cli.session import Session, command
from tilebox_local.cli.signals import ToldToEndError, ends_when_told

if TYPE_CHECKING:
    from tilebox_local.errors import TileboxLocalError

__all__ = ["run"]


@command(
    "run",
    examples=[
        "tilebox-local run tasks.py --all",
        "tilebox-local run tasks.py:Scene tasks.py:Mosaic --processes 2 --until-idle",
        "tilebox-local run my_package.tasks --cluster default  # until Ctrl-C",
        "tilebox-local run tasks.py --reload --name laptop  # until Ctrl-C",
    ],
    prints_data=False,
)
@click.argument("targets", metavar="TARGET...", nargs=-1, required=True)
@click.option("--cluster", metavar="SLUG", help="The cluster that it serves; default: the default cluster.")
@click.option("--processes", type=click.IntRange(min=1), default=1, show_default=True, metavar="N", help="Runners.")
@click.option("--all", "--until-idle", "until_idle", is_flag=True, help="End when no task can be claimed any more.")
@click.option("--reload", "reloads", is_flag=True, help="Start again when a file of the imported modules changes.")
@click.option("--name", metavar="NAME", help="service.name of the spans and logs.")
@click.option("--supervisor", type=int, hidden=True, help="Descriptor of the process that has started this one.")
def run(
    session: Session,
    targets: tuple[str, ...],
    cluster: str | None,
    processes: int,
    until_idle: bool,
    reloads: bool,
    name: str | None,
    supervisor: int | None,
) -> int:
    """Run the tasks of modules or files.

    TARGET is a module, with all tasks that it defines, module:Task, path/to/file.py, or path/to/file.py:Task. The store
    is created if there is none.

    Runs until SIGINT or SIGTERM. The running task may end within 2 seconds, else it goes back to the queue. With
    several processes, one that crashes is reported; the others go on, and the exit code is 1.
    """
    if supervisor is None and (processes > 1 or reloads):
        from tilebox_local.cli.processes import supervise

        options = ["--all"] if until_idle else []
        options += [f"--cluster={cluster}"] if cluster else []
        options += [f"--name={name}"] if name else []
        return supervise(session, [*options, "--", *targets], count=processes, reloads=reloads)
    if supervisor is not None:
        _end_with(supervisor)
    from tilebox_local.cli.targets import load_tasks
    from tilebox_local.errors import TileboxLocalError

    try:
        tasks = load_tasks(targets)
    except TileboxLocalError as error:
        _tell_sources(supervisor, targets, error)
        raise
    _tell_sources(supervisor, targets)
    import logging

    from tilebox_local.client import Client
    from tilebox_local.observability.logging import console_on_terminal

    # What tasks log is for people; data goes to stdout.
    level = logging.ERROR if session.is_quiet else logging.INFO
    with ends_when_told(), console_on_terminal(level, sys.stderr), Client(session.path, name=name) as client:
        pid = os.getpid()
        runner = client.runner(cluster, tasks=tasks)
        session.say(f"Running {', '.join(task.__name__ for task in tasks)} on {client.path}.")
        try:
            if until_idle:
                runner.run_all()
            else:
                runner.run_forever()
        except SystemExit as error:
            if isinstance(error, ToldToEndError) or os.getpid() != pid:  # in a child that a task has forked
                raise
            # A task has called sys.exit(): the runner ends, and has said which.
            sys.stderr.write(f"tilebox-local: sys.exit({error.code!r}) ended the runner; the task is queued again.\n")
            return FAILED
    return OK


def _tell_sources(supervisor: int | None, targets: tuple[str, ...], error: TileboxLocalError | None = None) -> None:
    """Tell the supervisor which files the user's code consists of, and whether they work, as a line of JSON."""
    if supervisor is None:
        return
    from tilebox_local.cli.targets import files_of, is_own_source

    files = {getattr(module, "__file__", None) for module in list(sys.modules.values())}
    places = {Path.cwd(), *(Path(file).parent for target in targets for file in files_of(target))}
    files.update(file for target in targets for file in files_of(target))  # they may not be there yet
    cause: Any = None if error is None else error.__cause__
    while cause is not None:
        files.add(getattr(cause, "filename", None))  # of a SyntaxError
        if isinstance(cause, ImportError) and cause.name:  # where it would be if it was the user's
            files.update(file for folder in places for file in files_of(cause.name, folder))
        trace = cause.__traceback__
        while trace is not None:
            files.add(trace.tb_frame.f_code.co_filename)
            trace = trace.tb_next
        cause = cause.__cause__
    own = sorted(os.path.abspath(file) for file in files if file and is_own_source(file))  # noqa: PTH100
    line = json.dumps({"files": own, "are_loaded": error is None}) + "\n"
    os.write(supervisor, line.encode())


def _end_with(supervisor: int) -> None:
    """End as SIGTERM would do it when the supervisor is gone: then nobody else can end this process."""

    def watch() -> None:
        try:
            while os.read(supervisor, 1):
                continue
        except OSError:
            pass  # the same
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="tilebox-local-supervisor", daemon=True).start()
