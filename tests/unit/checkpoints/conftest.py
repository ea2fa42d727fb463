"""Runs of the stages are on a quick and even device."""

from __future__ import annotations

from ...runs import even_device

__all__ = ["even_device"]
