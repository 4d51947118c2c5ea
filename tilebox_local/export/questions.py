"""Questions with parameters that people ask a store, as SQL on its views; questions.sql has them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Question", "read_questions", "read_questions_sql"]

_NAME = re.compile(r"^-- name: (\w+)\n", re.MULTILINE)
_PARAMETER = re.compile(r"-- :(\w+) +(.+)")


@dataclass(frozen=True)
class Question:
    """A statement that reads views, and what it is for."""

    name: str
    title: str
    text: str
    parameters: Mapping[str, str]  #: what each stands for
    sql: str


@cache
def read_questions_sql() -> str:
    """Text of questions.sql."""
    return resources.files("tilebox_local.export").joinpath("questions.sql").read_text(encoding="utf-8")


@cache
def read_questions() -> Mapping[str, Question]:
    """All questions by name, in the order of the file."""
    parts = _NAME.split(read_questions_sql())
    return MappingProxyType({name: _question(name, body) for name, body in zip(parts[1::2], parts[2::2], strict=True)})


def _question(name: str, body: str) -> Question:
    lines = body.strip().splitlines()
    comments = [line for line in lines if line.startswith("--")]
    title = comments[0].removeprefix("-- title: ")
    found = [_PARAMETER.fullmatch(line) for line in comments]
    text = [line.removeprefix("-- ") for line, parameter in zip(comments[1:], found[1:], strict=True) if not parameter]
    parameters = {parameter[1]: parameter[2] for parameter in found if parameter}
    sql = "\n".join(line for line in lines if not line.startswith("--")).removesuffix(";")
    return Question(name, title, " ".join(text), MappingProxyType(parameters), sql)
