"""The SVG of a job's task graph, and the layout under it."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from itertools import combinations, pairwise
from xml.etree import ElementTree as ET

import pytest

from tilebox_local.data import TaskState
from tilebox_local.errors import ArgumentError
from tilebox_local.formatting.diagram import MAX_DIAGRAM_TASKS, STATE_STYLES, TaskNode, render_task_graph
from tilebox_local.formatting.layout import Box, Placement, place

SVG = "{http://www.w3.org/2000/svg}"


def task(
    key: int,
    parent: int | None = None,
    *depends_on: int,
    state: TaskState = TaskState.COMPUTED,
    label: str = "",
) -> TaskNode:
    """A task whose label is its key unless given."""
    return TaskNode(key, label or f"Task {key}", state, parent, depends_on)


def parse(svg: str) -> ET.Element:
    """The SVG as a tree; fails if it is not well-formed XML in UTF-8."""
    return ET.fromstring(svg.encode("utf-8"))


def texts(root: ET.Element) -> list[str]:
    """Everything written in the picture, top to bottom, without tooltips."""
    return [element.text or "" for element in root.iter(f"{SVG}text")]


def tooltips(root: ET.Element) -> list[str]:
    """Tooltips of the boxes in order of the nodes."""
    return [element.findtext(f"{SVG}title") or "" for element in root.iter(f"{SVG}g")]


def placed(nodes: list[TaskNode]) -> Placement:
    """The layout of boxes of 100 by 40."""
    return place(
        {node.key: (100.0, 40.0) for node in nodes},
        {node.key: node.parent for node in nodes},
        {node.key: node.depends_on for node in nodes},
        screen=(1400.0, 900.0),
    )


def boxes_of(nodes: list[TaskNode]) -> dict[int, Box]:
    """The boxes of that layout."""
    return placed(nodes).boxes


def overlap(one: Box, other: Box) -> bool:
    """Whether two boxes share more than an edge."""
    return (
        one.breadth < other.breadth + other.breadth_size
        and other.breadth < one.breadth + one.breadth_size
        and one.depth < other.depth + other.depth_size
        and other.depth < one.depth + one.depth_size
    )


def random_job(seed: int, count: int) -> list[TaskNode]:
    """Tasks with random parents, each depending on up to three earlier siblings."""
    rng = random.Random(seed)
    nodes: list[TaskNode] = []
    siblings: dict[int | None, list[int]] = {}
    for key in range(count):
        parent = rng.choice([None, *range(key)][-rng.randint(1, 8) :]) if key else None
        earlier = siblings.setdefault(parent, [])
        nodes.append(task(key, parent, *rng.sample(earlier, min(len(earlier), rng.randint(0, 3)))))
        earlier.append(key)
    return nodes


def subtree(nodes: list[TaskNode], key: int) -> set[int]:
    """The task and everything below it."""
    result = {key}
    for node in nodes:
        if node.parent in result:
            result.add(node.key)
    return result


@pytest.mark.parametrize("seed", range(12))
def test_layout_invariants(seed: int) -> None:
    """Boxes never overlap, subtasks lie below parents, dependants below the whole subtree they wait for."""
    nodes = random_job(seed, count=10 + 6 * seed)
    boxes = boxes_of(nodes)
    assert set(boxes) == {node.key for node in nodes}
    assert [pair for pair in combinations(boxes.values(), 2) if overlap(*pair)] == []
    for node in nodes:
        top = boxes[node.key].depth
        if node.parent is not None:
            assert top > boxes[node.parent].depth + 40
        for source in node.depends_on:
            assert top > max(boxes[key].depth for key in subtree(nodes, source)) + 40


@pytest.mark.parametrize("seed", range(6))
def test_lines_cross_no_box(seed: int) -> None:
    """Lines run along the axes, inside the picture and around all boxes but those they connect."""
    placement = placed(random_job(seed, count=10 + 12 * seed))
    for wire in placement.wires:
        for start, end in pairwise(wire.path):
            low = min(start.breadth, end.breadth), min(start.depth, end.depth)
            size = abs(start.breadth - end.breadth), abs(start.depth - end.depth)
            assert min(size) < 1.0
            assert 0 <= low[0] <= low[0] + size[0] <= placement.breadth
            assert 0 <= low[1] <= low[1] + size[1] <= placement.depth
            assert not [key for key, box in placement.boxes.items() if overlap(Box(*low, *size), box)]


def test_layers_follow_the_longest_path() -> None:
    """A task lies below all its dependencies, however many shorter ways lead to it."""
    boxes = boxes_of([task(1), task(2, None, 1), task(3, None, 2), task(4, None, 1, 3), task(5)])
    depths = [boxes[key].depth for key in (1, 2, 3, 4, 5)]
    assert depths == [*sorted(depths[:4]), depths[0]]
    assert len(set(depths[:4])) == 4


def test_crossings_are_reduced() -> None:
    """Where dependencies would cross, the sources are reordered."""
    nodes = [task(0), *(task(key, 0) for key in (1, 2, 3)), task(4, 0, 3), task(5, 0, 2), task(6, 0, 1)]
    boxes = boxes_of(nodes)
    below = {4: 3, 5: 2, 6: 1}
    sources = sorted(below.values(), key=lambda key: boxes[key].breadth)
    dependants = sorted(below, key=lambda key: boxes[key].breadth)
    assert sources == [below[key] for key in dependants]


def test_wide_layers_are_wrapped_into_rows() -> None:
    """30 equal subtasks become several rows in reading order, forming columns."""
    boxes = boxes_of([task(0), *(task(key, 0) for key in range(1, 31))])
    rows: dict[float, list[float]] = {}
    for key in range(1, 31):
        rows.setdefault(boxes[key].depth, []).append(boxes[key].breadth)
    assert [len(row) for row in rows.values()] == [10, 10, 10]
    first = rows[boxes[1].depth]
    assert all(row == first == sorted(row) for row in rows.values())


def test_few_tasks_are_not_wrapped() -> None:
    """A row that fits on a screen stays a row."""
    boxes = boxes_of([task(0), *(task(key, 0) for key in range(1, 9))])
    assert len({boxes[key].depth for key in range(1, 9)}) == 1


@pytest.mark.parametrize(
    "nodes",
    [
        [task(1, 1, 1)],
        [task(1, 2), task(2, 1)],
        [task(1, 3), task(2, 1), task(3, 2), task(4, 3)],
        [task(1, None, 2), task(2, None, 1), task(3, None, 2)],
        [task(0), task(1, 0, 3), task(2, 0, 1), task(3, 0, 2), task(4, 0, 3)],
        [task(0), task(1, 0, 0), task(2, 1, 0)],
        [task(1, 99, 98)],
        [task(0), task(1, 0), task(2, 0), task(3, 1, 4), task(4, 2)],
        [task(0), task(1, 0), task(2, 0), task(3, 1, 4, 6), task(4, 2), task(5, 1), task(6, 2, 5)],
    ],
    ids=["self", "parents", "long", "roots", "siblings", "ancestor", "absent", "cousins", "cousins-cycle"],
)
def test_odd_graphs_are_drawn(nodes: list[TaskNode]) -> None:
    """Cycles, absent tasks and dependencies across families give a picture with every box, none overlaps."""
    root = parse(render_task_graph(nodes, title=None))
    assert len(tooltips(root)) == len(nodes)
    boxes = boxes_of(nodes)
    assert [pair for pair in combinations(boxes.values(), 2) if overlap(*pair)] == []


def test_dependency_across_families_is_respected() -> None:
    """A dependency between subtasks of different parents puts the parents below each other."""
    nodes = [task(0), task(1, 0), task(2, 0), task(3, 1, 4), task(4, 2)]
    boxes = boxes_of(nodes)
    assert boxes[1].depth > boxes[4].depth + 40


def test_boxes_labels_and_legend() -> None:
    """The picture says title, states with counts, kinds of edges and every label, and nothing else."""
    nodes = [
        task(1, label="Root"),
        task(2, 1, label="Left\nValueError('x')", state=TaskState.FAILED),
        task(3, 1, 2, label="Right", state=TaskState.QUEUED),
    ]
    root = parse(render_task_graph(nodes, title="my job"))
    legend = ["my job", "1 queued", "1 computed", "1 failed", "subtask", "depends on"]
    assert texts(root) == [*legend, "Root", "Left", "ValueError('x')", "Right"]
    assert root.findtext(f"{SVG}title") == "my job"
    assert tooltips(root) == [
        "Root\n\nState: computed",
        "Left\nValueError('x')\n\nState: failed",
        "Right\n\nState: queued",
    ]


def test_edges() -> None:
    """Solid lines lead to subtasks, one dashed line to a group of dependants; all end in arrow heads."""
    nodes = [task(0), *(task(key, 0) for key in (1, 2, 3)), *(task(key, 0, 1, 2, 3) for key in (4, 5))]
    paths = [element.attrib for element in parse(render_task_graph(nodes, title=None)).findall(f"{SVG}path")]
    strokes = [path for path in paths if path.get("fill") == "none" and "Q" in path["d"]]
    heads = [path for path in paths if path["d"].endswith("Z")]
    assert [path.get("stroke-dasharray") for path in strokes] == [None, "4 3"]
    assert [path["d"].count("Z") for path in heads] == [5, 2]
    assert [path["fill"] for path in heads] == [path["stroke"] for path in strokes]


def test_one_task_has_no_edges() -> None:
    """A single task is a box and a legend entry."""
    root = parse(render_task_graph([task(1)], title=None))
    assert texts(root) == ["1 computed", "Task 1"]
    assert root.findall(f"{SVG}path") == []


def test_no_tasks() -> None:
    """A job without tasks gives a small picture that says so."""
    root = parse(render_task_graph([], title="empty"))
    assert texts(root) == ["empty", "This job has no tasks."]
    assert float(root.attrib["height"]) < 100


def test_hostile_labels() -> None:
    """Markup, control characters and characters that XML forbids are shown as text."""
    evil = "<script>alert(1)</script>]]>&amp;\"'\x00\x1b[31m\ufffe\ud800\u202e"
    svg = render_task_graph([task(1, label=evil), task(2, label=" \n ")], title=evil)
    root = parse(svg)
    shown = "<script>alert(1)</script>]]>&amp;\"'␀␛[31m\\ufffe\\ud800\\u202e"
    assert root.findtext(f"{SVG}title") == shown
    assert tooltips(root)[0] == f"{shown}\n\nState: computed"
    assert texts(root)[-1] == "(no label)"
    assert "<script" not in svg


def test_long_labels_are_cut() -> None:
    """A label takes at most four lines of 28 cells; the tooltip has all of it."""
    label = "\n".join("line" * 20 for _ in range(9))
    root = parse(render_task_graph([task(1, label=label)], title="t" * 500))
    lines = texts(root)[2:]
    assert len(lines) == 4
    assert max(map(len, lines)) == 28
    assert lines[-1].endswith("…")
    assert tooltips(root) == [f"{label}\n\nState: computed"]
    assert texts(root)[0].endswith("t…")


def test_nothing_but_the_picture() -> None:
    """The SVG has no scripts, styles, ids, links or addresses except the namespace."""
    svg = render_task_graph(random_job(3, 40), title="x")
    tags = {element.tag.removeprefix(SVG) for element in parse(svg).iter()}
    assert tags == {"svg", "title", "rect", "text", "path", "g"}
    assert re.findall(r"https?://[^\"]*", svg) == ["http://www.w3.org/2000/svg"]
    assert re.findall(r"\b(?:id|href|src|class|on\w+)=", svg) == []


def test_text_is_readable_on_every_state() -> None:
    """Every state has a look, and its fill a contrast of at least 4.5:1 with the text (WCAG AA)."""

    def luminance(color: str) -> float:
        channels = [int(color[index : index + 2], 16) / 255 for index in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    ink = parse(render_task_graph([], title=None)).attrib["fill"]
    assert set(STATE_STYLES) == set(TaskState)
    for style in STATE_STYLES.values():
        assert (luminance(style.fill) + 0.05) / (luminance(ink) + 0.05) > 4.5, style.label


def test_state_colors() -> None:
    """Boxes have the colours of the hosted diagrams; optional failures differ by a dashed outline."""
    fills = {
        state: [path.attrib for path in parse(render_task_graph([task(1, state=state)], title=None)).iter(f"{SVG}path")]
        for state in TaskState
    }
    assert {state.name: paths[0]["fill"] for state, paths in fills.items()} == {
        "UNSPECIFIED": "#F0F0F0",
        "QUEUED": "#FFF0F5",
        "RUNNING": "#AFEEEE",
        "COMPUTED": "#F0FFF0",
        "FAILED": "#FA8072",
        "SKIPPED": "#fcf3ae",
        "FAILED_OPTIONAL": "#FA8072",
    }
    dashed = [state.name for state, paths in fills.items() if "stroke-dasharray" in paths[0]]
    assert dashed == ["FAILED_OPTIONAL"]


def label_positions(svg: str) -> dict[str, tuple[float, float]]:
    """Where each label stands."""
    found = parse(svg).iter(f"{SVG}text")
    return {element.text or "": (float(element.attrib["x"]), float(element.attrib["y"])) for element in found}


@pytest.mark.parametrize(
    ("direction", "axis", "sign"),
    [("down", 1, 1), ("", 1, 1), ("up", 1, -1), ("right", 0, 1), ("left", 0, -1)],
)
def test_directions(direction: str, axis: int, sign: int) -> None:
    """Subtasks go where the direction says."""
    at = label_positions(render_task_graph([task(1), task(2, 1), task(3, 2)], title=None, direction=direction))
    places = [at[f"Task {key}"] for key in (1, 2, 3)]
    assert sorted(places, key=lambda place: sign * place[axis]) == places
    assert len({place[1 - axis] for place in places}) == 1


@pytest.mark.parametrize("direction", ["up", "down", "left", "right"])
def test_everything_lies_on_the_page(direction: str) -> None:
    """No coordinate of any shape or label is outside the page."""
    root = parse(render_task_graph(random_job(5, 60), title="job", direction=direction))
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    for element in root.iter(f"{SVG}path"):
        if "h14" in element.attrib["d"]:
            continue  # the legend's sample, in relative coordinates
        numbers = [float(number) for number in re.findall(r"-?[\d.]+", element.attrib["d"])]
        assert 0 <= min(numbers[::2]) <= max(numbers[::2]) <= width
        assert 0 <= min(numbers[1::2]) <= max(numbers[1::2]) <= height


def test_layouts_are_the_same() -> None:
    """All layout names the hosted service knows are accepted and give the same picture."""
    nodes = random_job(2, 20)
    assert len({render_task_graph(nodes, title="x", layout=layout) for layout in ("", "dagre", "elk")}) == 1


def test_bad_arguments() -> None:
    """Unknown names, too many tasks and repeated keys are refused; the message says what is allowed."""
    with pytest.raises(ArgumentError, match=r'direction \'north\'; accepted are "", "up", "down", "right", "left"'):
        render_task_graph([], title=None, direction="north")
    with pytest.raises(ArgumentError, match=r'layout \'dot\'; accepted are "", "dagre", "elk"'):
        render_task_graph([], title=None, layout="dot")
    with pytest.raises(ArgumentError, match="at most 200 tasks, this job has 1,201"):
        render_task_graph([task(key) for key in range(1201)], title=None)
    with pytest.raises(ArgumentError, match="same key"):
        render_task_graph([task(1), task(1)], title=None)


@pytest.mark.parametrize("shape", ["fan", "chain", "nested"])
def test_most_tasks_allowed(shape: str) -> None:
    """The largest job is drawn with all its boxes, whether flat, a chain or tasks inside tasks."""
    count = MAX_DIAGRAM_TASKS
    nodes = {
        "fan": [
            task(0),
            *(task(key, 0) for key in range(1, count - 1)),
            task(count - 1, 0, *range(1, count - 1)),
        ],
        "chain": [task(key, None, *([key - 1] if key else [])) for key in range(count)],
        "nested": [task(key, key - 1 if key else None) for key in range(count)],
    }[shape]
    root = parse(render_task_graph(nodes, title=shape))
    assert len(tooltips(root)) == count
    if shape == "fan":
        assert float(root.attrib["width"]) < 3000


def test_output_is_deterministic() -> None:
    """Equal arguments give equal pictures, also in another process with another hash seed."""
    nodes = random_job(7, 50)
    svg = render_task_graph(nodes, title="x")
    assert render_task_graph(list(nodes), title="x") == svg
    code = (
        "from tilebox_local.formatting.diagram import *; from tilebox_local.data import TaskState;"
        "import sys; sys.stdout.reconfigure(encoding='utf-8', newline='');"
        f"nodes = [TaskNode(k, l, TaskState(s), p, d) for k, l, s, p, d in {_plain(nodes)!r}];"
        "sys.stdout.write(render_task_graph(nodes, title='x'))"
    )
    env = {"PYTHONHASHSEED": "4711"}
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, env=env).stdout
    assert output.decode("utf-8") == svg


def _plain(nodes: list[TaskNode]) -> list[tuple[int, str, int, int | None, tuple[int, ...]]]:
    return [(node.key, node.label, node.state.value, node.parent, node.depends_on) for node in nodes]


def test_sketchy_strokes_belong_to_the_task() -> None:
    """Hand-drawn outlines stay the same when other tasks change; without them boxes are plain rectangles."""
    nodes = [task(1), task(2)]

    def outline(nodes: list[TaskNode], sketchy: bool = True) -> list[str]:
        root = parse(render_task_graph(nodes, title=None, sketchy=sketchy))
        return [element.attrib.get("d", "rect") for element in next(root.iter(f"{SVG}g")).iter() if len(element) == 0][
            1:3
        ]

    assert len({*outline(nodes)}) == 2
    assert outline(nodes) != outline([task(2), task(1)])
    assert outline(nodes, sketchy=False)[0] == "rect"
