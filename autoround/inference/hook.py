"""Let transformers load our checkpoints, and peft adapt them, whichever is imported first.

transformers has no entry points for quantizers: its table of them is filled when its module
``transformers.quantizers.auto`` runs. peft knows the layers that take adapters by their classes.
Where such a module has run, ours is put in at once; else a finder of this very module waits for
it, puts ours in when it has run, and is gone. Nothing of transformers, peft or torch is imported
for that.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import NamedTuple


class _Addition(NamedTuple):
    """What is put into another package's module.

    ready: a name that the module has when it has run. ours: our module, and its function that is
    called with theirs. lost: what does not work where that fails.
    """

    ready: str
    ours: str
    function: str
    lost: str


#: The module that holds transformers' tables of quantizers.
TARGET = "transformers.quantizers.auto"
#: Ours, whose ``register`` is called with that module.
OURS = "autoround.inference.hf_quantizer"
_ADAPTERS = "autoround.inference.adapters"
_NO_ADAPTERS = "peft will not put adapters on packed layers"

ADDITIONS = {
    TARGET: _Addition(
        "AUTO_QUANTIZER_MAPPING",
        OURS,
        "register",
        "transformers will not load auto-round checkpoints by itself; autoround.load still does",
    ),
    "peft.tuners.tuners_utils": _Addition(
        "BaseTuner", _ADAPTERS, "name_packed_layers", _NO_ADAPTERS
    ),
    "peft.tuners.lora.model": _Addition("LoraModel", _ADAPTERS, "register", _NO_ADAPTERS),
}
#: Modules that a user wants nothing put into.
_left_alone: set[str] = set()


def install() -> None:
    """Add ours to the modules of other packages, now or when they are imported."""
    for target, addition in ADDITIONS.items():
        if target in _left_alone:
            continue
        loaded = sys.modules.get(target)
        if loaded is not None and hasattr(loaded, addition.ready):
            _add(addition, loaded)
        elif not any(isinstance(f, _Waiting) and f.target == target for f in sys.meta_path):
            sys.meta_path.insert(0, _Waiting(target))


def use_for_transformers(enabled: bool = True) -> None:
    """Choose who loads checkpoints of ``quant_method: auto-round`` for transformers.

    It is autoround from the moment it is imported, for this process. What was loaded before stays
    as it is, and ``autoround.load`` works either way.

    Args:
        enabled: True for autoround; False for transformers' own integration, which asks for the
            package auto-round.
    """
    if enabled:
        _left_alone.discard(TARGET)
        install()
        return
    _left_alone.add(TARGET)
    for finder in list(sys.meta_path):
        if isinstance(finder, _Waiting) and finder.target == TARGET:
            sys.meta_path.remove(finder)
    loaded, ours = sys.modules.get(TARGET), sys.modules.get(OURS)
    if loaded is not None and ours is not None:
        ours.unregister(loaded)


def _add(addition: _Addition, theirs: ModuleType) -> None:
    """Put ours into a module; a package that is too different stays as it is."""
    ours = sys.modules.get(addition.ours)
    if ours is not None and not hasattr(ours, addition.function):
        return  # it is what imports the package just now, and calls install() when it is ready
    try:
        getattr(importlib.import_module(addition.ours), addition.function)(theirs)
    except Exception as error:  # another release may differ in any way
        warnings.warn(f"{addition.lost} ({type(error).__name__}: {error})", stacklevel=2)


class _Waiting(MetaPathFinder):
    """Finds one module, once, with a loader that calls us after it."""

    def __init__(self, target: str) -> None:
        self.target = target

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != self.target:
            return None
        sys.meta_path.remove(self)
        for finder in sys.meta_path:
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _Then(spec.loader, ADDITIONS[name])
                return spec
        return None


class _Then(Loader):
    """Another loader's work, then ours."""

    def __init__(self, loader: Loader, addition: _Addition) -> None:
        self._loader, self._addition = loader, addition

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        module.__loader__ = self._loader
        self._loader.exec_module(module)
        _add(self._addition, module)
