"""Print the installing steps of a Dockerfile as a script: python tools/docker_steps.py FILE.

What needs root or the system's package manager (apt-get, useradd) is left out, and so is what
copies files: tools/docker_check.sh runs the script in a clean virtual environment.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

#: Commands that an environment of Python has no use for.
SYSTEM = ("apt-get", "useradd")


def run_steps(text: str) -> list[str]:
    """Return the commands of the RUN steps of a Dockerfile that are not about the system."""
    whole = re.sub(r"\\\n\s*", "", re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE))
    steps = re.findall(r"^RUN (.+)$", whole, re.MULTILINE)
    return [step for step in steps if not step.startswith(SYSTEM)]


def script(text: str) -> str:
    """Return the steps as a script that ends at the first that fails."""
    return "\n".join(["set -eux", *run_steps(text)]) + "\n"


def main(arguments: list[str]) -> int:
    """Print the script; returns the exit code."""
    if len(arguments) != 1:
        print("docker_steps: name one Dockerfile", file=sys.stderr)
        return 2
    print(script(Path(arguments[0]).read_text(encoding="utf-8")), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
