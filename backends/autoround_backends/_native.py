"""Build the C kernels with the machine's own compiler, once, and load them.

Plain C behind ctypes: no headers of torch, so a build takes a second, and the file can be
read without knowing torch. The result is kept in the user's cache under a name made of
everything that decides what is in it.
"""

from __future__ import annotations

import ctypes
import hashlib
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from autoround_backends._kernel_cache import is_whole, keep, open_cache

#: The operations of tuning.
SOURCE = Path(__file__).with_name("_cpu_kernels.c")
#: Products with packed weights.
LINEAR = Path(__file__).with_name("_cpu_linear.c")
COMPILERS = ("cc", "gcc", "clang")
#: No -ffast-math, no contraction: levels are to equal those of plain torch bit for bit.
FLAGS = (
    *("-O3", "-fPIC", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"),
    *("-Wall", "-Werror=implicit-function-declaration"),
)
#: Seconds after which a build is given up.
PATIENCE = 120.0


class Native(NamedTuple):
    """The kernels, or None; ``reason`` says how they came to be, or why they did not.

    kept: whether the next process need not build them again.
    """

    library: ctypes.CDLL | None
    reason: str
    kept: bool = True


def compiler() -> str | None:
    """Return the path of a C compiler of this machine."""
    return next(filter(None, map(shutil.which, COMPILERS)), None)


def default_cache() -> Path:
    """Return where built kernels are kept."""
    return Path.home() / ".cache" / "autoround" / "kernels"


@lru_cache(maxsize=8)
def load(
    cache: Path | None = None, *, source: Path = SOURCE, options: tuple[str, ...] = ()
) -> Native:
    """Load the kernels of one source, building them if that was not done before.

    Args:
        cache: folder of built kernels; None for the user's.
        source: the C file.
        options: of the compiler, after those that name this processor.
    """
    path = compiler()
    if path is None:
        return Native(None, f"no C compiler ({', '.join(COMPILERS)}) on the path")
    try:
        folder = cache or default_cache()
        unusable = open_cache(folder)
    except RuntimeError as error:
        folder, unusable = None, f"no home folder to keep kernels in: {error}"
    # OpenMP's functions are left open and bound to those that torch has loaded: a second
    # runtime would have threads of its own that fight for the same cores.
    for threads in (("-fopenmp",), ("-fopenmp-simd",)):
        command = [path, *FLAGS, *threads, _tuned(), *options, "-c", str(source)]
        try:
            if folder is None or unusable:
                library = _build_for_now(command)
            else:
                target = folder / f"{_key(path, source, command[1:])}.so"
                if not is_whole(target):
                    _build(command, target)
                library = ctypes.CDLL(str(target))
        except (OSError, subprocess.SubprocessError) as error:
            reason = str(getattr(error, "stderr", "") or error).strip().splitlines()
            failed = f"{path}: {reason[0] if reason else type(error).__name__}"
            continue
        kept = f", and not kept for the next run: {unusable}" if unusable else ""
        return Native(library, f"built by {path}{kept}", kept=not unusable)
    return Native(None, failed)


def _tuned() -> str:
    """Return the option that makes a compiler use all that this processor has."""
    return "-mcpu=native" if platform.machine() in ("aarch64", "arm64") else "-march=native"


def _key(path: str, source: Path, flags: Sequence[str]) -> str:
    """Name a build by what decides it: source, flags, compiler and processor."""
    parts = (source.read_text(encoding="utf-8"), *flags, path, processor())
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


def processor() -> str:
    """Describe the processor: a shared home folder may serve several kinds."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.platform() + platform.processor()
    wanted = ("model name", "flags", "Features", "CPU part")
    return "".join(dict.fromkeys(line for line in lines if line.startswith(wanted)))


def _build(compile_: list[str], target: Path) -> None:
    """Compile in a folder of our own and move the result into place as a whole."""
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".build-") as scratch:
        keep(_compile(compile_, Path(scratch)), target)


def _build_for_now(compile_: list[str]) -> ctypes.CDLL:
    """Compile for this process alone, where there is no folder to keep kernels in."""
    with tempfile.TemporaryDirectory(prefix="autoround-kernels-") as scratch:
        # Once it is mapped, the file is not needed.
        return ctypes.CDLL(str(_compile(compile_, Path(scratch))))


def _compile(command: list[str], scratch: Path) -> Path:
    """Compile and link; returns the library."""
    objects, library = scratch / "kernels.o", scratch / "kernels.so"
    _run([*command, "-o", str(objects)])
    link = ["-undefined", "dynamic_lookup"] if platform.system() == "Darwin" else ["-lm"]
    _run([command[0], "-shared", str(objects), *link, "-o", str(library)])
    return library


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=PATIENCE)
