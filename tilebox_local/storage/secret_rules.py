"""What counts as a secret: rules for keys, and for text.

All patterns have bounded quantifiers and look at a bounded number of characters from each position, so the work grows
with the length of the text, whatever it holds. A secret of any length is found by its bounded beginning; the rest of it
is taken by a second pattern, which nothing follows.
"""

from __future__ import annotations

import base64
import binascii
import re
from enum import Enum
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

__all__ = ["MARKER", "KeyKind", "KeyRule", "KeyRules", "Secret", "find_secrets", "words_of"]

MARKER = "[REDACTED:{}]"
_MARKER = re.compile(r"\[REDACTED:[A-Za-z0-9_.-]{1,64}\]")


class KeyKind(Enum):
    """Which values a secret key hides."""

    ALL = 1  # text, numbers, arrays and objects
    TEXT = 2  # text, and arrays and objects as a whole; numbers are counts
    PLAIN_TEXT = 3  # text only


class KeyRule(NamedTuple):
    """A key is secret if its last words are `words`. `name` is what the marker shows."""

    name: str
    words: tuple[str, ...]
    kind: KeyKind


def _rules(kind: KeyKind, names: str) -> list[KeyRule]:
    return [KeyRule(name, tuple(name.split("_")), kind) for name in names.split()]


_KEY_RULES = [
    *_rules(KeyKind.ALL, "password passwd pwd passphrase secret client_secret"),
    *_rules(
        KeyKind.TEXT,
        "authorization proxy_authorization cookie cookies set_cookie passwords api_key api_keys apikey x_api_key "
        "access_token access_tokens refresh_token refresh_tokens id_token auth_token session_token sas_token "
        "private_key secret_key secret_access_key aws_secret_access_key aws_session_token secret_string account_key "
        "subscription_key",
    ),
    *_rules(KeyKind.PLAIN_TEXT, "token credential credentials secrets"),
]
# Last words that say nothing about what the value is.
_TRAILING = {"value", "header", "plaintext", "base64", "b64", "pem"}
# Before "token": pages of a listing, and the vocabulary of language models.
_HARMLESS_TOKENS = {
    "next", "page", "continuation", "sync", "resume", "bos", "eos", "pad", "unk", "sep", "cls", "mask", "stop",
    "special", "start", "end", "first", "last", "image",
}  # fmt: skip
_WORD = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|[0-9]+")
_NO_LETTER = re.compile(r"[^A-Za-z]+")
_KNOWN_KEYS = 2048
_KEY_END_CHARS = 96  # the last words of a key decide
_MARKED_PARAMETERS = {
    "x-amz-signature", "x-amz-credential", "x-amz-security-token", "x-goog-signature", "x-goog-credential", "signature",
    "sig", "awsaccesskeyid",
}  # fmt: skip


def words_of(key: str) -> tuple[str, ...]:
    """The last words of a key, in lower case: "x-apiKey" has x, api, key."""
    return tuple(word.lower() for word in _WORD.findall(_end_of(key)))


def _end_of(key: str) -> str:
    if "[REDACTED:" in key:  # the name of a rule is not part of the key
        key = _MARKER.sub(" redacted ", key)
    return key[-_KEY_END_CHARS:]


def _squeezed(key: str) -> str:
    """The last part of a key without its inner case, as in PassWord or APIkey."""
    parts = [part for part in _NO_LETTER.split(_end_of(key)) if part]
    return parts[-1].lower() if parts else ""


