"""Ask one diagnostic about two batches, the way the engine does: plan, tally, judge."""

from collections.abc import Sequence

from recspect.diagnosis.batch import Batch
from recspect.diagnosis.diagnostic import Diagnostic, Scope, judge, plan
from recspect.diagnosis.finding import Finding, Report
from recspect.diagnosis.probe import Probe
from recspect.diagnosis.runners.local import tally
from recspect.diagnosis.source import read
from recspect.diagnosis.tally import Tally
from recspect.schema import Schema


def ask(diagnostic: Diagnostic, target: Batch, reference: Batch | None = None, *, schema: Schema | None = None,
        probes: Sequence[Probe] = (), **scope) -> list[Finding]:
    """The findings; every one of them survives the findings format."""
    added = {name for probe in probes for name in probe.adds}
    known = Scope(schema=schema or Schema(), target=frozenset(target) | added,
                  reference=frozenset() if reference is None else frozenset(reference) | added, **scope)
    planned = plan([diagnostic], known)
    held_out = tally(read(target), planned.needs.target, probes=probes) if planned.needs.target else Tally({})
    train = tally(read(reference), planned.needs.reference, probes=probes) if planned.needs.reference else Tally({})
    findings = judge(planned, held_out, train, known)
    mapping = Report(findings=tuple(findings)).to_mapping()
    assert Report.from_mapping(mapping).to_mapping() == mapping
    assert all(finding.code == diagnostic.code and finding.claim for finding in findings)
    return findings
