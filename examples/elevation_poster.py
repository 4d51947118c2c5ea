"""The picture of the elevation example: two reliefs with titles, legends and scale bars, drawn with Pillow."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from elevation_relief import TINTS, tint
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["POSTER_SIZE", "Panel", "draw_poster", "encode_png"]

POSTER_SIZE = 1700, 1300  #: pixels, width and height
_LEFT, _TOP, _WIDTH, _HEIGHT = 44, 44, 1140, 1212  # of the large panel
_SIDE_LEFT, _SIDE_WIDTH = 1220, 436  # of the column to its right
_GAP = 4  # between thumbnails
_PAPER, _INK, _GRAY = (250, 248, 243), (46, 44, 42), (126, 120, 112)


@dataclass(frozen=True)
class Panel:
    """A relief and what is written beside it."""

    relief: NDArray[np.uint8]  #: RGB
    colors: str  #: key of TINTS
    title: str
    subtitle: str
    width_km: float
    scale_bar_km: int


def encode_png(pixels: NDArray[np.uint8] | Image.Image) -> bytes:
    """PNG bytes that depend on the pixels only: no time, no path, no version numbers."""
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    text = PngInfo()
    text.add_text("Software", "tilebox-local examples/elevation.py")
    buffer = io.BytesIO()
    image.save(buffer, "PNG", pnginfo=text, compress_level=2)
    return buffer.getvalue()


def draw_poster(main: Panel, side: Panel, thumbnails: list[list[Image.Image]]) -> Image.Image:
    """The main panel on the left; on the right its title, legend and thumbnails (rows of them), then the side panel."""
    poster = Image.new("RGB", POSTER_SIZE, _PAPER)
    draw = ImageDraw.Draw(poster)
    _paste(poster, main, _LEFT, _TOP, _WIDTH, _HEIGHT)
    y = _heading(draw, _TOP - 10, main, 46)
    _legend(draw, y + 16, main.colors)
    _contact_sheet(poster, y + 94, thumbnails)

    bottom = _TOP + _HEIGHT
    side_height = round(_SIDE_WIDTH * side.relief.shape[0] / side.relief.shape[1])
    side_top = bottom - 62 - side_height
    _heading(draw, side_top - 75, side, 27)
    _paste(poster, side, _SIDE_LEFT, side_top, _SIDE_WIDTH, side_height)
    _legend(draw, bottom - 38, side.colors)
    return poster


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)  # part of Pillow: the same letters everywhere


def _paste(poster: Image.Image, panel: Panel, left: int, top: int, width: int, height: int) -> None:
    """The relief in a frame, with its scale bar."""
    poster.paste(Image.fromarray(panel.relief).resize((width, height), Image.Resampling.LANCZOS), (left, top))
    draw = ImageDraw.Draw(poster)
    draw.rectangle((left - 1, top - 1, left + width, top + height), outline=_INK)
    start, end, base = left + 28, left + 28 + round(panel.scale_bar_km * width / panel.width_km), top + height - 28
    draw.rounded_rectangle((start - 11, base - 34, end + 11, base + 10), 4, fill=_PAPER)
    draw.line((start, base - 6, start, base, end, base, end, base - 6), _INK, 2)
    draw.text(((start + end) / 2, base - 8), f"{panel.scale_bar_km} km", _INK, _font(18), anchor="ms")


def _heading(draw: ImageDraw.ImageDraw, y: int, panel: Panel, size: int) -> int:
    """Title and subtitle in the column on the right; returns where they end."""
    draw.text((_SIDE_LEFT, y), panel.title, _INK, _font(size))
    draw.text((_SIDE_LEFT, y + round(size * 1.45)), panel.subtitle, _GRAY, _font(19))
    return y + round(size * 1.45) + 26


def _contact_sheet(poster: Image.Image, top: int, thumbnails: list[list[Image.Image]]) -> None:
    columns = len(thumbnails[0])
    width = (_SIDE_WIDTH - (columns - 1) * _GAP) // columns
    height = round(width * columns / len(thumbnails) * _HEIGHT / _WIDTH)
    for row, line in enumerate(thumbnails):
        for column, thumbnail in enumerate(line):
            place = _SIDE_LEFT + column * (width + _GAP), top + row * (height + _GAP)
            poster.paste(thumbnail.resize((width, height), Image.Resampling.LANCZOS), place)
    bottom = top + len(thumbnails) * (height + _GAP)
    caption = f"Computed as {len(thumbnails) * columns} tiles"
    ImageDraw.Draw(poster).text((_SIDE_LEFT, bottom + 6), caption, _GRAY, _font(18))


def _legend(draw: ImageDraw.ImageDraw, top: int, colors: str) -> None:
    """The colours from the lowest to the highest elevation, with labels below."""
    low, high = TINTS[colors][0][0], TINTS[colors][-1][0]
    ramp = tint(np.linspace(low, high, _SIDE_WIDTH, dtype=np.float32)[None, :], colors)[0]
    for x, color in enumerate(ramp):
        draw.line((_SIDE_LEFT + x, top, _SIDE_LEFT + x, top + 13), tuple(round(255 * float(part)) for part in color))
    draw.rectangle((_SIDE_LEFT - 1, top - 1, _SIDE_LEFT + _SIDE_WIDTH, top + 14), outline=_INK)
    labels = [(low, "la"), (high, "ra")] + ([(0.0, "ma")] if low < 0 else [])
    for meters, anchor in labels:
        x = _SIDE_LEFT + round((meters - low) / (high - low) * _SIDE_WIDTH)
        draw.text((x, top + 20), f"{meters:,.0f} m", _GRAY, _font(18), anchor=anchor)
