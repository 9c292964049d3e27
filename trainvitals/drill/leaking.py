"""The tiny training beside an allocator that leaks: `python -m trainvitals.drill.leaking`.

It stands in for torch's on the simulated GPU: so much of torch as the hook asks for a GPU's memory and time.
The options are those of the trainer.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from types import ModuleType, SimpleNamespace
from typing import Any

from exporters.gpu.simulated import MEMORY_TOTAL_BYTES
from trainvitals.drill import trainer

_AT_FIRST_RATIO = 0.4
_LEAKED_RATIO_A_SECOND = 0.005
_FULLEST_RATIO = 0.95


class _Event:
    """Of a device on which all work is done at once."""

    def __init__(self, enable_timing: bool) -> None:
        self._at = 0.0

    def record(self, stream: object) -> None:
        self._at = time.monotonic()

    def query(self) -> bool:
        return True

    def elapsed_time(self, later: _Event) -> float:
        """Milliseconds."""
        return 1000 * (later._at - self._at)


class _Cuda:
    """`torch.cuda` of one device."""

    Event = _Event

    def __init__(self) -> None:
        self._began = time.monotonic()

    def is_initialized(self) -> bool:
        return True

    def is_current_stream_capturing(self) -> bool:
        return False

    def device_count(self) -> int:
        return 1

    def current_device(self) -> int:
        return 0

    def current_stream(self, device: int) -> None:
        return None

    def get_device_properties(self, device: int) -> SimpleNamespace:
        return SimpleNamespace(name="Simulated GPU", uuid=None)

    def memory_stats_as_nested_dict(self, device: int) -> Mapping[str, Any]:
        leaked = _LEAKED_RATIO_A_SECOND * (time.monotonic() - self._began)
        held = round(min(_FULLEST_RATIO, _AT_FIRST_RATIO + leaked) * MEMORY_TOTAL_BYTES)
        counted = {"all": {"current": held, "peak": held}}
        return {"allocated_bytes": counted, "reserved_bytes": counted, "num_alloc_retries": 0}


class _Torch(ModuleType):
    def __init__(self) -> None:
        super().__init__("torch", __doc__)
        self.cuda = _Cuda()
        self.version = SimpleNamespace(hip=None)
        self.backends = SimpleNamespace(cuda=SimpleNamespace(matmul=SimpleNamespace(allow_tf32=False)))


def main() -> None:
    sys.modules["torch"] = _Torch()
    trainer.main()


if __name__ == "__main__":
    main()
