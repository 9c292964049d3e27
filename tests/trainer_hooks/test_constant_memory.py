"""The hook's memory over a long training."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.trainer_hooks.processes import ended

MILLION_STEPS = """
    import ctypes, gc, json, sys
    from pathlib import Path
    from trainer_hooks.monitor import BACKWARD, DATA, FORWARD, OPTIMIZER, OTHER, Monitor

    PR_SET_THP_DISABLE = 41
    ctypes.CDLL(None).prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0)  # or the kernel might make a page one of 2 MB

    def own_bytes():
        # What statm tells is some pages behind for each core; and of a file it may drop and fetch pages.
        gc.collect()
        lines = Path("/proc/self/smaps").read_text().splitlines()
        return sum(1024 * int(line.split()[1]) for line in lines if line.startswith(("Anonymous:", "Swap:")))

    monitor = Monitor(run="a-run", directory=sys.argv[1], loss_kind="cross_entropy")

    def steps(count):
        for step in range(count):
            for phase in (DATA, FORWARD, BACKWARD, OPTIMIZER, OTHER):
                monitor.enter(phase)
            monitor.learning_rates([0.001])
            monitor.batch(loss=2.0, samples=4, tokens=512, trained_tokens=500)
            monitor.log(gradient_norm=1.0, epoch=step / 1e6, **{f"scalar/{step % 50}": 1.0})
            monitor.end_step()

    steps(50_000)  # the ring has been around
    own_bytes()  # the first look takes some itself
    before = own_bytes()
    steps(950_000)
    after = own_bytes()
    monitor.finish()
    print(json.dumps([before, after]))
"""


@pytest.mark.long
def test_a_million_steps_take_no_memory(tmp_path: Path) -> None:
    (before, after), _ = ended(MILLION_STEPS, tmp_path, tmp_path / "recordings")
    print(f"{before / 1e6:.1f} MB after 50,000 steps, {after / 1e6:.1f} MB after 1,000,000")
    assert after - before < 256 * 1024
