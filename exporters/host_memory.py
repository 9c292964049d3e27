"""Resident memory of processes together with their descendants, from proc(5)."""

from __future__ import annotations

import contextlib
import os
from collections import defaultdict
from collections.abc import Collection
from pathlib import Path

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def resident_bytes(pids: Collection[int]) -> dict[int, int]:
    """Bytes resident in each process and all below it; pages they share count for each that maps them.

    One of `pids` below another counts for itself alone: a rank may have started the other ranks.
    """
    children: dict[int, list[int]] = defaultdict(list)
    resident: dict[int, int] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            with contextlib.suppress(OSError, IndexError, ValueError):
                after_name = (folder / "stat").read_bytes().rpartition(b")")[2].split()
                resident[int(folder.name)] = int(after_name[21]) * _PAGE_BYTES
                if int(folder.name) not in pids:
                    children[int(after_name[1])].append(int(folder.name))
    return {pid: _with_descendants(pid, children, resident) for pid in pids if pid in resident}


def _with_descendants(pid: int, children: dict[int, list[int]], resident: dict[int, int]) -> int:
    return resident[pid] + sum(_with_descendants(child, children, resident) for child in children[pid])
