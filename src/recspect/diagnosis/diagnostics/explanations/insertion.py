"""Is what the explanation puts first enough to keep the score?"""

from __future__ import annotations

from collections.abc import Iterable

from recspect.diagnosis.diagnostic import Diagnostic, Needs, Scope
from recspect.diagnosis.diagnostics.explanations.curves import Area, area_needs, judged_area
from recspect.diagnosis.diagnostics.explanations.scored import SOURCES
from recspect.diagnosis.finding import Finding
from recspect.diagnosis.tally import Tally

_SOURCES = ("Petsiuk, Das and Saenko 2018, RISE (insertion)", "DeYoung et al. 2020, ERASER (sufficiency)", *SOURCES)
_AREA = Area(code="explanations.insertion", measure="insertion", at="sufficiency", title="How far does the score rise when named fields are put in first?",
             done="When all fields hold other values of like frequency and the row's own come back, those first that the explanation says speak for the score", seen="the mean rise of the score",
             meaning="An explanation whose first fields are not enough leaves out what else is needed.", sources=_SOURCES)


class Insertion(Diagnostic):
    """Only the first fields of the explanation are the row's own; the area under the rise of the logit, held against random order."""

    code = _AREA.code
    question = "Are the fields that an explanation names first enough to keep the score?"
    sources = _SOURCES

    def needs(self, scope: Scope) -> Needs:
        return area_needs(scope, _AREA)

    def judge(self, target: Tally, reference: Tally, scope: Scope) -> Iterable[Finding]:  # noqa: ARG002 - a question about one side
        return judged_area(target, scope, _AREA)
