"""What `trainvitals runs` shows: the table of runs, and one run in detail, as functions of what is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from exporters.api.models import Event, Run, RunSummary
from exporters.runs import OVER
from trainvitals.wording import (
    UNKNOWN,
    compact,
    duration,
    exception,
    moment,
    number,
    percent,
    printable,
    size,
)

STYLES = {
    "running": "green",
    "stalled": "bold yellow",
    "finished": "cyan",
    "failed": "bold red",
    "killed": "bold red",
    "aborted": "magenta",
}
GAP = 2
BAR_CELLS = 12
WHOLE_NAME = 28  # longer ones give way
NARROWEST_REASON = 16
_PARTS = " ▏▎▍▌▋▊▉█"


class Look(NamedTuple):
    """A run, and the moment (unix seconds) at which it is looked at."""

    run: RunSummary
    now: float


class Column(NamedTuple):
    """One column: what it shows of a run, and the width it has at least, so that none jumps."""

    header: str
    cell: Callable[[Look], Text]
    justify: Literal["left", "right"] = "left"
    least_width: int = 0

    def width(self, looks: Sequence[Look]) -> int:
        return max(len(self.header), self.least_width, *(self.cell(look).cell_len for look in looks))


def table(runs: Sequence[RunSummary], now: float, width: int) -> Table:
    """One row a run, as many columns as this width holds."""
    looks = [Look(run, now) for run in runs]
    columns, widths = _columns(looks, width)
    made = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold")
    for column in columns:
        made.add_column(
            column.header, justify=column.justify, no_wrap=True, overflow="ellipsis", width=widths[column]
        )
    for look in looks:
        made.add_row(*(column.cell(look) for column in columns))
    return made


def _columns(looks: Sequence[Look], width: int) -> tuple[list[Column], dict[Column, int]]:
    """Those that fit, the less important left out first, and the widths they are given."""
    columns, steps = [*_ALL], [*_LESS]
    if not any(look.run.tokens_per_second is not None for look in looks):
        columns.remove(_TOKENS)
    if not any(_reason(look).plain for look in looks):
        columns.remove(_REASON)
    names = max(len(look.run.run) for look in looks)
    least = {_NAME: min(names, WHOLE_NAME), _REASON: NARROWEST_REASON}
    while True:
        wanted = {column: column.width(looks) for column in columns}
        needed = {column: min(wanted[column], least.get(column, wanted[column])) for column in columns}
        spare = width - sum(needed.values()) - GAP * len(columns)
        if spare >= 0 or not steps:
            break
        step = steps.pop(0)
        columns = [kept for each in columns if (kept := step.get(each, each)) is not None]
    needed[_NAME] = max(1, needed[_NAME] + min(0, spare))
    for column in (_NAME, _REASON):  # what is left over is theirs
        if column in needed:
            more = max(0, min(spare, wanted[column] - needed[column]))
            needed[column] += more
            spare -= more
    return columns, needed


def detail(run: Run, events: Sequence[Event], now: float, width: int) -> Group:
    """One run: how far it is, its ranks, and what happened last."""
    look = Look(run, now)
    parts: list[RenderableType] = [
        Text.assemble((printable(run.run), "bold"), "  ", _state(look), "  ", _reason(look)),
        Text(),
        _facts(look),
    ]
    if run.ranks:
        parts += [Text(), _ranks(run, now)]
    if events:
        parts += [
            Text(),
            Text("What happened last", "bold"),
            *(_event(event, now, width) for event in events),
        ]
    return Group(*parts)


def _facts(look: Look) -> Table:
    run = look.run
    step = number(run.step) if run.steps_expected is None else f"{run.step:,} of {run.steps_expected:,}"
    if run.resumed_from_step:
        step += f", resumed from {run.resumed_from_step:,}"
    epoch = number(run.epoch)
    if run.epochs_expected is not None:
        epoch += f" of {number(run.epochs_expected)}"
    validation = number(run.validation_loss)
    if run.validation_loss_best is not None:
        validation += f", best {number(run.validation_loss_best)}"
    facts = {
        "Progress": Text.assemble(_progress(look)) if run.progress_ratio is not None else Text(),
        "Step": Text(step),
        "Epoch": Text(epoch if run.epoch is not None else ""),
        "Left": Text(duration(run.eta_seconds) if run.eta_seconds is not None else ""),
        "Loss": Text(number(run.loss) if run.loss is not None else ""),
        "Perplexity": Text(number(run.perplexity) if run.perplexity is not None else ""),
        "Validation loss": Text(validation if run.validation_loss is not None else ""),
        "Throughput": Text(
            f"{compact(run.tokens_per_second)} tokens/s" if run.tokens_per_second is not None else ""
        ),
        "Started": Text.assemble(_started(look), f", {duration(_seconds(look))}"),
        "Attempt": Text(str(run.attempt) if run.attempt > 1 else ""),
        "Silent": Text(_silence(run), "bold yellow"),
        "Exception": Text(_failure(run), "bold red"),
        "Acknowledged": Text(_acknowledgement(look)),
    }
    made = Table.grid(padding=(0, GAP, 0, 0))
    for name, value in facts.items():
        if value.plain:
            made.add_row(Text(name, "dim"), value)
    return made


def _silence(run: RunSummary) -> str:
    if run.state != "stalled":
        return ""
    first = "" if run.first_silent_rank is None else f", rank {run.first_silent_rank} first"
    return f"{duration(run.silent_seconds)}{first}"


def _failure(run: RunSummary) -> str:
    return "" if run.failure is None else printable(exception(run.failure))


def _acknowledgement(look: Look) -> str:
    known = look.run.acknowledged
    return "" if known is None else printable(f"{moment(known.at, look.now)} by {known.by}")


def _ranks(run: Run, now: float) -> Table:
    made = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold")
    for header in ("Rank", "Node", "Pid", "State", "Phase", "Last progress"):
        made.add_column(header, justify="right" if header in ("Rank", "Pid") else "left", no_wrap=True)
    for rank in run.ranks:
        ago = (
            f"{duration(rank.silent_seconds)} ago"
            if rank.ended_at is None
            else f"ended {moment(rank.ended_at, now)}"
        )
        made.add_row(
            str(rank.rank),
            Text(printable(rank.node) or UNKNOWN),
            str(rank.pid) if rank.pid else UNKNOWN,
            Text(rank.state, STYLES[rank.state]),
            Text(printable(rank.phase)),
            ago,
        )
    return made


def _event(event: Event, now: float, width: int) -> Text:
    fields = ", ".join(_field(name, value) for name, value in event.fields.items() if value is not None)
    if event.kind == "state":
        fields = f"{event.fields.get('before') or 'new'} → {event.fields.get('state')}"
        if event.fields.get("reason"):
            fields += f", {event.fields['reason']}"
    where = "" if event.step is None else f"step {event.step:,}  "
    line = Text.assemble(
        (f"{moment(event.at, now):<14}", "dim"), f"{printable(event.kind):<12}", where, printable(fields)
    )
    line.truncate(width, overflow="ellipsis")
    return line


def _field(name: str, value: str | float) -> str:
    if isinstance(value, str):
        return value if name in _SAY_THEMSELVES else f"{name} {value}"
    if name == "seconds":
        return duration(value)
    if name == "bytes":
        return size(value)
    return f"{name} {value:.0f}" if name == "pid" else f"{name} {number(value)}"


_SAY_THEMSELVES = ("type", "place", "reason", "stage")


def _state(look: Look) -> Text:
    return Text(look.run.state, STYLES[look.run.state])


def _reason(look: Look) -> Text:
    run = look.run
    if run.state == "stalled":
        return Text(f"no progress for {_silence(run)}", "yellow")
    if run.failure is not None and run.state == "failed":
        return Text(_failure(run))
    return Text(printable(run.reason or ""))


def _progress(look: Look) -> Text:
    ratio = look.run.progress_ratio
    if ratio is None:
        return Text(UNKNOWN)
    ratio = min(1.0, max(0.0, ratio))
    whole, part = divmod(round(ratio * BAR_CELLS * 8), 8)
    bar = "█" * whole + (_PARTS[part] if part else "")
    style = STYLES[look.run.state].removeprefix("bold ")
    return Text.assemble((f"{bar:<{BAR_CELLS}}", f"{style} on grey23"), f" {percent(ratio):>5}")


def _percent(look: Look) -> Text:
    return Text(percent(look.run.progress_ratio))


def _step(look: Look) -> Text:
    return Text(f"{look.run.step:,}")


def _step_of_all(look: Look) -> Text:
    expected = look.run.steps_expected
    return _step(look) if expected is None else Text(f"{look.run.step:,}/{expected:,}")


def _started(look: Look) -> Text:
    return Text(moment(look.run.started_at, look.now))


def _seconds(look: Look) -> float:
    run = look.run
    end = look.now if run.ended_at is None or run.state not in OVER else run.ended_at
    return max(0.0, end - run.started_at)


_STATE = Column("State", _state, least_width=8)
_NAME = Column("Run", lambda look: Text(printable(look.run.run)))
_BAR = Column("Progress", _progress, least_width=BAR_CELLS + 6)
_PERCENT = Column("Done", _percent, "right", 5)
_STEP_OF_ALL = Column("Step", _step_of_all, "right")
_STEP = Column("Step", _step, "right")
_ETA = Column("Left", lambda look: Text(duration(look.run.eta_seconds)), "right", 10)
_LOSS = Column("Loss", lambda look: Text(number(look.run.loss)), "right", 6)
_TOKENS = Column("Tokens/s", lambda look: Text(compact(look.run.tokens_per_second)), "right")
_STARTED = Column("Started", _started)
_DURATION = Column("Took", lambda look: Text(duration(_seconds(look))), "right", 10)
_REASON = Column("Reason", _reason)

_ALL = (_STATE, _NAME, _BAR, _STEP_OF_ALL, _ETA, _LOSS, _TOKENS, _STARTED, _DURATION, _REASON)
# What gives way to a narrow terminal, step by step: a column, and what stands in its place.
_LESS: tuple[dict[Column, Column | None], ...] = (
    {_STARTED: None},
    {_STEP_OF_ALL: _STEP},
    {_BAR: _PERCENT},
    {_DURATION: None},
    {_TOKENS: None},
    {_REASON: None},
    {_STEP: None},
    {_LOSS: None},
    {_ETA: None},
)
