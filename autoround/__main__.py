"""``python -m autoround``: the command line."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command line of this process.

    Returns:
        The exit code; docs/exit-codes.md has the table.
    """
    try:
        # Imported late: Ctrl-C may come while libraries are being loaded.
        from autoround.cli.main import run

        return run()
    except KeyboardInterrupt:
        print("interrupted: nothing was written", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
