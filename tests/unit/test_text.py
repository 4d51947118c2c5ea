"""Text from jobs and spans, made visible and fitted into cells."""

import pytest

from tilebox_local.formatting.text import cell_width, cut_end, cut_middle, visible, wrap


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ünï 日本 👍", "plain ünï 日本 👍"),
        ("\x1b[31m\x00\t\r\n", "␛[31m␀␉␍␊"),
        ("\x7f\x85\x9b", "␡\\x85\\x9b"),
        ("a\u202eb\u2066\u200b\ufeff", "a\\u202eb\\u2066\\u200b\\ufeff"),
        ("\ud800\ufffe\U0001ffff", "\\ud800\\ufffe\\U0001ffff"),
        ("\u2028\u2029", "\\u2028\\u2029"),
        ("👩\u200d🚀 a\u00a0b", "👩\u200d🚀 a\u00a0b"),
        ("", ""),
    ],
)
def test_visible(text: str, shown: str) -> None:
    """Characters that act instead of being seen are replaced, all others stay."""
    assert visible(text) == shown


def test_visible_keeps_newlines_on_request() -> None:
    """Line feeds survive if asked for, also those of Windows; a lone carriage return does not."""
    assert visible("a\r\nb\nc\rd\x1b", keep_newlines=True) == "a\nb\nc␍d␛"


def test_cell_width() -> None:
    """Wide characters count two cells, combining marks and joiners none."""
    assert [cell_width(text) for text in ("", "abc", "日本", "é", "e\u0301", "👍", "\u200d")] == [
        0,
        3,
        4,
        1,
        1,
        2,
        0,
    ]


def test_cuts_fit_and_keep_what_fits() -> None:
    """A cut text has at most the width, counted in cells; a text that fits is returned as it is."""
    assert cut_end("abcdef", 6) == "abcdef"
    assert cut_end("abcdef", 5) == "abcd…"
    assert cut_end("日本語処理", 6) == "日本…"
    assert cut_end("abcdef", 2, "...") == ".."
    assert cut_middle("abcdefghij", 10) == "abcdefghij"
    assert cut_middle("abcdefghij", 7) == "abc…hij"
    assert cut_middle("abcdefghij", 6) == "abc…ij"
    assert cut_middle("日本語処理中", 7) == "日…中"
    assert cut_middle("abcdefghij", 8, "...") == "abc...ij"
    assert cut_middle("abcdef", 1) == "…"


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("short", ["short"]),
        ("", []),
        ("\n \n", []),
        ("one two three", ["one two", "three"]),
        ("path/to/file", ["path/to/", "file"]),
        ("BuildThumb", ["Build", "Thumb"]),
        ("abcdefghijkl", ["abcdefgh", "ijkl"]),
        ("first\nsecond", ["first", "second"]),
        ("日本語処理", ["日本語処", "理"]),
        ("a\nb\nc\nd", ["a", "b", "c…"]),
        ("x" * 99, ["x" * 8, "x" * 8, "x" * 7 + "…"]),
    ],
)
def test_wrap(text: str, lines: list[str]) -> None:
    """Lines break at spaces, else separators, else capitals, and the third line is the last."""
    assert wrap(text, 8, 3) == lines
