"""Commands on a terminal of their own, as people see them."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import termios


def on_terminal(
    command: list[str], *, typed: str = "", rows: int = 24, columns: int = 80, environment: dict[str, str] | None = None
) -> tuple[int, str]:
    """Exit code of a command, and all that its terminal has shown."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    # readline exports the size of the terminal that the tests were started on.
    unset = {"NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES"}
    clean = {key: value for key, value in os.environ.items() if key not in unset}
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env={**clean, "TERM": "xterm", **(environment or {})}
    )
    os.close(theirs)
    os.write(ours, typed.encode())
    shown = b""
    try:
        while part := os.read(ours, 65536):
            shown += part
    except OSError:  # Linux: the other side is closed
        pass
    os.close(ours)
    return process.wait(timeout=60), shown.decode()
