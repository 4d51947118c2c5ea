"""Task classes that the tests of the command line run, also by the path of this file."""

from __future__ import annotations

import sys
from pathlib import Path

from tilebox_local import ExecutionContext, Task


class Scene(Task):
    """One span and one log record."""

    scene_id: str

    def execute(self, context: ExecutionContext) -> None:
        """Compute."""
        with context.tracer.span("compute") as span:
            span.set_attribute("scene", self.scene_id)
            context.logger.info("computed %s", self.scene_id, scene=self.scene_id)


class Mosaic(Task):
    """Two scenes; fails afterwards if its scale is 0."""

    bands: list[int]
    scale: float = 1.0

    def execute(self, context: ExecutionContext) -> None:
        """Submit, and warn."""
        context.logger.warning("mosaic of %s", self.bands)
        if self.scale == 0:
            raise ValueError("no scale")
        context.submit_subtasks([Scene("a"), Scene("b")])


class Exit(Task):
    """Ends the process of its runner, as a crash does, if the file that it names is there."""

    flag: str

    def execute(self, context: ExecutionContext) -> None:
        """Exit once."""
        flag = Path(self.flag)
        if flag.exists():
            flag.unlink()
            import os

            sys.stdout.flush()
            os._exit(7)
