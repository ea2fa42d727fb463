"""Blocks compiled: what is not a product is fused, in the backward as well."""

from __future__ import annotations

import subprocess
import warnings
from collections.abc import Callable
from pathlib import Path
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from autoround.device.protocol import BlockCall
from autoround_backends._kernel_cache import why_not_trusted


def can_compile() -> bool:
    """Tell whether torch finds a C++ compiler, and keeps what it builds where nobody else writes.

    By default that is a folder of temporary files, which another user may have made beforehand.
    """
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        from torch._inductor.runtime.cache_dir_utils import cache_dir

        get_cpp_compiler()
        # Made by this call, if it was not there.
        if why_not_trusted(Path(cache_dir())):
            return False
    except (InvalidCxxCompiler, OSError, RuntimeError, subprocess.SubprocessError):
        return False
    return True


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
        # Compiling in this process alone: workers would each hold a copy of torch.
        options: dict[str, Any] = {"compile_threads": 1}
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
                return self._fast(block, tensors, arguments, named)
            except (TorchDynamoException, InductorError) as error:
                self._fast = None
                first = (str(error).strip() or type(error).__name__).splitlines()[0]
                warnings.warn(f"blocks are not compiled: {first[:300]}", stacklevel=2)
        return self._call(block, tensors, arguments, named)
