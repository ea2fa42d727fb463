"""Let transformers load our checkpoints, whichever of the two is imported first.

transformers has no entry points for quantizers: its table of them is filled when its module
``transformers.quantizers.auto`` runs. Where that has run, ours is put in at once; else a finder
of this very module waits for it, puts ours in when it has run, and is gone. Nothing of
transformers or torch is imported for that.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

#: The module that holds transformers' tables of quantizers.
TARGET = "transformers.quantizers.auto"
#: Ours, whose ``register`` is called with that module.
OURS = "autoround.inference.hf_quantizer"


def install() -> None:
    """Register our quantizer with transformers, now or when it is imported."""
    loaded = sys.modules.get(TARGET)
    if loaded is not None and hasattr(loaded, "AUTO_QUANTIZER_MAPPING"):
        _register(loaded)
    elif not any(isinstance(finder, _Waiting) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Waiting())


def _register(tables: ModuleType) -> None:
    """Put ours into the tables; a transformers that is too different stays as it is."""
    ours = sys.modules.get(OURS)
    if ours is not None and not hasattr(ours, "register"):
        return  # it is what imports transformers just now, and calls install() when it is ready
    try:
        importlib.import_module(OURS).register(tables)
    except Exception as error:  # another release may differ in any way
        warnings.warn(
            f"transformers will not load auto-round checkpoints by itself: "
            f"{type(error).__name__}: {error}; autoround.load still does",
            stacklevel=2,
        )


class _Waiting(MetaPathFinder):
    """Finds one module, once, with a loader that calls us after it."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != TARGET:
            return None
        sys.meta_path.remove(self)
        for finder in sys.meta_path:
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _Then(spec.loader)
                return spec
        return None


class _Then(Loader):
    """Another loader's work, then ours."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        module.__loader__ = self._loader
        self._loader.exec_module(module)
        _register(module)
