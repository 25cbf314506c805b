"""Where the command starts: ``penstock``, or ``python -m penstock``."""

from __future__ import annotations

import signal
import sys

__all__ = ["main"]


def main() -> int:
    """Run the command line; returns the exit code. Ctrl-C ends it quietly from the first moment on."""
    try:
        from penstock import cli  # noqa: PLC0415 - loading it takes a few tenths of a second

        code = cli.main()
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # once more, while the interpreter leaves, would only change the code
    return code


if __name__ == "__main__":
    sys.exit(main())
