"""The rules for secrets: what they find, what they leave alone, and that hostile text costs no more than its length."""

from __future__ import annotations

import json
import random
import re
from re import _constants, _parser  # type: ignore[attr-defined]
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from canaries import Canary, of_keys, of_values, parts_of
from hypothesis import given, settings
from hypothesis import strategies as st

from tilebox_local.storage import redaction, secret_rules
from tilebox_local.storage.attributes import capture_attributes, encode_attributes
from tilebox_local.storage.redaction import redact_json, redact_text, screen
from tilebox_local.storage.rows import redact_rows
from tilebox_local.storage.secret_rules import KeyRules, find_secrets, words_of

if TYPE_CHECKING:
    from collections.abc import Iterator

VALUES = [canary for seed in range(3) for canary in of_values(random.Random(seed))]
KEYS = [canary for seed in range(3) for canary in of_keys(random.Random(seed))]
B64 = "dXNlcjpwYXNzd29yZA=="  # user:password


def hidden(attributes: dict[str, Any]) -> dict[str, Any]:
    """Attributes as they are stored."""
    return orjson.loads(encode_attributes(capture_attributes(attributes)) or "{}")  # type: ignore[no-any-return]


# -- what is found --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("canary", VALUES, ids=lambda canary: canary.rule)
@pytest.mark.parametrize("around", ["{}", "before {} after", "line\n{}\nline", "'{}'", '"{}"', "<{}>", "\t{}", "é{}é"])
def test_secret_in_text(canary: Canary, around: str) -> None:
    """A secret is found wherever in a text it is; only itself is replaced, and by the name of its rule."""
    marker = f"[REDACTED:{canary.rule}]"
    text = canary.text if canary.rule == "private-key" else canary.core
    assert redact_text(around.format(canary.text)) == around.format(canary.text.replace(text, marker))


@pytest.mark.parametrize("canary", VALUES, ids=lambda canary: canary.rule)
def test_secret_in_the_text_of_an_error(canary: Canary) -> None:
    """The same holds for text as repr() shows it, with newlines as two characters, and in JSON within a text."""
    for shown in (repr(ValueError(f"no\n{canary.text}\n")), json.dumps({"text": json.dumps({"a": canary.text})})):
        assert not canary.is_in(parts_of(redact_text(shown).replace("\\n", "\n").replace("\\", "").encode()))


@pytest.mark.parametrize("canary", KEYS, ids=lambda canary: canary.key)
def test_secret_key(canary: Canary) -> None:
    """The value of a secret key is replaced whole, at any depth, and in the texts that objects and JSON make."""
    assert canary.key is not None
    rule = KeyRules().rule_of(canary.key)
    assert rule is not None
    marker = f"[REDACTED:{rule.name}]"
    assert hidden({canary.key: canary.core}) == {canary.key: marker}
    assert hidden({"a": [{"b": {canary.key: canary.core}}]}) == {"a": [{"b": {canary.key: marker}}]}
    for text in (
        canary.text,
        json.dumps(canary.text),
        repr(repr(canary.text)),
        json.dumps({"t": json.dumps(canary.text)}),
    ):
        assert redact_text(text) == text.replace(canary.core, marker)


def test_what_a_key_hides() -> None:
    """Numbers under keys of tokens are counts, booleans and null tell nothing; the rest goes as a whole."""
    given = {
        "password": 1234, "db_password": None, "has_password": True, "secret": {"a": 1}, "api_key": ["a"],
        "api_keys": 3, "token": 512, "access_token": 5, "credentials": {"user": "me", "pwd": "x"},
        "cookies": {"session": "x"}, "raw_token": b"abc", "tokens": ["a"], "PASSWORD": "", "apiKey": 1 << 70,
        "APIkey": "x", "pass_word": "x",
    }  # fmt: skip
    changed = {
        "password": "[REDACTED:password]", "secret": "[REDACTED:secret]", "api_key": "[REDACTED:api_key]",
        "credentials": {"user": "me", "pwd": "[REDACTED:pwd]"}, "cookies": "[REDACTED:cookies]",
        "raw_token": "[REDACTED:token]", "apiKey": {"$int": str(1 << 70)}, "APIkey": "[REDACTED:apikey]",
    }  # fmt: skip
    assert hidden(given) == given | changed


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("https://u:p@ss:w@host/", "https://u:[REDACTED:url-password]@host/"),
        ("redis://:pw@host:1/0", "redis://:[REDACTED:url-password]@host:1/0"),
        ("a=1&amp;sig=abc&amp;b=2", "a=1&amp;sig=[REDACTED:url-signature]&amp;b=2"),
        ("?api-key=abc#frag", "?api-key=[REDACTED:api_key]#frag"),
        ("'password': 'it\\'s' 'b'", "'password': '[REDACTED:password]' 'b'"),
        ('password="a\\\\" b', 'password="[REDACTED:password]" b'),
        ("b'authorization': b'abc'", "b'authorization': b'[REDACTED:authorization]'"),
        ("password='cut o", "password='[REDACTED:password]"),
        (f"BEARER {'a' * 24}. BASIC {B64}", "BEARER [REDACTED:bearer] BASIC [REDACTED:basic]"),
        (f"Basic {B64}.", "Basic [REDACTED:basic]."),
        ("Bearer%20abcdef12", "Bearer%20[REDACTED:bearer]"),
        ("-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkq\nhkiG9w0BAQEFAASC", "[REDACTED:private-key]"),
        ("-----BEGIN PRIVATE KEY-----\nanything\n-----END PRIVATE KEY----- b", "[REDACTED:private-key] b"),
    ],
)  # fmt: skip
def test_places_and_ends(text: str, redacted: str) -> None:
    """Where a secret begins and ends in URLs, headers, quotes and text that was cut."""
    assert redact_text(text) == redacted


