"""Hold backends to the suite: ``python -m autoround_backends.conformance [DEVICE ...]``.

Without a name every backend that can run here. Ends with 1 when one of them fails.
"""

from __future__ import annotations

import sys
import time

from autoround.device.registry import backends
from autoround.errors import AutoRoundError
from autoround_backends.conformance import cases, failures, open_subject


def main(names: list[str]) -> int:
    """Print what fails; returns the exit code."""
    wrong = 0
    for name in names or [found.name for found in backends() if found.availability.available]:
        started = time.perf_counter()
        try:
            subject = open_subject(name)
        except AutoRoundError as error:
            print(f"{name}: {error}", file=sys.stderr)
            wrong += 1
            continue
        messages = failures(subject)
        total = sum(subject.computes or not case.computes for case in cases())
        seconds = time.perf_counter() - started
        print(f"{name}: {total - len(messages)} of {total} cases pass, {seconds:.1f} s")
        for line in messages:
            print(f"    {line}")
        wrong += bool(messages)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
