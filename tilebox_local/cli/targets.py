"""Task classes by what people type: `module`, `module:Task`, `path/to/file.py` or `path/to/file.py:Task`."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tilebox_local.errors import ArgumentError, NotFoundError, TargetImportError
from tilebox_local.task import TaskMeta

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["files_of", "is_own_source", "load_module", "load_task", "load_tasks"]


def load_tasks(targets: list[str] | tuple[str, ...]) -> list[type[Any]]:
    """The task classes of all targets, each once.

    Raises:
        NotFoundError: no such module, file or class. ArgumentError: it has no task that can be run.
        TargetImportError: importing it raised something.
    """
    found: list[type[Any]] = []
    for target in targets:
        module, name = _split(target)
        loaded = load_module(module)
        classes = [_task_of(loaded, name, target)] if name else _tasks_of(loaded, target)
        found += [one for one in classes if one not in found]
    return found


def load_task(target: str) -> type[Any]:
    """The task class that a target names; the only one of a module may stay unnamed. Raises as `load_tasks`."""
    classes = load_tasks([target])
    if len(classes) > 1:
        names = ", ".join(one.__name__ for one in classes)
        raise ArgumentError(f"{target} has several tasks; append one of them: {target}:NAME ({names}).")
    return classes[0]


def _split(target: str) -> tuple[str, str]:
    module, colon, name = target.rpartition(":")
    return (module, name) if colon and module else (target, "")


def files_of(target: str, folder: Path | None = None) -> list[str]:
    """Paths of the files where a target is, or would be if it is not there yet; modules in a folder (None: here)."""
    module, _ = _split(target)
    if _is_file(module):
        return [str(Path(module).expanduser().resolve())]
    place = (folder or Path.cwd()).joinpath(*module.split("."))
    return [f"{place}.py", str(place / "__init__.py")]


def _is_file(module: str) -> bool:
    return module.endswith(".py") or "/" in module


def load_module(name: str) -> ModuleType:
    """Import a module by its name, from the working directory, too, or a file."""
    if _is_file(name):
        return _load_file(Path(name))
    if not all(part.isidentifier() for part in name.split(".")):
        raise ArgumentError(f"{name!r} is neither the name of a module nor the path of a .py file.")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            hint = "Give a module that can be imported from here, or the path of a .py file."
            raise NotFoundError("module", name, hint=hint, place="here") from error
        raise _import_error(name, error) from error
    except (Exception, SystemExit) as error:
        raise _import_error(name, error) from error


def _load_file(path: Path) -> ModuleType:
    path = path.expanduser().resolve()
    if not path.is_file():
        raise NotFoundError("file", path, hint="Give the path of a .py file, or the name of a module.", place="here")
    for known in list(sys.modules.values()):
        if getattr(known, "__file__", None) == str(path):
            return known
    folder = str(path.parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)  # as for a script, so that it finds its neighbours
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ArgumentError(f"{path} is no Python file.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[path.stem]
        raise _import_error(str(path), error) from error
    return module


def _import_error(target: str, error: BaseException) -> TargetImportError:
    """Says what was raised, and where in the user's code, since that is to be mended."""
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if is_own_source(frame.filename)]
    place = f" ({own[-1].filename}, line {own[-1].lineno})" if own and not isinstance(error, SyntaxError) else ""
    return TargetImportError(f"{target} cannot be imported: {type(error).__name__}: {error}{place}.")


def is_own_source(file: str | None) -> bool:
    """Whether a source file is the user's: not of Python, of an installed package, or of this one."""
    if not file or not file.endswith(".py"):
        return False
    path = Path(file).absolute()
    if {"site-packages", "dist-packages"} & set(path.parts):
        return False
    return not any(path.is_relative_to(folder) for folder in (Path(__file__).parents[1], Path(os.__file__).parent))


def _is_task(value: object) -> bool:
    if not isinstance(value, type):
        return False
    try:
        return TaskMeta.for_task(value).executable
    except TypeError:
        return False


def _tasks_of(module: ModuleType, target: str) -> list[type[Any]]:
    """The tasks that a module defines; those that it imports belong to others."""
    found = [value for value in vars(module).values() if _is_task(value) and value.__module__ == module.__name__]
    if not found:
        raise ArgumentError(f"{target} defines no task with an execute method.")
    return list(dict.fromkeys(found))


def _task_of(module: ModuleType, name: str, target: str) -> type[Any]:
    found = getattr(module, name, None)
    if found is None:
        raise NotFoundError("task", target, hint=f"{module.__name__} has no {name}.", place="here")
    if not isinstance(found, type) or not _has_meta(found):
        raise ArgumentError(f"{target} is no task class.")
    return found


def _has_meta(kind: type) -> bool:
    try:
        TaskMeta.for_task(kind)
    except TypeError:
        return False
    return True
