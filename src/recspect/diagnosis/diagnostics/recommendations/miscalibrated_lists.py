"""Whether lists hold the kinds of item that their users choose, in about these shares."""

from __future__ import annotations

from collections.abc import Iterator

from recspect.diagnosis.diagnostic import Diagnostic, Needs, Scope
from recspect.diagnosis.diagnostics.policy import between, number, require_rows
from recspect.diagnosis.evidence import Bars
from recspect.diagnosis.finding import Finding, Place, Remedy, Verdict
from recspect.diagnosis.slice import Slice, Term
from recspect.diagnosis.stat import Bucketed, jackknife
from recspect.diagnosis.stats.moments import Moments
from recspect.diagnosis.tally import Tally
from recspect.errors import Unavailable

WARN = 0.2
_PREFIX = "@list:calibration:"


class MiscalibratedLists(Diagnostic):
    """Steck's divergence of the categories of lists from those of their users' own items, less what chance gives.

    C_KL = sum_g p_g ln(p_g / (0.99 q_g + 0.01 p_g)); lists of ten from a wide taste are some way off by chance alone.

    Args:
        field: Judge this field only; default every item-side field of few categories.
    """

    code = "recommendations.miscalibrated_lists"
    question = "Do lists hold the kinds of item that their users choose?"
    sources = ("Steck 2018, Calibrated Recommendations",)

    def __init__(self, field: str | None = None) -> None:
        self.field = field

    def needs(self, scope: Scope) -> Needs:
        """Means of three columns for each field, over the lists of users with a profile."""
        return Needs(target=tuple((_known(field), stat) for field in self._fields(scope) for stat in _stats(field)))

    def judge(self, target: Tally, reference: Tally, scope: Scope) -> Iterator[Finding]:  # noqa: ARG002 - a question about one side
        """One finding per field."""
        for field in self._fields(scope):
            gap, chance, impersonal = (target.get_summary(stat, _known(field)) for stat in _stats(field))
            require_rows(gap.total.count, "the lists of users with a profile of ten items")
            n = int(gap.total.count)
            excess = jackknife([gap, chance], lambda t: t[0].mean - t[1].mean, unit="nats beyond chance", n=n, of="places")
            worse = jackknife([gap, impersonal], lambda t: t[0].mean - t[1].mean, unit="nats beyond lists for everyone", n=n, of="places")
            verdict = Verdict.WARN if excess.surely_above(WARN) else Verdict.PASS
            numbers = (f"their shares of {field} are {between(excess)} nats from those of the users' own items beyond what chance gives ({number(chance.total.mean)}); places drawn from "
                       f"everyone's items would be {number(impersonal.total.mean - chance.total.mean)} ({n:,} places)")
            claim = (f"Lists hold the kinds of item that their users choose: {numbers}." if verdict is Verdict.PASS else
                     f"Lists fit their users' kinds of item worse than one mixture for everyone would: {numbers}." if worse.surely_above(0.0) else
                     f"Lists narrow or shift what their users choose: {numbers}.")
            yield Finding(
                code=self.code, verdict=verdict, claim=claim, place=Place(kind="field", name=field), estimate=excess, limit=WARN, sources=self.sources,
                threshold=f"WARN surely above {WARN} nats beyond chance",
                meaning="A user who likes two kinds of item and gets one loses the smaller interest, and the log forgets it too.",
                causes=("the ranker takes the likeliest kind for every place", "one kind has most of the training rows", "the category is missing for many items"),
                remedies=(Remedy(code="rerank_calibrated", text="Re-rank lists so that their shares of categories follow the user's profile (Steck 2018)."),
                          Remedy(code="check_item_fields", text=f"See that {field} arrives when lists are made.")),
                evidence=(Bars(title=f"How far are lists from their users' shares of {field}?", unit="nats", names=("lists", "by chance", "one mixture for everyone"),
                               values=(gap.total.mean, chance.total.mean, impersonal.total.mean), highlighted=() if verdict is Verdict.PASS else ("lists",), caption=f"{n:,} places"),))

    def _fields(self, scope: Scope) -> list[str]:
        there = [column.removeprefix(_PREFIX) for column in sorted(scope.target) if column.startswith(_PREFIX)]
        if "@list:item" not in scope.target:
            raise Unavailable("no recommended lists were made")
        if self.field is not None and self.field not in there:
            raise Unavailable(f"the lists say nothing about {self.field!r}; they do about: {', '.join(there) or 'no field'}", hint="name an item-side categorical field")
        if not there:
            raise Unavailable("no item-side field has 2 to 64 categories", hint="declare side = 'item' for the category of items in the schema")
        return there if self.field is None else [self.field]


def _known(field: str) -> Slice:
    return Slice((Term(f"{_PREFIX}{field}", ">=", "-1"),))


def _stats(field: str) -> tuple[Bucketed, ...]:
    return tuple(Bucketed(stat=Moments(column=f"@list:{name}:{field}"), by="@list:user") for name in ("calibration", "calibration_by_chance", "calibration_impersonal"))
