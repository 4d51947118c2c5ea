"""Fixtures of the fault tests."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from store_support import IS_NIGHTLY

if TYPE_CHECKING:
    from collections.abc import Iterator

_MEMORY = Path("/dev/shm")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """An empty folder: in memory, where there is such a place, and on the disk every night.

    A killed process leaves the same files behind on both, and waiting for the disk would be most of what a test does.
    """
    if IS_NIGHTLY or not os.access(_MEMORY, os.W_OK):
        yield tmp_path
        return
    made = Path(tempfile.mkdtemp(prefix="tilebox-local-", dir=_MEMORY))
    yield made
    shutil.rmtree(made)
