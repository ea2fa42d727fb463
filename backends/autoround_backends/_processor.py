"""What this process may use of the processor: cores, a container's quota, instructions.

Nothing here is timed, so that a busy machine gives the same answers as an idle one.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

#: Instructions that multiply matrices of bfloat16, as Linux names them.
BFLOAT16_FLAGS = frozenset({"avx512_bf16", "amx_bf16"})
#: Folders below the control groups' own that hold the CPU controller of version 1.
CONTROLLERS = ("cpu", "cpu,cpuacct", "cpuacct,cpu")


@dataclass(frozen=True, slots=True)
class Processor:
    """What one process may use of a processor.

    cores: physical ones that it may run on, within the container's quota; one at least.
    bfloat16: whether instructions multiply bfloat16; None where they do not tell.
    """

    cores: int
    bfloat16: bool | None = None


def read_processor(root: Path = Path("/")) -> Processor:
    """Return what this process may use, read from the files of Linux where they are there.

    Args:
        root: folder that holds ``proc`` and ``sys``.
    """
    cores = _count_physical(_affinity(), root / "sys/devices/system/cpu")
    quota = _read_quota(root / "sys/fs/cgroup", _read(root / "proc/self/cgroup"))
    if quota is not None:
        cores = min(cores, math.ceil(quota))
    return Processor(max(1, cores), parse_bfloat16(_read(root / "proc/cpuinfo")))


def _affinity() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return set(os.sched_getaffinity(0))
    return set(range(os.cpu_count() or 1))


def _count_physical(allowed: set[int], topology: Path) -> int:
    names = {number: topology / f"cpu{number}/topology/thread_siblings_list" for number in allowed}
    return count_cores({number: _read(path) for number, path in names.items()})


def count_cores(siblings: Mapping[int, str]) -> int:
    """Count physical cores: hardware threads of one core are siblings of each other.

    Args:
        siblings: for each hardware thread that may be used, all threads of its core as Linux
            lists them (``0,4`` or ``0-1``); empty where that is unknown.
    """
    return len({text.strip() or str(number) for number, text in siblings.items()})


def _read_quota(groups: Path, membership: str) -> float | None:
    """Return the least quota of the groups this process is in, in processors."""
    quotas: list[float | None] = []
    for group in parse_groups(membership):
        for name in CONTROLLERS if group.controller else (".", "unified"):
            # A container may see its own group as the top, by whatever path it is listed.
            for folder in (groups / name / path for path in group.and_above):
                if group.controller:
                    quota = _read(folder / "cpu.cfs_quota_us")
                    quotas.append(parse_quota(quota, _read(folder / "cpu.cfs_period_us")))
                else:
                    quotas.append(parse_quota(*_read(folder / "cpu.max").split()[:2]))
    return min((quota for quota in quotas if quota is not None), default=None)


@dataclass(frozen=True, slots=True)
class Group:
    """A control group that limits processors.

    path: of the group. controller: whether it is one of version 1.
    """

    path: str
    controller: bool

    @property
    def and_above(self) -> tuple[str, ...]:
        """The path and those above it, without the leading slash; the last one is the top."""
        path = PurePosixPath("/", self.path)
        # Groups outside the container are listed as above its top.
        plain = [part for part in path.parts[1:] if part != ".."]
        return tuple("/".join(plain[:count]) or "." for count in range(len(plain), -1, -1))


def parse_groups(text: str) -> list[Group]:
    """Return the control groups in ``/proc/self/cgroup`` that may limit processors.

    Args:
        text: lines of number, controllers and path: ``0::/a`` of version 2, ``4:cpu:/a`` of 1.
    """
    groups = []
    for line in text.splitlines():
        number, _, rest = line.partition(":")
        controllers, colon, path = rest.partition(":")
        if not colon:
            continue
        if "cpu" in controllers.split(","):
            groups.append(Group(path, True))
        elif number == "0" and not controllers:
            groups.append(Group(path, False))
    return groups


def parse_quota(quota: str = "", period: str = "") -> float | None:
    """Return how many processors a control group may use; None where it has no limit.

    Args:
        quota: microseconds of work in a period; ``max`` or ``-1`` for no limit.
        period: its microseconds.
    """
    try:
        allowed, length = int(quota), int(period)
    except ValueError:  # there is no such file, or "max"
        return None
    return allowed / length if allowed > 0 and length > 0 else None


def parse_bfloat16(text: str) -> bool | None:
    """Tell whether a processor multiplies bfloat16; None where its flags do not say.

    Without these instructions an x86 processor emulates it, 8 to 80 times slower than float32.
    Others have a list that names no speed: some ARM processors convert, and do not multiply.

    Args:
        text: of ``/proc/cpuinfo``.
    """
    flags = _flags(text.splitlines())
    return None if flags is None else bool(flags & BFLOAT16_FLAGS)


def _flags(lines: Iterable[str]) -> frozenset[str] | None:
    for line in lines:
        key, colon, value = line.partition(":")
        if colon and key.strip() == "flags":
            return frozenset(value.split())
    return None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
