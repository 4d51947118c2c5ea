"""Redaction of secrets in telemetry: on by default; this is how to change what it does.

Spans, events, links, logs, names, status messages, exceptions with their stack traces, display texts, progress labels,
job names and resource attributes are searched for secrets before they are stored or printed by this package. Instead of
a secret there is `[REDACTED:rule]`, with the name of the rule that found it; `client.stats().redacted_count` counts.

- **By key:** the value of an attribute, at any depth, whose key ends with the words of a rule: `password`,
  `http.request.header.authorization`, `dbPassword`, `X-Api-Key`. Words end at punctuation and where the case changes,
  so `tokenizer`, `cookie_policy` and `max_tokens` are none. Booleans and null stay, and so do numbers, except under
  `password` and `secret`. In text, the same goes for `password="..."` and `'password': '...'`.
- **By value:** the part of a text that looks like a secret: JSON Web Tokens, keys and tokens of AWS, Azure, GitHub,
  GitLab, Google, OpenAI, Anthropic, Planet, Slack and Stripe, private keys, what follows `Bearer` and `Basic`, the
  password in a URL, the signature and the tokens among its parameters. The rest of a signed URL stays readable.

**Task inputs are not redacted:** tasks need them to run. Pass the name of a secret as input and read the secret itself
from the environment. Caches and the names and descriptions of clusters are stored as they are, too.
"""

from __future__ import annotations

import re
from contextlib import suppress
from typing import TYPE_CHECKING

from tilebox_local.errors import ArgumentError, StoreError
from tilebox_local.storage import redaction
from tilebox_local.storage.secret_rules import words_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["configure_redaction"]

_FLUSH_TIMEOUT_S = 5.0
_RULE_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")


def configure_redaction(
    *,
    enabled: bool | None = None,
    allow_keys: Iterable[str] = (),
    extra_keys: Iterable[str] = (),
    extra_values: Mapping[str, str | re.Pattern[str]] | None = None,
) -> None:
    """Set what is redacted in this process, for telemetry that is captured from now on.

    Each call describes all of it: what is not given is as if there had been no call before. What was captured before
    is committed first, for which this waits at most 5 seconds; a span counts when it ends. Forked children inherit the
    setting, other processes have to make it themselves. Thread-safe.

    Args:
        enabled: False redacts nothing. Default: on, unless the environment variable TILEBOX_LOCAL_REDACT is "off".
        allow_keys: Keys whose values are stored as they are, whatever they hold, such as "cookie". They match like
            those of rules, by their last words: "cookie" allows "session.cookie", too.
        extra_keys: Further secret keys, such as "customer_id". Text, numbers, arrays and objects are replaced.
        extra_values: Further rules for text: a name, of letters, digits, ".", "_" and "-", and a regular expression.
            All of what it matches is replaced. It sees text of up to 64 Ki characters, so mind its running time.
            With such rules every text takes the slower way.

    Raises:
        ArgumentError: a key without a letter, an invalid name or regular expression, or one that matches nothing at
            all, the empty text.
    """
    policy = redaction.make_policy(
        enabled=redaction.is_redacting_by_default() if enabled is None else enabled,
        allow_keys=_checked_keys("allow_keys", allow_keys),
        extra_keys=_checked_keys("extra_keys", extra_keys),
        extra_values=_checked_patterns(extra_values or {}),
    )
    _commit_captured()
    redaction.install(policy)


def _commit_captured() -> None:
    from tilebox_local.storage.store import open_stores

    for store in open_stores():
        with suppress(StoreError):  # what cannot be written now is redacted by the new rules
            store.flush(_FLUSH_TIMEOUT_S)


def _checked_keys(argument: str, keys: Iterable[str]) -> list[str]:
    if isinstance(keys, str):
        raise ArgumentError(f"{argument} is a list of keys, not one text: [{keys!r}].")
    checked = list(keys)
    for key in checked:
        if not isinstance(key, str) or not words_of(key) or len(key) > 64:
            raise ArgumentError(
                f"{key!r:.100} in {argument} is no key: a text of at most 64 characters, with a letter."
            )
    return checked


def _checked_patterns(patterns: Mapping[str, str | re.Pattern[str]]) -> dict[str, re.Pattern[str]]:
    checked = {}
    for name, pattern in patterns.items():
        if not _RULE_NAME.fullmatch(name):
            raise ArgumentError(f"{name!r:.100} is no name of a rule: use 1 to 64 letters, digits, '.', '_' and '-'.")
        try:
            compiled = re.compile(pattern)
            matches_nothing = compiled.match("") is not None
        except (re.error, TypeError) as error:
            raise ArgumentError(f"The rule {name!r} is no regular expression for text: {error}.") from error
        if matches_nothing:
            raise ArgumentError(f"The rule {name!r} matches the empty text; it has to name what it looks for.")
        checked[name] = compiled
    return checked
