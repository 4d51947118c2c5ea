"""The numerics of the elevation example, against closed forms."""

import numpy as np
import pytest
from elevation_relief import (
    RESAMPLE_BORDER,
    TINTS,
    Grid,
    colors_of,
    gradient,
    hillshade,
    read_source,
    resample,
    sky_hillshade,
    slope_degrees,
    tint,
)
from elevation_tasks import LAYERS, _window
from matplotlib.cbook import get_sample_data

CELL_M = 20.0, 30.0  # height and width of a pixel
PLANES = [(0.0, 0.0), (0.5, 0.0), (0.0, 0.5), (-0.3, 0.4), (1.0, -2.0)]  # rise per metre towards east and north


def plane(to_east: float, to_north: float, shape: tuple[int, int] = (7, 9)) -> Grid:
    """Elevations of an inclined plane; the first row is the northernmost."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    return (columns * CELL_M[1] * to_east - rows * CELL_M[0] * to_north).astype(np.float32)


@pytest.mark.parametrize("rise", PLANES)
def test_slope_of_a_plane(rise: tuple[float, float]) -> None:
    """On an inclined plane the slope is atan(|gradient|) everywhere, one pixel off the border."""
    to_east, to_north = gradient(plane(*rise), CELL_M)
    assert to_east.shape == (5, 7)
    np.testing.assert_allclose(to_east, rise[0], atol=1e-5)
    np.testing.assert_allclose(to_north, rise[1], atol=1e-5)
    expected = np.degrees(np.arctan(np.hypot(*rise)))
    np.testing.assert_allclose(slope_degrees(to_east, to_north), expected, atol=1e-3)


@pytest.mark.parametrize("rise", PLANES)
@pytest.mark.parametrize(("azimuth", "altitude"), [(315.0, 45.0), (90.0, 20.0), (200.0, 89.0)])
def test_hillshade_of_a_plane(rise: tuple[float, float], azimuth: float, altitude: float) -> None:
    """The hillshade of an inclined plane is the textbook formula with slope and aspect, and never negative."""
    shade = hillshade(*gradient(plane(*rise), CELL_M), azimuth, altitude)
    slope, aspect = np.arctan(np.hypot(*rise)), np.arctan2(-rise[0], -rise[1])  # aspect: clockwise, downhill
    zenith = np.radians(90 - altitude)
    facing = np.cos(np.radians(azimuth) - aspect)
    expected = np.cos(zenith) * np.cos(slope) + np.sin(zenith) * np.sin(slope) * facing
    np.testing.assert_allclose(shade, max(0.0, expected), atol=1e-5)


def test_sky_light_is_brightest_towards_the_sun() -> None:
    """Under the bright sky, slopes facing northwest are brighter than flat ground, that than the opposite ones."""
    northwest, flat, southeast = (sky_hillshade(np.float32([[x]]), np.float32([[-x]]))[0, 0] for x in (0.3, 0, -0.3))
    assert 0 < southeast < flat < northwest < 1


@pytest.mark.parametrize("factors", [(2, 2), (4, 3), (2, 5)])
def test_resample_keeps_planes(factors: tuple[int, int]) -> None:
    """Resampling a plane gives the plane at the centres of the finer pixels, with a border of one of them."""
    coarse = plane(0.2, -0.1, (9, 10))
    fine = resample(coarse, factors)
    border = RESAMPLE_BORDER
    assert fine.dtype == np.float32
    assert fine.shape == ((9 - 2 * border) * factors[0] + 2, (10 - 2 * border) * factors[1] + 2)
    rows, columns = (
        (np.arange(-1, size - 1) + 0.5) / factor - 0.5 + border
        for size, factor in zip(fine.shape, factors, strict=True)
    )
    expected = columns[None, :] * CELL_M[1] * 0.2 + rows[:, None] * CELL_M[0] * 0.1
    np.testing.assert_allclose(fine, expected, atol=1e-3)


def test_tiles_have_no_seams() -> None:
    """What tiles give is, put together, bit for bit what the whole grid gives."""
    layer = LAYERS["jacksboro"]
    elevation = read_source(str(get_sample_data("jacksboro_fault_dem.npz", asfileobj=False))).elevation

    def shade(window: Grid) -> Grid:
        return hillshade(*gradient(resample(window, layer.finer), CELL_M), 315, 45)

    rows, columns = layer.tiles
    tiles = [[shade(_window(elevation, layer.tiles, row, column)) for column in range(columns)] for row in range(rows)]
    whole = shade(_window(elevation, (1, 1), 0, 0))
    assert whole.shape == (344 * layer.finer[0], 403 * layer.finer[1])
    np.testing.assert_array_equal(np.block(tiles), whole)


def test_sources_lie_where_they_should() -> None:
    """Both grids are read north up, with the bounds of the places they show."""
    jacksboro = read_source(str(get_sample_data("jacksboro_fault_dem.npz", asfileobj=False)))
    assert (jacksboro.west, jacksboro.east) == pytest.approx((-84.414, -84.078), abs=1e-3)
    assert (jacksboro.south, jacksboro.north) == pytest.approx((36.160, 36.446), abs=1e-3)
    assert jacksboro.cell_m == pytest.approx((92.8, 74.8), abs=0.1)

    salish_sea = read_source(str(get_sample_data("topobathy.npz", asfileobj=False)))
    assert (salish_sea.west, salish_sea.east) == pytest.approx((-126, -122), abs=1e-2)
    assert (salish_sea.south, salish_sea.north) == pytest.approx((48, 50), abs=1e-2)
    strait_of_georgia = int((50 - 49.3) / 2 * 91), int((126 - 123.9) / 4 * 120)
    assert salish_sea.elevation[strait_of_georgia] < -100


@pytest.mark.parametrize("colors", TINTS)
def test_tints(colors: str) -> None:
    """Colours are exact at their heights, cover the whole grid and go on beyond it; relief is made of RGB bytes."""
    heights = np.float32([[height for height, _ in TINTS[colors]]])
    expected = np.array([[color for _, color in TINTS[colors]]]) / 255
    np.testing.assert_allclose(tint(heights, colors), expected, atol=1e-6)
    np.testing.assert_allclose(tint(np.float32([[-9999, 9999]]), colors), expected[:, [0, -1]], atol=1e-6)
    zeros = np.zeros_like(heights)
    relief = colors_of(heights, zeros, zeros, colors)
    assert relief.dtype == np.uint8
    assert relief.shape == (*heights.shape, 3)
