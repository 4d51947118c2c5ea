"""Several runner processes, and their restart when the user's code changes.

Each is `tilebox-local run` in a process group of its own, so that Ctrl-C in the terminal reaches it once, through here.
A socket leads to each: it tells which files its code consists of, and ends by itself when this process is gone.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from tilebox_local.cli.running import FAILED, INTERRUPTED, NOT_FOUND, OK, STORE, USAGE
from tilebox_local.clock import wall_ns

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType

    from tilebox_local.cli.session import Session

__all__ = ["supervise"]

_DEBOUNCE_S = 0.2  # editors write a file in several steps
_LISTEN_S = 1.0
_TERMINATED = 128 + signal.SIGTERM


@dataclass
class _Child:
    """One runner process."""

    number: int
    process: subprocess.Popen[bytes]
    end: socket.socket
    started_ns: int
    is_told: bool = False  # to end
    has_loaded: bool = False  # the user's code
    listener: threading.Thread | None = None


@dataclass
class _Event:
    """Something that the supervisor waits for."""

    kind: str  # "signal", "ended", "sources" or "changed"
    number: int = 0  # of the signal, the exit code, or when the child was started
    child: _Child | None = None
    files: list[str] = field(default_factory=list)


def supervise(session: Session, arguments: Sequence[str], *, count: int, reloads: bool) -> int:
    """Run `count` runners until they end or a signal comes; the exit code.

    0: all have ended as they should; 130 or 143: after SIGINT or SIGTERM; 1: one has crashed, or the code that all of
    them ended with.
    """
    events: SimpleQueue[_Event] = SimpleQueue()  # its put is reentrant: signal handlers use it
    previous: dict[int, Any] = {}

    def handle(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        events.put(_Event("signal", number))

    for one in (signal.SIGINT, signal.SIGTERM):
        previous[one] = signal.signal(one, handle)
    supervisor = _Supervisor(session, list(arguments), count, events, reloads=reloads)
    try:
        return supervisor.run()
    finally:
        supervisor.close()
        for number, handler in previous.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


class _Supervisor:
    def __init__(
        self, session: Session, arguments: list[str], count: int, events: SimpleQueue[_Event], *, reloads: bool
    ) -> None:
        self._session = session
        self._arguments = arguments
        self._count = count
        self._events = events
        self._children: list[_Child] = []
        self._codes: list[int] = []  # of those that were not told to end
        self._signal: int | None = None
        self._is_restarting = False
        self._is_hopeless = False
        self._sources = _Sources(events) if reloads else None

    def run(self) -> int:
        self._start()
        while self._children or (self._sources is not None and self._signal is None and not self._is_hopeless):
            event = self._events.get()
            if event.kind == "signal":
                self._signal = event.number
                self._tell(event.number)
            elif event.kind == "sources" and self._sources is not None:
                self._sources.watch(
                    event.files, event.number, takes_any=event.child is None or not event.child.has_loaded
                )
            elif event.kind == "ended" and event.child is not None:
                self._bury(event.child, event.number)
            elif event.kind == "changed" and self._signal is None:
                self._restart(event.files)
            if self._is_restarting and not self._children and self._signal is None:
                self._is_restarting = False
                self._codes.clear()
                self._start()
        if self._signal is None and all(_is_crash(code) for code in self._codes):
            # One task can do it: it is handed to the next runner until it has crashed too often.
            sys.stderr.write("tilebox-local: no runner is left; `tilebox-local doctor` tells what they were running.\n")
        return self._code()

    def _code(self) -> int:
        if self._signal is not None:
            return INTERRUPTED if self._signal == signal.SIGINT else _TERMINATED
        if len(set(self._codes)) == 1:
            return self._codes[0] if self._codes[0] >= 0 else FAILED
        return FAILED if any(self._codes) else OK

    def _start(self) -> None:
        for number in range(1, self._count + 1):
            own, other = socket.socketpair()
            common = [f"--db={self._session.path}", f"--color={self._session.color}"]
            common += ["--quiet"] if self._session.is_quiet else []
            common += ["--verbose"] if self._session.is_verbose else []
            # -P: else Python looks for modules in the working directory first, also for those that we need.
            command = [sys.executable, "-P", "-m", "tilebox_local", *common, "run", f"--supervisor={other.fileno()}"]
            environment = _environment()
            if self._sources is not None:
                # Python takes compiled code for current if its source has the same size and second.
                environment["PYTHONDONTWRITEBYTECODE"] = "1"
            started_ns = wall_ns()
            process = subprocess.Popen(  # noqa: S603 -- ourselves
                [*command, *self._arguments],
                stdin=subprocess.DEVNULL,
                pass_fds=[other.fileno()],
                env=environment,
                start_new_session=True,
            )
            other.close()
            child = _Child(number, process, own, started_ns)
            self._children.append(child)
            child.listener = threading.Thread(target=self._listen, args=(child,), name="tilebox-local-run", daemon=True)
            child.listener.start()
            threading.Thread(target=self._wait, args=(child,), name="tilebox-local-run", daemon=True).start()

    def _listen(self, child: _Child) -> None:
        """Pass on what a child says."""
        with contextlib.suppress(OSError), child.end.makefile("rb") as lines:  # closed when it has ended
            for line in lines:
                told = json.loads(line)
                child.has_loaded = told["are_loaded"]
                self._events.put(_Event("sources", child.started_ns, child, told["files"]))

    def _wait(self, child: _Child) -> None:
        """Tell that a child has ended. Not by the end of what it says: its own children may have inherited that."""
        self._events.put(_Event("ended", child.process.wait(), child))

    def _tell(self, number: int) -> None:
        for child in self._children:
            child.is_told = True
            child.process.send_signal(number)

    def _bury(self, child: _Child, code: int) -> None:
        self._children.remove(child)
        if child.listener is not None:
            child.listener.join(_LISTEN_S)  # to what it has said before it ended; its own children may go on
        child.end.close()
        if child.is_told:
            return
        self._codes.append(code)
        if code != 0:
            how = f"was killed by {_signal_name(-code)}" if code < 0 else f"ended with exit code {code}"
            sys.stderr.write(f"tilebox-local: runner process {child.number} (pid {child.process.pid}) {how}.\n")
            # The store or the cluster is at fault, say, and not the code, which was loaded.
            self._is_hopeless |= child.has_loaded and code in (USAGE, STORE, NOT_FOUND)
            if self._sources is not None and not self._children and not self._is_hopeless:
                self._session.say("Waiting for a change of the code.")

    def _restart(self, files: list[str]) -> None:
        self._session.say(f"{', '.join(Path(file).name for file in files)} changed: starting again.")
        self._is_restarting = True
        self._tell(signal.SIGTERM)

    def close(self) -> None:
        """Leave no process behind."""
        if self._sources is not None:
            self._sources.close()
        for child in self._children:
            child.process.kill()
            child.process.wait()
            child.end.close()


def _environment() -> dict[str, str]:
    """The environment of a child, in which this package is found as it is here: from a checkout, too."""
    environment = dict(os.environ)
    folder = Path(__file__).parents[2]
    if folder == Path.cwd():
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    return environment


def _is_crash(code: int) -> bool:
    """Whether a runner has ended without saying why."""
    return code not in (OK, FAILED, USAGE, STORE, NOT_FOUND)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


class _Sources:
    """Tells when one of the user's source files changes, once for all changes of a moment."""

    def __init__(self, events: SimpleQueue[_Event]) -> None:
        from watchdog.observers import Observer

        logging.getLogger("watchdog").setLevel(logging.CRITICAL)  # it may complain while it is stopped
        self._events = events
        self._files: set[str] = set()
        self._folders: set[str] = set()
        self._takes_any = False
        self._changes: SimpleQueue[str | None] = SimpleQueue()
        self._observer = Observer()
        self._observer.start()
        self._thread = threading.Thread(target=self._debounce, name="tilebox-local-reload", daemon=True)
        self._thread.start()

    def watch(self, files: Sequence[str], since_ns: int, *, takes_any: bool) -> None:
        """Watch these files for changes since an instant. In fact their folders, since editors replace files.

        `takes_any`: something cannot be imported, maybe for want of a file of another name, or a folder, beside them.
        """
        from watchdog.events import FileSystemEvent, FileSystemEventHandler

        changes, known = self._changes, self._files
        known |= set(files)
        self._takes_any = takes_any

        def counts(path: str, event: FileSystemEvent) -> bool:
            is_new = event.is_directory and event.event_type == "created" and not path.endswith("__pycache__")
            return path in known or (self._takes_any and (path.endswith(".py") or is_new))

        class Handler(FileSystemEventHandler):
            def on_any_event(self, event: FileSystemEvent) -> None:
                if event.event_type in ("modified", "created", "moved", "deleted"):
                    for path in (os.fsdecode(event.src_path), os.fsdecode(event.dest_path or "")):
                        if counts(path, event):
                            changes.put(path)

        # A folder that is not there yet appears in one that is.
        for folder in {str(next(filter(Path.is_dir, Path(file).parents))) for file in files} - self._folders:
            with contextlib.suppress(OSError):  # it is gone again, or not ours to read
                self._observer.schedule(Handler(), folder, recursive=False)
                self._folders.add(folder)
        for file in files:
            with contextlib.suppress(OSError):
                if Path(file).stat().st_mtime_ns > since_ns:
                    changes.put(file)

    def _debounce(self) -> None:
        while True:
            first = self._changes.get()
            if first is None:
                return
            files = {first}
            try:
                while (path := self._changes.get(timeout=_DEBOUNCE_S)) is not None:
                    files.add(path)
            except Empty:
                self._events.put(_Event("changed", files=sorted(files)))
            else:
                return

    def close(self) -> None:
        self._changes.put(None)
        self._observer.stop()
        self._observer.join()
        self._thread.join()
