"""The hook for code that already logs: `from trainer_hooks import tee; tee.install()`, one line at the top.

What the script gives to SummaryWriter's `add_scalar` and `add_scalars` (torch's and tensorboardX), to W&B's
`log` and to MLflow's `log_metric` and `log_metrics` is recorded as well, under our names where `names` knows
them. Text, images and histograms are not looked at. Nothing of this needs torch.

Where a Monitor records, it measures steps and losses: of what is logged it gets the rest, a success rate for
example. Where none has recorded in this process, the first number that is logged opens one. It counts no
steps and batches, since a call of a logger is none: the current step is the largest a number was logged at.
"""

from __future__ import annotations

import functools
import sys
import types
from _thread import allocate_lock
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Real
from threading import get_ident
from time import monotonic_ns
from typing import Any, NamedTuple

from trainer_hooks import imports, readback
from trainer_hooks import monitor as monitors
from trainer_hooks.monitor import OTHER, Monitor, Number, current, warn
from trainer_hooks.names import Names
from trainer_hooks.wrapping import put_around

_MOST_HANDED = 256  # names from other threads; a Monitor keeps fewer
_DEEPEST = 4  # of W&B's dictionaries within dictionaries
_OF_THE_MACHINE = "system/"  # what MLflow's own thread measures

Logged = Sequence[tuple[str, Any]]
Read = Callable[..., tuple[Logged, Any]]


def install(*, name: str | None = None, run: str | None = None) -> None:
    """Tee what this process logs, also by libraries that are imported later; a second call adds nothing.

    Args:
        name, run: of the recording, where none but this opens one: see Monitor.
    """
    global _tee
    if _tee is None:
        _tee = Tee(name=name, run=run)
    _wait_for_loggers()
    for module in _LOGGERS:
        _imported(module)


def remove() -> None:
    """Give every logger its own methods back; the recording stays open."""
    global _tee
    _tee = None
    fault: Exception | None = None
    for (owner, method), take_off in list(_replaced.items()):
        try:
            ours = vars(owner).get(method)
            take_off()
            if vars(owner).get(method) is not ours:  # else somebody put theirs around ours, which is idle now
                del _replaced[owner, method]
                _rebind(owner, ours)
        except Exception as error:
            fault = error
    if fault is not None:
        warn("a logger keeps its tee, which is idle now: %s", type(fault).__name__)


def install_into(module: types.ModuleType) -> None:
    """Tee what is logged through the classes of this module, one of MODULES."""
    try:
        monitors._heed_compilation()
        for class_name, method, read in _LOGGERS[module.__name__]:
            owner = getattr(module, class_name, None)
            original = vars(owner).get(method) if isinstance(owner, type) else None
            if owner is not None and callable(original) and (owner, method) not in _replaced:
                _replaced[owner, method] = put_around(owner, method, functools.partial(_teed, read))
                _rebind(owner, original)
    except Exception as error:
        warn("what %s logs is not recorded: %s", module.__name__, type(error).__name__)


@functools.cache
def _wait_for_loggers() -> None:
    imports.after_import({module: functools.partial(_imported, module) for module in _LOGGERS})


def _imported(module: str) -> None:
    try:
        if _tee is not None and module in sys.modules:
            install_into(sys.modules[module])
    except Exception as error:
        warn("what %s logs is not recorded: %s", module, type(error).__name__)


