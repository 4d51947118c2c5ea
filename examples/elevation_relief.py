"""Shaded relief with numpy: gradients, slope, hillshade and colours of elevation grids.

Grids are 2-D arrays in metres whose first row is the northernmost. Functions that look at neighbours return less
than they are given: whoever cuts a grid into tiles gives each of them a border, and the results fit together exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "RESAMPLE_BORDER",
    "TINTS",
    "Grid",
    "Source",
    "colors_of",
    "gradient",
    "hillshade",
    "read_source",
    "resample",
    "sky_hillshade",
    "slope_degrees",
    "tint",
]

Grid: TypeAlias = NDArray[np.floating[Any]]

METERS_PER_DEGREE = 111_320.0  # of latitude, and of longitude at the equator
RESAMPLE_BORDER = 2  #: pixels around a tile that `resample` needs


@dataclass(frozen=True)
class Source:
    """An elevation grid, north up."""

    elevation: Grid
    west: float  #: degrees, as are the other three; outer edges
    east: float
    south: float
    north: float

    @property
    def cell_m(self) -> tuple[float, float]:
        """Height and width of a pixel in metres, at the middle latitude."""
        rows, columns = self.elevation.shape
        shrink = np.cos(np.radians((self.south + self.north) / 2))
        return (
            (self.north - self.south) * METERS_PER_DEGREE / rows,
            float(shrink) * (self.east - self.west) * METERS_PER_DEGREE / columns,
        )


def read_source(path: str) -> Source:
    """Read `jacksboro_fault_dem.npz` or `topobathy.npz`, two of Matplotlib's sample data sets."""
    with np.load(path) as file:
        if "elevation" in file:
            elevation, north = file["elevation"].astype(np.float32), float(file["ymax"])
            # The file's ymin is north of its ymax: the height was added where it should have been subtracted.
            south = north - len(elevation) * float(file["dy"])
            return Source(elevation, float(file["xmin"]), float(file["xmax"]), south, north)
        longitude, latitude = file["longitude"], file["latitude"]  # of the pixels' centres, from south to north
        half_lon, half_lat = (longitude[1] - longitude[0]) / 2, (latitude[1] - latitude[0]) / 2
        return Source(
            file["topo"][::-1].astype(np.float32),
            float(longitude[0] - half_lon) - 360,
            float(longitude[-1] + half_lon) - 360,
            float(latitude[0] - half_lat),
            float(latitude[-1] + half_lat),
        )


def resample(elevation: Grid, factors: tuple[int, int]) -> Grid:
    """So many times (2 or more) as many rows and columns, by cubic convolution (Keys 1981, a = -1/2).

    Of the border of RESAMPLE_BORDER pixels, 1 fine pixel remains: the one that `gradient` needs.
    """
    return _resample_rows(_resample_rows(elevation, factors[0]).T, factors[1]).T


def _resample_rows(elevation: Grid, factor: int) -> Grid:
    border = RESAMPLE_BORDER
    rows = elevation.shape[0] - 2 * border
    position = (np.arange(-1, rows * factor + 1) + 0.5) / factor - 0.5 + border
    first = np.floor(position).astype(int)
    t = (position - first).astype(np.float32)[:, None]
    weights = (
        ((-t + 2) * t - 1) * t / 2,
        ((3 * t - 5) * t * t + 2) / 2,
        ((-3 * t + 4) * t + 1) * t / 2,
        (t - 1) * t * t / 2,
    )
    fine: Grid = sum(weight * elevation[first + offset] for offset, weight in enumerate(weights, start=-1))
    return fine


def gradient(elevation: Grid, cell_m: tuple[float, float]) -> tuple[Grid, Grid]:
    """Rise per metre towards east and towards north, by Horn's weights, without the outermost pixels.

    B. K. P. Horn, "Hill shading and the reflectance map", Proceedings of the IEEE 69 (1981), 14-47: the differences
    of three rows (columns) with the weights 1, 2, 1. `gdaldem` does the same by default.
    """
    z = elevation
    northwest, north, northeast = z[:-2, :-2], z[:-2, 1:-1], z[:-2, 2:]
    west, east = z[1:-1, :-2], z[1:-1, 2:]
    southwest, south, southeast = z[2:, :-2], z[2:, 1:-1], z[2:, 2:]
    to_east = (northeast + 2 * east + southeast) - (northwest + 2 * west + southwest)
    to_north = (northwest + 2 * north + northeast) - (southwest + 2 * south + southeast)
    return to_east / (8 * cell_m[1]), to_north / (8 * cell_m[0])


