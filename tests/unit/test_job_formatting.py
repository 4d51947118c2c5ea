"""Jobs in notebooks: the repr, and the HTML card."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from typing import TYPE_CHECKING
from uuid import UUID

import pytest

from tilebox_local.data import ExecutionStats, Job, JobState, ProgressIndicator, TaskState
from tilebox_local.formatting.job import MAX_PROGRESS_BARS, RichDisplayJob, render_job_html

if TYPE_CHECKING:
    from collections.abc import Iterator

SUBMITTED = datetime(2026, 5, 8, 15, 5, 39, tzinfo=UTC)
STATS = ExecutionStats(
    first_task_started_at=SUBMITTED + timedelta(seconds=1),
    last_task_stopped_at=SUBMITTED + timedelta(seconds=17),
    compute_time=timedelta(seconds=53, milliseconds=736),
    elapsed_time=timedelta(seconds=15, milliseconds=582),
    parallelism=3.4486,
    total_tasks=1073,
    tasks_by_state={TaskState.QUEUED: 20, TaskState.COMPUTED: 1050, TaskState.FAILED_OPTIONAL: 3},
)
NOTHING_RAN = ExecutionStats(None, None, timedelta(), timedelta(), 0.0, 1, {TaskState.QUEUED: 1})


def job(kind: type[Job] = RichDisplayJob, **changes: object) -> Job:
    """A running job with two progress indicators."""
    values: dict[str, object] = {
        "id": UUID("019e07b1-916b-0630-f3ba-f1c33235d174"),
        "name": "process-scenes",
        "trace_parent": "00-019e07b1916b0630f3baf1c33235d174-0000000000000001-01",
        "state": JobState.RUNNING,
        "submitted_at": SUBMITTED,
        "progress": [ProgressIndicator(None, 5, 3), ProgressIndicator("thumbnails", 1200, 1200)],
        "execution_stats": STATS,
    }
    return kind(**(values | changes))  # type: ignore[arg-type]


class Page(HTMLParser):
    """Collects the text outside the style sheet and all tags, and checks that they are balanced."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._open.append(tag)
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open[-1:] != ["style"] and data.strip():
            self.texts.append(data.strip())


@pytest.fixture(autouse=True)
def _new_york() -> Iterator[None]:
    """A local time zone that is not UTC."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(os.environ, "TZ", "America/New_York")
        time.tzset()
        yield
    time.tzset()


def test_repr_is_that_of_a_job() -> None:
    """The repr and text/plain are those of a plain Job, even if the class name occurs in a value."""
    rich, plain = job(name="RichDisplayJob"), job(Job, name="RichDisplayJob")
    assert repr(rich) == repr(plain)
    assert repr(rich).startswith("Job(id=UUID('019e07b1-916b-0630-f3ba-f1c33235d174'), name='RichDisplayJob', ")
    assert str(rich) == repr(plain)


def test_equality_and_order() -> None:
    """Rich jobs are equal by value, never equal to a plain Job, and sort by id like them."""
    assert job() == job()
    assert job() != job(name="other")
    assert job() != job(Job)
    assert job(Job) != job()
    assert job() < job(id=UUID(int=2**128 - 1))
    assert job() <= job()
    assert isinstance(job(), Job)


def test_hash_fails_as_for_a_job() -> None:
    """Neither a Job nor a rich one can be hashed, because progress is a list; the official classes agree."""
    for kind in (Job, RichDisplayJob):
        with pytest.raises(TypeError, match="unhashable type: 'list'"):
            hash(job(kind))


def test_is_frozen_and_replaceable() -> None:
    """Fields cannot be set, and dataclasses.replace gives another rich job."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        job().name = "x"  # type: ignore[misc]
    changed = dataclasses.replace(job(), name="x")
    assert changed == job(name="x")
    assert type(changed) is RichDisplayJob


def test_mime_bundle() -> None:
    """IPython gets text and HTML, or the ones it asks for."""
    rich = job()
    bundle = rich._repr_mimebundle_()
    assert bundle == {"text/plain": repr(rich), "text/html": render_job_html(rich)}
    assert rich._repr_mimebundle_(include=["text/plain"]) == {"text/plain": repr(rich)}
    assert list(rich._repr_mimebundle_(exclude={"text/html"})) == ["text/plain"]
    assert rich._repr_mimebundle_(include={"image/png"}, exclude=None) == {}


def test_card() -> None:
    """The card says everything about the job, in local time; the markup has the exact instants."""
    page = Page(render_job_html(job()))
    assert page.texts == [
        *("process-scenes", "RUNNING"),
        *("id", "019e07b1-916b-0630-f3ba-f1c33235d174"),
        *("submitted_at", "2026-05-08 11:05:39", "(UTC-04:00)"),
        *("started_at", "2026-05-08 11:05:40", "(UTC-04:00)"),
        *("15s 582ms", "elapsed", "53s 736ms", "compute time", "3.45", "parallelism"),
        *("1,073", "tasks", "1,050", "computed", "3", "failed (optional)", "20", "queued"),
        *("process-scenes", "60%", "(3 / 5)", "thumbnails", "100%", "(1,200 / 1,200)"),
    ]
    instants = [attributes["datetime"] for tag, attributes in page.tags if tag == "time"]
    assert instants == ["2026-05-08T15:05:39+00:00", "2026-05-08T15:05:40+00:00"]


