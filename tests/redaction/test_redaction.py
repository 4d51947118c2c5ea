"""Secrets in telemetry reach neither the file nor the output, and what is no secret does."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import orjson
import pytest
from canaries import Canary, make_canaries, parts_of
from capture_paths import PATHS
from store_support import outside, run_ok

from tilebox_local import Client
from tilebox_local.errors import ArgumentError
from tilebox_local.redaction import configure_redaction
from tilebox_local.storage import redaction
from tilebox_local.storage.attributes import MAX_TEXT_CHARS, clean_text, encode_attributes

if TYPE_CHECKING:
    from collections.abc import Iterator

SEED = 21
COUNT = 1000  # at least 37 per path: every kind of text, and keys in turn
PROGRAM = Path(__file__).parent / "capture_paths.py"


@pytest.fixture(autouse=True)
def _default_redaction() -> Iterator[None]:
    """Each test begins and leaves with the default rules."""
    redaction.install(redaction.Policy())
    yield
    redaction.install(redaction.Policy())


@pytest.fixture
def client(path: Path) -> Iterator[Client]:
    """A client of a fresh store."""
    with Client(path) as client:
        yield client


@contextmanager
def stored_trace(client: Client) -> Iterator[None]:
    """Inside, spans make their own rows, as their trace is in the file."""
    with client.tracer.span("outer") as outer:
        with client.tracer.span("first"):
            pass
        client.flush()
        assert outer.scope.committed_no is not None
        yield


def attributes_of(client: Client, name: str = "span") -> list[dict[str, Any]]:
    """The stored attributes of all spans of a name, oldest first."""
    client.flush()
    with client._store.read() as connection:
        rows = connection.execute("SELECT attributes FROM span_records WHERE name = ?", (name,)).fetchall()
    return [json.loads(text or "{}") for (text,) in rows]


# -- canaries -------------------------------------------------------------------------------------------------------


def captured(folder: Path, dealt: dict[str, list[Canary]], **environment: str) -> tuple[bytes, dict[str, int]]:
    """All bytes that a program leaves and prints which captures the canaries in every way, and what it counted."""
    path, cases, errors = folder / "store.db", folder / "cases.json", folder / "errors"
    cases.write_text(json.dumps({name: [[c.text, c.key, c.core] for c in hand] for name, hand in dealt.items()}))
    resource = ",".join(
        f"{one.key}={one.core}" if one.key else f"note{number}={quote(one.text)}"
        for number, one in enumerate(dealt["resource attributes"])
    )
    environment = {**os.environ, "TILEBOX_DEBUG": "1", "OTEL_RESOURCE_ATTRIBUTES": resource, **environment}
    seen = []
    with (
        errors.open("wb") as stderr,
        subprocess.Popen(
            [sys.executable, str(PROGRAM), str(path), str(cases)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env=environment,
        ) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        for line in process.stdout:
            seen.append(line)
            if line.startswith(b'{"redacted"'):
                break
        else:
            raise AssertionError(errors.read_text())
        counts: dict[str, int] = json.loads(seen[-1])
        wal = path.with_name("store.db-wal")
        assert wal.stat().st_size > 0
        seen += [wal.read_bytes(), path.read_bytes()]
        seen += process.communicate(b"\n", timeout=60)[:1]
        assert process.returncode == 0, errors.read_text()
    seen += [path.read_bytes(), errors.read_bytes()]
    assert outside(path, "SELECT count(*) FROM quarantine_records") == [(counts["quarantined"],)]
    return b"\0".join(seen), counts


def leaks(dealt: dict[str, list[Canary]], content: bytes) -> dict[str, list[str]]:
    """The canaries of each path that the content shows."""
    seen = parts_of(re.sub(rb"x{20,}|\0{20,}", b"", content))  # what is long is long by these
    return {path: [one.key or one.rule for one in hand if one.is_in(seen)] for path, hand in dealt.items()}


def test_no_canary_reaches_the_file_or_the_output(tmp_path: Path) -> None:
    """Of 1,000 secrets of every kind, through every way of capture, no part is in the file, its log or the output."""
    dealt = make_canaries(SEED, PATHS, COUNT)
    assert sum(map(len, dealt.values())) == COUNT
    content, counts = captured(tmp_path, dealt)
    assert leaks(dealt, content) == {path: [] for path in PATHS}
    assert counts["redacted"] >= COUNT - len(dealt["diagnostics"])
    assert counts["quarantined"] == len(dealt["quarantine"])


def test_without_redaction_every_canary_is_found(tmp_path: Path) -> None:
    """The control: with redaction off, the same search finds all of the secrets, in each way of capture."""
    dealt = make_canaries(SEED, PATHS, COUNT)
    content, counts = captured(tmp_path, dealt, TILEBOX_LOCAL_REDACT="off")
    assert leaks(dealt, content) == {path: [one.key or one.rule for one in hand] for path, hand in dealt.items()}
    assert counts["redacted"] == 0


# -- what is stored instead -------------------------------------------------------------------------------------------


def test_marker_and_count(client: Client) -> None:
    """A marker with the name of the rule stands for the secret, the rest stays, and each secret counts once."""
    before = client.stats().redacted_count
    with stored_trace(client):
        for _ in range(2):
            with client.tracer.span("span") as span:
                span.set_attributes({"password": "p", "url": "https://u:pw1@host/a.tif", "size": 3})
    with client.tracer.span("span") as span:
        span.set_attributes({"headers": {"Set-Cookie": ["a=1", "b=2"], "Accept": "*/*"}})
    plain = {"password": "[REDACTED:password]", "url": "https://u:[REDACTED:url-password]@host/a.tif", "size": 3}
    headers = {"headers": {"Set-Cookie": "[REDACTED:set_cookie]", "Accept": "*/*"}}
    assert sorted(attributes_of(client), key=len) == [headers, plain, plain]
    assert client.stats().redacted_count == before + 5


def test_names_of_spans_and_jobs(client: Client) -> None:
    """Secrets in names are replaced, where the span makes its own row, too, also in names that are no text."""
    token = "ghp_" + "a1" * 18
    with stored_trace(client):
        for name in (f"get {token}", "plain", f"get {token}", ["unhashable", token]):
            with client.tracer.span(name):
                pass
    client.flush()
    with client._store.read() as connection:
        names = [name for (name,) in connection.execute("SELECT name FROM span_records ORDER BY start_ns").fetchall()]
        refused = connection.execute("SELECT content FROM quarantine_records").fetchall()
    assert names == ["outer", "first", "get [REDACTED:github-token]", "plain", "get [REDACTED:github-token]"]
    assert [token in content for (content,) in refused] == [False]
    assert ["[REDACTED:github-token]" in content for (content,) in refused] == [True]


def test_secret_bytes() -> None:
    """Bytes are searched as the text that they hold."""
    from tilebox_local.storage.attributes import capture_attributes, decode_attributes

    encoded = encode_attributes(capture_attributes({"raw": b"\xffBearer abcdef123456\x00", "blob": b"\x00\xff"}))
    assert decode_attributes(encoded) == {"raw": b"\xffBearer [REDACTED:bearer]\x00", "blob": b"\x00\xff"}


def test_secret_that_a_cut_would_halve() -> None:
    """Where a long text is cut within a secret, all of the secret goes; elsewhere the cut is where it always is."""
    token = "ghp_" + "a1" * 18
    for kept in (1, 5, 20, 39):
        filler = "x" * (MAX_TEXT_CHARS - kept - 1)
        text = f"{filler} {token} {'y' * 100}"
        assert clean_text(text) == f"{filler} … ({len(text)} characters)"
    text = "x" * 70_000
    assert clean_text(text) == f"{text[:MAX_TEXT_CHARS]}… (70000 characters)"


def test_attributes_over_a_megabyte_lose_their_secrets_before_they_are_cut() -> None:
    """What is cut to JSON as text has been searched as an object before."""
    nested = {"list": ["x" * 60_000] * 20, "db": {"a": "b" * 900, "password": "hunter2hunter2"}}
    encoded = encode_attributes({"config": nested, "password": "hunter2hunter2"})
    assert encoded is not None
    assert "hunter2" not in encoded
    assert len(encoded) < 3000


def test_unreadable_json_is_replaced_as_a_whole() -> None:
    """Whatever goes wrong in the search, nothing is raised, and nothing that was not searched is stored."""
    assert json.loads(redaction.redact_json("{no JSON")) == {"$invalid": "[REDACTED:unreadable]"}


def test_two_secret_keys_stay_two() -> None:
    """Attributes whose keys hold secrets do not replace each other."""
    first, second = "ghp_" + "a1" * 18, "ghp_" + "b2" * 18
    assert orjson.loads(encode_attributes({first: 1, second: 2}) or "") == {
        "[REDACTED:github-token]": 1,
        "[REDACTED:github-token] 2": 2,
    }


def test_a_forked_child_counts_from_zero(path: Path) -> None:
    """The count is that of the process."""
    script = """
