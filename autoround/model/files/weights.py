"""The weights of a model that is found, wherever they are."""

from __future__ import annotations

from autoround.model.files.hub_source import HubSource
from autoround.model.files.locate import ModelFiles
from autoround.model.files.source import CheckpointSource


def open_weights(files: ModelFiles) -> CheckpointSource | HubSource:
    """Return a model's weights by name; those on the hub are fetched when one is read.

    Args:
        files: of the model, as it was found.

    Raises:
        ModelError: there are no safetensors, or the index is damaged or points outside.
    """
    if files.hub is not None and files.hub.missing():
        return HubSource(files.hub)
    return CheckpointSource(files.folder)
