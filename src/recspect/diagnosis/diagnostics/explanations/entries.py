"""Does the score fall when the history items that an explanation names are dropped?"""

from __future__ import annotations

from collections.abc import Iterable

from recspect.diagnosis.diagnostic import Diagnostic, Needs, Scope
from recspect.diagnosis.diagnostics.explanations.curves import Area, area_needs, judged_area
from recspect.diagnosis.diagnostics.explanations.scored import SOURCES
from recspect.diagnosis.finding import Finding
from recspect.diagnosis.tally import Tally

_SOURCES = ("DeYoung et al. 2020, ERASER (comprehensiveness)", *SOURCES)
_AREA = Area(code="explanations.entries", measure="entries", at="", title="How far does the score fall when named entries are dropped first?",
             done="When entries of lists are dropped, those first that the explanation says speak for the score", seen="the mean fall of the score", sources=_SOURCES,
             meaning="“Because you watched this” is only true if the score falls without it.")


class Entries(Diagnostic):
    """A quarter, half and three quarters of the entries of the row's lists are dropped in the order of the explanation; the mean fall of the logit, held against random order."""

    code = _AREA.code
    question = "Does the score fall when the history items that an explanation names are dropped?"
    sources = _SOURCES

    def needs(self, scope: Scope) -> Needs:
        return area_needs(scope, _AREA)

    def judge(self, target: Tally, reference: Tally, scope: Scope) -> Iterable[Finding]:  # noqa: ARG002 - a question about one side
        return judged_area(target, scope, _AREA)