def test_card_of_a_job_that_never_started() -> None:
    """Times that are not known yet are not shown as zero."""
    page = Page(render_job_html(job(state=JobState.SUBMITTED, progress=[], execution_stats=NOTHING_RAN)))
    assert page.texts == [
        *("process-scenes", "SUBMITTED", "id", "019e07b1-916b-0630-f3ba-f1c33235d174"),
        *("submitted_at", "2026-05-08 11:05:39", "(UTC-04:00)", "started_at", "not yet"),
        *("—", "elapsed", "—", "compute time", "—", "parallelism", "1", "task", "1", "queued"),
    ]


@pytest.mark.parametrize("state", list(JobState))
def test_every_state_has_a_readable_badge(state: JobState) -> None:
    """Every job state has a badge with a contrast of white text of at least 4.5:1 (WCAG AA)."""
    tags = Page(render_job_html(job(state=state))).tags
    badge = next(attributes for _, attributes in tags if attributes.get("class") == "tbxl-badge")
    match = re.fullmatch(r"background:#(\w\w)(\w\w)(\w\w);color:#fff", badge["style"] or "")
    assert match is not None
    linear = [((int(channel, 16) / 255 + 0.055) / 1.055) ** 2.4 for channel in match.groups()]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    assert 1.05 / (luminance + 0.05) >= 4.5


def bars(page: Page) -> list[str | None]:
    """Styles of the progress bars' fills."""
    styles = [attributes.get("style") or "" for _, attributes in page.tags]
    return [style for style in styles if style.startswith("width:")]


def test_progress_bars() -> None:
    """Bars are green when done, blue while running, red when the job stopped, and never longer than full."""
    progress = [ProgressIndicator(None, *counts) for counts in ((3, 1), (3, 3), (10, 12), (0, 0), (1000, 999), (0, 2))]
    running = bars(Page(render_job_html(job(progress=progress))))
    failed = bars(Page(render_job_html(job(progress=progress, state=JobState.FAILED))))
    green, blue, red = "#2da44e", "#218bff", "#cf222e"
    widths = ["33%", "100%", "100%", "0%", "99%", "0%"]
    for styles, color in ((running, blue), (failed, red)):
        colors = [color, green, green, color, color, color]
        assert styles == [f"width:{w};background:{c}" for w, c in zip(widths, colors, strict=True)]
    assert "(12 / 10)" in Page(render_job_html(job(progress=progress))).texts


def test_many_progress_indicators_are_cut() -> None:
    """Of very many progress indicators the first ones are shown, and how many are not."""
    progress = [ProgressIndicator(f"label {index}", 1, 0) for index in range(1000)]
    page = Page(render_job_html(job(progress=progress)))
    assert len(bars(page)) == MAX_PROGRESS_BARS
    assert page.texts[-1] == f"{1000 - MAX_PROGRESS_BARS} more progress indicators not shown"


def test_hostile_texts() -> None:
    """Markup in names and labels is shown as text, control characters as symbols."""
    evil = "</style><script>alert(1)</script><img src=x onerror=\"alert('2')\">\x00\x1b\u202e"
    clean = Page(render_job_html(job()))
    page = Page(render_job_html(job(name=evil, progress=[ProgressIndicator(evil, 1, 1), ProgressIndicator("", 1, 1)])))
    shown = evil[: -len("\x00\x1b\u202e")] + "␀␛\\u202e"
    assert page.texts[0] == shown
    assert page.texts.count(shown) == 3
    assert [tag for tag, _ in page.tags] == [tag for tag, _ in clean.tags]


def test_static_and_self_contained() -> None:
    """The card has no scripts, handlers, ids or addresses, and its style sheet applies to nothing else."""
    html = render_job_html(job())
    page = Page(html)
    assert {tag for tag, _ in page.tags} == {"div", "span", "style", "time"}
    assert {name for _, attributes in page.tags for name in attributes} == {
        "class",
        "style",
        "datetime",
        "title",
    }
    assert "//" not in html
    assert "url(" not in html
    sheet = html[html.index("<style>") + 7 : html.index("</style>")]
    selectors = re.findall(r"(?:^|[{}])\s*([^{}@]+)\{", sheet)
    assert all(selector.startswith(".tbxl-job") for selector in selectors)
    assert "prefers-color-scheme:dark" in sheet
    assert "var(--jp-" in sheet


@pytest.mark.parametrize(
    ("elapsed", "text"),
    [
        (timedelta(), "0s"),
        (timedelta(microseconds=150), "150µs"),
        (timedelta(microseconds=470_236), "470ms"),
        (timedelta(seconds=1), "1s"),
        (timedelta(seconds=59, microseconds=999_999), "59s 999ms"),
        (timedelta(minutes=3, milliseconds=5), "3m"),
        (timedelta(minutes=65), "1h 5m"),
        (timedelta(days=3, hours=1, seconds=5), "3d 1h"),
    ],
)
def test_durations_have_two_units(elapsed: timedelta, text: str) -> None:
    """Durations show their two largest units."""
    stats = dataclasses.replace(STATS, elapsed_time=elapsed)
    texts = Page(render_job_html(job(execution_stats=stats))).texts
    assert texts[texts.index("elapsed") - 1] == text


def test_import_is_light() -> None:
    """Formatting imports neither pandas nor IPython nor ipywidgets."""
    heavy = "{'pandas', 'numpy', 'IPython', 'ipywidgets', 'apsw'}"
    modules = ", ".join(f"tilebox_local.formatting.{name}" for name in ("diagram", "job", "waterfall"))
    code = f"import sys, {modules}; assert not {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
