"""Text of unknown origin made safe and measurable for SVG, HTML and terminals.

Does not do: markup escaping, which each format does itself. Widths are in cells: one column of a monospace
font, two for wide East Asian characters and emoji, none for combining marks.
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache
from itertools import chain

__all__ = ["cell_width", "cut_end", "cut_middle", "visible", "wrap"]

_JOINER = "\u200d"  # part of emoji sequences, and harmless
_HIDDEN_CATEGORIES = {"Cc", "Cf", "Cs", "Zl", "Zp"}


@lru_cache(maxsize=4096)
def _visible_char(char: str) -> str:
    code = ord(char)
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "\u2421"
    is_noncharacter = code & 0xFFFE == 0xFFFE or 0xFDD0 <= code <= 0xFDEF
    if is_noncharacter or (unicodedata.category(char) in _HIDDEN_CATEGORIES and char != _JOINER):
        return char.encode("unicode_escape").decode()
    return char


def visible(text: str, *, keep_newlines: bool = False) -> str:
    r"""Replace every character that would act instead of being seen.

    C0 controls become their pictures (U+001B is "␛"), other controls, bidirectional overrides, lone
    surrogates and noncharacters become escapes such as "\u202e". The result is legal in XML and cannot steer
    a terminal.

    Args:
        text: Any string.
        keep_newlines: Keep line feeds; "\r\n" counts as one.
    """
    if text.isprintable():
        return text
    if keep_newlines:
        return "\n".join(visible(line) for line in text.replace("\r\n", "\n").split("\n"))
    return "".join(map(_visible_char, text))


@lru_cache(maxsize=4096)
def _char_width(char: str) -> int:
    if unicodedata.category(char) in {"Mn", "Me", "Cf"}:
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def cell_width(text: str) -> int:
    """Number of cells the text takes up, which must not contain control characters."""
    return len(text) if text.isascii() else sum(map(_char_width, text))


def _take(text: str, width: int) -> int:
    """How many leading characters fit into `width` cells."""
    used = 0
    for index, char in enumerate(text):
        used += _char_width(char)
        if used > width:
            return index
    return len(text)


def cut_end(text: str, width: int, ellipsis: str = "…") -> str:
    """The text in at most `width` cells, its end replaced by the ellipsis if it is longer."""
    if cell_width(text) <= width:
        return text
    return text[: _take(text, max(0, width - cell_width(ellipsis)))] + ellipsis[:width]


def cut_middle(text: str, width: int, ellipsis: str = "…") -> str:
    """The text in at most `width` cells, its middle replaced by the ellipsis if it is longer."""
    if cell_width(text) <= width:
        return text
    room = width - cell_width(ellipsis)
    if room < 2:
        return cut_end(text, width, ellipsis)
    head = _take(text, (room + 1) // 2)
    tail = _take(text[::-1], room - (room + 1) // 2)
    return text[:head] + ellipsis + text[len(text) - tail :]


def _break_point(line: str, width: int) -> int:
    """Where to break a line that is too long: at a space, else behind a separator, else before a capital."""
    fits = max(1, _take(line, width))
    candidates = range(fits, fits // 2, -1)
    spaces = (index for index in candidates if " " in line[index - 1 : index + 1])
    separators = (index for index in candidates if line[index - 1] in "-_/\\.,:;=)]}")
    capitals = (index for index in candidates if line[index - 1].islower() and line[index].isupper())
    return next(chain(spaces, separators, capitals), fits)


def wrap(text: str, width: int, max_lines: int) -> list[str]:
    """Lines of at most `width` cells; the last of `max_lines` ends with an ellipsis if text is left over.

    Empty lines are dropped. An empty text gives no line.
    """
    lines: list[str] = []
    pending = [line.strip() for line in text.split("\n") if line.strip()]
    while pending and len(lines) < max_lines:
        line = pending.pop(0)
        if cell_width(line) > width:
            at = _break_point(line, width)
            line, rest = line[:at].rstrip(), line[at:].lstrip()
            if rest:
                pending.insert(0, rest)
        lines.append(line)
    if pending:
        lines[-1] = lines[-1][: _take(lines[-1], width - 1)] + "…"
    return lines
