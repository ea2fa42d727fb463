"""Which devices a device_map gives packed layers to, and which it must not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from autoround.errors import UsageError


def refuse_offloading(device_map: Mapping[str, object], layers: Iterable[str]) -> None:
    """Refuse a device_map under which packed layers would be moved for every call.

    accelerate runs modules of the CPU on the accelerator, if there is one in the map, and moves
    their parameters there each time. A packed layer has none: it would be held there always, in
    memory that the map counts on for others.

    Args:
        device_map: the device of modules, by their paths; the empty path is the whole model.
        layers: paths of packed layers.

    Raises:
        UsageError: with one of them, and what to do.
    """
    names = {path: str(device) for path, device in device_map.items()}
    accelerators = sorted(set(names.values()) - {"cpu", "disk", "meta"})
    if not accelerators:
        return
    offloaded = [path for path in layers if _device_of(path, names) == "cpu"]
    if offloaded:
        raise UsageError(
            f"device_map gives {len(offloaded)} packed layers to the CPU, {offloaded[0]} for one, "
            f"beside {', '.join(accelerators)}: packed layers cannot be offloaded. Give all of "
            "them to accelerators (max_memory says how much each may take), or the whole model "
            'to the CPU (device_map="cpu")'
        )


def _device_of(path: str, names: Mapping[str, str]) -> str:
    """Return the device of a module: that of the nearest module around it in the map."""
    steps = path.split(".")
    around = (".".join(steps[:count]) for count in range(len(steps), -1, -1))
    return next((names[module] for module in around if module in names), "")
