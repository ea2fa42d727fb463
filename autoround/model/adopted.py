"""A model given from Python, taken as it comes: unwrapped, with its weights, in evaluation mode.

What runs is a copy of its modules that shares its parameters. So wrappers, hooks and modes can be
taken off without a change to the caller's model, whatever ends a run.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from autoround.errors import ModelError, one_line
from autoround.model.files.source import ModuleSource

#: Where wrappers of torch keep the module that they wrap: compiled, checkpointed.
WRAPPED = ("_orig_mod", "_checkpoint_wrapped_module")
#: Packages whose modules and tensors hold weights that are quantized already.
QUANTIZERS = (
    *("auto_gptq", "auto_round", "auto_round_extension", "autoround.inference", "awq", "aqlm"),
    *("bitsandbytes", "eetq", "gptqmodel", "hqq", "optimum.quanto", "quanto", "torchao"),
)
#: Types that weights may have; another one is that of codes.
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def copy_modules(model: nn.Module) -> tuple[nn.Module, ModuleSource]:
    """Return a plain copy of a model's modules in evaluation mode, and the weights of it.

    Args:
        model: as the caller has it: compiled, wrapped for several devices, offloaded by accelerate,
            in any mode. It is not changed, and its parameters are shared, not copied.

    Returns:
        The copy, without wrappers and hooks of accelerate; its weights by the names it has.

    Raises:
        ModelError: it has adapters, is quantized already, is sharded or has no weights, or it
            cannot be copied.
    """
    model = unwrap(model)
    _refuse_adapters(model)
    _refuse_quantized(model)
    _refuse_sharded(model)
    plain = _share_parameters(model)
    offloaded = dict(_take_off_hooks(plain))
    if offloaded and hasattr(plain, "tie_weights"):
        # Offloading gives tied parameters one of each name.
        plain.tie_weights()  # type: ignore[operator]
    source = OffloadedSource(plain, offloaded) if offloaded else ModuleSource(plain)
    _refuse_missing(plain, source)
    return plain.eval(), source


class OffloadedSource(ModuleSource):
    """A model whose weights accelerate keeps elsewhere, in memory or on the disk."""

    def __init__(self, model: nn.Module, offloaded: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Bind a model to where its weights are.

        Args:
            model: its parameters are on meta where they are offloaded.
            offloaded: by module path, its weights by the names they have in it.
        """
        super().__init__(model)
        self._offloaded = offloaded

    def holds(self, name: str) -> bool:
        """Tell whether a tensor is on meta because it is offloaded."""
        return any(path in self._offloaded for path in _above(name))

    def read(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Return tensors on the CPU.

        Raises:
            ModelError: one of them is not where it should be.
        """
        return {name: self._find(name) for name in names}

    def _find(self, name: str) -> Tensor:
        tensor: Tensor = self._tensors[name]
        if not tensor.is_meta:
            return tensor.to("cpu")
        for path in _above(name):
            weights = self._offloaded.get(path, {})
            try:
                weight = weights[name.removeprefix(f"{path}.")].detach()
            except KeyError:  # of a module that offloads its own tensors, not those below
                continue
            return weight.to(device="cpu", dtype=tensor.dtype)
        raise ModelError(f"tensor {name} is not among the offloaded weights")


def _above(name: str) -> Iterator[str]:
    """Yield the paths of the modules around a tensor, the nearest first, the root as empty."""
    while name:
        name = name.rpartition(".")[0]
        yield name


def unwrap(model: nn.Module) -> nn.Module:
    """Return the model inside wrappers of torch: compiled, or spread over devices.

    Args:
        model: as the caller has it.
    """
    while (inner := _inner(model)) is not None:
        model = inner
    return model


def _inner(module: nn.Module) -> nn.Module | None:
    """Return the module that another one wraps; None where it is none of those known."""
    if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
        inner = module.module
        return inner if isinstance(inner, nn.Module) else None
    return next((module._modules[name] for name in WRAPPED if name in module._modules), None)


def _share_parameters(model: nn.Module) -> nn.Module:
    """Return a copy of a model's modules with the very same parameters.

    Raises:
        ModelError: something in it cannot be copied.
    """
    memo: dict[int, Any] = {}
    for module in model.modules():
        # Tensors kept as plain attributes may belong to a graph, which cannot be copied.
        for value in (*module._parameters.values(), *module.__dict__.values()):
            if isinstance(value, Tensor):
                memo[id(value)] = value
        if (hook := module.__dict__.get("_hf_hook")) is not None:
            memo[id(hook)] = hook  # it holds what is offloaded
    try:
        for module in model.modules():
            # Compiled blocks, say, inside a model that is not.
            if (inner := _inner(module)) is not None:
                memo[id(module)] = copy.deepcopy(inner, memo)
        plain: nn.Module = copy.deepcopy(model, memo)
    except Exception as error:  # whatever a model holds may fail in any way
        reason = one_line(error)
        raise ModelError(
            f"{type(model).__name__} cannot be copied ({reason}): save it with save_pretrained() "
            "and give the folder"
        ) from error
    for module in plain.modules():
        # Of module.compile(): it would run what was compiled for the caller.
        module._compiled_call_impl = None
    return plain


def _take_off_hooks(model: nn.Module) -> Iterator[tuple[str, Mapping[str, Tensor]]]:
    """Remove accelerate's hooks; yields where a module's weights are, for those offloaded."""
    for path, module in model.named_modules():
        hook = module.__dict__.pop("_hf_hook", None)
        if hook is None:
            continue
        forward = module.__dict__.pop("_old_forward", None)
        module.__dict__.pop("forward", None)
        if forward is not None and getattr(forward, "__func__", None) is not type(module).forward:
            module.forward = forward
        for each in getattr(hook, "hooks", (hook,)):
            weights = getattr(each, "weights_map", None)
            if weights is not None:
                yield path, weights


def _refuse_adapters(model: nn.Module) -> None:
    for path, module in model.named_modules():
        names = (*module._modules, *module._parameters)
        if _is_of(module, ("peft",)) or any(name.startswith("lora_") for name in names):
            raise ModelError(
                f"{type(model).__name__} has adapters (at {path or 'its top'}, a "
                f"{type(module).__name__}), which are no weights of its own: merge them by "
                "merge_and_unload() of peft, and give the model that this returns"
            )


def _refuse_quantized(model: nn.Module) -> None:
    for path, module in model.named_modules():
        what = f"{path or 'it'} is a {type(module).__name__}" if _is_of(module, QUANTIZERS) else ""
        for name, parameter in module._parameters.items():
            if parameter is None:
                continue
            if _is_of(parameter, QUANTIZERS):
                what = f"{path}.{name} is a {type(parameter).__name__}"
            elif parameter.dim() > 1 and parameter.dtype not in DTYPES:
                what = f"{path}.{name} is {str(parameter.dtype).removeprefix('torch.')}"
        if what:
            raise ModelError(
                f"{type(model).__name__} is already quantized ({what}); quantizing needs the "
                "16-bit original"
            )


def _refuse_sharded(model: nn.Module) -> None:
    wrapped = any("_fsdp_wrapped_module" in module._modules for module in model.modules())
    for name, parameter in model.named_parameters():
        # Of deepspeed, and of torch.distributed: this process has a part of each.
        if wrapped or hasattr(parameter, "ds_id") or type(parameter).__name__ == "DTensor":
            raise ModelError(
                f"the weights of {type(model).__name__} are sharded over processes ({name}): save "
                "it with save_pretrained() and give the folder"
            )


def _refuse_missing(model: nn.Module, source: ModuleSource) -> None:
    tensors = dict(model.named_buffers()) | model.state_dict()
    missing = [name for name, tensor in tensors.items() if tensor.is_meta]
    if isinstance(source, OffloadedSource):
        missing = [name for name in missing if not source.holds(name)]
    if missing:
        raise ModelError(
            f"{type(model).__name__} has no weights ({len(missing)} tensors are on meta, such as "
            f"{missing[0]}): load it by from_pretrained(), or give its folder or hub id"
        )


def _is_of(thing: object, packages: tuple[str, ...]) -> bool:
    """Tell whether something is of a class that one of these packages defines."""
    modules = (f"{cls.__module__}." for cls in type(thing).__mro__)
    prefixes = tuple(f"{package}." for package in packages)
    return any(module.startswith(prefixes) for module in modules)
