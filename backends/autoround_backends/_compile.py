"""Blocks compiled: what is not a product is fused, in the backward as well.

torch's own cache believes what it finds: libraries by their names, whole or not, and pickles. So
torch is given a folder of this process that nobody else can have written to, with the libraries
that earlier processes kept and whose digests are right (``_compiled_libraries.py``). Whether to
compile is planned as if it were done each time: a plan does not depend on a cache.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from autoround.device.protocol import BlockCall
from autoround_backends._compiled_libraries import (
    LibraryCache,
    keep_libraries,
    open_libraries,
    restore_libraries,
)

#: How torch is told where to keep what it compiles, and how it tells Triton.
FOLDERS = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")
#: Options of torch, where it has them: compile in this process alone, because workers would each
#: hold a copy of torch; keep no pickles; keep no headers, whose folder cannot be chosen.
OPTIONS: dict[str, Any] = {
    "compile_threads": 1,
    "fx_graph_cache": False,
    "cpp_cache_precompile_headers": False,
}


def why_not_compiled() -> str:
    """Return why blocks of a CPU cannot be compiled: no C++ compiler, no folder; empty if not."""
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
        _folder()
    except (InvalidCxxCompiler, OSError, RuntimeError, subprocess.SubprocessError) as error:
        return (str(error).strip() or "no C++ compiler that works").splitlines()[0]
    return ""


@lru_cache(maxsize=1)
def _folder() -> tempfile.TemporaryDirectory[str]:
    """Return a folder of this process, which nobody else may look into."""
    return tempfile.TemporaryDirectory(prefix="autoround-compiled-", ignore_cleanup_errors=True)


@lru_cache(maxsize=1)
def _cache() -> LibraryCache:
    """Return the cache of libraries, what it holds put into this process's folder."""
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    compiler = ""
    with suppress(InvalidCxxCompiler, OSError, RuntimeError, subprocess.SubprocessError):
        compiler = str(get_cpp_compiler())
    cache = open_libraries(compiler)
    restore_libraries(cache, Path(_folder().name))
    return cache


def why_not_kept() -> str:
    """Return why the next run compiles the same blocks again; empty where it need not."""
    try:
        return _cache().reason
    except OSError as error:
        return str(error)


@contextmanager
def private_folder() -> Iterator[None]:
    """Let torch keep what it compiles in a folder of this process, and put its setting back.

    What it compiled is kept for later processes, where nothing went wrong. Where no folder can be
    made, torch finds none either, and why_not_compiled says so.
    """
    try:
        name = _folder().name
    except OSError:
        yield
        return
    before = {key: os.environ.get(key) for key in FOLDERS}
    # The one way there is; torch writes it itself when it is not set.
    os.environ[FOLDERS[0]] = name
    os.environ.pop(FOLDERS[1], None)
    try:
        yield
    finally:
        for key, value in before.items():
            os.environ.pop(key, None)
            if value is not None:
                os.environ[key] = value
    # At the end of a run, where it compiled anything: not after each of its calls.
    if before[FOLDERS[0]] != name and _cache.cache_info().currsize:
        keep_libraries(_cache(), Path(name))


class Compiled:
    """A call that torch compiles when it is first made; where that fails, the call itself."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call
        # torch counts what it has compiled by code object, and gives up on one after eight: with
        # a code object of its own, one model's blocks do not use up what another's need.
        unshared: Callable[..., Any] = call
        if isinstance(call, FunctionType):
            code = call.__code__.replace()
            unshared = FunctionType(code, call.__globals__, call.__name__, call.__defaults__)
        known = torch._inductor.list_options()
        options = {name: value for name, value in OPTIONS.items() if name in known}
        # torch 2.8 looks for settings in its folder already here.
        with private_folder():
            self.unkept = why_not_kept()
            self._fast: BlockCall | None = torch.compile(unshared, dynamic=False, options=options)

    def __call__(
        self,
        block: nn.Module,
        tensors: dict[str, Tensor],
        arguments: tuple[Any, ...],
        named: dict[str, Any],
    ) -> Any:
        """Call a block with other tensors than it holds."""
        from torch._dynamo.exc import TorchDynamoException
        from torch._inductor.exc import InductorError

        if self._fast is not None:
            try:
                with private_folder():
                    return self._fast(block, tensors, arguments, named)
            except (TorchDynamoException, InductorError) as error:
                self._fast = None
                first = (str(error).strip() or type(error).__name__).splitlines()[0]
                warnings.warn(f"blocks are not compiled: {first[:300]}", stacklevel=2)
        return self._call(block, tensors, arguments, named)
