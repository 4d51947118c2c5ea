"""Run a command: what it raises becomes one line on stderr and an exit code."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import click

from tilebox_local.cli.registry import OutputClosedError
from tilebox_local.cli.session import Session

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "FAILED",
    "INTERRUPTED",
    "NOT_FOUND",
    "NO_OUTPUT",
    "OK",
    "STORE",
    "TIMED_OUT",
    "UNEXPECTED",
    "USAGE",
    "run_group",
]

OK, FAILED, USAGE, STORE, NOT_FOUND, UNEXPECTED, NO_OUTPUT, TIMED_OUT, INTERRUPTED = 0, 1, 2, 3, 4, 70, 74, 124, 130


def run_group(group: click.Group, arguments: Sequence[str] | None) -> int:
    """Run a group with these arguments (None: those of the process); the exit code."""
    session = Session()
    _open_closed_streams()
    try:
        code = group.main(args=arguments, prog_name="tilebox-local", standalone_mode=False, obj=session)
        sys.stdout.flush()
    except click.UsageError as error:
        if error.ctx is not None and error.message == error.ctx.get_help():  # of `tilebox-local job`
            sys.stderr.write(f"{error.message}\n")
            return USAGE
        return _complain(USAGE, f"{error.format_message()}{_where_to_look(error)}")
    except click.ClickException as error:
        return _complain(USAGE, error.format_message())
    except click.Abort:
        return INTERRUPTED
    except SystemExit as error:  # of click's completion, and of tasks
        return error.code if isinstance(error.code, int) else OK if error.code is None else FAILED
    except (BrokenPipeError, OutputClosedError):  # `tilebox-local jobs | head`
        _forget_output()
        return OK
    except Exception as error:  # noqa: BLE001 -- whoever types a command gets a line, not a stack trace
        return _explain(error, is_verbose=session.is_verbose)
    return code if isinstance(code, int) else OK


def _explain(error: Exception, *, is_verbose: bool) -> int:
    from tilebox_local.errors import (
        ArgumentError,
        FlushTimeoutError,
        NotFoundError,
        StoreError,
        TargetImportError,
    )

    for kind, code in (
        (NotFoundError, NOT_FOUND),
        ((ArgumentError, TargetImportError), USAGE),
        ((StoreError, FlushTimeoutError), STORE),
        (OSError, USAGE),
    ):
        if isinstance(error, OSError) and error.filename is None and not isinstance(error, StoreError):
            _forget_output()
            return _complain(NO_OUTPUT, f"the output cannot be written: {error.strerror}.")
        if isinstance(error, kind):
            return _complain(code, str(error))
    if is_verbose:
        import traceback

        traceback.print_exception(error)
        return UNEXPECTED
    return _complain(UNEXPECTED, f"unexpected {type(error).__name__}: {error}. Run it again with -v to see where.")


def _open_closed_streams() -> None:
    """Of `>&-`: Python has None then, and files that are opened get the numbers 0 to 2."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)  # as the standard streams are
    os.close(descriptor)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115, PTH123 -- for the process


def _forget_output() -> None:
    """What is left in the buffer of stdout cannot be written; Python would say so as it exits."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _complain(code: int, message: str) -> int:
    from tilebox_local.formatting.text import visible

    sys.stderr.write(f"tilebox-local: {visible(message, keep_newlines=True)}\n")
    return code


def _where_to_look(error: click.UsageError) -> str:
    return f" Try `{error.ctx.command_path} --help`." if error.ctx is not None else ""
