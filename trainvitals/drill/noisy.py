"""A tiny training that asks too much of its hook: `python -m trainvitals.drill.noisy`."""

from __future__ import annotations

import argparse
import enum
import time
from collections.abc import Sequence

from trainer_hooks.monitor import Monitor

STEP_SECONDS = 0.1
NAMES = 200  # of which the hook keeps the first 64
SHARE = 0.2  # of the time, while the hook takes a fiftieth at most
# More than a recording holds, so that the oldest are overwritten before the service looks again.
HURRIED_STEPS = 60_000
HURRY_EVERY_SECONDS = 10.0  # the first time may be before the service knows the recording


class Asks(enum.StrEnum):
    """For a phase that does not exist, to keep more names than it can, to record the same value again and
    again, or now and then to count steps as fast as they can be counted."""

    unknown_phase = "unknown-phase"
    many_names = "many-names"
    many_values = "many-values"
    many_steps = "many-steps"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m trainvitals.drill.noisy", description=__doc__)
    parser.add_argument("--run", required=True, help="Name of the run.")
    parser.add_argument("--asks", type=Asks, choices=list(Asks), required=True, help="What it asks for.")
    options = parser.parse_args(arguments)
    with Monitor(run=options.run) as monitor:
        time.sleep(3)  # mostly it is known by then
        hurry_at = time.monotonic()
        while True:
            began = time.monotonic()
            match options.asks:
                case Asks.unknown_phase:
                    with monitor.phase("guessing"):
                        pass
                case Asks.many_names:
                    monitor.log(**{f"value_{number}": 1.0 for number in range(NAMES)})
                case Asks.many_values:
                    while time.monotonic() - began < SHARE * STEP_SECONDS:
                        monitor.log(temperature=1.0, humidity=1.0, pressure=1.0)
                case Asks.many_steps if began >= hurry_at:
                    hurry_at = began + HURRY_EVERY_SECONDS
                    for _ in range(HURRIED_STEPS):
                        monitor.end_step()
            time.sleep(max(0.0, began + STEP_SECONDS - time.monotonic()))
            monitor.end_step()


if __name__ == "__main__":
    main()
