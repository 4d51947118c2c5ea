"""One SQLite per process: what else in the process opens a store that is in use is refused before it does harm."""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
from store_support import add_scope, added_scopes, outside, read_line, run, run_ok, start

from tilebox_local import Client
from tilebox_local.errors import ForeignOpenError, StoreError
from tilebox_local.storage import guard as guard_module
from tilebox_local.storage.store import Store, open_store

if TYPE_CHECKING:
    from collections.abc import Callable

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a store may be created; its name needs escapes in a URI."""
    (tmp_path / "a folder").mkdir()
    return tmp_path / "a folder" / "störe #1%.db"


def _uri(path: Path, query: str = "", host: str = "") -> str:
    return f"file:{host}{quote(str(path))}{query}"


def _relative(path: Path) -> str:
    return os.path.relpath(path)


def _link(path: Path, *, hard: bool = False) -> Path:
    link = path.parent.parent / "link"
    os.link(path, link) if hard else link.symlink_to(path)
    return link


def _in_directory(path: Path) -> int:
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        return os.open(path.name, os.O_RDONLY, dir_fd=folder)
    finally:
        os.close(folder)


def _pandas(path: Path, how: str) -> Any:
    pd = pytest.importorskip("pandas")
    if how == "sqlite3":
        with closing(sqlite3.connect(path)) as connection:
            return pd.read_sql_query("SELECT * FROM spans", connection)
    pytest.importorskip("sqlalchemy", reason="SQLAlchemy is only in the dev extra")
    return pd.read_sql_query("SELECT * FROM spans", f"sqlite:///{path}")


def _sqlalchemy(path: Path) -> Any:
    sqlalchemy = pytest.importorskip("sqlalchemy", reason="it is only in the dev extra")
    engine = sqlalchemy.create_engine(f"sqlite:///{path}")
    try:
        return engine.connect()
    finally:
        engine.dispose()


def _sqlite_utils(path: Path) -> Any:
    return pytest.importorskip("sqlite_utils").Database(path)


CONNECTS: dict[str, Callable[[Path], Any]] = {
    "str": lambda path: sqlite3.connect(str(path)),
    "Path": sqlite3.connect,
    "bytes": lambda path: sqlite3.connect(os.fsencode(path)),
    "relative": lambda path: sqlite3.connect(_relative(path)),
    "keyword": lambda path: sqlite3.connect(database=str(path)),
    "URI": lambda path: sqlite3.connect(_uri(path), uri=True),
    "URI as bytes": lambda path: sqlite3.connect(_uri(path).encode(), uri=True),
    "URI with host": lambda path: sqlite3.connect(_uri(path, host="//localhost"), uri=True),
    "URI without host": lambda path: sqlite3.connect(_uri(path, host="//"), uri=True),
    "relative URI": lambda path: sqlite3.connect("file:" + quote(_relative(path)), uri=True),
    "URI with fragment": lambda path: sqlite3.connect(_uri(path, "#?x"), uri=True),
    "URI, every character escaped": lambda path: sqlite3.connect(
        "file:" + "".join(f"%{byte:02x}" for byte in os.fsencode(path)), uri=True
    ),
    "mode=ro": lambda path: sqlite3.connect(_uri(path, "?mode=ro"), uri=True),
    "immutable": lambda path: sqlite3.connect(_uri(path, "?mode=ro&immutable=1"), uri=True),
    "symbolic link": lambda path: sqlite3.connect(_link(path)),
    "hard link": lambda path: sqlite3.connect(_link(path, hard=True)),
    "pandas with sqlite3": lambda path: _pandas(path, "sqlite3"),
    "pandas with a URL": lambda path: _pandas(path, "url"),
    "SQLAlchemy": _sqlalchemy,
    "sqlite-utils": _sqlite_utils,
}
OPENS: dict[str, Callable[[Path], Any]] = {
    "open": lambda path: open(path, "rb"),  # noqa: PTH123, SIM115
    "open to write": lambda path: open(path, "r+b"),  # noqa: PTH123, SIM115
    "open the log": lambda path: open(f"{path}-wal", "rb"),  # noqa: PTH123, SIM115
    "open the shared memory": lambda path: open(f"{path}-shm", "rb"),  # noqa: PTH123, SIM115
    "open bytes": lambda path: open(os.fsencode(f"{path}-shm"), "rb"),  # noqa: PTH123, SIM115
    "a link to the shared memory": lambda path: _link(Path(f"{path}-shm")).read_bytes(),
    "os.open": lambda path: os.open(path, os.O_RDONLY),
    "os.open in a directory": _in_directory,
    "read_bytes": Path.read_bytes,
    "copy": lambda path: shutil.copy(path, path.with_name("copy")),
    "copytree": lambda path: shutil.copytree(path.parent, path.parent.parent / "copy"),
}


@pytest.mark.parametrize("kind", CONNECTS)
def test_a_foreign_connection_is_refused(kind: str, path: Path) -> None:
    """Another SQLite of the process gets an error that names the replacement, and the store stays whole."""
    with Client(path) as client:
        client._store.transact(add_scope("before"))
        with pytest.raises(ForeignOpenError) as caught:
            CONNECTS[kind](path)
        assert str(caught.value) == (
            f"sqlite3.connect() of {path} was refused: a tilebox-local client of this process has it open, and closing "
            "it again would drop the client's locks and can corrupt the file. Use client.sql('select ...'), or "
            "client.connect_readonly() for a connection, or another process."
        )
        client._store.transact(add_scope("after"))
        assert outside(path, "SELECT name FROM scope_records WHERE scope_no > 1") == [("before",), ("after",)]


@pytest.mark.parametrize("kind", OPENS)
def test_a_plain_open_is_refused(kind: str, path: Path) -> None:
    """Opening the file, its log or its shared memory by whatever way of Python's is refused with the replacement."""
    with Client(path) as client:
        client._store.transact(add_scope("before"))
        with pytest.raises(ForeignOpenError) as caught:
            OPENS[kind](path)
        assert str(caught.value) == (
            f"open() of {path} was refused: a tilebox-local client of this process has it open, and closing it again "
            "would drop the client's locks and can corrupt the file. Use client.snapshot('copy.db') for a copy, "
            "client.sql('select ...') to read it, or another process."
        )
        client._store.transact(add_scope("after"))
        assert outside(path, "SELECT name FROM scope_records WHERE scope_no > 1") == [("before",), ("after",)]


