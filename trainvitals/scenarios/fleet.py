"""Nodes and trainings in accelerated time, scraped as a Prometheus would scrape them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import exp
from pathlib import Path
from random import Random

from trainvitals.scenarios import others
from trainvitals.scenarios.clock import Clock
from trainvitals.scenarios.gpus import Fault
from trainvitals.scenarios.node import Node
from trainvitals.scenarios.page import Page
from trainvitals.scenarios.tape import Tape, series
from trainvitals.scenarios.training import Attempt, Plan

JOB = "training-service"
# Where everything is that is not said to be elsewhere.
CLUSTER = "east"
_SCRAPE_SECONDS, _SCRAPE_SECONDS_A_LINE = 0.004, 25e-6


class Fleet:
    """Nodes, trainings on them, and what happens to them; `advance` and `scrape` move it on."""

    def __init__(self, directory: Path, start: float, begins: float) -> None:
        """`directory` takes what its services keep.

        `start` is when the story begins, in unix seconds; some of it may come before, from `begins` on.
        """
        self.clock = Clock(begins)
        self.start = start
        self.nodes: list[Node] = []
        self._directory = directory
        self._random = Random(7)
        self._attempts: list[Attempt] = []
        self._happenings: list[tuple[float, Callable[[], None]]] = []
        self._scraped_since: dict[str, float] = {}
        self._pages: dict[str, Page] = {}

    def node(
        self,
        name: str,
        *,
        gpus: int,
        faults: Mapping[int, Sequence[Fault]] | None = None,
        mig: frozenset[int] = frozenset(),
        cluster: str = CLUSTER,
        since: float | None = None,
    ) -> Node:
        """A node; it is scraped since the beginning, or since another moment."""
        node = Node(name, self._directory, self.clock, gpus=gpus, faults=faults, mig=mig, cluster=cluster)
        self.nodes.append(node)
        self._scraped_since[name] = self.start if since is None else since
        return node

    def begins(self, plan: Plan, *where: tuple[Node, int], from_step: int = 0) -> Attempt:
        """An attempt begins now, a rank on each of these GPUs."""
        places = [node.place(gpu) for node, gpu in where]
        attempt = Attempt(plan, places, self.clock, from_step)
        self._attempts.append(attempt)
        for node in {id(node): node for node, _ in where}.values():
            node.hosts(attempt)
        return attempt

    def at(self, moment: float, happening: Callable[[], object]) -> None:
        """At this moment, in unix seconds; tell them in any order."""
        self._happenings.append((moment, lambda: (happening(), None)[1]))

    def advance(self, now: float) -> None:
        """Go on to this moment."""
        self._happenings.sort(key=lambda each: each[0])
        while self._happenings and self._happenings[0][0] <= now:
            moment, happening = self._happenings.pop(0)
            self.clock.set(moment)
            happening()
        self.clock.set(now)
        for attempt in self._attempts:
            attempt.advance(now)

    def scrape(self, tape: Tape, at: float) -> None:
        """The service and the node_exporter of each node once; they tell of this moment."""
        age = at - self.start
        living = [each for each in self._attempts if each.state in ("running", "stalled")]
        for node in self.nodes:
            if at < self._scraped_since[node.name]:
                continue
            ranks = sum(place.node == node.name for each in living for place in each.places)
            self._of_service(tape, at, node)
            target = _target("node", f"{node.name}:9100", node.cluster)
            _of_other(tape, at, target, others.node_exporter(age, ranks))

    def close(self) -> None:
        for attempt in self._attempts:
            attempt.close()
        for node in self.nodes:
            node.close()

    def _of_service(self, tape: Tape, at: float, node: Node) -> None:
        target = _target(JOB, f"{node.name}:8003", node.cluster)
        if not node.service_is_up:
            tape.add(at, _of_scrape(target, seconds=0.001, lines=None))
            return
        self.clock.set(at)
        lines = list(self._pages.setdefault(node.name, Page(target)).lines(node.publishes()))
        self.clock.set(at)
        # The page is of what collectors have told before: it takes as long as it is.
        took = (_SCRAPE_SECONDS + _SCRAPE_SECONDS_A_LINE * len(lines)) * exp(self._random.gauss(0, 0.15))
        tape.add(at, lines)
        tape.add(at, _of_scrape(target, took, len(lines)))


def scrape_others(tape: Tape, at: float, age_seconds: float) -> None:
    """Once, what there is beside the nodes."""
    for job, instance, page in (
        ("kubelet", "10.0.0.7:10250", others.cadvisor(age_seconds)),
        ("prometheus", "prometheus:9090", others.prometheus(age_seconds)),
        ("alertmanager", "alertmanager:9093", others.alertmanager(age_seconds)),
    ):
        _of_other(tape, at, _target(job, instance, CLUSTER), page)


def _of_other(tape: Tape, at: float, target: dict[str, str], page: Iterator[others.Published]) -> None:
    lines = [f"{series(name, {**target, **labels})} {value}" for name, labels, value in page]
    tape.add(at, lines)
    tape.add(at, _of_scrape(target, 0.012, len(lines)))


def _target(job: str, instance: str, cluster: str) -> dict[str, str]:
    return {"cluster": cluster, "instance": instance, "job": job}


def _of_scrape(target: dict[str, str], seconds: float, lines: int | None) -> Iterator[str]:
    """What Prometheus says of a scrape; without lines it failed."""
    yield f"{series('up', target)} {int(lines is not None)}"
    yield f"{series('scrape_duration_seconds', target)} {seconds:.6f}"
    yield f"{series('scrape_samples_scraped', target)} {lines or 0}"
    yield f"{series('scrape_samples_post_metric_relabeling', target)} {lines or 0}"
