"""The double in the place of NVIDIA's library, within the process of a test."""

from __future__ import annotations

import _ctypes
import contextlib
import ctypes
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pynvml

from tests import fake_nvml
from tests.fake_nvml import Machine

nvml: Any = pynvml


@contextlib.contextmanager
def machine(library: Path, control: Path) -> Iterator[Machine]:
    """A machine with two GPUs; the library is unloaded afterwards, so that no other test comes upon it."""
    scenario = Machine(control)
    scenario.set("devices", 2)
    before = nvml.nvmlLib, nvml._nvmlGetFunctionPointer_cache, os.environ.get(fake_nvml.CONTROL_VARIABLE)
    os.environ[fake_nvml.CONTROL_VARIABLE] = str(control)
    loaded = ctypes.CDLL(str(library))
    nvml.nvmlLib, nvml._nvmlGetFunctionPointer_cache = loaded, {}
    try:
        yield scenario
    finally:
        still_inside = loaded.nvml_double_release()
        nvml.nvmlLib, nvml._nvmlGetFunctionPointer_cache = before[:2]
        if before[2] is None:
            del os.environ[fake_nvml.CONTROL_VARIABLE]
        else:
            os.environ[fake_nvml.CONTROL_VARIABLE] = before[2]
        assert still_inside == 0, "a call of the double has not returned: it cannot be unloaded"
        _ctypes.dlclose(loaded._handle)
