"""No code of the package loads objects, evaluates text, or makes SQL of values. Ruff's rules S stand in for bandit."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = Path(__file__).parents[2] / "tilebox_local"
LOADERS = {"pickle", "_pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "jsonpickle"}
EVALUATORS = {"eval", "exec", "compile", "__import__"}
# Functions that execute what they are given, and where it comes from: the catalog, schema.sql, constants.
SQL_VARIABLES = {
    ("storage/batch.py", "_statement(name, len(chunk[0]), len(chunk))"),  # sql[name], with as many "?" as values
    ("storage/connection.py", "name"),  # of a pragma, from a table
    ("storage/schema.py", "statement"),  # of schema.sql and migrations
    ("query/listing.py", "statement"),  # of the catalog
    ("query/sql.py", "statement"),  # the user's own, on a connection that cannot write
    ("upkeep/check.py", "statement"),  # of the catalog
    ("upkeep/recover.py", "statement"),  # of schema.sql
    ("upkeep/prune.py", "f'PRAGMA incremental_vacuum({pages:d})'"),
    # Names of tables and columns of schema.sql.
    ("upkeep/recover.py", "f'SELECT {columns} FROM {table.name}'"),
    ("upkeep/recover.py", "f'DELETE FROM {table.name}'"),
    ("upkeep/recover.py", "self._insert(table, len(table.columns))"),
    ("upkeep/repair.py", "f'SELECT count(*) FROM {table}'"),
    ("upkeep/repair.py", "f'SELECT 1 FROM {name} WHERE {key} = ?'"),
    ("upkeep/repair.py", "f'INSERT OR IGNORE INTO {name} ({columns}) VALUES ({marks})'"),
    ("upkeep/repair.py", "f'SELECT max({key}) FROM {name}'"),
    ("upkeep/repair.py", "f'SELECT DISTINCT {column} FROM {table} WHERE {column} IS NOT NULL'"),
    (
        "upkeep/repair.py",
        "f'UPDATE {table.name} SET {column} = {mended.format(column)} WHERE NOT json_valid({column})'",
    ),
}


def trees() -> Iterator[tuple[str, ast.Module]]:
    """All modules of the package."""
    for path in PACKAGE.rglob("*.py"):
        yield path.relative_to(PACKAGE).as_posix(), ast.parse(path.read_text())


def loading(tree: ast.AST) -> list[str]:
    """Imports and calls that load objects or evaluate text."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] in LOADERS]
        elif isinstance(node, ast.ImportFrom):
            found += [node.module] if node.module and node.module.split(".")[0] in LOADERS else []
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name in EVALUATORS or name == "importlib.import_module":
                found.append(ast.unparse(node))
            if any(keyword.arg == "allow_pickle" for keyword in node.keywords) or name in ("yaml.load", "np.load"):
                found.append(ast.unparse(node))
    return found


def made_sql(tree: ast.AST) -> list[str]:
    """First arguments of `execute` and `executemany` that are neither a literal nor a statement of the catalog."""
    found = []
    for node in ast.walk(tree):
        is_execute = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        if not is_execute or node.func.attr not in ("execute", "executemany", "pragma"):
            continue
        receiver = ast.unparse(node.func.value)
        if ("connection" not in receiver.lower() and "cursor" not in receiver.lower()) or not node.args:
            continue
        text = node.args[0]
        is_catalog = isinstance(text, ast.Subscript) and ast.unparse(text.value) == "sql"
        if not isinstance(text, ast.Constant) and not is_catalog:
            found.append(ast.unparse(text))
    return found


def test_nothing_unpickles_or_evaluates() -> None:
    """No pickle, marshal, shelve, dill, joblib, eval or exec; modules are imported by name in a few places only."""
    wrong = {name: found for name, tree in trees() if (found := loading(tree))}
    assert wrong == {
        "__init__.py": ["importlib.import_module(home)"],  # names of ours, from a table
        "cache.py": ["importlib.import_module(module)"],  # optional packages, named by constants
        "cli/registry.py": ["importlib.import_module(f'tilebox_local.cli.{module}')"],  # ours, from a table
        "cli/targets.py": ["importlib.import_module(name)"],  # the module whose tasks the user wants to run
    }


def test_sql_is_literal_or_from_the_catalog() -> None:
    """What is executed is a literal, a statement of the catalog, or one of the places that are known."""
    wrong = {(name, text) for name, tree in trees() for text in made_sql(tree)}
    assert wrong == SQL_VARIABLES


@pytest.mark.parametrize(
    "code",
    ["import pickle", "import os, marshal.x", "from shelve import open", "from joblib.a import b", "eval('1')",
     "exec(x)", "np.load(f, allow_pickle=True)", "yaml.load(x)", "importlib.import_module(name)", "__import__(x)"],
)  # fmt: skip
def test_the_search_finds_loading(code: str) -> None:
    """The control: each way to load objects is found."""
    assert len(loading(ast.parse(code))) >= 1


@pytest.mark.parametrize(
    "code",
    ["connection.execute(f'SELECT {x}')", "self._connection.execute('a' + b)", "cursor.executemany(text, rows)",
     "connection.execute('a %s' % b)", "connection.execute(other['name'])"],
)  # fmt: skip
def test_the_search_finds_made_sql(code: str) -> None:
    """The control: SQL that is put together is found, and so is a variable."""
    assert len(made_sql(ast.parse(code))) == 1
    assert made_sql(ast.parse("connection.execute('SELECT 1'); connection.execute(sql['x'], (1,))")) == []
