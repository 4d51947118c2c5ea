"""The schema as a page: docs/schema.md, made of schema.sql and the questions."""

from __future__ import annotations

import re
from itertools import groupby
from textwrap import dedent
from typing import TYPE_CHECKING

from tilebox_local.export.questions import read_questions
from tilebox_local.export.schema_docs import read_schema_docs

if TYPE_CHECKING:
    from tilebox_local.export.questions import Question
    from tilebox_local.export.schema_docs import RelationDocs, SectionDocs

__all__ = ["schema_page"]

_HEAD = """\
# The tables and views of a store

Made of schema.sql by `tilebox-local schema --format markdown`; change the comments there.
"""


def schema_page() -> str:
    """The page, in Markdown. The views come first, since people ask them."""
    docs = read_schema_docs()
    tables = [section for section in docs.sections if section.relations[0].kind == "TABLE"]
    views = [section for section in docs.sections if section.relations[0].kind == "VIEW"]
    parts = [_HEAD, "## About the file", _prose(docs.text), *(_section(section) for section in views)]
    parts += [_questions(), *(_section(section) for section in tables)]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


_NAMES = re.compile(r"(?<![\w`])[\w.*/()]*(?:_\w|\*_|_\*)[\w.*/()]*[\w*)]")


def _prose(text: str) -> str:
    """Text in paragraphs; what is indented and aligned is shown as it stands, a line without a full stop is a title."""
    parts = []
    for is_indented, group in groupby(text.splitlines(), key=lambda line: line.startswith(" ")):
        lines = list(group)
        if is_indented and any(re.search(r"\S {2,}\S", line) for line in lines):
            parts.append("\n".join(["```", *lines, "```"]))
        else:
            paragraphs = _escaped(dedent("\n".join(lines)).strip("\n")).split("\n\n")
            parts += [one if one.endswith((".", ":", ")")) or "\n" in one else f"**{one}**" for one in paragraphs]
    return "\n\n".join(parts)


def _escaped(text: str) -> str:
    """Text with names as code, and without what Markdown would take for markup."""
    parts = re.split(r"(`[^`]*`)", _NAMES.sub(r"`\g<0>`", text))
    return "".join(part if part.startswith("`") else re.sub(r"([*<>|\[\]])", r"\\\1", part) for part in parts)


def _section(section: SectionDocs) -> str:
    return "\n\n".join(
        [f"## {section.title}", *filter(None, [_prose(section.text)]), *map(_relation, section.relations)]
    )


def _relation(relation: RelationDocs) -> str:
    is_typed = relation.kind == "TABLE"
    lines = ["| column | type | |", "|---|---|---|"] if is_typed else ["| column | |", "|---|---|"]
    for column in relation.columns:
        cells = [f"`{column.name}`", *([column.type] if is_typed else []), _escaped(column.text)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n\n".join([f"### {relation.name}", _prose(relation.text), "\n".join(lines)])


def _questions() -> str:
    intro = (
        "Ready for `tilebox-local sql @name -p parameter=value`, for datasette, where they are canned queries, and to\n"
        "be copied. With sqlite3, `.parameter set :job_id \"'...'\"` sets a parameter."
    )
    return "\n\n".join(["## Questions with parameters", intro, *map(_one_question, read_questions().values())])


def _one_question(question: Question) -> str:
    parameters = [f"- `:{name}`: {_escaped(meaning)}" for name, meaning in question.parameters.items()]
    parts = [f"### {question.name}: {question.title[0].lower()}{question.title[1:]}", _escaped(question.text)]
    return "\n\n".join([*parts, *(["\n".join(parameters)] if parameters else []), f"```sql\n{question.sql}\n```"])