# -- what is left alone ---------------------------------------------------------------------------------------------

HARMLESS_KEYS = {
    "token_count": 5, "max_tokens": 512, "total_tokens": "1500", "input_tokens": 7, "tokens": "12", "tokenizer": "bpe",
    "token_type": "Bearer", "next_token": "abc", "nextPageToken": "abc", "eos_token": "</s>", "cookie_policy": "lax",
    "cookie_count": 3, "author": "me", "authority": "EPSG", "secretary": "me", "passwordless": "yes",
    "password_policy": "strong", "password_length": 12, "has_password": True, "secret_name": "prod/db", "key": "a/b",
    "keys": ["a"], "primary_key": "id", "api_key_id": "kid", "bypass": "x", "authorization_url": "https://host/auth",
    "compass": "north", "session": "s", "signature": "f(x)", "sig": "0.5", "credit": "ESA", "passes": "3",
}  # fmt: skip
HARMLESS_TEXTS = [
    "S2A_MSIL2A_20240612T105621_N0510_R094_T31UFS_20240612T170003.SAFE",
    "https://sentinel-cogs.s3.us-west-2.amazonaws.com/sentinel-s2-l2a-cogs/31/U/FS/2024/6/S2A_31UFS_20240612_0_L2A/B04.tif",
    "https://host/search?bbox=1,2,3,4&datetime=2024-01-01/2024-02-01&limit=10&max_tokens=5&next_token=abc",
    "s3://bucket:8080/key@2x.png", "docker://ubuntu:22.04@sha256:abc", "me@example.com", "git@github.com:me/repo.git",
    "the bearer of news, Bearer authentication", "Basic processing, basic Only, Basic Operations and basic information",
    "task-0123456789-0123456789-0123456789", "disk-0123456789012345678901234", "sk-SK", "risk-free", "sk-learn",
    "AKIA is a prefix", "ASIAN", "eyJ", "file.eyJx.y", "xox-o", "ghp_short", "-----BEGIN CERTIFICATE-----\nMIID",
    "Expected -----BEGIN PRIVATE KEY----- at the start.", "password=", "password=''", "if password == 'x':",
    'get_secret("name")', "token='{token}'", "password='***'", "f(password=password, token=None)", "user['token']",
    "SELECT password FROM users", "a signature=abc", "sha256:" + "ab" * 32, "0f8fad5b-d9cb-469f-a165-70867728950e",
    "POLYGON ((30 10, 40 40, 20 40, 30 10))", "POINT(1 2) & more? yes; done", "100%26 of", "[REDACTED:password]",
    "it's 'quoted' = 'fine'", '{"tokens": "5", "max_tokens": "6"}', 'Traceback (most recent call last):\n  File "a.py"',
]  # fmt: skip


@pytest.mark.parametrize("key", HARMLESS_KEYS)
def test_harmless_key(key: str) -> None:
    """Keys that only look like secret ones keep their values."""
    assert hidden({key: HARMLESS_KEYS[key]}) == {key: HARMLESS_KEYS[key]}


@pytest.mark.parametrize("text", HARMLESS_TEXTS)
def test_harmless_text(text: str) -> None:
    """Text that only looks like a secret stays as it is, as text and as the value of an attribute."""
    assert redact_text(text) == text
    assert hidden({"note": text, "list": [text]}) == {"note": text, "list": [text]}


