"""A store that somebody else has filled with pickles is opened, queried and run without loading any object."""

from __future__ import annotations

from typing import TYPE_CHECKING

from store_support import change_closed_file, run_ok

if TYPE_CHECKING:
    from pathlib import Path

# A pickle of the oldest protocol, which is text: whoever loads it exits with 66.
_PICKLE = b"cos\n_exit\n(I66\ntR.".hex()
_AUDIT = """
import sys
LOADED = []
sys.addaudithook(lambda event, arguments: event == "pickle.find_class" and LOADED.append(arguments))
"""
_SCENE = """
from tilebox_local import Client, Task

class Scene(Task):
    scene_id: str

    def execute(self, context):
        context.logger.info("done")
        with context.tracer.span("inner") as span:
            span.set_attribute("scene_id", self.scene_id)
            span.add_event("event", {"number": 1})

client = Client(sys.argv[1])
"""
_FILL = f"""
import sys
{_SCENE}
client.jobs().submit("job", Scene("S2A"))
client.runner(tasks=[Scene]).run_all()
client.jobs().submit("job", Scene("S2B"))
client.close()
"""
_USE = f"""
{_AUDIT}
{_SCENE}
jobs = client.jobs().query()
spans = [span for job in jobs for span in client.jobs().query_spans(job, include_open=True)]
logs = [log for job in jobs for log in client.jobs().query_logs(job)]
print(repr(jobs), spans, logs, [client.jobs().visualize(job) for job in jobs])
client.runner(tasks=[Scene]).run_all()
print(len(jobs), len(spans), len(logs), client.jobs().find(jobs[0].id).state.name, LOADED)
client.close()
"""
_CONTROL = f"""
{_AUDIT}
import collections, pickle
pickle.loads(pickle.dumps(collections.deque))
print(LOADED)
"""


def test_nothing_is_unpickled_from_a_hostile_file(path: Path) -> None:
    """Pickles in inputs, attributes, bodies and display texts are data: whatever is done with them, none is loaded."""
    run_ok(_FILL, path)
    change_closed_file(
        path,
        f"UPDATE task_records SET input = x'{_PICKLE}' WHERE state = 1",
        f"UPDATE task_records SET display = CAST(x'{_PICKLE}' AS TEXT)",
        f"UPDATE span_records SET attributes = json_object('py/object', 'os._exit', '$bytes', '{_PICKLE}')",
        f"UPDATE event_records SET attributes = json_object('a', json_object('$bytes', '{_PICKLE}'))",
        f"UPDATE log_records SET body = CAST(x'{_PICKLE}' AS TEXT), attributes = json_object('$object', '!!x')",
    )
    assert run_ok(_USE, path).splitlines()[-1] == "2 4 1 FAILED []"


def test_the_audit_sees_a_pickle() -> None:
    """The control: the same audit hook reports an object that is unpickled."""
    assert run_ok(_CONTROL) == "[('collections', 'deque')]\n"