def test_the_guard_ends_with_the_store(path: Path) -> None:
    """Once the last client is closed, the file can be opened and copied by anybody; then guarded again."""
    first, second = Client(path), Client(path)
    first.close()
    with pytest.raises(ForeignOpenError):
        path.read_bytes()
    second.close()
    assert path.read_bytes().startswith(b"SQLite format 3\0")
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM spans").fetchall() == [(0,)]
    with Client(path), pytest.raises(ForeignOpenError):
        sqlite3.connect(path)


def test_other_files_are_not_guarded(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files beside a store and of the same name elsewhere, descriptors, directories and pipes open as always."""
    with Client(path) as client:
        client.flush()
        monkeypatch.chdir(tmp_path)
        for name in (path.name, f"{path.name}-wal", "file:x", "a folder/neighbour", "a folder/neighbour-wal"):
            with closing(sqlite3.connect(name)) as connection:
                assert connection.execute("SELECT 1").fetchall() == [(1,)]
            Path(name).write_text("x")
            assert Path(name).read_text() == "x"
        with closing(sqlite3.connect(":memory:")) as connection:
            assert connection.execute("SELECT 1").fetchall() == [(1,)]
        with pytest.raises(FileNotFoundError):
            (tmp_path / "missing").read_text()
        with pytest.raises(ValueError, match="null"):
            open("\0")  # noqa: PTH123, SIM115
        reading, writing = os.pipe()
        with open(writing, "w") as stream:  # noqa: PTH123
            stream.write("x")
        with open(reading) as stream:  # noqa: PTH123
            assert stream.read() == "x"


def test_an_in_memory_store_is_not_guarded() -> None:
    """A store in memory has no file that others could open."""
    with Client(":memory:"), closing(sqlite3.connect(":memory:")) as connection:
        assert connection.execute("SELECT 1").fetchall() == [(1,)]


# -- what was there before the store ----------------------------------------------------------------------------


def _read_with_sqlite3(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path)
    connection.execute("SELECT count(*) FROM spans").fetchall()
    return connection


@pytest.mark.parametrize("opener", [_read_with_sqlite3, lambda path: open(path, "rb")])  # noqa: PTH123, SIM115
def test_a_file_that_is_open_already_is_refused(opener: Callable[[Path], Any], path: Path) -> None:
    """A store that this process has open in another way is not opened, also the second time; once closed, it is."""
    Client(path).close()
    for count in range(2, 4):
        foreign = opener(path)
        with pytest.raises(ForeignOpenError) as caught:
            Client(path)
        start_of, end = str(caught.value).split(" (descriptor ", 1)
        assert start_of == f"{path} cannot be opened: this process has it open already, not through tilebox-local"
        assert end.split("). ", 1)[1] == (
            "Closing that later would drop the client's locks and can corrupt the file. Close it first "
            "(connection.close(), engine.dispose(); gc.collect() if it was only forgotten), and use "
            "client.sql('select ...') or client.connect_readonly() from then on."
        )
        foreign.close()
        with Client(path) as client:
            client._store.transact(add_scope(f"row {count}"))
            assert outside(path, "SELECT count(*) FROM scope_records") == [(count,)]


def test_connections_that_outlive_their_store(path: Path) -> None:
    """A connection of ours that is open after close() keeps the guard, and does not keep the store from opening."""
    client = Client(path)
    connection = client.connect_readonly()
    assert connection.execute("SELECT count(*) FROM spans").fetchall() == [(0,)]
    client.close()
    with pytest.raises(ForeignOpenError):
        sqlite3.connect(path)
    with Client(path) as again:
        again._store.transact(add_scope("again"))
        assert connection.execute("SELECT count(*) FROM scope_records").fetchall() == [(2,)]
    with pytest.raises(ForeignOpenError):
        path.read_bytes()
    connection.close()
    sqlite3.connect(path).close()


def test_a_failed_open_leaves_nothing_open(tmp_path: Path) -> None:
    """A file that is refused as a store can be opened by others in the same process; no descriptor stays open."""
    path = tmp_path / "other.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE mine (a)")
    before = guard_module._open_descriptors()
    for _ in range(2):
        with pytest.raises(StoreError, match="a SQLite database of another program"):
            Client(path)
        assert guard_module._open_descriptors() == before
        with closing(sqlite3.connect(path)) as connection:
            assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("mine",)]


def test_the_hook_comes_with_the_first_store(path: Path) -> None:
    """Importing the package and opening a store in memory install no audit hook; the first file does, once."""
    script = """
import sys
hooks = []
sys.addaudithook(lambda event, arguments: hooks.append(1) if event == "sys.addaudithook" else None)
from tilebox_local import Client
Client(":memory:").close()
print(len(hooks))
for _ in range(3):
    Client(sys.argv[1]).close()
print(len(hooks))
"""
    assert run_ok(script, path).split() == ["0", "1"]


# -- fork -------------------------------------------------------------------------------------------------------

CHILD = """
import os, sqlite3, sys
from tilebox_local import Client
from tilebox_local.errors import StoreError

def attempt(what, function):
    try:
        function()
        print(what, "done", flush=True)
    except StoreError as error:
        print(what, type(error).__name__, flush=True)

def fork(child):
    pid = os.fork()
    if pid == 0:
        try:
            child()
        finally:
            os._exit(0)
    os.waitpid(pid, 0)

path = sys.argv[1]
client = Client(path)
"""


@needs_fork
def test_a_forked_child_guards_its_store(path: Path) -> None:
    """Parent and child refuse foreign opens after a fork, also of a log that was deleted and made again."""
    script = """
attempt("before", lambda: open(path + "-wal"))
fork(lambda: attempt("child", lambda: sqlite3.connect(path)))  # lets go of the file
print("go on", flush=True)
sys.stdin.readline()
client.clusters().create("new")
print(os.path.exists(path + "-wal"), flush=True)
attempt("log", lambda: open(path + "-wal"))
attempt("shared memory", lambda: open(path + "-shm"))
attempt("former log", lambda: open(path + ".formerwal").close())
attempt("parent", lambda: sqlite3.connect(path))
client.close()
attempt("closed", lambda: sqlite3.connect(path).close())
"""
    with start(CHILD + script, path, warnings="ignore") as process:
        assert [read_line(process) for _ in range(3)] == [
            "before ForeignOpenError",
            "child ForeignOpenError",
            "go on",
        ]
        for name in ("-wal", "-shm"):  # keeps the inodes, which other files could get
            os.link(f"{path}{name}", f"{path}.former{name[1:]}")
        run_ok(
            "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('SELECT * FROM spans').fetchall(); "
            "c.close()",
            path,
        )
        assert not Path(f"{path}-wal").exists()
        stdout, stderr = process.communicate("go\n", timeout=60)
    assert (stdout.splitlines(), stderr) == (
        [
            "True",
            "log ForeignOpenError",
            "shared memory ForeignOpenError",
            "former log done",
            "parent ForeignOpenError",
            "closed done",
        ],
        "",
    )


@needs_fork
def test_a_child_that_inherited_open_connections(path: Path) -> None:
    """A child forked while a connection is in the user's hands cannot use the store in any way; the parent goes on."""
    script = """
connection = client.connect_readonly()
cursor = connection.cursor()
print(connection.execute("SELECT count(*) FROM spans").fetchall(), flush=True)

def child():
    attempt("sql", lambda: client.sql("SELECT 1"))
    attempt("connection", lambda: connection.execute("SELECT 1"))
    attempt("cursor", lambda: cursor.execute("SELECT 1"))
    attempt("again", lambda: (client.close(), Client(path)))
    attempt("other SQLite", lambda: sqlite3.connect(path).close())
    connection.close()

fork(child)
attempt("parent", lambda: client.sql("SELECT 1"))
print(connection.execute("SELECT count(*) FROM spans").fetchall())
attempt("foreign", lambda: sqlite3.connect(path))
connection.close()
fork(lambda: attempt("later child", lambda: client.sql("SELECT 1")))
client.close()
"""
    assert run(CHILD + script, path, warnings="ignore").stdout.splitlines() == [
        "[(0,)]",
        "sql StoreError",
        "connection StoreError",
        "cursor StoreError",
        "again StoreError",
        "other SQLite done",
        "parent done",
        "[(0,)]",
        "foreign ForeignOpenError",
        "later child done",
    ]


# -- what it is good for: the same with the guard and without it --------------------------------------------------

DESTROY = """
import sqlite3, sys
from tilebox_local.errors import StoreError
from tilebox_local.storage.store import open_store
path, how = sys.argv[1:]
store = open_store(path)

def add(connection):
    connection.execute("INSERT INTO scope_records (name) VALUES ('after')").fetchall()
    if how == "inside":
        disturb(lambda: open(path + "-shm").close())
    print("inside", flush=True)
    sys.stdin.readline()

def disturb(function):
    try:
        function()
    except StoreError as error:
        print(type(error).__name__, flush=True)
    else:
        print("not refused", flush=True)

def look():
    connection = sqlite3.connect(path)
    connection.execute("SELECT count(*) FROM spans").fetchall()
    connection.close()

if how == "before":
    disturb(look)
try:
    store.transact(add)
except StoreError as error:
    print(type(error).__name__, flush=True)
print("end", flush=True)
sys.stdin.readline()
"""


def _environment(monkeypatch: pytest.MonkeyPatch, is_guarded: bool) -> None:
    monkeypatch.setenv("TILEBOX_LOCAL_GUARD", "on" if is_guarded else "off")


def _tell(process: Any) -> None:
    process.stdin.write("go\n")
    process.stdin.flush()


@pytest.mark.parametrize("is_guarded", [True, False], ids=["guard", "no guard"])
def test_a_look_with_sqlite3_makes_the_next_row_vanish(
    is_guarded: bool, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A foreign connection that reads and closes deletes the log in use: later rows are lost, unless it is refused."""
    _environment(monkeypatch, is_guarded)
    with start(DESTROY, path, "before") as process:
        assert read_line(process) == ("ForeignOpenError" if is_guarded else "not refused")
        if read_line(process) == "inside":
            _tell(process)
            read_line(process)
        process.kill()
    found = outside(path, "SELECT name FROM scope_records WHERE scope_no > 1")
    assert found == ([("after",)] if is_guarded else [])


@pytest.mark.parametrize("is_guarded", [True, False], ids=["guard", "no guard"])
def test_open_and_close_give_the_write_lock_away(is_guarded: bool, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a transaction is under way, open(...).close() lets another process write, too, unless it is refused."""
    _environment(monkeypatch, is_guarded)
    intruder = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], timeout=0, isolation_level=None)