def test_a_signed_url_stays_readable() -> None:
    """Of the URLs that Planetary Computer and S3 sign, everything but the secrets remains."""
    azure = "https://acc.blob.core.windows.net/c/T31UFS_B04.tif?st=2024-06-11T10%3A00%3A00Z&se=2024-06-12&sp=rl&sv=2021-06-08&sr=c&sig={}"
    amazon = (
        "https://bucket.s3.amazonaws.com/a/b.tif?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={}&"
        "X-Amz-Date=20240612T000000Z&X-Amz-Expires=3600&X-Amz-SignedHeaders=host&X-Amz-Signature={}"
    )
    marker = "[REDACTED:url-signature]"
    assert redact_text(azure.format("Ab%2Bcd%2Fef%3D")) == azure.format(marker)
    secret = ("AKIAIOSFODNN7EXAMPLX%2F20240612%2Fus-west-2%2Fs3%2Faws4_request", "0123456789abcdef" * 4)
    assert redact_text(amazon.format(*secret)) == amazon.format(marker, marker)


@pytest.mark.parametrize(
    ("key", "words"),
    [("accessToken", "access token"), ("X-API-Key", "x api key"), ("HTTPServerURL", "http server url"), ("", ""),
     ("http.request.header.set_cookie", "http request header set cookie"), ("oauth2Token", "oauth 2 token")],
)  # fmt: skip
def test_words(key: str, words: str) -> None:
    """Words end at punctuation and where the case changes."""
    assert words_of(key) == tuple(words.split())


# -- properties -------------------------------------------------------------------------------------------------------

_CORES = [canary.text for canary in VALUES + KEYS]
_FRAGMENTS = st.sampled_from(
    ["eyJ", ".", "AKIA", "ghp_", "sk-", "-----BEGIN PRIVATE KEY-----", "-----END PRIVATE KEY-----", "Bearer ", "Basic ",
     "://", ":", "@", "?", "&", ";", "sig=", "token=", "password", "=", "'", '"', "\\", "%3D", "%26", "{", "}", "[",
     "]", "[REDACTED:jwt]", "[REDACTED:", "\n", " ", "a1" * 10, B64, "AccountKey=", "b'", "\x00", "é", "😀"]
)  # fmt: skip
_TEXTS = st.lists(_FRAGMENTS | st.sampled_from(_CORES) | st.text(max_size=5), max_size=12).map("".join)
_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 63) - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | _TEXTS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(_TEXTS | st.sampled_from([one.key for one in KEYS]), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(deadline=None)
@given(_TEXTS)
def test_redaction_of_text_is_idempotent(text: str) -> None:
    """What was redacted is not redacted again, and what is between the secrets is unchanged."""
    redacted = redact_text(text)
    assert redact_text(redacted) == redacted
    position = 0
    for kept in re.split(r"\[REDACTED:[A-Za-z0-9_.-]+\]", redacted):
        assert kept in text[position:]
        position = text.index(kept, position) + len(kept)


@settings(deadline=None)
@given(st.dictionaries(st.text(max_size=8) | st.sampled_from(["note", "password", "x.token"]), _JSON, max_size=3))
def test_redaction_of_attributes_is_idempotent(attributes: dict[str, Any]) -> None:
    """Redacted attributes are valid JSON with as many keys; redacted again they are the same."""
    attributes = capture_attributes(attributes) or {}
    text = encode_attributes(attributes)
    if text is None:
        return
    assert len(orjson.loads(text)) == len(attributes)
    assert redact_json(text) is text


@settings(deadline=None)
@given(_TEXTS)
def test_the_first_step_misses_nothing(text: str) -> None:
    """Whatever the rules find is also seen by the quick searches: in text, in JSON, in many rows at once."""
    if not find_secrets(text, KeyRules()):
        return
    encoded = orjson.dumps({"note": text}).decode()
    assert screen.is_suspicious_text(text)
    assert screen.is_suspicious(encoded, 1)
    rows = [(0,) * 5 + ("name", 0, 0, 0, '{"a":1}')] * 3 + [(0,) * 5 + ("name", 0, 0, 0, encoded)]
    rows += [(0,) * 5 + ("name", 0, 0, 0, None), (0,) * 5 + ("name", 0, 0, 0, '{"password":{"a":"ghp_"}}')]
    before = rows[:]
    redact_rows(rows)
    assert rows[:3] + rows[4:5] == before[:3] + before[4:5]
    assert orjson.loads(rows[3][9]) == {"note": redact_text(text)}
    assert rows[5][9] == '{"password":"[REDACTED:password]"}'


# -- hostile text -----------------------------------------------------------------------------------------------------

PATTERNS = {name: value for name, value in vars(secret_rules).items() if isinstance(value, re.Pattern)}
PATTERNS |= {f"RESTS[{number}]": pattern for number, pattern in enumerate(secret_rules.RESTS)}
PATTERNS |= {name: value for name, value in vars(redaction).items() if isinstance(value, re.Pattern)}
# What nothing follows in its pattern takes a run of any length, once: it never has to give anything back.
ENDLESS = {
    "_PARAMETER_VALUE",
    "_QUOTED_PARAMETER_VALUE",
    "_BEARER_VALUE",
    "_BASIC_VALUE",
    "_KEY_BLOCK_LINE",
    "_PLACEHOLDER",
}
ENDLESS |= {"_WORD", "_NO_LETTER"}  # and these see no more than the end of a key
ENDLESS |= {name for name in PATTERNS if name.startswith("RESTS")}


def repeats(parsed: Any) -> Iterator[tuple[int, int, Any]]:
    """Least and largest count and content of all repetitions in a pattern, at any depth."""
    for op, argument in parsed:
        if op in (_constants.MAX_REPEAT, _constants.MIN_REPEAT):
            yield argument
        for part in argument if isinstance(argument, tuple | list) else ():
            for inner in part if isinstance(part, list) else [part]:
                if isinstance(inner, _parser.SubPattern):
                    yield from repeats(inner)


@pytest.mark.parametrize("name", PATTERNS)
def test_patterns_are_bounded(name: str) -> None:
    """From each position a pattern looks at a bounded number of characters, and in few ways."""
    parsed = _parser.parse(PATTERNS[name].pattern)
    work = 1
    for _, most, content in repeats(parsed):
        if name in ENDLESS:
            continue
        assert most != _constants.MAXREPEAT, name
        inner = [repeat for repeat in repeats(content) if repeat[0] != repeat[1]]
        assert not inner or (most <= 4 and all(repeat[1] <= 16 for repeat in inner)), name
        work += most
    assert work <= 2000, (name, work)


class Counted:
    """A pattern that counts the characters that it looks at at most: to its match, or else to the end."""

    work = 0

    def __init__(self, pattern: re.Pattern[str]) -> None:
        self.pattern = pattern

    def search(self, text: str, position: int = 0) -> re.Match[str] | None:
        """As of the pattern."""
        found = self.pattern.search(text, position)
        Counted.work += (len(text) if found is None else found.end()) - position
        return found

    def match(self, text: str, position: int = 0) -> re.Match[str] | None:
        """As of the pattern."""
        found = self.pattern.match(text, position)
        Counted.work += 1 if found is None else found.end() - position
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self.pattern, name)