import os, sys
from tilebox_local import Client
from tilebox_local.storage.redaction import redact_text
client = Client(sys.argv[1])
redact_text("Bearer abcdef123456")
pid = os.fork()
if not pid:
    print(client.stats().redacted_count, flush=True)
    os._exit(0)
os.waitpid(pid, 0)
print(client.stats().redacted_count)
"""
    assert run_ok(script, path).split() == ["0", "1"]


# -- configuration --------------------------------------------------------------------------------------------------


def store_spans(client: Client, attributes: dict[str, Any], name: str = "span") -> None:
    """The same attributes by each of the two ways: the span makes its row, or the writer does."""
    with stored_trace(client):
        with client.tracer.span(name) as span:
            span.set_attributes(attributes)
        with client.tracer.span(name) as span:
            span.set_attributes(attributes)
            span.add_event("event")


def test_off_and_on_again(client: Client) -> None:
    """Switched off, everything is stored as it came; `configure_redaction()` is the default again."""
    secret = {"password": "p", "note": "Bearer abcdef123456"}
    configure_redaction(enabled=False)
    store_spans(client, secret)
    configure_redaction()
    store_spans(client, secret)
    hidden = {"password": "[REDACTED:password]", "note": "Bearer [REDACTED:bearer]"}
    assert attributes_of(client) == [secret, secret, hidden, hidden]


def test_what_was_captured_before_the_switch_keeps_its_rules(client: Client) -> None:
    """Records that still wait for the writer are not stored by rules that were set after them."""
    store_spans(client, {"password": "p"})
    configure_redaction(enabled=False)
    assert attributes_of(client) == [{"password": "[REDACTED:password]"}] * 2


def test_allowed_keys(client: Client) -> None:
    """The values of allowed keys stay as they are, whatever they hold, at any depth, and in text and URLs."""
    configure_redaction(allow_keys=["cookie", "scene_url", "token"])
    url = "https://host/a.tif?sig=abcdef123456"
    given = {
        "cookie": "yes", "http.request.Cookie": ["a"], "sceneUrl": url, "nested": {"scene_url": url, "set-cookie": "x"},
        "text": "token='abc' password='abc' https://host/?token=abc", "url": url, "access_token": "abc",
    }  # fmt: skip
    store_spans(client, given)
    expected = given | {
        "nested": {"scene_url": url, "set-cookie": "x"},
        "text": "token='abc' password='[REDACTED:password]' https://host/?token=abc",
        "url": "https://host/a.tif?sig=[REDACTED:url-signature]",
        "access_token": "abc",
    }
    assert attributes_of(client) == [expected, expected]


def test_further_keys_and_values(client: Client) -> None:
    """Keys and patterns of the user's own are replaced, numbers too, by the names that they were given."""
    configure_redaction(extra_keys=["customerId"], extra_values={"iban": r"DE\d{20}"})
    store_spans(client, {"x.customer_id": 5, "customer": 5, "note": "to DE12345678901234567890 now", "password": "p"})
    expected = {
        "x.customer_id": "[REDACTED:customer_id]", "customer": 5, "note": "to [REDACTED:iban] now",
        "password": "[REDACTED:password]",
    }  # fmt: skip
    assert attributes_of(client) == [expected, expected]
    store_spans(client, {}, "DE12345678901234567890")
    assert len(attributes_of(client, "[REDACTED:iban]")) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"allow_keys": "cookie"}, "allow_keys is a list of keys"),
        ({"allow_keys": [""]}, "'' in allow_keys is no key"),
        ({"extra_keys": ["--"]}, "'--' in extra_keys is no key"),
        ({"extra_keys": [5]}, "5 in extra_keys is no key"),
        ({"extra_values": {"a b": "x"}}, "'a b' is no name of a rule"),
        ({"extra_values": {"a": "("}}, "The rule 'a' is no regular expression"),
        ({"extra_values": {"a": b"x"}}, "The rule 'a' is no regular expression for text"),
        ({"extra_values": {"a": "x*"}}, "The rule 'a' matches the empty text"),
    ],
)
def test_bad_configuration_changes_nothing(arguments: dict[str, Any], message: str) -> None:
    """Arguments that make no sense are refused with what is wrong, and the rules stay."""
    with pytest.raises(ArgumentError, match=message.replace("(", r"\(")):
        configure_redaction(enabled=False, **arguments)
    assert redaction.redact_text("Bearer abcdef123456") == "Bearer [REDACTED:bearer]"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("off", "Bearer abcdef123456"),
        ("0", "Bearer abcdef123456"),
        ("", "Bearer [REDACTED:bearer]"),
        ("on", "Bearer [REDACTED:bearer]"),
    ],
)
def test_environment(monkeypatch: pytest.MonkeyPatch, value: str, shown: str) -> None:
    """TILEBOX_LOCAL_REDACT=off switches it off where the program does not say otherwise."""
    monkeypatch.setenv("TILEBOX_LOCAL_REDACT", value)
    configure_redaction()
    assert redaction.redact_text("Bearer abcdef123456") == shown
    configure_redaction(enabled=True)
    assert redaction.redact_text("Bearer abcdef123456") == "Bearer [REDACTED:bearer]"
