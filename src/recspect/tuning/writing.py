"""The page about a search, its JSON twin, and the winner's settings."""

from __future__ import annotations

from recspect.diagnosis.finding import Report
from recspect.files import write_bytes
from recspect.training.rows import Tables
from recspect.training.settings_file import write_settings
from recspect.tuning.judging import judge, trials_of, winner_of
from recspect.tuning.report import report_of
from recspect.tuning.settings import with_values
from recspect.tuning.tuning import PAGE, SETTINGS, TWIN, Tuning


def write(tuning: Tuning, tables: Tables, *, command: str = "") -> Report:
    """Judge the winner and write `tuning.html`, `findings.json` and, where a trial has finished, `settings.toml`."""
    from recspect.report import html

    trials = trials_of(tuning)
    verdict = None
    if any(one.state == "finished" for one in trials):
        tuning, verdict = judge(tuning, trials, tables)
        best = winner_of(tuning, trials)
        objectives = ", ".join(f"{one.name} {value:.6g}" for one, value in zip(tuning.objectives, best.values, strict=True))
        told = "the default settings, which no trial was better than" if best.number == 0 else f"trial {best.number} of {len(trials)}"
        comment = f"{told}; on validation rows: {objectives}\nTrain with them: recspect train TABLE --schema SCHEMA --settings {SETTINGS}"
        write_settings(tuning.folder / SETTINGS, with_values(tuning.base, best.settings), comment=comment)
    report = report_of(tuning, trials, verdict, command=command)
    write_bytes(tuning.folder / TWIN, report.to_json().encode())
    html.write(report, tuning.folder / PAGE)
    return report


__all__ = ["write"]
