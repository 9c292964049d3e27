"""Whether a run lives: the panels of the alerts in alerts/lifecycle.py."""

from __future__ import annotations

from alerts import lifecycle
from alerts.thresholds import Thresholds, duration
from dashboards.grafana.panels import Override, Query, TimeSeries
from dashboards.rows.alert_panels import judged
from dashboards.variables import of_recorded, of_run
from exporters import catalog


def panels(thresholds: Thresholds) -> dict[str, TimeSeries]:
    """The panel of each alert, by the alert's name."""
    window = duration(thresholds.restart_loop_window_seconds)
    silence = (
        f"time() - {of_recorded(lifecycle.LAST_PROGRESS)} and on (cluster, run) "
        f"{of_recorded(lifecycle.UNFINISHED)}"
    )
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
            shown=[Query(expr=silence, legend="{{run}}")],
            limit_at=thresholds.stall_seconds,
        ),
        lifecycle.TRAINING_RUN_KILLED: judged(
            title="Time since a run was killed",
            worst="lowest",
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
            worst="lowest",
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
            title="Ranks that are seen alive, and how long a run has not moved",
            worst="lowest",
            description=(
                "Solid: ranks of a run that live and are scraped. Dashed: how many the run says it has. The "
                "two should lie on each other. On the other axis: the time since the run's last progress. A "
                f"gap while nothing moves for {duration(thresholds.rank_missing_silence_seconds)} is ranks "
                "that died, and the others wait for them: see how they ended on their instance. A gap while "
                "the run goes on is a node that is not scraped: see whether its service answers."
            ),
            unit="none",
            shown=[
                Query(expr=of_recorded(lifecycle.RANKS), legend="{{run}} alive"),
                Query(expr=silence, legend="{{run}} last progress"),
            ],
            moving_limit=Query(
                expr=f"max by (cluster, run) ({of_run(catalog.TRAINING_WORLD_SIZE)} "
                f"unless on (cluster, instance, run) {of_run(catalog.TRAINING_RUN_END_TIMESTAMP_SECONDS)}) "
                f"and on (cluster, run) {of_recorded(lifecycle.UNFINISHED)}",
                legend="{{run}} expected",
            ),
            overrides=[Override("byFrameRefID", "B", {"unit": "s"})],
        ),
        lifecycle.TRAINING_RESTART_LOOP: judged(
            title=f"Restarts of a run within {window}",
            description=(
                "How often each run was started again, on whichever node. One restart is a failure that was "
                "handled; at the red line and above every attempt ends before the run gets anywhere. Stop "
                "what restarts it, and look at how the last attempts ended: mostly it is the same error each "
                "time."
            ),
            unit="none",
            shown=[
                Query(
                    expr="count by (cluster, run) "
                    f"(count_over_time({of_recorded(lifecycle.ATTEMPT_STARTED)}[{window}])) - 1",
                    legend="{{run}}",
                )
            ],
            limit_at=thresholds.restart_loop_restarts,
        ),
    }
