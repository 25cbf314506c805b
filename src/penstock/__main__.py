"""Where the command starts: ``penstock``, or ``python -m penstock``."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator

__all__ = ["main"]


def main() -> int:
    """Run the command line; returns the exit code. Ctrl-C ends it quietly from the first moment on."""
    try:
        with _leaving_at_once():
            from penstock import cli  # noqa: PLC0415 - loading it takes a few tenths of a second

        code = cli.main()
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # once more, while the interpreter leaves, would only change the code
    return code


@contextlib.contextmanager
def _leaving_at_once() -> Iterator[None]:
    """While modules are loaded, Ctrl-C ends the process on the spot: nothing has begun.

    As an exception it could come up inside a class that some library creates, where Python up to 3.11 turns it into a
    RuntimeError.
    """
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler:  # ignored, under nohup
        yield
        return
    signal.signal(signal.SIGINT, lambda *_: os._exit(128 + signal.SIGINT))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


if __name__ == "__main__":
    sys.exit(main())
