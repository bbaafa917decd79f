"""When to train anew: after so long, after so much feedback, or when a diagnosis says that the world has changed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from recspect.diagnosis.finding import Finding, Verdict
from recspect.errors import UsageError

DRIFT = ("data.drift", "data.joint_drift", "data.change_point", "predictions.calibration", "data.negative_volume")
"""Codes of findings that say that the world is another one than in training."""


@dataclass(frozen=True, kw_only=True)
class RetrainingRule:
    """What makes a training due; any one of them does.

    Args:
        every_hours: So long after the last one; None never for that reason.
        new_rows: So many labelled rows since the last one; None never for that reason.
        findings: Codes of findings that FAIL.
        least_hours: Never sooner than so long after the last one, whatever happens: a diagnosis that fires every minute must not train every minute.

    Raises:
        UsageError: Bounds that are not positive, or nothing at all.
    """

    every_hours: float | None = 24.0
    new_rows: int | None = None
    findings: tuple[str, ...] = DRIFT
    least_hours: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "findings", tuple(self.findings))
        if (self.every_hours is not None and not self.every_hours > 0) or (self.new_rows is not None and self.new_rows < 1) or self.least_hours < 0:
            raise UsageError(f"retraining every {self.every_hours} hours, after {self.new_rows} rows, not within {self.least_hours} hours",
                             hint="expected more than 0; 1 or more; 0 or more; None for never")
        if self.every_hours is None and self.new_rows is None and not self.findings:
            raise UsageError("a rule by which a training is never due", hint="give every_hours, new_rows or findings")

    def due(self, now: datetime, *, last: datetime | None, new_rows: int = 0, findings: Iterable[Finding] = ()) -> str:
        """Why a training is due, in words; empty where it is not.

        Args:
            now: With a zone.
            last: When the last training was; None where there was none.
            new_rows: Labelled rows since then.
            findings: Of the newest diagnosis.
        """
        if last is None:
            return "nothing was trained yet"
        if now - last < timedelta(hours=self.least_hours):
            return ""
        if self.every_hours is not None and now - last >= timedelta(hours=self.every_hours):
            return f"the last training was {(now - last) / timedelta(hours=1):.0f} hours ago"
        if self.new_rows is not None and new_rows >= self.new_rows:
            return f"{new_rows:,} rows are new since the last training"
        failed = sorted({finding.code for finding in findings if finding.verdict is Verdict.FAIL and finding.code in self.findings})
        return f"the diagnosis fails: {', '.join(failed)}" if failed else ""