class Tee:
    """Tells a Monitor what a script logs. It neither raises nor waits, whatever thread calls.

    Where another than its own Monitor records, only that one's thread may tell it anything: numbers from
    others are handed over.
    """

    def __init__(self, *, name: str | None = None, run: str | None = None) -> None:
        self._name = name
        self._run = run
        self._began_ns = monotonic_ns()
        self._own: Monitor | None = None
        self._may_open = True
        self._opens = False
        self._told: Monitor | None = None
        self._names = Names()
        self._seen: set[str] = set()
        self._under_way = False
        self._step: int | None = None
        self._lock = allocate_lock()
        self._handed: dict[str, tuple[Any, Any]] = {}  # by name the newest number, and its step
        self._asked: Monitor | None = None  # to call
        self._fault_logged = False

    def take(self, logged: Logged, step: Any = None) -> None:
        """These numbers were logged, at this step or at none; what is no number is passed over."""
        monitor = current()
        numbers = []
        for name, value in logged:
            try:
                number = _number(value)
                if number is not None:
                    numbers.append((name, number))
            except Exception as error:  # it costs none of those beside it
                self._fault(monitor, error)
        if not numbers:
            return
        try:
            monitor = monitor or self._opened()
            # Another thread is about to, or does; looked at in this order, and before what has come of it.
            opens = (self._may_open and not monitors._has_recorded) or self._opens
            monitor = monitor or current()
            if monitor is not None:
                self._tell(monitor, numbers, step)
            elif opens:
                self._keep(numbers, step)
        except Exception as error:
            self._fault(monitor, error)

    def _fault(self, monitor: Monitor | None, error: Exception) -> None:
        if monitor is not None:
            monitor.fault_logged |= self._fault_logged  # one line is enough
            monitor.fault(error)
        elif not self._fault_logged:
            self._fault_logged = True
            warn("a fault in the telemetry: %s", type(error).__name__)

    def _opened(self) -> Monitor | None:
        """A Monitor of our own, unless one has recorded: what is logged after its end is of no training."""
        with_lock = self._lock.acquire(blocking=False)
        try:
            if not with_lock or not self._may_open or monitors._has_recorded:
                return None
            self._opens = True  # other threads may log meanwhile
            self._may_open = False
            opened = Monitor(name=self._name, run=self._run, start_ns=self._began_ns, provisional=True)
            if not opened.recording:
                return None
            opened.measured.clear()
            self._own = opened
            return opened
        finally:
            if with_lock:
                if self._opens and self._own is None:
                    self._handed.clear()
                self._opens = False
                self._lock.release()

    def _tell(self, monitor: Monitor, numbers: Logged, step: Any) -> None:
        here = monitor is self._own or monitor.thread == get_ident()
        if not here or not self._lock.acquire(blocking=False):
            self._hand_over(monitor, numbers, step)
            return
        try:
            if monitor is not self._told:
                self._begin(monitor)
            if self._handed:  # logged before these
                monitor.guard(self._take_over, monitor)
            monitor.guard(self._tell_all, monitor, numbers, step)
            if self._handed:  # logged meanwhile
                monitor.guard(self._take_over, monitor)
        finally:
            self._lock.release()

    def _hand_over(self, monitor: Monitor, numbers: Logged, step: Any) -> None:
        """Leave these to whoever may tell."""
        self._keep(numbers, step)
        if monitor is not self._own and monitor is not self._asked:
            self._asked = monitor
            monitor.hand_over(functools.partial(self._called, monitor))

    def _keep(self, numbers: Logged, step: Any) -> None:
        """For whoever tells next; a number still on a device is known too late for that."""
        for name, number in numbers:
            there = readback.read_now(number)
            if there is not None and (name in self._handed or len(self._handed) < _MOST_HANDED):
                self._handed[name] = there, step

    def _called(self, monitor: Monitor) -> None:
        self._asked = None
        if monitor is current() and self._lock.acquire(blocking=False):  # else who has it takes them over
            try:
                self._take_over(monitor)
            finally:
                self._lock.release()

    def _take_over(self, monitor: Monitor) -> None:
        if monitor is not self._told:
            self._begin(monitor)
        for name in list(self._handed):  # in the order of the first of each
            number, step = self._handed.pop(name)
            self._tell_all(monitor, [(name, number)], step)

    def _begin(self, monitor: Monitor) -> None:
        """Another Monitor records from now on."""
        own, self._told = self._own, monitor
        if own is not None and own is not monitor and own.recording:
            own.finish("superseded")
        self._names = Names()

    def _tell_all(self, monitor: Monitor, numbers: Logged, step: Any) -> None:
        others: dict[str, Number] = {}
        told: dict[str, Number] = {}
        for name, number in numbers:
            ours = self._names(name)
            if ours is None or ours in monitor.measured:
                continue
            if ours in ("loss", "gradient_norm"):
                told[ours] = number
            elif ours == "step":
                step = number
            elif ours == "validation_loss":
                monitor.evaluated(loss=number)
            else:
                others[ours] = number
        monitor.log(**others)
        if "step" not in monitor.measured:
            self._move_on(monitor, numbers)
            self._step = _greater(self._step, _whole(step))
            monitor.told(step=self._step if self._under_way else None, **told)

    def _move_on(self, monitor: Monitor, numbers: Logged) -> None:
        """The second time a name is logged, the script is past its initialisation."""
        if not self._under_way:
            names = {name for name, _ in numbers}
            self._under_way = not names.isdisjoint(self._seen)
            self._seen |= names
            if self._under_way:
                monitor.enter(OTHER)


