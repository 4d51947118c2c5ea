"""The workflow of the elevation example: which tasks there are, and what each of them does.

    ElevationReport                   reads the sizes of the grids and tiles them
    |- ProcessTile  (one per tile)    cuts its tile out and makes it finer
    |  |- Slope                       steepness of the ground
    |  |- Hillshade                   light and shadow
    |  `- Thumbnail                   a small picture, as soon as the two above are done
    |- Mosaic                         the large picture, when all tiles are done
    `- PublishPreview                 copies the thumbnails to a mirror; optional

Tasks are small classes whose fields are their input. They run in any process that registers them (see elevation.py),
one after the other or many at once, so they pass their results on through `context.job_cache` and never through
variables. Two failures are part of the show: the first read of one tile, and the mirror.
"""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from elevation_poster import Panel, draw_poster, encode_png
from elevation_relief import (
    RESAMPLE_BORDER,
    Grid,
    colors_of,
    gradient,
    read_source,
    resample,
    sky_hillshade,
    slope_degrees,
)
from PIL import Image

from tilebox_local import ExecutionContext, Task

__all__ = ["LAYERS", "MOSAIC_KEY", "TASKS", "ElevationReport"]

MOSAIC_KEY = "mosaic.png"
FLAKY_TILE = "jacksboro/1-2"


@dataclass(frozen=True)
class Layer:
    """How one of the two grids is processed and shown."""

    tiles: tuple[int, int]  #: rows and columns
    finer: tuple[int, int]  #: so many times as many rows and columns; makes pixels square
    exaggeration: float  #: of heights, for the light only
    title: str
    subtitle: str
    scale_bar_km: int


LAYERS = {
    "jacksboro": Layer((3, 4), (4, 3), 2.0, "Jacksboro Fault", "Tennessee, 36.16° to 36.45° N", 5),
    "topobathy": Layer((1, 2), (4, 4), 5.0, "Salish Sea", "British Columbia and Washington", 50),
}


class ElevationReport(Task):
    """Tile the grids, process all tiles, and make one picture of them. The root of the job."""

    paths: dict[str, str]  # file of each layer
    mirror: str  # directory to copy the thumbnails to

    def execute(self, context: ExecutionContext) -> None:
        """Submit a task per tile, and what follows when they are done."""
        tiles, widths_km = [], {}
        for layer, path in self.paths.items():
            with context.tracer.span("measure") as span:
                source = read_source(path)
                rows, columns = source.elevation.shape
                widths_km[layer] = columns * source.cell_m[1] / 1000
                span.set_attributes({"layer": layer, "shape": (rows, columns), "width_km": widths_km[layer]})
            tiles += [
                ProcessTile(path, layer, row, column, fails_once=f"{layer}/{row}-{column}" == FLAKY_TILE)
                for row in range(LAYERS[layer].tiles[0])
                for column in range(LAYERS[layer].tiles[1])
            ]
        context.progress("tiles").add(len(tiles))
        context.logger.info("Submitting %d tiles", len(tiles), layers=list(self.paths))

        processed = context.submit_subtasks(tiles, max_retries=2)
        context.submit_subtask(Mosaic(widths_km), depends_on=processed)
        context.submit_subtask(PublishPreview(self.mirror), depends_on=processed, optional=True)


