"""A Job that Jupyter shows as a card instead of its repr.

Does not do: refreshing. The card is static HTML of the job as it was read: it needs no widgets, scripts or
network, so it survives nbconvert, GitHub and a saved notebook. Show the job again for newer numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from tilebox_local.data import Job, JobState, TaskState
from tilebox_local.formatting.text import visible

if TYPE_CHECKING:
    from collections.abc import Container, Iterator
    from datetime import datetime, timedelta

    from tilebox_local.data import ProgressIndicator

__all__ = ["MAX_PROGRESS_BARS", "RichDisplayJob", "render_job_html"]

MAX_PROGRESS_BARS = 50


# White text is readable on every badge and bar color, and they stand out from light and dark pages.
_BADGES = {
    JobState.UNSPECIFIED: "#57606a",
    JobState.SUBMITTED: "#57606a",
    JobState.RUNNING: "#0969da",
    JobState.STARTED: "#9a6700",
    JobState.COMPLETED: "#1a7f37",
    JobState.FAILED: "#cf222e",
    JobState.CANCELED: "#6e7781",
}
_TASKS = {  # in the order of the bar
    TaskState.COMPUTED: ("computed", "#2da44e"),
    TaskState.FAILED: ("failed", "#cf222e"),
    TaskState.FAILED_OPTIONAL: ("failed (optional)", "#bc4c00"),
    TaskState.SKIPPED: ("skipped", "#bf8700"),
    TaskState.RUNNING: ("running", "#218bff"),
    TaskState.QUEUED: ("queued", "#8c959f"),
    TaskState.UNSPECIFIED: ("unspecified", "#6e7781"),
}

# Colors come from the host (Jupyter, VS Code, the PyData Sphinx theme), else from the system's scheme. Text
# and background come from the same place, so the text is readable on any page.
_CSS = """
.tbxl-job{--tbxl-fg:#1f2328;--tbxl-muted:#59636e;--tbxl-bg:#fff;--tbxl-line:#d1d9e0;
box-sizing:border-box;max-width:640px;padding:14px 16px;border-radius:8px;font-size:13px;line-height:1.5;
font-family:var(--jp-ui-font-family,system-ui,-apple-system,"Segoe UI",sans-serif);
color:var(--jp-content-font-color1,var(--vscode-foreground,var(--pst-color-text-base,var(--tbxl-fg))));
background:var(--jp-layout-color1,var(--vscode-editor-background,var(--pst-color-background,var(--tbxl-bg))));
border:1px solid var(--jp-border-color2,var(--vscode-panel-border,var(--pst-color-border,var(--tbxl-line))))}
@media (prefers-color-scheme:dark){
.tbxl-job{--tbxl-fg:#e6edf3;--tbxl-muted:#9198a1;--tbxl-bg:#15191f;--tbxl-line:#3d444d}}
.tbxl-job .tbxl-head{display:flex;gap:12px;justify-content:space-between;align-items:flex-start}
.tbxl-job .tbxl-name{font-size:16px;font-weight:600;line-height:1.35;overflow-wrap:anywhere}
.tbxl-job .tbxl-badge{flex:none;padding:1px 10px;border-radius:11px;font-size:12px;font-weight:600;
letter-spacing:.02em}
.tbxl-job .tbxl-mono{font-family:var(--jp-code-font-family,ui-monospace,Menlo,Consolas,monospace);
font-size:12px}
.tbxl-job .tbxl-muted{
color:var(--jp-content-font-color2,var(--vscode-descriptionForeground,var(--pst-color-text-muted,var(--tbxl-muted))))}
.tbxl-job .tbxl-facts{display:grid;grid-template-columns:max-content 1fr;gap:1px 14px;margin-top:8px}
.tbxl-job .tbxl-facts>div{display:contents}
.tbxl-job .tbxl-stats{display:flex;flex-wrap:wrap;gap:6px 32px;margin-top:10px}
.tbxl-job .tbxl-value{font-size:15px;font-weight:600;font-variant-numeric:tabular-nums;margin-right:2px}
.tbxl-job .tbxl-part{margin-top:12px}
.tbxl-job .tbxl-bar{display:flex;height:8px;border-radius:4px;overflow:hidden;
background:rgba(128,128,128,.25)}
.tbxl-job .tbxl-tasks .tbxl-bar{margin:4px 0 5px;gap:1px}
.tbxl-job .tbxl-legend{display:flex;flex-wrap:wrap;gap:2px 18px}
.tbxl-job .tbxl-dot{display:inline-block;width:9px;height:9px;border-radius:50%;margin-right:6px}
.tbxl-job .tbxl-progress{display:grid;grid-template-columns:minmax(80px,34%) 1fr max-content;gap:4px 12px;
align-items:center}
.tbxl-job .tbxl-progress>div{display:contents}
.tbxl-job .tbxl-label{overflow-wrap:anywhere;display:-webkit-box;-webkit-box-orient:vertical;
-webkit-line-clamp:2;overflow:hidden}
.tbxl-job .tbxl-count{text-align:right;font-variant-numeric:tabular-nums}
"""


@dataclass(frozen=True, repr=False)
class RichDisplayJob(Job):
    """What clients return for a Job. Equal to another RichDisplayJob with equal values only, not hashable."""

    def __repr__(self) -> str:
        return Job.__name__ + super().__repr__().removeprefix(type(self).__qualname__)

    def _repr_mimebundle_(
        self, include: Container[str] | None = None, exclude: Container[str] | None = None
    ) -> dict[str, str]:
        """The representations IPython asks for: "text/plain" is the repr, "text/html" the card."""
        bundle = {}
        for kind, render in (("text/plain", repr), ("text/html", render_job_html)):
            if (include is None or kind in include) and (exclude is None or kind not in exclude):
                bundle[kind] = render(self)
        return bundle


def render_job_html(job: Job) -> str:
    """A card with everything the job knows about itself, as one HTML element with its own style sheet.

    At most `MAX_PROGRESS_BARS` progress indicators are shown, with a note on how many are not.
    """
    stats = job.execution_stats
    started = stats.first_task_started_at
    badge = f"background:{_BADGES[job.state]};color:#fff"
    parts = [
        f'<div class="tbxl-job"><style>{_CSS}</style>',
        f'<div class="tbxl-head"><span class="tbxl-name">{_text(job.name)}</span>',
        f'<span class="tbxl-badge" style="{badge}">{job.state.name}</span></div>',
        '<div class="tbxl-facts">',
        _fact("id", f'<span class="tbxl-mono">{_text(str(job.id))}</span>'),
        _fact("submitted_at", _instant(job.submitted_at)),
        _fact("started_at", _instant(started) if started else '<span class="tbxl-muted">not yet</span>'),
        "</div>",
        '<div class="tbxl-stats">',
        _stat(_duration(stats.elapsed_time) if started else "—", "elapsed"),
        _stat(_duration(stats.compute_time) if started else "—", "compute time"),
        _stat(f"{stats.parallelism:.2f}" if stats.parallelism else "—", "parallelism"),
        "</div>",
        *_task_counts(stats.tasks_by_state, stats.total_tasks),
    ]
    if job.progress:
        parts.append('<div class="tbxl-part tbxl-progress">')
        parts += [_progress(indicator, job) for indicator in job.progress[:MAX_PROGRESS_BARS]]
        parts.append("</div>")
        hidden = len(job.progress) - MAX_PROGRESS_BARS
        if hidden > 0:
            parts.append(f'<div class="tbxl-muted">{hidden} more progress indicators not shown</div>')
    return "\n".join([*parts, "</div>"])


def _text(text: str) -> str:
    return escape(visible(text))


def _fact(key: str, value: str) -> str:
    return f'<div><span class="tbxl-muted">{key}</span> <span>{value}</span></div>'


def _stat(value: str, label: str) -> str:
    return f'<span><span class="tbxl-value">{value}</span> <span class="tbxl-muted">{label}</span></span>'


def _instant(value: datetime) -> str:
    """Local time, as this is for people; the exact instant is in the markup."""
    local = value.astimezone()
    offset = f"{local:%z}"
    zone = "UTC" if offset == "+0000" else f"UTC{offset[:3]}:{offset[3:5]}"
    shown = f'{local:%Y-%m-%d %H:%M:%S} <span class="tbxl-muted">({zone})</span>'
    return f'<time datetime="{value.isoformat()}">{shown}</time>'


def _duration(value: timedelta) -> str:
    """The two largest units, rounded down: "15s 582ms", "1h 5m", "150µs"."""
    microseconds = value.days * 86_400_000_000 + value.seconds * 1_000_000 + value.microseconds
    if microseconds < 1000:
        return f"{microseconds}µs" if microseconds > 0 else "0s"
    sizes = {"d": 86_400_000_000, "h": 3_600_000_000, "m": 60_000_000, "s": 1_000_000, "ms": 1000}
    parts: list[str] = []
    for unit, size in sizes.items():
        count, microseconds = divmod(microseconds, size)
        if parts or count:
            parts.append(f"{count}{unit}" if count else "")
    return " ".join(part for part in parts[:2] if part)


def _task_counts(tasks_by_state: dict[TaskState, int], total: int) -> Iterator[str]:
    """A bar divided by state, with a legend."""
    yield '<div class="tbxl-part tbxl-tasks">'
    yield _stat(f"{total:,}", "task" if total == 1 else "tasks")
    counts = [(*_TASKS[state], tasks_by_state[state]) for state in _TASKS if tasks_by_state.get(state, 0) > 0]
    yield '<div class="tbxl-bar">'
    for _, color, count in counts:
        yield f'<div style="flex:{count} 0 2px;background:{color}"></div>'
    yield '</div><div class="tbxl-legend">'
    for label, color, count in counts:
        dot = f'<span class="tbxl-dot" style="background:{color}"></span>'
        yield f'<span>{dot}{count:,} <span class="tbxl-muted">{label}</span></span>'
    yield "</div></div>"


def _progress(indicator: ProgressIndicator, job: Job) -> str:
    """Label, bar and counts of one progress indicator. More done than total shows in the numbers only."""
    done, total = indicator.done, indicator.total
    percent = done * 100 // total if total > 0 else 0
    if done >= total > 0:
        color = _TASKS[TaskState.COMPUTED][1]
    elif job.state in (JobState.FAILED, JobState.CANCELED):
        color = _TASKS[TaskState.FAILED][1]
    else:
        color = _TASKS[TaskState.RUNNING][1]
    fill = f'<div style="width:{min(max(percent, 0), 100)}%;background:{color}"></div>'
    label = _text(indicator.label or job.name)
    counts = f'{percent}% <span class="tbxl-muted">({done:,} / {total:,})</span>'
    return (
        f'<div><span class="tbxl-label" title="{label}">{label}</span> '
        f'<div class="tbxl-bar">{fill}</div> <span class="tbxl-count">{counts}</span></div>'
    )
