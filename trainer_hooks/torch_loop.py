"""What a torch training does, as calls of a Monitor: steps, micro-batches, losses, tokens, phases.

*Steps.* The first optimizer that steps leads: its steps count (see torch_steps). A step within a step
(`super().step()`, an optimizer around another) is part of it. Steps within a backward pass, one for each
parameter, are one step together with that pass.

*Micro-batches.* A backward pass is one, provided that a step of the leader, or one its loss scaler skipped,
follows before another optimizer's; a pass that needed no new forward pass belongs to the one before. Where a
model returned several losses before the pass, and it is taken of their sum, each of these calls is a
micro-batch; where it is taken of the last, the others came to nothing.

*Losses.* That which the model returned, else that of the one criterion called, else the scalar the backward
pass was taken of. Only the scalar may have been divided by the number of micro-batches of the step: it is
multiplied again where it was last divided by just the number of passes of its step, or of the longest step
so far, the last one of an epoch being shorter.

*Evaluation* is the time from a call, in evaluation mode, of a model that was trained before (or of any model
without gradients that returns a loss, or that has been given a second batch since the last training) up to
the next call in training mode, backward pass, step, or wait for another iterator than its own.
"""

from __future__ import annotations

import functools
import sys
import weakref
from collections.abc import Callable, Mapping
from threading import get_ident
from typing import Any, TypeVar

from torch import is_grad_enabled
from torch.compiler import is_compiling

from trainer_hooks.monitor import BACKWARD, DATA, EVALUATION, FORWARD, OPTIMIZER, OTHER, Monitor
from trainer_hooks.torch_calls import Call, Root, function_of
from trainer_hooks.torch_hooks import Hooks, traced
from trainer_hooks.torch_steps import Steps, nothing, overflowed
from trainer_hooks.torch_window import UNKNOWN, Evaluation, Scalar, Window

_MOST_SCALED = 4
_MOST_CALLS = 256  # without a backward pass

_F = TypeVar("_F", bound=Callable[..., None])


def _harmless(method: _F) -> _F:
    """Keep every fault away from the training; say nothing where nothing is recorded."""

    @functools.wraps(method)
    def harmless(self: TorchLoop, *arguments: Any, **keywords: Any) -> None:
        monitor = self.monitor
        if monitor.recording and not is_compiling():
            monitor.guard(method, self, *arguments, **keywords)

    return harmless  # type: ignore[return-value]


