"""The command that measures the check of logs: ``asap bench logs``."""

from __future__ import annotations

from dataclasses import dataclass

from asap.bench_logs import LEAST_NAMED, MOST_ALARMS, LogSweep, SweepConfig, sweep
from asap.cli_common import CHECK_FAILED, DONE, Common, Outcome, Progress, table


@dataclass(frozen=True, kw_only=True)
class BenchLogs(Common):
    """How many planted defects `asap logs check` finds and names, and how often it cries wolf.

    Exit status 1 if less than 95 % of a class are named, or sound logs raise more than 2 % alarms.
    An instance that is not named counts apart if the check said that this log does not tell.
    """

    robot: str = "g1"
    """Robot whose shipped policies make the logs."""
    instances: int = 20
    """Planted of every class."""
    classes: tuple[str, ...] = ()
    """Classes of defects, and no sound logs; all, and sound logs, by default."""
    twins: tuple[str, ...] = ()
    """Twins that make logs, beside the robot itself; all by default."""
    logs: int = 2
    """Sound logs of each robot and motion, each also without its base."""

    def run(self, progress: Progress) -> Outcome:
        """Plant and check."""
        config = SweepConfig(robot=self.robot, classes=self.classes, instances=self.instances,
                             twins=self.twins, logs=self.logs, seed=self.seed)  # fmt: skip
        found = sweep(config, progress)
        rows = [[name, f"{one.found} of {one.tried}", f"{one.named} of {one.tried}",
                 str(one.untestable), str(one.beside)]
                for name, one in found.classes.items()]  # fmt: skip
        missed = [f"  {name}: {text}" for name, one in found.classes.items()
                  for text in one.missed]  # fmt: skip
        columns = ["planted", "found", "named right", "said not testable", "said beside"]
        return Outcome(
            result=found.as_dict(),
            shown=[table("Planted defects", columns, rows), *missed, *_alarms(found), _bars(found)],
            status=CHECK_FAILED if found.shortcomings else DONE,
        )


def _alarms(found: LogSweep) -> list[str]:
    """What was said of sound logs."""
    if not found.sound_logs:
        return []
    counts = ", ".join(f"{name} {n}" for name, n in found.alarms_by_check.items())
    told = [f"{len(found.alarms)} alarms in {found.sound_logs} sound logs: {counts or 'none'}"]
    return told + [f"  {log}: {name}: {text}" for log, name, text in found.alarms]


def _bars(found: LogSweep) -> str:
    """The promise, and whether it is kept."""
    bar = f"{LEAST_NAMED:.0%} of what is testable named, alarms in at most {MOST_ALARMS:.0%}"
    if not found.shortcomings:
        return f"kept: {bar}"
    return f"NOT kept: {bar}: {'; '.join(found.shortcomings)}"