try:
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("ROLLBACK")
    print("has the lock")
except sqlite3.OperationalError as error:
    print(error)
import os
os._exit(0)  # no close: it would tidy up
"""
    with start(DESTROY, path, "inside") as process:
        assert read_line(process) == ("ForeignOpenError" if is_guarded else "not refused")
        assert read_line(process) == "inside"
        assert run_ok(intruder, path) == ("database is locked\n" if is_guarded else "has the lock\n")
        process.kill()


STRESS = """
import itertools, os, pathlib, sqlite3, sys, threading, warnings
import pandas, sqlite_utils
from tilebox_local import Client
from tilebox_local.errors import ForeignOpenError
warnings.simplefilter("ignore")
path = sys.argv[1]
client = Client(path)
store = client._store
insert = "INSERT INTO scope_records (name) VALUES (?)"
refused = {}
accepted = []
stop = threading.Event()

def stdlib():
    connection = sqlite3.connect(path)
    connection.execute("SELECT count(*) FROM scope_records").fetchall()
    connection.close()

def with_pandas():
    connection = sqlite3.connect(f"{pathlib.Path(path).as_uri()}?mode=ro", uri=True)
    pandas.read_sql_query("SELECT * FROM scope_records", connection)
    connection.close()

def with_sqlite_utils():
    database = sqlite_utils.Database(path)
    list(database["scope_records"].rows)
    database.conn.close()

