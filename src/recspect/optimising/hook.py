"""Remedies for a training of your own: recspect diagnoses, proposes with numbers and judges; a function of yours trains."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from recspect.diagnosis.batch import Batch, concatenate
from recspect.diagnosis.finding import Report, Verdict
from recspect.diagnosis.source import read
from recspect.diagnosis.subject import ScoreSubject, Subject
from recspect.errors import UsageError
from recspect.files import require_writable, write_bytes
from recspect.optimising.arms import Trained
from recspect.optimising.holdout import Ledger
from recspect.optimising.proposing import propose
from recspect.optimising.proving import Terms, Trial, prove
from recspect.optimising.remedy import Proposal
from recspect.schema import Schema

Train = Callable[[tuple[Proposal, ...], int], Any]
"""(remedies to apply, seed) to a model: a `Subject`, or a function from a batch to scores. With no remedies it trains as it always does; it answers None where it cannot
apply one."""
_OTHER = 1_000_003
"""Added to a seed for the placebo: the same training with other draws."""


def optimise(train: Train, *, rows: Any, diagnosis: Any, proof: Any, schema: Schema, folder: str | Path, terms: Terms | None = None, trials: int = 8, finding: str = "",
             say: Callable[[str], None] = lambda _: None) -> tuple[Trial, ...]:
    """Optimise a training that recspect does not know.

    Args:
        train: Trains with remedies; each has a `code`, a `place` and `prepared.text` with numbers, and some have `prepared.changes` as data.
        rows: What it trains on, for diagnostics that compare; anything that `read` takes.
        diagnosis: Held-out rows that findings come from.
        proof: Later rows that nothing else is decided on.
        schema: What the columns mean.
        folder: Finished trainings are kept here as scores and findings, and never repeated; one that was stopped goes on.
        terms: Seeds and margin.
        trials: Remedies that are judged at most.
        finding: Only remedies for this diagnostic.
        say: Told what is being done.

    Returns:
        Every remedy that was judged, in order; the accepted ones form a chain. Those that `train` answers with None are not among them.

    Example:
        >>> def train(remedies, seed):                                              # doctest: +SKIP
        ...     dropped = {r.place for r in remedies if r.code.startswith("drop_")}
        ...     return my_model([f for f in FIELDS if f not in dropped], seed=seed)
        >>> optimise(train, rows=train_rows, diagnosis=last_week, proof=today, schema=schema, folder="proof")   # doctest: +SKIP
    """
    folder, terms = Path(folder), terms or Terms()
    require_writable(folder, folder=True)
    tables = [_loaded(table) for table in (rows, diagnosis, proof)]
    bench = _Bench(train, tables, schema, folder, say)
    ledger = Ledger(folder, bench.marks[2])
    accepted: tuple[Proposal, ...] = ()
    found: list[Trial] = []
    tried: set[tuple[str, str]] = set()
    while len(found) < trials:
        report = bench.diagnosed(accepted, terms.seeds[0])
        if finding and tried and not any(one.code == finding and one.verdict in (Verdict.FAIL, Verdict.WARN) for one in report.findings):
            break  # it is mended
        proposal = next(propose(report, finding=finding, skip=frozenset(tried)), None)
        if proposal is None:
            break
        tried.add((proposal.code, proposal.place))
        if bench.trained((*accepted, proposal), terms.seeds[0]) is None:
            say(f"{proposal.code}: left to a person")
            continue
        chain = accepted

        def trainer(one: Proposal | None, seed: int, _: tuple[str, ...], *, placebo: bool = False, chain: tuple[Proposal, ...] = chain) -> Trained:
            judged = bench.trained((*chain, *([one] if one else [])), seed + (_OTHER if placebo else 0))
            if judged is None:
                raise UsageError("the training function applied a remedy with one seed and not with another")
            return judged

        key = " ".join(f"{one.code}:{one.place}" for one in (*accepted, proposal))
        found.append(prove(proposal, trainer, tables[2], schema, ledger, terms, key=key, say=say))
        if found[-1].accepted:
            accepted = (*accepted, proposal)
    return tuple(found)


class _Bench:
    """Trainings by the function of yours, kept as scores and findings."""

    def __init__(self, train: Train, tables: Sequence[Batch], schema: Schema, folder: Path, say: Callable[[str], None]) -> None:
        from recspect.training.rows import fingerprint

        self.train, self.tables, self.schema, self.folder, self.say = train, tables, schema, folder, say
        self.marks = [fingerprint(table, schema) for table in tables]

    def trained(self, remedies: tuple[Proposal, ...], seed: int) -> Trained | None:
        """What the rows of the proof say of a training; None where a remedy cannot be applied."""
        stem = self._stem(remedies, seed)
        notes, scores = stem.with_suffix(".json"), stem.with_suffix(".npy")
        if not notes.is_file():
            self._do(remedies, seed, stem)
        if not scores.is_file():
            return None
        return Trained(scores=np.load(scores, allow_pickle=False), findings=Report.read(notes).findings)

    def diagnosed(self, remedies: tuple[Proposal, ...], seed: int) -> Report:
        """What the rows of the diagnosis say."""
        if self.trained(remedies, seed) is None:
            raise UsageError("the training function gave no model where no new remedy was asked for", hint="answer None only where a remedy cannot be applied")
        return Report.read(self._stem(remedies, seed).with_suffix(".diagnosis.json"))

    def _do(self, remedies: tuple[Proposal, ...], seed: int, stem: Path) -> None:
        from recspect.examining.examination import examine

        self.say(f"training with {', '.join(one.code for one in remedies) or 'no remedy'}, seed {seed}")
        model = self.train(remedies, seed)
        if model is None:
            write_bytes(stem.with_suffix(".json"), Report(title="not applied").to_json().encode())
            return
        subject = model if isinstance(model, Subject) else ScoreSubject(model, fields=self.schema.field_names, name="your model")
        dropped = {one.place for one in remedies if one.code in ("drop_field", "drop_leaking_field")}
        schema = replace(self.schema, fields=tuple(field for field in self.schema.fields if field.name not in dropped))
        reports = [examine(subject, table, schema, reference=self.tables[0], sample_rows=4000) for table in self.tables[1:]]
        content = io.BytesIO()
        np.save(content, np.concatenate([subject.score(piece) for piece in self.tables[2].pieces(65_536)]), allow_pickle=False)
        write_bytes(stem.with_suffix(".npy"), content.getvalue())
        write_bytes(stem.with_suffix(".diagnosis.json"), reports[0].to_json().encode())
        write_bytes(stem.with_suffix(".json"), reports[1].to_json().encode())  # last: with it the training is finished

    def _stem(self, remedies: tuple[Proposal, ...], seed: int) -> Path:
        text = json.dumps([[one.code, one.place, one.prepared.text] for one in remedies] + [seed, *self.marks])
        return self.folder / "trainings" / hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _loaded(table: Any) -> Batch:
    return table if isinstance(table, Batch) else concatenate(list(read(table).batches()))


__all__ = ["Train", "optimise"]
