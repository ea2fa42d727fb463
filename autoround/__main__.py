"""``python -m autoround``: the command line."""

from __future__ import annotations

import sys
from contextlib import suppress


def main() -> int:
    """Run the command line of this process.

    Returns:
        The exit code; docs/exit-codes.md has the table.
    """
    try:
        # Imported late: Ctrl-C may come while libraries are being loaded.
        from autoround.cli.main import run

        return run()
    except KeyboardInterrupt as error:
        # Where the terminal is gone there is nobody to tell.
        with suppress(OSError):
            print("interrupted: nothing half-written is left", file=sys.stderr)
        # Some signals come as such, and say which.
        return 128 + int(getattr(error, "number", 2))


if __name__ == "__main__":
    sys.exit(main())