def plain():
    for suffix in ("", "-wal", "-shm"):
        with open(path + suffix, "rb") as file:
            file.read(100)

def disturb():
    for look in itertools.cycle((stdlib, with_pandas, with_sqlite_utils, plain)):
        try:
            look()
            accepted.append(look.__name__)
        except ForeignOpenError:
            refused[look.__name__] = refused.get(look.__name__, 0) + 1
        if stop.is_set():
            return

thread = threading.Thread(target=disturb)
thread.start()
for number in itertools.count():
    store.transact(lambda connection: connection.execute(insert, (f"row {number}",)).fetchall())
    print(number, flush=True)  # the acknowledgement
    is_enough = len(refused) == 4 and min(refused.values()) >= 50
    if not thread.is_alive() or (number >= 500 and (is_enough or len(accepted) >= 4)):
        break
stop.set()
thread.join()
print("refused", *sorted(refused), "accepted", len(accepted), flush=True)
os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("is_guarded", [True, False], ids=["guard", "no guard"])
def test_foreign_opens_under_load(is_guarded: bool, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a thread tries to read through sqlite3, pandas, sqlite-utils and open(), no acknowledged row is lost."""
    _environment(monkeypatch, is_guarded)
    done = run(STRESS, path, warnings="ignore")
    acknowledged = [f"row {line}" for line in done.stdout.splitlines() if line.isdigit()]
    try:
        query = "SELECT name FROM scope_records WHERE scope_no > 1 ORDER BY scope_no"
        found = [name for (name,) in outside(path, query)]
        integrity = outside(path, "SELECT integrity_check FROM pragma_integrity_check")
    except AssertionError as error:  # too damaged to read
        found, integrity = [], [(str(error),)]
    is_whole = (done.returncode, found, integrity) == (-9, acknowledged, [("ok",)])
    assert is_whole == is_guarded, done.stderr
    if is_guarded:
        last = done.stdout.splitlines()[-1]
        assert (last, done.stderr) == ("refused plain stdlib with_pandas with_sqlite_utils accepted 0", "")
        assert len(found) > 500


def test_our_own_readers_are_not_foreign(store: Store) -> None:
    """Many readers of ours at once, and a store that is opened through another path to the same folder, work on."""
    assert store.path is not None
    link = store.path.parent / "same"
    link.symlink_to(store.path.parent)
    with closing(open_store(link / store.path.name)) as other, store.read(), store.read(), other.read():
        assert other is store
        store.transact(add_scope("mine"))
    assert added_scopes(store) == ["mine"]
