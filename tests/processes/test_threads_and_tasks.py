"""Threads, asyncio and generators: spans that overlap in time keep their own parents."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from process_support import Stage

# Each acknowledges its spans with the parent that they must have.
SCRIPTS = {
    "threads that are older than the client": """
go = threading.Event()
def work(name):
    go.wait()
    with spanned(name):
        for number in range(50):
            make(f"{name} {number}", name)
threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
for thread in threads:
    thread.start()
client()
go.set()
for thread in threads:
    thread.join()
""",
    "a pool, with and without the context": """
import contextvars
with spanned("outer"), ThreadPoolExecutor(4) as pool:
    for number in range(50):
        pool.submit(make, f"bare {number}")
        pool.submit(contextvars.copy_context().run, make, f"copied {number}", "outer")
""",
    "tasks of asyncio in turns": """
async def work(name):
    with spanned(name, "outer"):
        for number in range(20):
            with spanned(f"{name} {number}", name):
                await asyncio.sleep(0)
                make(f"{name} {number} below", f"{name} {number}")
                await asyncio.sleep(0)
async def main():
    with spanned("outer"):
        await asyncio.gather(*map(work, "abcd"))
asyncio.run(main())
""",
    "threads of asyncio": """
async def main():
    with spanned("outer"):
        await asyncio.gather(*(asyncio.to_thread(make, f"thread {number}", "outer") for number in range(20)))
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, make, "executor, without the context")
asyncio.run(main())
""",
    "a task that outlives the span it was made in": """
async def work(go):
    await go.wait()
    make("late", "outer")
async def main():
    go = asyncio.Event()
    with spanned("outer"):
        task = asyncio.create_task(work(go))
        await asyncio.sleep(0)
    make("after")
    go.set()
    await task
asyncio.run(main())
""",
    "a task that is canceled": """
async def work():
    with spanned("canceled", "outer"):
        await asyncio.sleep(60)
async def main():
    with spanned("outer"):
        task = asyncio.create_task(work())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        make("next", "outer")
asyncio.run(main())
""",
    "generators": """
def rows():
    with spanned("rows", "outer"):
        for number in range(3):
            yield number
with spanned("outer"):
    for number in rows():
        make(f"row {number}", "rows")
    make("last", "outer")
""",
    "a generator that is left early": """
def rows():
    with spanned("rows", "outer"):
        yield from range(3)
with spanned("outer"):
    found = rows()
    next(found)
    found.close()
    make("last", "outer")
""",
    "asynchronous generators": """
async def rows():
    with spanned("rows", "outer"):
        for number in range(3):
            await asyncio.sleep(0)
            yield number
async def main():
    with spanned("outer"):
        async for number in rows():
            make(f"row {number}", "rows")
        make("last", "outer")
asyncio.run(main())
""",
    "a generator that another thread ends": """
def rows():
    with spanned("rows", "outer"):
        yield
found = rows()
with spanned("outer"):
    import contextvars
    thread = threading.Thread(target=contextvars.copy_context().run, args=(next, found))
    thread.start()
    thread.join()
    found.close()
    make("last", "outer")
""",
}


@pytest.mark.parametrize("script", SCRIPTS)
def test_parents(script: str, stage: Stage) -> None:
    """Each span is stored once, below the span that is current where it starts."""
    stage.play_well(SCRIPTS[script])
