"""Fixtures of the tests with several processes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from process_support import Stage

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    """Where scripts play, each in a process of its own."""
    return Stage(tmp_path)
