"""What a run came to, and what went wrong in it, out of what is known of it."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from exporters import catalog
from exporters.api.models import Curve, Event, Run
from exporters.runs import OVER
from trainer_hooks.recording import PHASES
from trainvitals.report_data import RunData
from trainvitals.wording import UNKNOWN, compact, duration, exception, number, percent, size

TOGETHER_SECONDS = 60.0  # ranks that tell the same within this time tell of one thing
LEAST_SHARE = 0.0005


class Figure(NamedTuple):
    """A figure with its name, and what else is to be said of it."""

    name: str
    value: str
    more: str = ""


class Incident(NamedTuple):
    """Something to know about, at a moment in unix seconds. `is_bad` where it is not merely a remedy."""

    at: float
    text: str
    is_bad: bool = True


def age_seconds(data: RunData) -> float:
    """From the start of the newest attempt to its end, or to now."""
    run = data.run
    end = run.ended_at if run.state in OVER and run.ended_at is not None else data.now
    return max(0.0, end - run.started_at)


def state(data: RunData) -> str:
    """With its reason; of a run that lived when it was last seen with that moment."""
    run = data.run
    parts = [run.state, run.reason, f"as last seen at {moment(data.now)}" if data.is_past else None]
    return ", ".join(each for each in parts if each)


def moment(at: float) -> str:
    """The local time to the second."""
    try:
        return time.strftime("%d %b %Y %H:%M:%S", time.localtime(at))
    except (OverflowError, ValueError, OSError):
        return UNKNOWN


def figures(data: RunData) -> list[Figure]:
    """The summary, without what is not known."""
    run = data.run
    expected = "" if run.steps_expected is None else f"of {number(run.steps_expected)}"
    found = [
        Figure("Steps", number(run.step), f"{expected}, {percent(run.progress_ratio)}" if expected else ""),
        Figure("Time", duration(age_seconds(data)), "" if run.attempt == 1 else "of the newest attempt"),
        Figure("Tokens", compact(_tokens(data)), _throughput(data)),
        *_losses(data),
        _validation(data),
        Figure("Attempts", str(run.attempt), _restarts(run.attempt)),
    ]
    return [each for each in found if each.value != UNKNOWN or each.more]


def _restarts(attempt: int) -> str:
    return {1: "never restarted", 2: "restarted once"}.get(attempt, f"restarted {attempt - 1} times")


def tokens_per_second(data: RunData) -> float | None:
    """The mean over the time of all attempts' steps."""
    curve = data.of("tokens_per_second")
    return None if curve is None else _mean_over_time(curve)


def _tokens(data: RunData) -> float | None:
    most = [curve.points.tokens[-1] for curve in data.series if curve.points.tokens]
    return float(max(most)) if most and max(most) > 0 else None


def _throughput(data: RunData) -> str:
    rate = tokens_per_second(data)
    return "" if rate is None or rate == 0 else f"{compact(rate)} a second on average"


def _losses(data: RunData) -> Iterator[Figure]:
    loss = data.of("loss")
    means = [each for each in loss.points.mean if each is not None] if loss else []
    since = f"from {number(means[0])}, at best {number(_least(loss))}" if means else ""
    yield Figure("Loss", number(data.run.loss), since)
    perplexity = data.of("perplexity")
    known = [each for each in perplexity.points.mean if each is not None] if perplexity else []
    yield Figure("Perplexity", number(data.run.perplexity), f"at best {number(min(known))}" if known else "")


def _least(curve: Curve | None) -> float | None:
    return min((each for each in curve.points.min if each is not None), default=None) if curve else None


def _validation(data: RunData) -> Figure:
    run = data.run
    more = []
    if run.validation_loss_best is not None:
        more.append(f"at best {number(run.validation_loss_best)}")
    if run.validation_perplexity is not None:
        more.append(f"perplexity {number(run.validation_perplexity)}")
    accuracy = data.of("validation_accuracy")
    if accuracy is not None:
        more.append(f"accuracy {number(accuracy.points.mean[-1])}")
    return Figure("Validation loss", number(run.validation_loss), ", ".join(more))


