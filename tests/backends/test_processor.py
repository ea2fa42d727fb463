"""What may be used of a processor, from texts as Linux gives them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from autoround_backends._processor import (
    Group,
    count_cores,
    parse_bfloat16,
    parse_groups,
    parse_quota,
    read_processor,
)

ALLOWED = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def write(root: Path, **texts: str) -> Path:
    """Write files below a folder; ``__`` in a name is a slash, and ``_`` in the last part stays."""
    for name, text in texts.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("siblings", "cores"),
    [
        ({0: "0,4", 4: "0,4", 1: "1,5", 5: "1,5"}, 2),
        ({0: "0-1\n", 1: "0-1\n"}, 1),
        # The process may run on one thread of each core only.
        ({0: "0,4", 1: "1,5"}, 2),
        ({0: "0", 1: "1", 2: "2"}, 3),
        # Nothing is known of them: each is taken for a core.
        ({0: "", 1: ""}, 2),
    ],
)
def test_two_threads_of_a_core_are_one_core(siblings: dict[int, str], cores: int) -> None:
    assert count_cores(siblings) == cores


@pytest.mark.parametrize(
    ("quota", "period", "processors"),
    [
        ("200000", "100000", 2.0),
        ("50000", "100000", 0.5),
        ("max", "100000", None),
        ("-1", "100000", None),
        ("", "", None),
        ("100000", "0", None),
        ("nonsense", "100000", None),
    ],
)
def test_a_quota_is_work_in_a_period(quota: str, period: str, processors: float | None) -> None:
    assert parse_quota(quota, period) == processors


def test_groups_of_both_versions() -> None:
    old = "12:cpuset:/x\n4:cpu,cpuacct:/docker/ab\n1:name=systemd:/\n0::/\nnonsense\n"
    assert parse_groups(old) == [Group("/docker/ab", True), Group("/", False)]
    assert parse_groups("0::/user.slice/a:b.scope\n") == [Group("/user.slice/a:b.scope", False)]
    assert parse_groups("") == []


def test_a_group_is_within_those_above_it() -> None:
    assert Group("/a/b", False).and_above == ("a/b", "a", ".")
    assert Group("/", False).and_above == (".",)
    # Nothing is read outside the folder of the groups.
    assert Group("/../../etc", True).and_above == ("etc", ".")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("processor\t: 0\nflags\t\t: fpu avx512f avx512_bf16\n", True),
        ("flags : fpu amx_tile amx_bf16", True),
        ("flags : fpu avx2 fma avx512f avx512_vnni", False),
        # ARM has a list under another name.
        ("processor : 0\nFeatures : fp asimd bf16\n", None),
        ("", None),
    ],
)
def test_instructions_for_bfloat16(text: str, answer: bool | None) -> None:
    assert parse_bfloat16(text) is answer


@pytest.mark.parametrize(
    "files",
    [
        {"proc__self__cgroup": "0::/\n", "sys__fs__cgroup__cpu.max": "100000 100000\n"},
        # The group of the process has no limit; one above it has.
        {
            "proc__self__cgroup": "0::/a/b\n",
            "sys__fs__cgroup__a__b__cpu.max": "max 100000\n",
            "sys__fs__cgroup__a__cpu.max": "50000 100000\n",
            "sys__fs__cgroup__cpu.max": "900000 100000\n",
        },
        {
            "proc__self__cgroup": "4:cpu,cpuacct:/docker/ab\n",
            "sys__fs__cgroup__cpu,cpuacct__docker__ab__cpu.cfs_quota_us": "100000\n",
            "sys__fs__cgroup__cpu,cpuacct__docker__ab__cpu.cfs_period_us": "100000\n",
        },
        # A container sees its own group as the top.
        {
            "proc__self__cgroup": "4:cpu:/docker/ab\n0::/docker/ab\n",
            "sys__fs__cgroup__cpu__cpu.cfs_quota_us": "100000\n",
            "sys__fs__cgroup__cpu__cpu.cfs_period_us": "100000\n",
        },
        {
            "proc__self__cgroup": "4:cpu:/\n0::/\n",
            "sys__fs__cgroup__cpu__cpu.cfs_quota_us": "-1\n",
            "sys__fs__cgroup__cpu__cpu.cfs_period_us": "100000\n",
            "sys__fs__cgroup__unified__cpu.max": "100000 100000\n",
        },
    ],
    ids=["v2", "v2, a group above", "v1", "v1 in a container", "both"],
)
def test_a_container_has_what_it_is_given(files: dict[str, str], tmp_path: Path) -> None:
    assert read_processor(write(tmp_path, **files)).cores == 1


def test_a_quota_above_the_cores_changes_nothing(tmp_path: Path) -> None:
    quota = {"proc__self__cgroup": "0::/\n", "sys__fs__cgroup__cpu.max": "99900000 100000\n"}
    assert read_processor(write(tmp_path, **quota)).cores == ALLOWED


def test_parts_of_a_core_are_rounded_up(tmp_path: Path) -> None:
    quota = {"proc__self__cgroup": "0::/\n", "sys__fs__cgroup__cpu.max": "110000 100000\n"}
    assert read_processor(write(tmp_path, **quota)).cores == min(2, ALLOWED)


def test_without_these_files_every_processor_counts(tmp_path: Path) -> None:
    processor = read_processor(tmp_path)
    assert (processor.cores, processor.bfloat16) == (ALLOWED, None)


def test_cores_and_instructions_are_read(tmp_path: Path) -> None:
    cores = {
        f"sys__devices__system__cpu__cpu{number}__topology__thread_siblings_list": "0-1023\n"
        for number in range(1024)
    }
    root = write(tmp_path, **cores, proc__cpuinfo="flags : fpu amx_bf16\n")
    processor = read_processor(root)
    assert (processor.cores, processor.bfloat16) == (1, True)
