"""The alerts whose condition the drill cannot make real, each with the reason."""

from __future__ import annotations

from collections.abc import Mapping

from alerts.memory import HOST_MEMORY_LOW, HOST_OOM_KILL

UNPROVOKED: Mapping[str, str] = {
    HOST_OOM_KILL: "the whole machine would have to run out of memory, and node_exporter to tell of it",
    HOST_MEMORY_LOW: "the memory of the whole machine would have to be full, and node_exporter to tell of it",
}
