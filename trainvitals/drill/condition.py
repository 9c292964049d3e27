"""What makes an alert's condition real, and the ground on which that happens: nodes, trainings and time."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from alerts.thresholds import Thresholds
from trainvitals.child import Child
from trainvitals.drill.sink import Sink
from trainvitals.node import Node
from trainvitals.stack import Stack


class NotHereError(Exception):
    """A condition cannot be made real on this machine; the message says why."""


class Condition(NamedTuple):
    """How an alert is made to fire.

    `what` is what happens, as part of a sentence: "a training is killed by SIGKILL". `provoke` makes it
    happen and returns the labels by which the alert is known: {"run": "drill-killed"}. It waits until the
    nodes that it starts answer, and for nothing else: what has to wait it hands to `Drill.after` or
    `Drill.until`. It may raise NotHereError.
    """

    alert: str
    what: str
    provoke: Callable[[Drill], Mapping[str, str]]


class _Later(NamedTuple):
    """An action, and when it is due."""

    due: Callable[[], bool]
    action: Callable[[], object]


class Drill:
    """Nodes, trainings and later actions, for as long as the `stack` below them lives.

    `folder` is for files of the conditions, and `opened` for what is to be closed at the end; `thresholds`
    are the scaled ones; `sink` is told what Alertmanager tells. Nothing here is for several threads: `poll`
    is called again and again while the alerts are awaited.
    """

    def __init__(self, folder: Path, thresholds: Thresholds, stack: Stack, sink: Sink) -> None:
        self.folder = folder
        self.opened = ExitStack()
        self.thresholds = thresholds
        self.stack = stack
        self.sink = sink
        self.trainings: dict[str, list[Child]] = {}
        self._nodes: dict[str, Node] = {}
        self._later: list[_Later] = []
        self._numbers = itertools.count(1)

    def node(
        self,
        name: str,
        simulate_gpus: str = "0",
        *,
        cluster: str | None = None,
        environment: Mapping[str, str] | None = None,
        wrapper: Callable[[Path], Sequence[str]] = lambda recordings: (),
    ) -> Node:
        """The service of this name; the first call starts it and waits until it answers.

        It follows recordings of its own and is scraped under the name as its `instance`, and as part of a
        `cluster`. `simulate_gpus` is what `trainvitals serve` takes. Raises ChildError when it does not
        start.
        """
        if name not in self._nodes:
            self._nodes[name] = self.stack.node(
                name, simulate_gpus, cluster=cluster, environment=environment, wrapper=wrapper
            )
        return self._nodes[name]

    def train(
        self,
        node: Node,
        run: str,
        *arguments: str,
        rank: int = 0,
        world_size: int = 1,
        module: str = "trainvitals.drill.trainer",
    ) -> Child:
        """Start a tiny training, `module`, as one rank of a run on this node."""
        child = self.stack.start(
            f"{run}-rank{rank}-{next(self._numbers)}",
            *(sys.executable, "-m", module, "--run", run, *arguments),
            environment={
                "TRAINVITALS_DIR": str(node.recordings),
                "RANK": str(rank),
                "WORLD_SIZE": str(world_size),
                "LOCAL_RANK": str(rank),
                "LOCAL_WORLD_SIZE": str(world_size),
                "PYTHONUNBUFFERED": "1",
            },
        )
        self.trainings.setdefault(run, []).append(child)
        return child

    def seen(self, expression: str) -> bool:
        """Whether an instant query of Prometheus has any result now; False where it cannot be asked."""
        return self.stack.sees(expression)

    def after(self, seconds: float, action: Callable[[], object]) -> None:
        """Let the action happen once so many seconds have passed."""
        moment = time.monotonic() + seconds
        self._later.append(_Later(lambda: time.monotonic() >= moment, action))

    def until(self, condition: Callable[[], object], then: Callable[[], object]) -> None:
        """Let the action happen once the condition holds; it is looked at twice a second."""
        self._later.append(_Later(lambda: bool(condition()), then))

    def poll(self) -> None:
        """Do what is due; an action may register further ones."""
        waiting, self._later = self._later, []
        for each in waiting:
            if each.due():
                each.action()
            else:
                self._later.append(each)
