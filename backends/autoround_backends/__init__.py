"""Backends that ship with autoround, one module each, found through entry points.

``autoround`` never imports this package: ``cpu``, ``cuda``, ``xpu`` and ``null`` are
registered under the entry-point group ``autoround.backends``, the same door as a third
party's. ``reference`` is no backend but the NumPy oracle that all of them are tested
against; it runs nothing but tests.
"""