class KeyRules:
    """The rules for keys of one configuration. Immutable.

    Args:
        allowed: Keys that are no secret, whatever the rules say, and extra: Keys that are; by their last words.
    """

    def __init__(self, allowed: Iterable[str] = (), extra: Iterable[str] = ()) -> None:
        self._allowed = {words_of(key) for key in allowed}
        self._allowed_squeezed = {_squeezed(words[0]) for words in self._allowed if len(words) == 1}
        rules = [*_KEY_RULES, *(KeyRule(name_of(key), words_of(key), KeyKind.ALL) for key in extra)]
        self._by_words = {rule.words: rule for rule in rules}
        self._by_squeezed = {"".join(rule.words): rule for rule in rules}
        self._longest = max(len(words) for words in {*self._by_words, *self._allowed})
        # Keys repeat.
        self.rule_of = lru_cache(_KNOWN_KEYS)(self._rule_of)
        self.is_allowed = lru_cache(_KNOWN_KEYS)(self._is_allowed) if self._allowed else _never

    def _is_allowed(self, key: str) -> bool:
        """Whether the user said that this key holds no secret."""
        words = words_of(key)
        if any(words[-count:] in self._allowed for count in range(1, self._longest + 1)):
            return True
        return _squeezed(key) in self._allowed_squeezed

    def _rule_of(self, key: str) -> KeyRule | None:
        """The rule that makes this key secret."""
        words = words_of(key)
        while len(words) > 1 and (words[-1] in _TRAILING or words[-1].isdecimal()):
            words = words[:-1]
        rule = None
        for count in range(min(self._longest, len(words)), 0, -1):
            rule = self._by_words.get(words[-count:])
            if rule is not None:
                break
        else:
            rule = self._by_squeezed.get(_squeezed(key))
        if rule is None or self.is_allowed(key):
            return None
        if rule.words == ("token",) and len(words) > 1 and words[-2] in _HARMLESS_TOKENS:
            return None
        return rule


def _never(_: str) -> bool:
    return False


def name_of(key: str) -> str:
    """A key as the name of a rule."""
    return "_".join(words_of(key))


class Secret(NamedTuple):
    """A secret in a text."""

    start: int
    end: int
    rule: str


# -- secrets that are known by their own form -----------------------------------------------------------------------

# A lookbehind after the literal, since a pattern whose branches begin with literals is searched for much faster. Text
# as repr() shows it has "\n" where a line begins.
_EDGE = r"(?:(?<![A-Za-z0-9]{0})|(?<=\\[nrt]{0}))"
_DIGIT_AHEAD = r"(?=[A-Za-z_-]{0,60}[0-9])"
_BASE64URL = r"[A-Za-z0-9_-]"
_FORMS: list[tuple[str, str, str]] = [  # name, beginning, rest
    (
        "private-key",
        r"-----BEGIN (?:[A-Z0-9]{1,16} ){0,4}PRIVATE KEY(?: BLOCK)?-----",
        "",  # see _end_of_key_block
    ),
    ("jwt", rf"eyJ{_BASE64URL}{{8,1024}}\.{_BASE64URL}{{4}}", rf"{_BASE64URL}*(?:\.{_BASE64URL}+){{0,3}}"),
    ("aws-access-key-id", r"A[KS]IA(?<![A-Z0-9]A[KS]IA)[A-Z0-9]{16}(?![A-Z0-9])", ""),
    ("google-api-key", rf"AIza{_BASE64URL}{{35}}", ""),
    ("github-token", r"gh[pousr]_[A-Za-z0-9]{20}", r"[A-Za-z0-9]*"),
    ("github-token", r"github_pat_[A-Za-z0-9_]{20}", r"[A-Za-z0-9_]*"),
    ("gitlab-token", rf"glpat-{_BASE64URL}{{16}}", rf"{_BASE64URL}*(?:\.{_BASE64URL}+){{0,3}}"),
    ("slack-token", r"xox[a-z]-[A-Za-z0-9-]{10}", r"[A-Za-z0-9-]*"),
    ("stripe-key", r"sk_live_[A-Za-z0-9]{10}", r"[A-Za-z0-9]*"),
    ("stripe-key", r"rk_live_[A-Za-z0-9]{10}", r"[A-Za-z0-9]*"),
    ("sk-key", rf"sk-{_EDGE.format('sk-')}{_DIGIT_AHEAD}{_BASE64URL}{{20}}", rf"{_BASE64URL}*"),
    ("planet-api-key", r"PLAK[0-9a-f]{32}", ""),
    ("azure-account-key", r"Acc(?:ount|ess)Key=[A-Za-z0-9+/]{40}", r"[A-Za-z0-9+/]*={0,2}"),
]
# The empty group at the end of each branch tells which one it was.
FORMS = re.compile("|".join(f"{beginning}()" for _, beginning, _ in _FORMS))
RESTS = [re.compile(rest) for _, _, rest in _FORMS]
_KEY_BLOCK = 0
_ACCOUNT_KEY = len(_FORMS) - 1
KEY_BLOCK_END = re.compile(r"-----END (?:[A-Z0-9]{1,16} ){0,4}PRIVATE KEY(?: BLOCK)?-----")
_KEY_BLOCK_LINE = re.compile(r"(?:\s|\\[nrt]|[\"'>|+,]){0,40}[A-Za-z0-9+/=]{16}[A-Za-z0-9+/=]*")