HOSTILE = [
    "eyJ", "eyJ" + "a" * 20, "eyJaaaaaaaa.", "-----BEGIN PRIVATE KEY-----", "-----BEGIN PRIVATE KEY-----\n" + "a" * 64,
    "-----BEGIN RSA EC DSA A PRIVATE KEY", "://a:", "://", "://a:b", "?a=", "&token=", "%26sig%3D", "password='",
    "password='\\", 'password="\\\'', "password=\\\\\\'", "password='{'", "token:\"{'", "Bearer ", "Bearer a",
    "Basic aaaa", "sk-", "sk-a", "A", "\\", "'", '"', "=", " ", "[REDACTED:", "://[REDACTED:a]", "ghp_",
    "x" * 80 + "='", "AccountKey=",
]  # fmt: skip


@pytest.mark.parametrize("piece", HOSTILE, ids=ascii)
def test_work_grows_with_the_length(piece: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice as much hostile text costs twice the work, up to the 64 KiB that are ever stored."""
    for name, pattern in PATTERNS.items():
        if name in vars(secret_rules):
            monkeypatch.setattr(secret_rules, name, Counted(pattern))
    monkeypatch.setattr(secret_rules, "RESTS", list(map(Counted, secret_rules.RESTS)))  # type: ignore[arg-type]
    work = []
    for length in (16 * 1024, 32 * 1024, 64 * 1024):
        Counted.work = 0
        find_secrets((piece * length)[:length], KeyRules())
        work.append(Counted.work / length)
    assert max(work) <= 120
    assert work[2] <= work[0] * 1.2 + 1


def test_the_work_counter_sees_quadratic_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: a search that goes to the end of the text from each position shows in the counter."""
    counted = Counted(secret_rules.FORMS)
    work = []
    for length in (1024, 2048):
        Counted.work = 0
        for position in range(length):
            counted.search("x" * length, position)
        work.append(Counted.work / length)
    assert work[1] > work[0] * 1.9