class ProcessTile(Task):
    """Cut one tile out of its grid and make it finer."""

    path: str
    layer: str
    row: int
    column: int
    fails_once: bool = False  # pretend that the first read times out

    def execute(self, context: ExecutionContext) -> None:
        """Store the elevations of the tile, with a border of 1 pixel, for the subtasks."""
        layer, tile = LAYERS[self.layer], f"{self.layer}/{self.row}-{self.column}"
        context.current_task.display = f"ProcessTile {tile}"
        with context.tracer.span("read") as span:
            span.set_attribute("tile", tile)
            if self.fails_once and context.current_task.retry_count == 0:
                context.logger.warning("Cannot read %s: there will be a retry", tile, tile=tile)
                raise TimeoutError(f"{Path(self.path).name}: read timed out (simulated)")
            source = read_source(self.path)
            window = _window(source.elevation, layer.tiles, self.row, self.column)
            low, high = float(window.min()), float(window.max())
            span.set_attributes({"shape": window.shape, "min_m": low, "max_m": high})
        with context.tracer.span("resample") as span:
            fine = resample(window, layer.finer)
            span.set_attributes({"tile": tile, "shape": fine.shape})
        _store(context, tile, "elevation", fine)
        context.logger.info("Tile %s has %.0f to %.0f m", tile, low, high, tile=tile, min_m=low, max_m=high)

        cell_m = source.cell_m[0] / layer.finer[0], source.cell_m[1] / layer.finer[1]
        slope = context.submit_subtask(Slope(tile, cell_m))
        shade = context.submit_subtask(Hillshade(tile, cell_m, layer.exaggeration))
        context.submit_subtask(Thumbnail(tile), depends_on=[slope, shade])


class Slope(Task):
    """Compute how steep the ground of a tile is, in degrees."""

    tile: str
    cell_m: tuple[float, float]  # height and width of a pixel

    def execute(self, context: ExecutionContext) -> None:
        """Store the slope of the tile, without border."""
        context.current_task.display = f"Slope {self.tile}"
        elevation = _load(context, self.tile, "elevation")
        with context.tracer.span("gradient") as span:
            span.set_attributes({"tile": self.tile, "shape": elevation.shape})
            to_east, to_north = gradient(elevation, self.cell_m)
        with context.tracer.span("slope") as span:
            slope = slope_degrees(to_east, to_north)
            steepest = round(float(slope.max()), 1)
            span.set_attributes({"tile": self.tile, "max_degrees": steepest})
        _store(context, self.tile, "slope", slope)
        context.logger.info("Steepest slope of %s: %.1f°", self.tile, steepest, tile=self.tile, max_degrees=steepest)


class Hillshade(Task):
    """Compute how bright the ground of a tile is under a low sun and a clear sky."""

    tile: str
    cell_m: tuple[float, float]
    exaggeration: float

    def execute(self, context: ExecutionContext) -> None:
        """Store the brightness of the tile, 0 to 1, without border."""
        context.current_task.display = f"Hillshade {self.tile}"
        elevation = _load(context, self.tile, "elevation")
        with context.tracer.span("gradient") as span:
            span.set_attributes({"tile": self.tile, "shape": elevation.shape})
            to_east, to_north = gradient(elevation * np.float32(self.exaggeration), self.cell_m)
        with context.tracer.span("shade") as span:
            shade = sky_hillshade(to_east, to_north)
            span.set_attributes({"tile": self.tile, "mean": float(shade.mean())})
        _store(context, self.tile, "hillshade", shade)


class Thumbnail(Task):
    """Draw a tile at half its size."""

    tile: str

    def execute(self, context: ExecutionContext) -> None:
        """Store the picture as PNG; this completes the tile."""
        context.current_task.display = f"Thumbnail {self.tile}"
        with context.tracer.span("tint") as span:
            span.set_attribute("tile", self.tile)
            relief = colors_of(*_load_tile(context, self.tile), self.tile.split("/")[0])
        with context.tracer.span("encode-png") as span:
            png = encode_png(Image.fromarray(relief).reduce(2))
            span.set_attributes({"tile": self.tile, "bytes": len(png)})
        context.job_cache.group(self.tile)["thumbnail.png"] = png
        context.progress("tiles").done(1)
        context.logger.info("Tile %s is done", self.tile, tile=self.tile, bytes=len(png))


