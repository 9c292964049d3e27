"""What the guard tells the audit log: not more than a disk can hold, and nothing lost while it is full."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import replace

import anyio
import anyio.to_thread

from exporters.access.audit import AuditLog
from exporters.access.entry import Event
from exporters.access.limits import Buckets
from exporters.access.network import network_of

logger = logging.getLogger(__name__)

WINDOW_SECONDS = 60.0
# A kind of routine that has not come for so long is new when it comes again.
FORGOTTEN_SECONDS = 600.0
# Refusals that are told one by one in a minute; the rest of the minute is one line with their number.
MOST_OF_AN_ADDRESS = 30
MOST_OF_ALL = 120
_MOST_SUMS = 256
_MOST_WAITING = 1000
_LEAST_FREE_BYTES = 1_000_000
VARIOUS = "various"


class Journal:
    """Events are written in order by one thread, and await it; those that cannot be written wait."""

    def __init__(
        self,
        log: AuditLog,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.log = log
        self._clock = clock
        self._wall = wall
        self._one = anyio.CapacityLimiter(1)
        self._writing = threading.Lock()  # a thread outlives the task that is cancelled
        self._waiting: deque[tuple[Event, float]] = deque()
        self._lost = 0
        self._problem: str | None = None
        self._telling: set[asyncio.Task[None]] = set()
        # How often each kind came in this window, beyond what was told one by one.
        self._sums: Counter[Event] = Counter()
        self._routine_seen: dict[Event, float] = {}
        self._window_ends = clock() + WINDOW_SECONDS
        buckets = functools.partial(Buckets, clock=clock)
        self._of_address = buckets(MOST_OF_AN_ADDRESS / WINDOW_SECONDS, MOST_OF_AN_ADDRESS)
        self._of_all = buckets(MOST_OF_ALL / WINDOW_SECONDS, MOST_OF_ALL)

    async def tell(self, event: Event) -> None:
        self.later(event)
        await self._write()

    def tell_of_routine(self, event: Event) -> None:
        """The first of its kind at once, those that follow once a minute; nobody waits for it.

        Of a kind is what one caller does with one outcome, on whatever and from wherever: who has a token
        fills no disk either.
        """
        kind = replace(event, resource=VARIOUS, address=VARIOUS)
        if kind in self._routine_seen:
            self._sums[kind] += 1
        else:
            self.later(event)
            self._write_meanwhile()
        self._routine_seen[kind] = self._clock()

    async def tell_of_refusal(self, event: Event) -> None:
        """One by one up to a number a minute, beyond it summed up by who and from where: a stranger fills no
        disk."""
        network = network_of(event.address)
        if self._of_address.take(network) == 0 and self._of_all.take("all") == 0:
            await self.tell(event)
            return
        kind = Event(event.actor, event.role, VARIOUS, VARIOUS, VARIOUS, network)
        if kind not in self._sums and len(self._sums) >= _MOST_SUMS:
            kind = replace(kind, address=VARIOUS)
        self._sums[kind] += 1

    def later(self, event: Event) -> None:
        """Told with the next that is written."""
        if len(self._waiting) >= _MOST_WAITING:
            self._lost += 1
        else:
            self._waiting.append((event, self._wall()))

    def keep_up(self) -> None:
        """Tell the sums when their minute is over; to be called with each request; waits for no disk."""
        if self._clock() >= self._window_ends:
            self._sum_up()
            self._write_meanwhile()

    async def problem(self) -> str | None:
        """Why the log cannot be written at present; None where it can."""
        if self._problem is not None:
            await self._write()
        if self._problem is not None:
            return self._problem
        try:
            self.log.check()
            volume = os.statvfs(self.log.path.parent)
        except OSError as error:
            return error.strerror or str(error)
        free = volume.f_bavail * volume.f_frsize
        return f"{free} bytes are free on its disk" if free < _LEAST_FREE_BYTES else None

    def close(self) -> None:
        """Tell what is not told yet."""
        self._sum_up()
        self._drain()

    def _sum_up(self) -> None:
        self._window_ends = self._clock() + WINDOW_SECONDS
        for kind, count in self._sums.items():
            self.later(replace(kind, count=count))
        self._sums.clear()
        remembered = self._clock() - FORGOTTEN_SECONDS
        self._routine_seen = {kind: at for kind, at in self._routine_seen.items() if at > remembered}

    def _write_meanwhile(self) -> None:
        task = asyncio.get_running_loop().create_task(self._write())
        self._telling.add(task)  # or nobody would hold it
        task.add_done_callback(self._telling.discard)

    async def _write(self) -> None:
        # In a thread, since a disk may take its time; one, since the order counts.
        await anyio.to_thread.run_sync(self._drain, limiter=self._one)

    def _drain(self) -> None:
        try:
            with self._writing:
                while self._waiting:
                    self.log.append(*self._waiting[0])
                    self._waiting.popleft()
                if self._lost:
                    why = f"more than {_MOST_WAITING} waited"
                    self.log.append(
                        Event("trainvitals", "service", "lose entries", VARIOUS, why, "", count=self._lost)
                    )
                    self._lost = 0
        except OSError as error:
            if self._problem is None:
                logger.error("the audit log %s cannot be written: %s", self.log.path, error)
            self._problem = error.strerror or str(error)
            return
        if self._problem is not None:
            logger.info("the audit log %s can be written again", self.log.path)
        self._problem = None
