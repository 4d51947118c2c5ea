"""Redaction: secrets are taken out of telemetry before it becomes rows, JSON or output.

Two steps, since nearly nothing is a secret. The first one is cheap and never misses: `screen.knows` says whether all
keys were looked at before and are harmless, which a span asks on the user's thread; the rest happens on the writer's:
`screen.is_suspicious` says whether one of the short texts occurs that every secret has somewhere. What is not cleared
by both takes the second step, which applies the rules of `secret_rules.py` exactly, to text as it is, not as JSON
escapes it.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import threading
from typing import TYPE_CHECKING, Any

import orjson

from tilebox_local.storage.secret_rules import (
    MARKER,
    KeyKind,
    KeyRule,
    KeyRules,
    Secret,
    find_secrets,
    replace_secrets,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

__all__ = [
    "Policy",
    "cut_position",
    "find_part",
    "has_start",
    "install",
    "is_redacting_by_default",
    "redact_attributes",
    "redact_json",
    "redact_name",
    "redact_output",
    "redact_text",
    "redacted_count",
    "screen",
]

_MAX_KNOWN = 4096
_MAX_KNOWN_CHARS = 256
_CUT_MARGIN = 8192
_MAX_PASSES = 4

# A part of every secret, beginning with a character that is rare in other text: Python's `re` skips what none of the
# branches begins with, and each false start costs as much as ten characters.
_PARTS = (
    r"J(?<=eyJ)", r"IA(?<=A[KS]IA)", r"Iza(?<=AIza)", r"PLAK", r"gh[pousr]_", r"github_pat_", r"glpat-", r"xox[a-z]-",
    r"k-(?<=sk-)", r"k_live_", r"BEGIN ", r"Key=", r"Bearer", r"bearer", r"BEARER", r"Basic", r"basic", r"BASIC",
    r"bEARER", r"bASIC", r"@", r"\?[A-Za-z]", r"&[A-Za-z]", r";[A-Za-z]", r"%3[Ff]", r"%26", r"'(?<=[:= brfuBRFU\\]')",
)  # fmt: skip
# In JSON, also quotes, which are escaped there, and an object inside of the attributes.
_ROWS_PARTS = re.compile("|".join((*_PARTS, r"\\\"")))
_JSON_PARTS = re.compile("|".join((*_PARTS, r"\\\"", r"\{")))
_TEXT_PARTS = re.compile("|".join((*_PARTS, r"\"(?<=[:= brfuBRFU\\]\")")))
_ROWS_STARTS = sorted({part.removeprefix("\\")[0] for part in _PARTS} | {"\\"})


class Policy:
    """What is redacted. Immutable.

    Args:
        enabled: False redacts nothing.
        keys: The rules for keys.
        patterns: Further rules for text: name and pattern.
    """

    def __init__(
        self,
        *,
        enabled: bool = True,
        keys: KeyRules | None = None,
        patterns: Iterable[tuple[str, re.Pattern[str]]] = (),
    ) -> None:
        self.enabled = enabled
        self.keys = KeyRules() if keys is None else keys
        self.patterns = tuple(patterns)


class _Screen:
    """The first step. Its members are replaced when the policy changes, so ask `screen` each time. Thread-safe."""

    __slots__ = ("harmless_keys", "is_suspicious", "is_suspicious_text", "knows", "names", "policy")

    policy: Policy
    harmless_keys: set[str]
    names: set[str]
    knows: Callable[[dict[str, Any]], bool]
    is_suspicious: Callable[[str, int], object]
    is_suspicious_text: Callable[[str], object]

    def apply(self, policy: Policy) -> None:
        """Use a policy from now on."""
        self.harmless_keys, self.names = set(), set()
        self.policy = policy
        if not policy.enabled:
            self.knows, self.is_suspicious, self.is_suspicious_text = _yes, _no, _no
            return
        self.knows = self.harmless_keys.issuperset
        has_patterns = bool(policy.patterns)  # which may match anything
        self.is_suspicious = _yes if has_patterns else _JSON_PARTS.search
        self.is_suspicious_text = _yes if has_patterns else _TEXT_PARTS.search

    def learn_keys(self, attributes: dict[str, Any]) -> bool:
        """Whether all of the keys are harmless; those that are, `knows` knows from now on."""
        rule_of = self.policy.keys.rule_of
        is_harmless = True
        for key in attributes.copy():  # which may change under our hands
            if rule_of(key) is None:
                _remember(self.harmless_keys, key)
            else:
                is_harmless = False
        return is_harmless

    def learn_name(self, name: object) -> bool:
        """Whether the name of a span needs no redaction; if so, it is in `names` from now on."""
        if type(name) is not str or self.is_suspicious_text(name):
            return False
        _remember(self.names, name)
        return True


def _yes(*_: object) -> bool:
    return True


def _no(*_: object) -> bool:
    return False


def _remember(known: set[str], text: str) -> None:
    if len(text) <= _MAX_KNOWN_CHARS:
        if len(known) >= _MAX_KNOWN:
            known.clear()
        known.add(text)


def is_redacting_by_default() -> bool:
    """Whether the environment leaves redaction on: TILEBOX_LOCAL_REDACT is not off, 0, false or no."""
    return os.environ.get("TILEBOX_LOCAL_REDACT", "").strip().lower() not in ("off", "0", "false", "no")


screen = _Screen()
screen.apply(Policy(enabled=is_redacting_by_default()))


def install(policy: Policy) -> None:
    """Redact by this policy from now on, in this process."""
    screen.apply(policy)


def find_part(rows: str, position: int) -> re.Match[str] | None:
    """The next part of a secret in the attributes of many rows, as JSON without objects inside."""
    return _ROWS_PARTS.search(rows, position)


def has_start(rows: str) -> bool:
    """Whether `find_part` may find anything: some text has none of the characters, which is seen much faster."""
    return any(map(rows.__contains__, _ROWS_STARTS))


# -- counting -----------------------------------------------------------------------------------------------------

_lock = threading.RLock()
_count = 0


def redacted_count() -> int:
    """Secrets that this process has replaced so far."""
    return _count


def _add(count: int) -> None:
    global _count
    with _lock:
        _count += count


def _reset_count() -> None:
    global _lock, _count
    _lock, _count = threading.RLock(), 0  # a thread of the parent may hold the lock


os.register_at_fork(after_in_child=_reset_count)


# -- text -----------------------------------------------------------------------------------------------------------


def redact_text(text: str) -> str:
    """`text` with a marker in place of each secret. Never raises."""
    redacted, count = _redact(text)
    if count:
        _add(count)
    return redacted


def redact_output(text: str) -> str:
    """As `redact_text`, for what is printed: it does not count, since what is stored does."""
    return _redact(text)[0]


def redact_name(name: Any) -> Any:
    """As `redact_text`, for the names of spans and events, which repeat; what is no text stays as it is."""
    if type(name) is not str or name in screen.names or screen.learn_name(name):
        return name
    return redact_text(name)


def _redact(text: str) -> tuple[str, int]:
    if not screen.is_suspicious_text(text):
        return text, 0
    policy = screen.policy
    if not policy.enabled:
        return text, 0
    count = 0
    try:
        # Again where a secret may only be told from its surroundings once its neighbour is gone.
        for _ in range(_MAX_PASSES):
            secrets = find_secrets(text, policy.keys, policy.patterns)
            if not secrets:
                break
            is_done = not any(_touches(text, secret) for secret in secrets)
            text = replace_secrets(text, secrets)
            count += len(secrets)
            if is_done:
                break
    except Exception:  # noqa: BLE001 -- a user's pattern; telemetry must not raise, and not leak either
        return MARKER.format("unreadable"), count + 1
    return text, count


_WORD_CHAR = re.compile(r"[A-Za-z0-9._~+/%-]")
_QUOTE = re.compile(r"[\"'\\]")


def _touches(text: str, secret: Secret) -> bool:
    """Whether what is beside a secret may be read in another way when it is gone."""
    if secret.start and _WORD_CHAR.match(text, secret.start - 1):
        return True
    return bool(_WORD_CHAR.match(text, secret.end) or _QUOTE.search(text, secret.start, secret.end))


def cut_position(text: str, limit: int) -> int:
    """Where to cut a long text: at `limit`, or before the secret that a cut there would leave a part of."""
    policy = screen.policy
    if not policy.enabled:
        return limit
    start = max(0, limit - _CUT_MARGIN)
    for secret in find_secrets(text[start : limit + _CUT_MARGIN], policy.keys):
        if start + secret.start < limit < start + secret.end:
            return start + secret.start
    return limit


# -- attributes -------------------------------------------------------------------------------------------------------


def redact_json(text: str) -> str:
    """JSON text, as `encode_attributes` makes it, with a marker in place of each secret. Never raises.

    Text without a secret is returned as it is.
    """
    if not screen.policy.enabled:
        return text
    run = _Run(screen.policy)
    try:
        loaded = orjson.loads(text)
        redacted = run.attributes(loaded) if isinstance(loaded, dict) else run.value(loaded)
        return orjson.dumps(redacted).decode() if run.finish() else text
    except Exception:  # noqa: BLE001 -- telemetry must not raise, and not leak either
        return orjson.dumps({"$invalid": MARKER.format("unreadable")}).decode()


def redact_attributes(attributes: dict[str, Any]) -> dict[str, Any]:
    """Captured attributes with a marker in place of each secret; the same object if there are none."""
    if not screen.policy.enabled:
        return attributes
    run = _Run(screen.policy)
    redacted = run.attributes(attributes)
    return redacted if run.finish() else attributes


class _Run:
    """One pass over a captured value."""

    def __init__(self, policy: Policy) -> None:
        self._keys = policy.keys
        self._count = 0

    def finish(self) -> int:
        """How many secrets were replaced; now they count."""
        if self._count:
            _add(self._count)
        return self._count

    def attributes(self, attributes: dict[str, Any]) -> dict[str, Any]:
        """The outermost object."""
        screen.learn_keys(attributes)
        return self._object(attributes)

    def value(self, value: Any) -> Any:
        """Any value, without a key."""
        kind = type(value)
        if kind is str:
            return self._text(value)
        if kind is list:
            return [self.value(item) for item in value]
        if kind is dict:
            encoded = value.get("$bytes")
            if type(encoded) is str and next(iter(value)) == "$bytes":
                return {**value, "$bytes": self._bytes(encoded)}
            return self._object(value)
        return value

    def _text(self, text: str) -> str:
        redacted, count = _redact(text)
        self._count += count
        return redacted

    def _bytes(self, encoded: str) -> str:
        try:
            text = base64.b64decode(encoded, validate=True).decode("latin-1")
        except (binascii.Error, ValueError):  # the user's own dict
            return self._text(encoded)
        redacted = self._text(text)
        return encoded if redacted is text else base64.b64encode(redacted.encode("latin-1", "replace")).decode("ascii")

    def _object(self, value: dict[str, Any]) -> dict[str, Any]:
        redacted: dict[str, Any] = {}
        for key, item in value.items():
            redacted[self._unused(self._text(key), redacted)] = self._item(key, item)
        return redacted

    def _item(self, key: str, item: Any) -> Any:
        if self._keys.is_allowed(key):
            return item
        rule = self._keys.rule_of(key)
        if rule is None or not _hides(rule, item):
            return self.value(item)
        marker = MARKER.format(rule.name)
        if item != marker:
            self._count += 1
        return marker

    @staticmethod
    def _unused(key: str, taken: dict[str, Any]) -> str:
        """Two keys that held secrets must not become one."""
        number, unused = 1, key
        while unused in taken:
            number += 1
            unused = f"{key} {number}"
        return unused


def _hides(rule: KeyRule, value: Any) -> bool:
    """Whether a rule for a key replaces this value."""
    if value is None or value == "" or type(value) is bool:
        return False
    kind = type(value)
    if kind is dict and "$bytes" in value:
        return True
    if rule.kind is KeyKind.ALL:
        return True
    if kind in (int, float) or (kind is dict and ("$int" in value or "$float" in value)):
        return False
    return kind is str or rule.kind is KeyKind.TEXT


def make_policy(
    *,
    enabled: bool,
    allow_keys: Iterable[str],
    extra_keys: Iterable[str],
    extra_values: Mapping[str, re.Pattern[str]],
) -> Policy:
    """A policy of checked arguments."""
    return Policy(enabled=enabled, keys=KeyRules(allow_keys, extra_keys), patterns=extra_values.items())