def _find_forms(text: str) -> Iterator[Secret]:
    position = 0
    key_block_ends = True  # whether there may still be an end of a key block ahead
    while found := FORMS.search(text, position):
        number = (found.lastindex or 1) - 1
        start, position = found.span()
        if number == _KEY_BLOCK:
            end = KEY_BLOCK_END.search(text, position) if key_block_ends else None
            if end is not None:
                position = end.end()
            else:  # it was cut off
                key_block_ends = False
                while line := _KEY_BLOCK_LINE.match(text, position):
                    position = line.end()
                if position == found.end():
                    continue  # no key, but text about keys
        else:
            rest = RESTS[number].match(text, position)
            position = position if rest is None else rest.end()
            if number == _ACCOUNT_KEY:
                start = text.index("=", start) + 1
        yield Secret(start, position, _FORMS[number][0])


# -- secrets that are known by their place ----------------------------------------------------------------------------

_URL_CHAR = r"[^\s/?#\"'<>\\]"
# scheme://user:password@host, but not docker://image:tag@sha256:...
USER_INFO = re.compile(rf"://[^\s/?#:@\[\"'<>\\]{{0,256}}:({_URL_CHAR}{{1,1024}})@(?!sha256:)")
# ?name=value, also where the URL is itself a parameter of another one
PARAMETER = re.compile(r"(?:\?|&|;|%3[Ff]|%26)([A-Za-z][A-Za-z0-9_.-]{0,63})(=|%3[Dd])")
_PARAMETER_VALUE = re.compile(r"[A-Za-z0-9%+/=_.~:!*@$-]*")
_QUOTED_PARAMETER_VALUE = re.compile(r"(?:[A-Za-z0-9+/=_.~:!*@$-]|%(?!26))*")
SCHEME = re.compile(r"[Bb](?:(earer|EARER)|asic|ASIC)(?:\s|%20|\+|\\[nrt]){1,4}")
_BEARER_VALUE = re.compile(r"[A-Za-z0-9._~+/=-]*")
_BASIC_VALUE = re.compile(r"[A-Za-z0-9+/]*={0,2}")
_DIGIT = re.compile(r"[0-9]")
_MIN_WORDLIKE_TOKEN = 24  # without a digit, less may be a word of English
_MIN_BASIC_BYTES = 6
# Name, and value in quotes: "password": "...", 'password': '...', password='...', also escaped
NAMED_VALUE = re.compile(r"[:=] {0,2}[brfuBRFU]{0,2}(\\{0,8})([\"'])")
_NAME_BACKWARDS = re.compile(r"\s{0,2}[\"']?\\{0,8}([\w.-]{1,96})")
_PLACEHOLDER = re.compile(r"\*+|\{[^{}]*\}|%s|\$\w+|<[\w -]+>")


def _find_user_info(text: str) -> Iterator[Secret]:
    position = 0
    while found := USER_INFO.search(text, position):
        position = found.end()
        yield Secret(*found.span(1), "url-password")