def _number(value: Any) -> Number | None:
    """The value where it is a number, still on its device where it is on one; else None."""
    if value.__class__ is float or value.__class__ is int:
        return value
    if isinstance(value, (str, bytes, bool, Mapping)):
        return None
    try:
        if isinstance(value, Real):
            return float(value)
        shape = getattr(value, "shape", None)
        if shape is None or any(size != 1 for size in shape):
            return None
        number = readback.read_now(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):  # then it is none
        return None
    return value if number is None else number


def _whole(step: Any) -> int | None:
    """The step where it is a whole number that can be read now."""
    if step.__class__ is int:
        return step
    number = None if step is None else _number(step)
    if number is None or number.__class__ not in (float, int) or number != number // 1:
        return None
    return int(number)


def _greater(step: int | None, other: int | None) -> int | None:
    if step is None or other is None:
        return other if step is None else step
    return max(step, other)


def _teed(read: Read, original: Callable[..., Any]) -> Callable[..., Any]:
    def teed(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        tee = _tee
        if tee is not None and not monitors._is_compiling():
            try:
                logged, step = read(*args, **kwargs)
            except Exception:  # a signature of another version
                logged, step = (), None
            tee.take(logged, step)
        return result

    return teed


def _scalar(
    _writer: Any, tag: str, scalar_value: Any, global_step: Any = None, *_: Any, **__: Any
) -> tuple[Logged, Any]:
    return ((tag, scalar_value),), global_step


def _scalars(
    _writer: Any,
    main_tag: str,
    tag_scalar_dict: Mapping[str, Any],
    global_step: Any = None,
    *_: Any,
    **__: Any,
) -> tuple[Logged, Any]:
    return [(f"{main_tag}/{tag}", value) for tag, value in tag_scalar_dict.items()], global_step


def _wandb(_run: Any, data: Mapping[str, Any], step: Any = None, *_: Any, **__: Any) -> tuple[Logged, Any]:
    return list(_flat(data, _DEEPEST)), step


def _flat(data: Mapping[str, Any], depth: int) -> Iterable[tuple[str, Any]]:
    for name, value in data.items():
        if not isinstance(value, Mapping):
            yield name, value
        elif depth:
            yield from ((f"{name}.{inner}", number) for inner, number in _flat(value, depth - 1))


def _metric(
    _client: Any,
    run_id: str,
    key: str,
    value: Any,
    timestamp: Any = None,
    step: Any = None,
    *_: Any,
    **__: Any,
) -> tuple[Logged, Any]:
    return () if key.startswith(_OF_THE_MACHINE) else ((key, value),), step


def _batch(_client: Any, run_id: str, metrics: Sequence[Any] = (), *_: Any, **__: Any) -> tuple[Logged, Any]:
    values = {each.key: each.value for each in metrics if not each.key.startswith(_OF_THE_MACHINE)}
    return list(values.items()), max((each.step for each in metrics), default=None)


class _Method(NamedTuple):
    of: str
    name: str
    read: Read


_WRITER = (_Method("SummaryWriter", "add_scalar", _scalar), _Method("SummaryWriter", "add_scalars", _scalars))
_LOGGERS: Mapping[str, tuple[_Method, ...]] = {
    "torch.utils.tensorboard.writer": _WRITER,
    "tensorboardX.writer": _WRITER,
    "wandb.sdk.wandb_run": (_Method("Run", "log", _wandb),),
    "wandb.sdk.lib.noop_run": (_Method("NoopRun", "log", _wandb),),  # of mode "disabled"
    # What `mlflow.log_metric` and `mlflow.log_metrics` call.
    "mlflow.tracking.client": (
        _Method("MlflowClient", "log_metric", _metric),
        _Method("MlflowClient", "log_batch", _batch),
    ),
}
MODULES = tuple(_LOGGERS)
_replaced: dict[tuple[type, str], Callable[[], None]] = {}  # and what takes ours off again
_tee: Tee | None = None


def _rebind(owner: type, before: Any) -> None:
    """`wandb.log` is a method of the run that was begun: where it is `before`, take the newest."""
    wandb = sys.modules.get("wandb")
    log = getattr(wandb, "log", None)
    run = getattr(log, "__self__", None)
    if wandb is not None and isinstance(run, owner) and getattr(log, "__func__", None) is before:
        setattr(wandb, "log", getattr(run, "log"))  # noqa: B009, B010