class Mosaic(Task):
    """Put all tiles together to the picture that the job is about."""

    widths_km: dict[str, float]

    def execute(self, context: ExecutionContext) -> None:
        """Store it as PNG under MOSAIC_KEY."""
        panels = {}
        for name, layer in LAYERS.items():
            with context.tracer.span("assemble") as span:
                elevation, shade, slope = _assemble(context, name)
                span.set_attributes({"layer": name, "shape": elevation.shape})
            with context.tracer.span("tint") as span:
                span.set_attribute("layer", name)
                relief = colors_of(elevation, shade, slope, name)
            title, subtitle, bar_km = layer.title, layer.subtitle, layer.scale_bar_km
            panels[name] = Panel(relief, name, title, subtitle, self.widths_km[name], bar_km)
        with context.tracer.span("draw"):
            picture = draw_poster(panels["jacksboro"], panels["topobathy"], _thumbnails(context, "jacksboro"))
        with context.tracer.span("encode-png") as span:
            png = encode_png(picture)
            span.set_attributes({"shape": picture.size, "bytes": len(png)})
        context.job_cache[MOSAIC_KEY] = png
        context.logger.info("Mosaic drawn", bytes=len(png))


class PublishPreview(Task):
    """Copy the thumbnails to a mirror. Nice to have: submitted as optional, so that the job can do without."""

    mirror: str

    def execute(self, context: ExecutionContext) -> None:
        """Write one file per tile; fails if the mirror is not there."""
        with context.tracer.span("upload") as span:
            span.set_attribute("mirror", self.mirror)
            for tile in _tiles("jacksboro"):
                target = Path(self.mirror) / f"{tile.replace('/', '-')}.png"
                target.write_bytes(context.job_cache.group(tile)["thumbnail.png"])


TASKS: list[type[Task]] = [ElevationReport, ProcessTile, Slope, Hillshade, Thumbnail, Mosaic, PublishPreview]


# -- tiles and grids ------------------------------------------------------------------------------------------------


def _tiles(layer: str) -> list[str]:
    """Names of the tiles of a layer, row by row."""
    rows, columns = LAYERS[layer].tiles
    return [f"{layer}/{row}-{column}" for row in range(rows) for column in range(columns)]


def _window(elevation: Grid, tiles: tuple[int, int], row: int, column: int) -> Grid:
    """One tile with the border that `resample` needs: its neighbours' pixels, or at the rim the outermost ones."""
    padded = np.pad(elevation, RESAMPLE_BORDER, mode="edge")
    top, bottom = (elevation.shape[0] * (row + step) // tiles[0] for step in (0, 1))
    left, right = (elevation.shape[1] * (column + step) // tiles[1] for step in (0, 1))
    return padded[top : bottom + 2 * RESAMPLE_BORDER, left : right + 2 * RESAMPLE_BORDER]


def _store(context: ExecutionContext, tile: str, name: str, grid: Grid) -> None:
    buffer = io.BytesIO()
    np.save(buffer, grid)
    context.job_cache.group(tile)[name] = buffer.getvalue()


def _load(context: ExecutionContext, tile: str, name: str) -> Grid:
    grid: Grid = np.load(io.BytesIO(context.job_cache.group(tile)[name]))
    return grid


def _load_tile(context: ExecutionContext, tile: str) -> tuple[Grid, Grid, Grid]:
    """Elevation, hillshade and slope, all without border."""
    elevation = _load(context, tile, "elevation")[1:-1, 1:-1]
    return elevation, _load(context, tile, "hillshade"), _load(context, tile, "slope")


def _assemble(context: ExecutionContext, layer: str) -> tuple[Grid, Grid, Grid]:
    """The grids of `_load_tile` for a whole layer."""
    columns = LAYERS[layer].tiles[1]
    tiles = [_load_tile(context, tile) for tile in _tiles(layer)]
    rows = [tiles[start : start + columns] for start in range(0, len(tiles), columns)]
    elevation, shade, slope = (np.block([[tile[kind] for tile in row] for row in rows]) for kind in range(3))
    return elevation, shade, slope


def _thumbnails(context: ExecutionContext, layer: str) -> list[list[Image.Image]]:
    columns = LAYERS[layer].tiles[1]
    images = [Image.open(io.BytesIO(context.job_cache.group(tile)["thumbnail.png"])).copy() for tile in _tiles(layer)]
    return [images[start : start + columns] for start in range(0, len(images), columns)]