def phase_shares(data: RunData) -> list[tuple[str, float]]:
    """Each phase's share of the leading rank's time up to its last step, the greatest first."""
    found = []
    for phase in PHASES:
        curve = data.of(f"phase_{phase}_ratio")
        share = None if curve is None else _mean_over_time(curve)
        if share is not None and share >= LEAST_SHARE:
            found.append((phase, share))
    return sorted(found, key=lambda each: each[1], reverse=True)


def _mean_over_time(curve: Curve) -> float | None:
    """Each point counts for the time since the one before it in its attempt."""
    points = curve.points
    total = seconds = 0.0
    rows = list(zip(points.time, points.attempt or [1] * len(points.time), points.mean, strict=True))
    for (before, attempt_before, _), (at, attempt, mean) in itertools.pairwise(rows):
        if attempt == attempt_before and mean is not None:
            total += mean * (at - before)
            seconds += at - before
    if seconds > 0:
        return total / seconds
    known = [mean for *_, mean in rows if mean is not None]
    return sum(known) / len(known) if known else None


def cost(data: RunData) -> list[Figure]:
    """What it took to watch the run, in its own process."""
    spent = data.counted.get(catalog.HOOK_SECONDS_TOTAL.name)
    if spent is None:
        return []
    ranks = max(1, len(data.run.ranks))
    age = age_seconds(data)
    steps = data.run.step - (data.run.resumed_from_step or 0)
    a_step = f"{duration(spent / ranks / steps)} a step" if steps > 0 else ""
    found = [
        Figure("Time in the hook", f"{100 * spent / ranks / age:.2g} %" if age > 0 else UNKNOWN, a_step),
        Figure("Hook, in all", duration(spent), f"of {ranks} ranks" if ranks > 1 else ""),
    ]
    for metric, name in (
        (catalog.HOOK_ERRORS_TOTAL, "Its own faults"),
        (catalog.HOOK_DROPPED_TOTAL, "Dropped values"),
    ):
        if data.counted.get(metric.name):
            found.append(Figure(name, number(data.counted[metric.name])))
    return found


def trouble(run: Run) -> str | None:
    """What is wrong with a run at its end or now, in a sentence; None where all is well."""
    if run.state == "stalled":
        first = "" if run.first_silent_rank is None else f"; rank {run.first_silent_rank} fell silent first"
        return f"No progress for {duration(run.silent_seconds)}{first}."
    if run.state == "killed":
        return f"It was killed: {run.reason}." if run.reason else "It was killed, nobody knows by what."
    if run.state == "failed" and run.failure is not None:
        return f"{exception(run.failure)}."
    return f"It failed: {run.reason}." if run.state == "failed" and run.reason else None


def incidents(data: RunData) -> list[Incident]:
    """What went wrong and what came of it, in order of time."""
    found = [
        *_of_exceptions(data.events),
        *_of_checkpoints(data.events),
        *_of_resumes(data),
        *_of_counts(data),
        *_of_states(data.events),
        *_of_alerts(data),
    ]
    run = data.run
    if run.state == "stalled" and run.first_silent_rank is not None:
        rank = next((each for each in run.ranks if each.rank == run.first_silent_rank), None)
        if rank is not None:
            found.append(
                Incident(
                    rank.last_progress_at,
                    f"Rank {rank.rank} made its last progress, in phase {rank.phase}; "
                    "it is the first that fell silent.",
                )
            )
    if run.acknowledged is not None:
        found.append(Incident(run.acknowledged.at, f"{run.acknowledged.by} took note.", is_bad=False))
    return sorted(found, key=lambda each: int(each.at))  # within a second the cause comes first


