"""Documents name tests, files and headings that exist; pages that are made of the program are current."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "what-survives-what.md"


@cache
def functions_in(file: str) -> frozenset[str]:
    """Names of the test functions of a file."""
    path = ROOT / file
    tree = ast.parse(path.read_text()) if path.is_file() else ast.Module([], [])
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef))


def named_tests(text: str) -> list[tuple[str, str]]:
    """(file, function or "") of each test that a text names in backticks."""
    return [(file, name or "") for file, name in re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", text)]


def test_named_tests_exist() -> None:
    """Every test that the page names is there."""
    named = named_tests(PAGE.read_text())
    missing = [
        (file, name) for file, name in named if not (ROOT / file).is_file() or (name and name not in functions_in(file))
    ]
    assert len(named) > 50
    assert missing == []


def test_every_row_has_a_proof() -> None:
    """Each fault of the page names a test; each fault test's control is named, too."""
    rows = [
        line
        for line in PAGE.read_text().splitlines()
        if line.startswith("|") and not line.startswith(("| fault", "|---"))
    ]
    unproved = [row for row in rows if "`tests/" not in row and "the same" not in row]
    assert len(rows) > 25
    assert unproved == []
    named = {file for file, _ in named_tests(PAGE.read_text())}
    faults = {path.relative_to(ROOT).as_posix() for path in (ROOT / "tests" / "faults").glob("test_*.py")}
    assert faults <= named


def test_made_pages_are_current() -> None:
    """docs/command-line.md and docs/schema.md are what `make docs` makes of the program."""
    code = (
        "from make_pages import FOLDER, command_line_page, schema_page\n"
        "assert (FOLDER / 'command-line.md').read_text() == command_line_page(), 'run `make docs`'\n"
        "assert (FOLDER / 'schema.md').read_text() == schema_page(), 'run `make docs`'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT / "docs", capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_links_lead_somewhere() -> None:
    """Links of the documents to files of the project, and to headings of these, exist."""
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
    broken = []
    for page in pages:
        for target, _, heading in re.findall(r"\]\((?!https?:)([^)#\s]*)(#([^)\s]*))?\)", page.read_text()):
            file = page if not target else page.parent / target
            if not file.exists():
                broken.append((page.name, target))
            elif heading:
                titles = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE)
                if heading not in {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}:
                    broken.append((page.name, f"{target}#{heading}"))
    assert broken == []
