"""Where the command starts: ``penstock``, or ``python -m penstock``."""

from __future__ import annotations

import signal
import sys

__all__ = ["main"]


def main() -> int:
    """Run the command line; returns the exit code. Ctrl-C ends it quietly from the first moment on."""
    try:
        from penstock import cli  # noqa: PLC0415 - loading it takes a few tenths of a second

        return cli.main()
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


if __name__ == "__main__":
    sys.exit(main())