def _of_states(events: Iterable[Event]) -> Iterator[Incident]:
    for event in events:
        if event.kind != "state":
            continue
        state, before, reason = (event.fields.get(name) for name in ("state", "before", "reason"))
        because = f": {reason}" if reason else ""
        match state:
            case "stalled":
                yield Incident(event.at, "It made no progress any more, and was held to be stalled.")
            case "failed" | "killed" | "aborted":
                yield Incident(
                    event.at, f"It was {state}{because}." if state != "failed" else f"It failed{because}."
                )
            case "finished" if reason not in (None, "completed", "exit"):
                yield Incident(event.at, f"It finished early{because}.", is_bad=False)
            case "running" if before == "stalled":
                yield Incident(event.at, "It went on.", is_bad=False)
            case "running" if before is not None:
                yield Incident(event.at, f"It was started again, after it was {before}.", is_bad=False)


def _of_exceptions(events: Iterable[Event]) -> Iterator[Incident]:
    """Those of several ranks that are the same, at about the same time, are one."""
    groups: dict[tuple[object, ...], list[Event]] = {}
    newest: dict[tuple[object, ...], int] = {}
    for event in events:
        if event.kind not in ("exception", "oom"):
            continue
        what = (event.kind, event.fields.get("type"), event.fields.get("place"))
        group = (*what, newest.get(what, 0))
        known = groups.get(group)
        if known and (
            event.at - known[0].at > TOGETHER_SECONDS or event.rank in [each.rank for each in known]
        ):
            newest[what] = newest.get(what, 0) + 1
            group = (*what, newest[what])
        groups.setdefault(group, []).append(event)
    for together in groups.values():
        first = together[0]
        kind, place, message = (first.fields.get(name) for name in ("type", "place", "message"))
        said = "Out of memory" if first.kind == "oom" else str(kind or "An exception")
        if first.kind == "oom" and kind:
            said += f" ({kind})"
        where = f" at {place}" if place else ""
        words = f': "{message}"' if message else ""
        yield Incident(first.at, f"{said}{where}{_on_ranks(together)}{_at_step(first)}{words}.")


def _on_ranks(events: Sequence[Event]) -> str:
    ranks = sorted({each.rank for each in events if each.rank is not None})
    if len(ranks) == 1:
        return f" on rank {ranks[0]}"
    shown = ", ".join(map(str, ranks[:8])) + (f" and {len(ranks) - 8} more" if len(ranks) > 8 else "")
    return f" on ranks {shown}" if ranks else ""


def _at_step(event: Event) -> str:
    return "" if event.step is None else f", at step {number(event.step)}"


def _of_checkpoints(events: Iterable[Event]) -> Iterator[Incident]:
    for event in events:
        if event.kind == "checkpoint_failed":
            why = event.fields.get("type")
            yield Incident(
                event.at,
                f"A checkpoint could not be written{_at_step(event)}: {why or 'no reason was told'}.",
            )


def _of_resumes(data: RunData) -> Iterator[Incident]:
    """Of the leading rank; made in vain are the steps of the attempt before behind the one it took up."""
    reached = _reached(data)
    leading = min((each.rank for each in data.events if each.rank is not None), default=0)
    for event in data.events:
        if event.kind == "resume" and event.rank == leading:
            step = event.step or 0
            before = max((each for each in reached if each < (event.attempt or 0)), default=None)
            lost = reached[before] - step if before is not None else 0
            again = f" {number(lost)} steps had to be made again." if lost > 0 else ""
            yield Incident(event.at, f"It was resumed from step {number(step)}.{again}", is_bad=False)


def _reached(data: RunData) -> dict[int, int]:
    """The greatest step of each attempt, as far as its curves and events tell."""
    reached: dict[int, int] = {}
    for curve in data.series:
        for attempt, step in zip(curve.points.attempt, curve.points.step, strict=False):
            reached[attempt] = max(step, reached.get(attempt, 0))
    for event in data.events:
        if event.step is not None and event.attempt is not None:
            reached[event.attempt] = max(event.step, reached.get(event.attempt, 0))
    return reached


