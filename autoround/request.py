"""Arguments of the Python interface resolved: device, model, recipe and output folder."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import nn

from autoround.device.registry import open_device
from autoround.errors import UsageError
from autoround.export.preflight import check_output
from autoround.inference.by_block import load_to_check
from autoround.model.files.embedded import NAME as EMBEDDED_NAME
from autoround.model.files.embedded import embedded_model
from autoround.model.files.origin import read_origin
from autoround.model.skeleton import Skeleton, adopt_model, not_streamed, open_model
from autoround.planning.calibration import needed_tokenizer
from autoround.preparation import Request
from autoround.recipe.load import load_recipe
from autoround.recipe.schema import Recipe
from autoround.report.saved import describe_folder
from autoround.resume.policy import check_leftover
from autoround.types import Destination

#: A folder, a hub id, a model in memory, or None for the embedded default.
Model: TypeAlias = str | Path | nn.Module | None
#: A built-in name, a file, or a recipe.
AnyRecipe: TypeAlias = str | Path | Recipe


def resolve_recipe(recipe: AnyRecipe) -> Recipe:
    """Return the recipe that an argument names or is.

    Raises:
        UsageError: it is none of what it may be.
        RecipeError: there is no such recipe, or it has mistakes.
    """
    if isinstance(recipe, Recipe):
        return recipe
    if not isinstance(recipe, str | Path):
        raise UsageError(
            f"recipe is {_shown(recipe)}, and can be a built-in name, a file, or a Recipe; single "
            "values are arguments of AutoRound(model, bits=4, ...)"
        )
    return load_recipe(recipe)


def resolve_destination(output_dir: str | Path | Destination) -> Destination:
    """Resolve where to write, and refuse what is in the way before a model is opened.

    Raises:
        UsageError: it is no name of a folder.
        OutputError: something is in the way.
    """
    wanted: object = output_dir
    if not isinstance(wanted, str | Path | Destination) or wanted == "":
        raise UsageError(
            f"output_dir is {_shown(output_dir)}: name the folder to write, such as "
            "output_dir='out', or give a Destination"
        )
    place = output_dir if isinstance(output_dir, Destination) else Destination(Path(output_dir))
    check_leftover(place)
    if not place.resume:
        check_output(place.folder)
    return place


def check_tokenizer(tokenizer: Any) -> None:
    """Refuse what is given for a tokenizer and cannot be one.

    Raises:
        UsageError: it is a name.
    """
    if isinstance(tokenizer, str | Path):
        raise UsageError(
            f"tokenizer is {_shown(tokenizer)}, and can be a tokenizer of transformers that is "
            "loaded; a model in a folder brings its own. A recipe is named by "
            f"recipe={str(tokenizer)!r}"
        )


def make_request(
    model: Model,
    recipe: Recipe,
    *,
    device: str | int = "auto",
    tokenizer: Any = None,
    data: object | None = None,
    stream: bool = False,
) -> Request:
    """Open the device and the model that arguments of :func:`quantize` name, and its tokenizer.

    Args:
        model, device, tokenizer, data: as :func:`quantize` takes them.
        recipe: a resolved one; it decides whether a tokenizer is needed.
        stream: whether files of weights come from the hub one after another.

    Raises:
        DeviceError, ModelError: one of them is not here or cannot be opened.
        DataError: the recipe reads text, and the model has no tokenizer.
        UsageError: an argument is nothing that it can be.
    """
    check_tokenizer(tokenizer)
    runtime = open_device(_device_name(device))
    skeleton, name = open_any(model, stream=stream)
    if tokenizer is None:
        tokenizer = needed_tokenizer(recipe, skeleton, data=data)
    describe = functools.partial(describe_folder, origin=read_origin(skeleton.folder, name))
    return Request(skeleton, recipe, runtime, name, tokenizer, data, load_to_check, describe)


def _device_name(device: object) -> str:
    """Return a device as the command line names it: a number is that of an accelerator."""
    # torch.device has no other text than its name.
    if isinstance(device, bool) or not isinstance(device, str | int | torch.device):
        raise UsageError(
            f"device is {_shown(device)}, and can be the name of one device, such as 'auto' or "
            "'cpu', or the number of an accelerator"
        )
    return str(device)


def refuse_null(request: Request) -> Request:
    """Refuse a run on the device that only knows shapes."""
    if request.runtime.device.type == "meta":
        raise UsageError("the null device computes nothing: use it with 'plan' or --dry-run only")
    return request


def open_any(model: Model, *, stream: bool = False) -> tuple[Skeleton, str]:
    """Open a model of any kind; returns it with the name the user knows it by.

    Raises:
        ModelError: there is no such model, or it is none that can be read.
        UsageError: it is nothing that can be a model, or is to be streamed and none of the hub.
    """
    if model is not None and not isinstance(model, str | Path | nn.Module):
        raise UsageError(
            f"model is {_shown(model)}, and can be a folder, a hub id such as 'owner/name', a "
            "model of transformers, or None for the embedded one"
        )
    if stream and not isinstance(model, str | Path):
        raise UsageError(not_streamed("none of these is named"))
    if model is None:
        return open_model(embedded_model()), EMBEDDED_NAME
    if isinstance(model, nn.Module):
        skeleton = adopt_model(model)
        return skeleton, type(skeleton.model).__name__
    opened = open_model(model, stream=stream)
    return opened, str(model) if opened.hub is None else opened.hub.name.repo


def _shown(value: object) -> str:
    """Return a wrong value with its kind, in one short line."""
    text = repr(value)
    kind = type(value).__name__
    if value is None:
        return text
    return f"{text} (a {kind})" if len(text) <= 60 else f"a {kind}"
