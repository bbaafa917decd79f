"""Does the score fall when the fields that the explanation puts first are exchanged?"""

from __future__ import annotations

from collections.abc import Iterable

from recspect.diagnosis.diagnostic import Diagnostic, Needs, Scope
from recspect.diagnosis.diagnostics.explanations.curves import Area, area_needs, judged_area
from recspect.diagnosis.diagnostics.explanations.scored import SOURCES
from recspect.diagnosis.finding import Finding
from recspect.diagnosis.tally import Tally

_SOURCES = ("Petsiuk, Das and Saenko 2018, RISE (deletion)", "DeYoung et al. 2020, ERASER (comprehensiveness)", *SOURCES)
_AREA = Area(code="explanations.deletion", measure="deletion", at="comprehensiveness", title="How far does the score fall when named fields are exchanged first?",
             done="When fields are exchanged for values of like frequency, those first that the explanation says speak for the score", seen="the mean fall of the score", sources=_SOURCES,
             meaning="An explanation that names fields without which the score stays does not say why.")


class Deletion(Diagnostic):
    """Fields are exchanged one after the other in the order of the explanation; the area under the fall of the logit, held against random order."""

    code = _AREA.code
    question = "Does the score fall when the fields that an explanation names first are exchanged?"
    sources = _SOURCES

    def needs(self, scope: Scope) -> Needs:
        return area_needs(scope, _AREA)

    def judge(self, target: Tally, reference: Tally, scope: Scope) -> Iterable[Finding]:  # noqa: ARG002 - a question about one side
        return judged_area(target, scope, _AREA)
