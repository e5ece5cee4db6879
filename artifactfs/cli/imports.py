"""Imports of much at once: most of what the start of a command is.

Used by the command line. Not by the Python interface: how a program looks for its garbage is its own matter.
"""

from __future__ import annotations

import gc
import sys
from importlib import import_module
from types import ModuleType


def import_at_once(name: str) -> ModuleType:
    """Import a module without looking for garbage meanwhile, or later among what it makes: that lives as long as the process.

    A command's imports make some 100,000 objects; to look through them took an eighth of its start.
    """
    if name in sys.modules:
        return sys.modules[name]
    enabled = gc.isenabled()
    gc.disable()
    try:
        return import_module(name)
    finally:
        gc.freeze()  # else they would be the first thing to be looked through
        if enabled:
            gc.enable()
