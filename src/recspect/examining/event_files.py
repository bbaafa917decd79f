"""Examine the TensorBoard log of any training: what its losses and gradients say."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from recspect.diagnosis.evidence import Evidence, Reasons
from recspect.diagnosis.finding import Report
from recspect.errors import DataError, listing
from recspect.examining.watched_steps import as_columns, findings_on

QUESTIONS = ("training.loss_anomaly", "training.gradient_flow")
"""What can be asked of a log; the other questions about training need the model or its scores."""


def examine_events(path: str | Path, *, names: Mapping[str, str] | None = None) -> Report:
    """Judge a training by its event files.

    Args:
        path: An event file, or the folder of one run.
        names: Tag to series where the words of a tag mislead; see `recspect.sinks.tensorboard_reading.read_events`.

    Returns:
        Findings on the loss and the gradients. What the log lacks is UNKNOWN. How each tag was understood, and what could not
        be read, stands in the provenance and the overview.

    Raises:
        DataError: Nothing can be read, or no tag was understood.
        UsageError: The folder holds several runs.
    """
    from recspect.sinks.tensorboard_reading import read_events

    log = read_events(path, names=names)
    if not any(series in ("loss/train", "gradient_norm", "nonfinite") for series, _ in log.understood.values()):
        raise DataError(f"the log has neither a training loss nor gradient norms that could be told by name; its tags: {listing(log.others)}",
                        hint='examine_events(path, names={"your tag": "loss/train"}) says which is which')
    findings = findings_on(as_columns(log.steps), name=Path(path).name, source="the training's log", questions=QUESTIONS)
    read_as = tuple(f"{tag} was read as {series}{f' of {place}' if place else ''}" for tag, (series, place) in sorted(log.understood.items())[:40])
    told: list[Evidence] = [Reasons(title="How were the tags understood?", items=read_as)]
    if log.notes:
        told.append(Reasons(title="What could not be read?", items=tuple(log.notes)))
    return Report(findings=findings, overview=tuple(told), title=f"the log {Path(path).name}",
                  provenance={"log": str(path), "event_files": log.files, "notes": log.notes,
                              "tags": {tag: ":".join(filter(None, series)) for tag, series in log.understood.items()},
                              "tags_not_understood": log.others, "questions": list(QUESTIONS)})
