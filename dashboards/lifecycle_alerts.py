"""Whether a run lives: the panels of the alerts in alerts/lifecycle.py."""

from __future__ import annotations

from alerts import lifecycle
from alerts.thresholds import Thresholds, duration
from dashboards.alert_panels import judged
from dashboards.panels import Query, TimeSeries
from dashboards.variables import of_recorded, of_run
from exporters import catalog


def panels(thresholds: Thresholds) -> dict[str, TimeSeries]:
    """The panel of each alert, by the alert's name."""
    window = duration(thresholds.restart_loop_window_seconds)
    restarts = of_run(catalog.TRAINING_RESTARTS_TOTAL)
    return {
        lifecycle.TRAINING_STALLED: judged(
            title="Time since a run's last progress",
            description=(
                "Of runs that are not known to have ended: a batch, an evaluation batch or a checkpoint of "
                "any rank is progress. A healthy run stays near 0; a line that climbs evenly is a run that "
                "hangs, or whose node is gone. Look at its ranks' phases and its node, and start it again "
                "from its last checkpoint."
            ),
            unit="s",
            shown=[
                Query(
                    expr=f"time() - {of_recorded(lifecycle.LAST_PROGRESS)} and on (cluster, run) "
                    f"{of_recorded(lifecycle.UNFINISHED)}",
                    legend="{{run}}",
                )
            ],
            limit_at=thresholds.stall_seconds,
        ),
        lifecycle.TRAINING_RUN_KILLED: judged(
            title="Time since a run was killed",
            description=(
                "Of runs whose newest attempt died without finishing; empty while there are none. The alert "
                f"holds below the red line, for {duration(thresholds.killed_page_seconds)}. A line that ends "
                "early is a run that was started again. Look for who killed it: the kernel's log, the "
                "scheduler, a person; then start it again."
            ),
            unit="s",
            shown=[Query(expr=f"time() - {of_recorded(lifecycle.KILLED)}", legend="{{run}}")],
            limit_at=thresholds.killed_page_seconds,
        ),
        lifecycle.TRAINING_RUN_FAILED: judged(
            title="Time since a run failed",
            description=(
                "Of runs whose newest attempt ended with an exception; empty while there are none. The alert "
                f"holds below the red line, for {duration(thresholds.killed_page_seconds)}. The run's page "
                "names the exception and where it was raised: mend that, then start the run again."
            ),
            unit="s",
            shown=[Query(expr=f"time() - {of_recorded(lifecycle.FAILED)}", legend="{{run}}")],
            limit_at=thresholds.killed_page_seconds,
        ),
        lifecycle.TRAINING_RANK_MISSING: judged(
            title="Ranks that are seen alive",
            description=(
                "Solid: ranks of a run that live and are scraped. Dashed: how many the run says it has. The "
                "two should lie on each other; a gap for more than some minutes is ranks that died or that "
                "nobody watches. See on which instance the missing ones were, and whether its service "
                "answers."
            ),
            unit="none",
            shown=[Query(expr=of_recorded(lifecycle.RANKS), legend="{{run}} alive")],
            moving_limit=Query(
                expr=f"max by (cluster, run) ({of_run(catalog.TRAINING_WORLD_SIZE)})",
                legend="{{run}} expected",
            ),
        ),
        lifecycle.TRAINING_RESTART_LOOP: judged(
            title=f"Restarts of a run within {window}",
            description=(
                "How often each run was started again. One restart is a failure that was handled; at the red "
                "line and above every attempt ends before the run gets anywhere. Stop what restarts it, and "
                "look at how the last attempts ended: mostly it is the same error each time."
            ),
            unit="none",
            shown=[
                Query(
                    expr=f"max by (cluster, run) (max_over_time({restarts}[{window}])) - on (cluster, run) "
                    f"min by (cluster, run) (min_over_time({restarts}[{window}]))",
                    legend="{{run}}",
                )
            ],
            limit_at=thresholds.restart_loop_restarts,
        ),
    }
