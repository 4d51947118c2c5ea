"""Secrets that are made up: of every kind, from a seed. None is written down, so nothing here looks like a leak."""

from __future__ import annotations

import base64
import random
import string
from typing import NamedTuple

_ALNUM = string.ascii_letters + string.digits
_BASE64URL = _ALNUM + "-_"


class Canary(NamedTuple):
    """A secret: `core` must not be stored. `text` has it as it occurs in text; with `key`, it is an attribute's."""

    rule: str
    core: str
    text: str
    key: str | None = None

    def is_in(self, seen: set[bytes]) -> bool:
        """Whether a part of it leaked: ten characters, of those that `parts_of` has seen."""
        lines = self.core.splitlines()
        return any(line[at : at + 10].encode() in seen for line in lines for at in range(0, len(line) - 9, 5))


def parts_of(content: bytes) -> set[bytes]:
    """All that content has of ten bytes."""
    return {content[at : at + 10] for at in range(len(content) - 9)}


def _make(generator: random.Random, alphabet: str, count: int) -> str:
    # The last characters have a digit and both cases, as nearly all such texts have.
    return "".join(generator.choices(alphabet, k=count - 3)) + "aZ7"


def of_values(generator: random.Random) -> list[Canary]:
    """One canary for each rule for text."""

    def alnum(count: int) -> str:
        return _make(generator, _ALNUM, count)

    def url64(count: int) -> str:
        return _make(generator, _ALNUM, 4) + _make(generator, _BASE64URL, count - 4)

    upper = "".join(generator.choices(string.ascii_uppercase + string.digits, k=16))
    found = [Canary("aws-access-key-id", code + upper, code + upper) for code in (generator.choice(("AKIA", "ASIA")),)]
    for rule, core in [
        ("jwt", f"eyJ{url64(30)}.eyJ{url64(60)}.{url64(43)}"),
        ("github-token", f"gh{generator.choice('pousr')}_{alnum(36)}"),
        ("github-token", f"github_pat_{alnum(22)}_{alnum(59)}"),
        ("gitlab-token", f"glpat-{url64(20)}"),
        ("slack-token", f"xox{generator.choice('abprs')}-{generator.randrange(10**11, 10**12)}-{alnum(24)}"),
        ("google-api-key", f"AIza{_make(generator, _BASE64URL, 35)}"),
        ("stripe-key", f"sk_live_{alnum(24)}"),
        ("sk-key", f"sk-{alnum(48)}"),
        ("sk-key", f"sk-ant-api03-{url64(90)}"),
        ("sk-key", f"sk-proj-{url64(60)}"),
        ("planet-api-key", "PLAK" + f"{generator.getrandbits(128):032x}"),
    ]:
        found.append(Canary(rule, core, core))
    body = "\n".join(_make(generator, _ALNUM + "+/", 64) for _ in range(4))
    kind = generator.choice(("", "RSA ", "EC ", "OPENSSH "))
    core = f"-----BEGIN {kind}PRIVATE KEY-----\n{body}\n-----END {kind}PRIVATE KEY-----"
    found.append(Canary("private-key", body, core))
    token, user = alnum(32), base64.b64encode(f"user:{alnum(16)}".encode()).decode()
    found += [
        Canary("bearer", token, f"Authorization: Bearer {token}"),
        Canary("basic", user, f"authorization: Basic {user}"),
    ]
    core = alnum(20)
    found.append(
        Canary("url-password", core, f"{generator.choice(('https', 's3', 'postgresql'))}://me:{core}@host/data")
    )
    core = f"{_make(generator, _ALNUM + '+/', 86)}=="
    found.append(Canary("azure-account-key", core, f"AccountName=a;AccountKey={core};EndpointSuffix=core"))
    for name in (
        "X-Amz-Signature", "X-Amz-Credential", "X-Amz-Security-Token", "X-Goog-Signature", "Signature", "sig",
        "AWSAccessKeyId", "token", "access_token", "api_key",
    ):  # fmt: skip
        core = alnum(40)
        rule = "url-signature" if name[0] in "XSAs" else name
        found.append(Canary(rule, core, f"https://host/a.tif?se=2024&{name}={core}&sp=r"))
    core = alnum(40)
    text = f"https://titiler/cog?url=https%3A%2F%2Fhost%2Fa.tif%3Fsp%3Dr%26sig%3D{core}%26se%3D1&bidx=1"
    found.append(Canary("url-signature", core, text))
    return found


_KEYS = (
    "authorization", "Proxy-Authorization", "cookie", "Set-Cookie", "password", "db.passwd", "PWD", "secret",
    "CLIENT_SECRET", "clientSecret", "api_key", "apikey", "X-Api-Key", "http.request.header.x-api-key", "accessToken",
    "refresh_token", "id_token", "auth_token", "token", "private_key", "aws_secret_access_key", "aws_session_token",
    "sas_token", "credentials", "dbPassword2", "Ocp-Apim-Subscription-Key", "SecretString",
)  # fmt: skip


def of_keys(generator: random.Random) -> list[Canary]:
    """One canary for each of many secret keys; as text it is in quotes behind its key."""
    found = []
    for key in _KEYS:
        core = _make(generator, _ALNUM, 20)
        shapes = (f"Config({{}}='{core}')", f"{{{{'{{}}': '{core}', 'n': 1}}}}", f'{{{{"{{}}": "{core}"}}}}')
        text = generator.choice(shapes[0 if key.isidentifier() else 1 :]).format(key)
        found.append(Canary("", core, text, key))
    return found


def make_canaries(seed: int, paths: list[str], count: int) -> dict[str, list[Canary]]:
    """`count` canaries, dealt to the capture paths, so that each path has every kind of text, and keys in turn."""
    generator = random.Random(seed)
    each, more = divmod(count, len(paths))
    keys: list[Canary] = []
    dealt = {}
    for number, path in enumerate(paths):
        wanted = each + (number < more)
        hand = of_values(generator)[:wanted]
        while len(hand) < wanted:
            keys = keys or of_keys(generator)
            hand.append(keys.pop())
        dealt[path] = hand
    return dealt