def _find_parameters(text: str, keys: KeyRules) -> Iterator[Secret]:
    position = 0
    while found := PARAMETER.search(text, position):
        position = found.end()
        name = found[1]
        if keys.is_allowed(name):
            continue
        if name.lower() in _MARKED_PARAMETERS:
            rule = "url-signature"
        elif (key_rule := keys.rule_of(name)) is not None:
            rule = key_rule.name
        else:
            continue
        is_quoted = found[0][0] == "%" or found[2] != "="
        value = (_QUOTED_PARAMETER_VALUE if is_quoted else _PARAMETER_VALUE).match(text, position)
        if value is not None and value.end() > position:
            position = value.end()
            yield Secret(value.start(), position, rule)


def _find_schemes(text: str) -> Iterator[Secret]:
    position = 0
    while found := SCHEME.search(text, position):
        value = (_BEARER_VALUE if found[1] else _BASIC_VALUE).match(text, found.end())
        position = found.end() if value is None else value.end()
        content = text[found.end() : position]
        if found[1]:
            if len(content) >= 8 and (len(content) >= _MIN_WORDLIKE_TOKEN or _DIGIT.search(content)):
                yield Secret(found.end(), position, "bearer")
        elif _is_user_and_password(content):
            yield Secret(found.end(), position, "basic")


def _is_user_and_password(content: str) -> bool:
    """Whether this is what follows "Basic": base64 of user:password. Cut off, it may lack its end."""
    content = content.rstrip("=")
    try:
        decoded = base64.b64decode(content[: len(content) // 4 * 4], validate=True)
    except (binascii.Error, ValueError):
        return False
    return len(decoded) >= _MIN_BASIC_BYTES and b":" in decoded and decoded.isascii() and decoded.decode().isprintable()


def _find_named_values(text: str, keys: KeyRules) -> Iterator[Secret]:
    position = 0
    while found := NAMED_VALUE.search(text, position):
        position = found.end()
        name = _NAME_BACKWARDS.match(text[max(0, found.start() - _KEY_END_CHARS) : found.start()][::-1])
        rule = None if name is None else keys.rule_of(name[1][::-1])
        if rule is None:
            continue
        end = _end_of_quoted(text, position, found[2], len(found[1]))
        if end > position and not _PLACEHOLDER.fullmatch(text, position, end):
            yield Secret(position, end, rule.name)
        position = end


def _end_of_quoted(text: str, start: int, quote: str, escapes: int) -> int:
    """Where text in quotes ends, if the quotes around it have that many backslashes before them."""
    position = start
    while (found := text.find(quote, position)) >= 0:
        first = found
        while first > start and text[first - 1] == "\\":
            first -= 1
        count = found - first
        if count <= escapes:
            return first
        if not escapes and count % 2 == 0:
            return found
        position = found + 1
    return len(text)


def find_secrets(text: str, keys: KeyRules, extra: Iterable[tuple[str, re.Pattern[str]]] = ()) -> list[Secret]:
    """The secrets in a text, ascending, apart from each other; of those that overlap, one that covers them."""
    found = list(_find_forms(text))
    if "://" in text:
        found += _find_user_info(text)
    if "=" in text or "%3" in text:
        found += _find_parameters(text, keys)
    if any(word in text for word in ("earer", "asic", "EARER", "ASIC")):
        found += _find_schemes(text)
    if '"' in text or "'" in text:
        found += _find_named_values(text, keys)
    for name, pattern in extra:
        found += [Secret(*match.span(), name) for match in pattern.finditer(text) if match.end() > match.start()]
    if not found:
        return found
    marked = [match.span() for match in _MARKER.finditer(text)]
    found.sort(key=lambda secret: (secret.start, -secret.end))
    apart: list[Secret] = []
    for secret in found:
        if apart and secret.start < apart[-1].end:
            apart[-1] = apart[-1]._replace(end=max(apart[-1].end, secret.end))
        else:
            apart.append(secret)
    return [secret for secret in apart if secret[:2] not in marked]


def replace_secrets(text: str, secrets: Iterable[Secret], show: Callable[[str], str] = MARKER.format) -> str:
    """The text with a marker in place of each secret."""
    parts: list[str] = []
    position = 0
    for secret in secrets:
        parts += (text[position : secret.start], show(secret.rule))
        position = secret.end
    return "".join((*parts, text[position:]))