def slope_degrees(to_east: Grid, to_north: Grid) -> Grid:
    """Angle between the ground and the horizontal."""
    return np.degrees(np.arctan(np.hypot(to_east, to_north)))


def hillshade(to_east: Grid, to_north: Grid, azimuth: float, altitude: float) -> Grid:
    """Light on the ground from a lamp far away, 0 to 1: the cosine between its direction and the ground's normal.

    This is cos(zenith) cos(slope) + sin(zenith) sin(slope) cos(azimuth - aspect), the usual formula (Horn 1981),
    without its angles. `azimuth` is in degrees clockwise from north, `altitude` in degrees above the horizon.
    """
    azimuth, altitude = np.radians(azimuth), np.radians(altitude)
    east, north, up = np.sin(azimuth) * np.cos(altitude), np.cos(azimuth) * np.cos(altitude), np.sin(altitude)
    normal_length = np.sqrt(1 + to_east**2 + to_north**2)
    return np.maximum(0, (float(up) - float(east) * to_east - float(north) * to_north) / normal_length)


def sky_hillshade(to_east: Grid, to_north: Grid) -> Grid:
    """Light of a low sun in the northwest and of a bright sky: 108 lamps on a dome, brighter towards the sun.

    The sky keeps the slopes readable that the sun alone would leave black (after Kennelly and Stewart, "A uniform sky
    illumination model to enhance shading of terrain", Cartography and Geographic Information Science 33 (2006)).
    """
    sun = hillshade(to_east, to_north, azimuth=315, altitude=40)
    sky, total = np.zeros_like(sun), 0.0
    for altitude in (15, 30, 55):
        for azimuth in range(0, 360, 10):
            weight = float(1 + 0.6 * np.cos(np.radians(azimuth - 315)))
            sky += weight * hillshade(to_east, to_north, azimuth, altitude)
            total += weight
    return np.float32(0.55) * sun + np.float32(0.45 / total) * sky


# Metres and the colours (RGB) of Imhof's school: green lowlands, warm slopes, pale summits; deep water is dark.
TINTS: dict[str, tuple[tuple[float, tuple[int, int, int]], ...]] = {
    "jacksboro": (
        (236, (122, 158, 126)),
        (320, (163, 187, 140)),
        (430, (208, 212, 160)),
        (560, (232, 218, 170)),
        (700, (220, 187, 140)),
        (840, (191, 148, 114)),
        (960, (190, 164, 146)),
        (1076, (244, 240, 234)),
    ),
    "topobathy": (
        (-1437, (28, 52, 92)),
        (-400, (58, 101, 146)),
        (-150, (106, 156, 188)),
        (-0.5, (190, 219, 224)),
        (0.5, (134, 168, 132)),
        (200, (178, 197, 146)),
        (600, (229, 218, 172)),
        (1100, (212, 173, 129)),
        (1600, (188, 152, 128)),
        (2205, (248, 246, 243)),
    ),
}


def tint(elevation: Grid, colors: str) -> Grid:
    """Colour by elevation, as an array of RGB values from 0 to 1; `colors` is a key of TINTS."""
    heights, stops = zip(*TINTS[colors], strict=True)
    channels = [np.interp(elevation, heights, channel) / 255 for channel in zip(*stops, strict=True)]
    return np.stack(channels, axis=-1).astype(np.float32)


def colors_of(elevation: Grid, shade: Grid, slope: Grid, colors: str) -> NDArray[np.uint8]:
    """RGB bytes of the relief: the tint, lit by the hillshade, with cool shadows and darker steep slopes."""
    # Flat ground keeps its colour, shadows turn towards blue, and what faces the sun gets a little brighter.
    flat = float(sky_hillshade(np.zeros((1, 1), np.float32), np.zeros((1, 1), np.float32))[0, 0])
    light = (shade / flat - np.float32(0.003) * slope)[..., None]
    shadow = np.array([0.30, 0.33, 0.44], np.float32)
    lit = tint(elevation, colors) * (shadow + (1 - shadow) * np.clip(light, 0, 1)) + 0.2 * np.clip(light - 1, 0, 1)
    pixels: NDArray[np.uint8] = (np.clip(lit, 0, 1) * 255 + 0.5).astype(np.uint8)
    return pixels
