"""A function that the user's script defines, in a worker that did not run the script.

Workers never load the parent's ``__main__``, unless the work refers to it. Then they run the script under the name
``__mp_main__``, as multiprocessing does, with one difference: where the script comes to the call that made the workers, it
stops, so that it needs no ``if __name__ == "__main__"``. What the work refers to is defined by then, in the
worker as it was in the parent.
"""

from __future__ import annotations

import importlib.util
import os
import pickle
import sys
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from penstock.errors import ConfigError, WorkerError

__all__ = [
    "NoScriptError",
    "Script",
    "load_job",
    "main_script",
    "refers_to_script",
    "required_script",
    "run_script",
    "script_of",
    "stop_if_in_worker",
]


@dataclass(frozen=True, slots=True)
class Script:
    """Where the ``__main__`` of the parent comes from."""

    module: str | None
    """As ``python -m`` got it; None if it was started by path."""
    path: str
    argv: tuple[str, ...]


class NoScriptError(ConfigError):
    """The work is defined in a notebook or at a prompt, where no worker process can load it from."""


class _ScriptStopped(BaseException):
    """The script has come to the call that made this worker. Not an Exception, so that the script lets it pass."""


_running = False


def refers_to_script(pickled: bytes) -> bool:
    """Whether loading this pickle needs the script (or, harmlessly, a text in it speaks of ``__main__``)."""
    return b"__main__" in pickled or b"__mp_main__" in pickled


def script_of(pickled: bytes) -> Script | None:
    """The script to run before this pickle can be loaded in another process; None if it needs none, or there is none."""
    return main_script() if refers_to_script(pickled) else None


def required_script(pickled: bytes) -> Script | None:
    """As `script_of`, for work that cannot be loaded without it.

    Raises:
        NoScriptError: it needs one, and there is none.
    """
    script = script_of(pickled)
    if script is None and refers_to_script(pickled):
        raise NoScriptError("the transform is defined in a notebook or at a prompt; put it into a module and import it")
    return script


def main_script() -> Script | None:
    """The script of this process; None in a notebook and wherever else the code comes from no file."""
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    path = getattr(main, "__file__", None)
    if path is None or not os.path.isfile(path):  # noqa: PTH113 - "<stdin>" is no path
        return None
    module = spec.name if spec is not None and spec.name != "__main__" else None
    return Script(module, os.path.abspath(path), tuple(sys.argv))  # noqa: PTH100 - resolve() would follow links


def run_script(script: Script) -> None:
    """Define here what the script defines, as far as `stop_if_in_worker`.

    Raises:
        Exception: whatever the script raises.
    """
    global _running  # noqa: PLW0603 - a fact about this process
    module = types.ModuleType("__mp_main__")
    module.__file__ = script.path
    if script.module is not None:
        module.__package__ = script.module.rpartition(".")[0]
        module.__spec__ = importlib.util.find_spec(script.module)  # workers of this process need it, too
    code = _code_of(script)
    sys.argv = list(script.argv)
    sys.modules["__main__"] = sys.modules["__mp_main__"] = module
    _running = True
    try:
        exec(code, module.__dict__)  # noqa: S102 - the user's own script, as the user runs it
    except _ScriptStopped:
        pass
    finally:
        _running = False


def load_job(pickled: bytes, script: Script | None, where: str, otherwise: str = "") -> Any:
    """What was pickled in the parent, in a process of ours that is no worker.

    Args:
        pickled: by our own parent.
        script: to run before it can be loaded, if any.
        where: what the message calls this process.
        otherwise: what the message says of another way.

    Raises:
        WorkerError: it cannot be loaded; a script may well call ``sys.exit()``.
    """
    try:
        if script is not None:
            run_script(script)
        return pickle.loads(pickled)  # noqa: S301 - see above
    except BaseException as error:
        raise WorkerError(
            f"{where} cannot load the transform: {type(error).__name__}: {error}; put it into a module of its own{otherwise}"
        ) from error


def stop_if_in_worker() -> None:
    """End the script here if it runs only to define things for a worker; elsewhere this does nothing."""
    if _running:
        raise _ScriptStopped


def _code_of(script: Script) -> types.CodeType:
    if script.module is not None:
        spec = importlib.util.find_spec(script.module)
        get_code = getattr(spec and spec.loader, "get_code", None)
        if get_code is not None:
            return cast("types.CodeType", get_code(script.module))
    return compile(Path(script.path).read_bytes(), script.path, "exec", dont_inherit=True)