class TorchLoop:
    """Turns what a torch training does into calls of a Monitor. No method raises.

    It follows the thread that runs the first backward pass, and until then the one that made it.
    """

    def __init__(self, monitor: Monitor) -> None:
        self.monitor = monitor
        self.thread = get_ident()
        self.trained = False  # whether there was a backward pass
        self.in_backward = 0
        self.stepping = 0
        self.stepped_in_backward: Any = None  # the first optimizer that did so in the current pass
        self.steps_begun = 0
        self.saving = False
        self.evaluations = 0  # those that told a loss
        self.when_released: Callable[[], None] = nothing  # no outermost module is being called any more
        self.hooks = Hooks(self)
        self._enter = monitor.enter
        self._roots: weakref.WeakKeyDictionary[Any, Root] = weakref.WeakKeyDictionary()
        self._active: Any = None  # the outermost module that is being called
        self._active_root: Any = None
        self._calls: list[Call] = []  # since the last backward pass, of those with gradients
        self._window = Window(monitor)
        self._steps = Steps(monitor, self._window)
        self._scaled: list[tuple[Callable[[], Any], Scalar]] = []
        self._waits = 0
        self._fetched = 0  # since the last training
        self._source: Callable[[], Any] = nothing
        self._evaluation: Evaluation | None = None
        self._not_in_training: list[Root] = []  # models called in evaluation mode, but with gradients
        self._step_counted = False
        monitor.when_closing(self.close)

    def here(self) -> bool:
        """Whether what happens now is part of the training that is followed."""
        return get_ident() == self.thread and not traced()

    @_harmless
    def watch_model(self, module: Any) -> None:
        """Hook an outermost module (the DDP, FSDP or compiled wrapper), or a criterion."""
        self.hooks.watch_model(module)

    @_harmless
    def watch_optimizer(self, optimizer: Any) -> None:
        """Hook this optimizer, or that which it wraps."""
        self.hooks.watch_optimizer(optimizer)

    # Forward

    def tell_forward_begins(
        self, module: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> None:
        """The outermost module, or a criterion, is called. Raises what a stranger's module raises."""
        if self.in_backward or self._active is not None:
            return  # a recomputation, or a module within another
        self._active = module
        root = self._roots.get(module)
        if root is None:
            root = self._roots[module] = Root(module)
        self._active_root = root
        if root.criterion:
            if self._evaluation is None:
                self._enter(FORWARD)
        elif is_grad_enabled() and (module.training or root.trains_in_eval):
            if self._evaluation is not None:
                self._end_evaluation()
            if not root.trained:
                self.monitor.model(module)
            root.trained = True
            self._fetched = 0
            self._enter(FORWARD)
        elif self._evaluation is None:
            if (root.trained and not module.training) or self._fetched > 1:
                self._begin_evaluation()
            else:
                self._enter(FORWARD)

    forward_begins = _harmless(tell_forward_begins)

    def tell_forward_ended(self, module: Any, args: Any, kwargs: Any, output: Any) -> None:
        """It returned; `output` is None where it raised. Raises what a stranger's arguments raise."""
        if module is not self._active:
            return
        try:
            if output is None:
                self.monitor.passes(sys.exc_info()[1])
            else:
                self._read(module, self._active_root, args, kwargs, output)
        finally:
            self._release()
            if self._evaluation is None:
                self._enter(OPTIMIZER if self.stepping else OTHER)

    forward_ended = _harmless(tell_forward_ended)

    def _read(self, module: Any, root: Root, args: Any, kwargs: Any, output: Any) -> None:
        call = root.read(module, args, kwargs, output)
        trains = call.with_gradients and (module.training or root.trains_in_eval)
        if not trains and not root.criterion and call.loss is not None and self._evaluation is None:
            self._begin_evaluation()
        if self._evaluation is not None:
            self._evaluation.add(call)
            if call.loss is not None:
                self.monitor.measured.add("validation_loss")
            if not root.criterion:
                self._calls.clear()
            self.monitor.progress()
        if call.with_gradients:
            self._calls.append(call)
            if len(self._calls) > _MOST_CALLS:
                del self._calls[0]
            if not trains and not root.criterion and root not in self._not_in_training:
                self._not_in_training.append(root)

    def _release(self) -> None:
        self._active = self._active_root = None
        self.when_released()

    # Backward

    @_harmless
    def backward_begins(self, loss: Any = None) -> None:
        """A backward pass begins; `loss` is what it is taken of, undivided where the caller knows."""
        if not self.trained:
            self.thread = get_ident()
            self.trained = True
        self.in_backward += 1
        if self.in_backward > 1:
            return
        if self._active is not None:
            self._release()
        self._fetched = 0
        self.stepped_in_backward = None
        if self._not_in_training or self._evaluation is not None:
            self._learn_who_trains()
        calls, self._calls = self._calls, []
        self._window.take(calls, self._unscaled(loss) if self._scaled else loss)
        self._enter(BACKWARD)

    def can_do_without_hooks(self) -> bool:
        """Whether no module is being called whose hooks could be taken off."""
        return self.monitor.recording and self.here() and self._active is None

    def may_go_backward_here(self) -> bool:
        """Whether a backward pass that begins now would be followed."""
        return (not self.trained or get_ident() == self.thread) and not traced()

    @_harmless
    def backward_ended(self, completed: bool = True) -> None:
        """It ended: one micro-batch, should the leading optimizer make use of it."""
        if not self.in_backward:
            return
        self.in_backward -= 1
        if self.in_backward:
            return
        optimizer, self.stepped_in_backward = self.stepped_in_backward, None
        self._step_counted = False
        if not completed:
            self.monitor.passes(sys.exc_info()[1])
            self._window.drop_last()
        elif optimizer is not None:
            self._steps.lead(optimizer)
            self._steps.made(optimizer)
            self._step_counted = True
        elif len(self._window) > 1:
            self.monitor.progress()  # a long accumulation is no stall
        self._enter(self._resting())

    def _learn_who_trains(self) -> None:
        """What seemed to be an evaluation, in evaluation mode but with gradients, may be a training."""
        roots, self._not_in_training = self._not_in_training, []
        for root in roots:
            root.trains_in_eval = root.trained = True
        if roots:
            self._evaluation = None
        else:
            self._end_evaluation()

    @_harmless
    def scaled(self, loss: Any, scaled: Any) -> None:
        """A loss scaler made `scaled` of this loss, to take the backward pass of it."""
        if scaled is not loss and hasattr(scaled, "ndim") and not self.in_backward:
            del self._scaled[: 1 - _MOST_SCALED]
            scalar = Scalar(loss)
            scalar.function = function_of(loss)
            self._scaled.append((weakref.ref(scaled), scalar))

    def _unscaled(self, loss: Any) -> Scalar:
        scaled, self._scaled = self._scaled, []
        return next((scalar for reference, scalar in scaled if reference() is loss), UNKNOWN)

    # Steps

    def tell_optimizer_begins(self, optimizer: Any) -> None:
        """`optimizer.step` begins."""
        self.steps_begun += 1
        if self.in_backward and not self.stepping:
            self.stepped_in_backward = self.stepped_in_backward or optimizer
            return
        self.stepping += 1
        if self.stepping == 1:
            if self._active is not None:
                self._release()
            if self._evaluation is not None:
                self._end_evaluation()
            self._enter(OPTIMIZER)

    def tell_optimizer_ended(self, optimizer: Any) -> None:
        """It ended; where this optimizer leads, an optimizer step was made."""
        if not self.stepping:
            return  # of a step within a backward pass
        self.stepping -= 1
        if self.stepping:
            return
        if overflowed(self.monitor, optimizer):
            self._steps.skipped(optimizer)
        elif not self._step_counted:
            if not self._window:
                self._calls.clear()  # their gradients came by another way than a backward pass
            self._steps.made(optimizer)
        self._step_counted = False
        self._enter(OTHER)

    @_harmless
    def gradient_norm(self, norm: Any) -> None:
        """A norm of gradients before the step to come, a number or a tensor; None for one of another kind."""
        self._steps.gradient_norm(norm)

    def scaler_begins(self, optimizer: Any) -> int | None:
        """A loss scaler's step begins, which looks at the gradients first; how many steps began so far.

        None where a step of this optimizer would not be told.
        """
        try:
            if not self.hooks.sees(optimizer):
                return None
        except Exception as error:  # of a stranger's optimizer
            self.monitor.fault(error)
            return None
        if self._evaluation is None:
            self._enter(OPTIMIZER)
        return self.steps_begun

    @_harmless
    def skipped(self, optimizer: Any = None) -> None:
        """The loss scaler left out the step of this optimizer."""
        self._end_evaluation()
        self._steps.skipped(optimizer)
        self._enter(OTHER)

    @_harmless
    def loss_scale(self, scaler: Any) -> None:
        """The newest scale of a GradScaler."""
        scale = getattr(scaler, "_scale", None)
        if scale is not None:
            self.monitor.log(loss_scale=scale)

    # Data

    @_harmless
    def data_begins(self, source: Any = None) -> None:
        """The training waits for data; `source`, an object, tells one set of them from another."""
        self._waits += 1
        if self._waits > 1:
            return
        if self._source() is not source:
            self._end_evaluation()
            self._source = nothing if source is None else weakref.ref(source)
        if self._evaluation is None:
            self._enter(DATA)

    @_harmless
    def data_ended(self, fetched: bool = True) -> None:
        """It has got them, or, where not `fetched`, there are no more."""
        if not self._waits:
            return
        self._waits -= 1
        if self._waits:
            return
        # No more is no end of an evaluation: some loaders wait for it before they hand out the last batch.
        self._fetched += fetched
        if self._evaluation is None:
            self._enter(self._resting())

    # Evaluation

    def _begin_evaluation(self) -> None:
        self._evaluation = Evaluation()
        self._enter(EVALUATION)

    def _end_evaluation(self) -> None:
        evaluation, self._evaluation = self._evaluation, None
        if evaluation is None:
            return
        self._not_in_training.clear()
        self._calls.clear()
        self._fetched = 0
        loss, tokens = evaluation.result()
        if loss is not None:
            self.evaluations += 1
            self.monitor.evaluated(loss=loss, tokens=tokens)
        self._enter(OTHER)

    def _resting(self) -> int:
        if self._evaluation is not None:
            return EVALUATION
        return OPTIMIZER if self.stepping else OTHER

    # The end

    def close(self) -> None:
        """Record what is left of an unfinished step, and take every hook off again.

        No weak reference is left behind: a model that dies while the collector takes ours away, of garbage,
        makes CPython 3.11 read freed memory.
        """
        self._finish()
        self._roots.clear()
        self._calls.clear()
        self._not_in_training.clear()
        self.monitor.guard(self.hooks.remove)

    @_harmless
    def _finish(self) -> None:
        self._end_evaluation()
        self._window.record()