def _of_alerts(data: RunData) -> Iterator[Incident]:
    for alert in data.alerts:
        if alert.starts_at is None:
            continue
        summary = alert.annotations.get("summary")
        text = f"Alert {alert.labels.get('alertname', 'without a name')} fired"
        if summary:
            text += f": {summary.removesuffix('.')}"
        if alert.status == "resolved" and alert.ends_at is not None:
            text += f"; resolved after {duration(alert.ends_at - alert.starts_at)}"
        yield Incident(alert.starts_at, f"{text}.")


def _of_counts(data: RunData) -> Iterator[Incident]:
    """What was only counted has no moment of its own: it is told at the end."""
    end = data.run.ended_at or data.now
    for metric, words in (
        (catalog.TRAINING_NONFINITE_TOTAL, "losses or gradients were not finite"),
        (catalog.TRAINING_OPTIMIZER_STEPS_SKIPPED_TOTAL, "optimizer steps were skipped"),
    ):
        count = data.counted.get(metric.name, 0.0)
        if count:
            yield Incident(end, f"Up to here {number(count)} {words}.")


def gpu_figures(data: RunData) -> list[list[str]]:
    """Of each GPU: rank, uuid, mean utilization, most memory, mean power, highest temperature."""
    rows = []
    for each in data.gpus:
        busy = _mean(each.of(catalog.NVIDIA_GPU_UTILIZATION_PERCENT.name))
        used = _most(each.of(catalog.NVIDIA_GPU_MEMORY_USED_BYTES.name))
        total = _most(each.of(catalog.NVIDIA_GPU_MEMORY_TOTAL_BYTES.name))
        watts = _mean(each.of(catalog.NVIDIA_GPU_POWER_WATTS.name))
        celsius = _most(each.of(catalog.NVIDIA_GPU_TEMPERATURE_CELSIUS.name))
        rows.append(
            [
                str(each.gpu.rank),
                each.gpu.gpu_uuid,
                UNKNOWN if busy is None else f"{busy:.0f} %",
                f"{size(used)} of {size(total)}" if total else size(used),
                UNKNOWN if watts is None else f"{watts:.0f} W",
                UNKNOWN if celsius is None else f"{celsius:.0f} °C",
            ]
        )
    return rows


def _mean(curve: Curve | None) -> float | None:
    known = [each for each in curve.points.mean if each is not None] if curve else []
    return sum(known) / len(known) if known else None


def _most(curve: Curve | None) -> float | None:
    return max((each for each in curve.points.max if each is not None), default=None) if curve else None


def comparison(runs: Sequence[RunData]) -> list[list[str]]:
    """A row for each thing to compare: its name, and what each run has."""

    def row(name: str, values: Iterable[str]) -> list[str]:
        return [name, *values]

    rows = [
        row("State", map(state, runs)),
        row("Steps", (number(each.run.step) for each in runs)),
        row("Time", (duration(age_seconds(each)) for each in runs)),
        row("Attempts", (str(each.run.attempt) for each in runs)),
        row("Tokens", (compact(_tokens(each)) for each in runs)),
        row("Tokens a second", (compact(tokens_per_second(each)) for each in runs)),
        row("Last loss", (number(each.run.loss) for each in runs)),
        row("Least loss", (number(_least(each.of("loss"))) for each in runs)),
        row("Last validation loss", (number(each.run.validation_loss) for each in runs)),
        row("Least validation loss", (number(each.run.validation_loss_best) for each in runs)),
        row("Ranks", (str(each.run.world_size) for each in runs)),
    ]
    for name in sorted({name for each in runs for name in each.run.info}):
        values = [each.run.info.get(name, UNKNOWN) for each in runs]
        if len(set(values)) > 1 and name not in ("gpu_uuid", "deadline"):
            rows.append(row(name, values))
    return [each for each in rows if set(each[1:]) != {UNKNOWN}]
