"""Whether sigmoids, tanhs or the score itself have run to their flat ends."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from recspect.diagnosis.diagnostic import Diagnostic, Needs, Scope
from recspect.diagnosis.diagnostics.policy import ENOUGH_ROWS, percent, plural, require_rows
from recspect.diagnosis.estimate import Estimate
from recspect.diagnosis.evidence import Bars
from recspect.diagnosis.finding import Finding, Place, Remedy, Verdict
from recspect.diagnosis.stat import Stat
from recspect.diagnosis.stats.score_label import ScoreLabel, ScoreLabelSummary
from recspect.diagnosis.stats.units import UnitActivity
from recspect.diagnosis.tally import Tally
from recspect.errors import Unavailable

FAIL, WARN = 0.90, 0.50
FLAT, FLAT_LOGIT = 4.0, 15.0
"""Size of an argument from which a sigmoid or tanh has at most 7% of its steepest slope; size of a logit beyond which a score can no longer be told from 0 or 1."""
SCORE = "(score)"


class Saturation(Diagnostic):
    """Where have sigmoids and tanhs run to their flat ends?

    Layer: share of (row, unit) whose argument is beyond 4 in size. Score: share of rows whose logit is beyond 15.
    """

    code = "training.saturation"
    question = "Are there sigmoids or tanhs, or scores, that have run to their flat ends?"
    sources = ("Glorot and Bengio 2010, Understanding the Difficulty of Training Deep Feedforward Neural Networks (saturation)",
               "Amazon SageMaker Debugger, rules for saturated activations")

    def needs(self, scope: Scope) -> Needs:
        """Arguments of every sigmoid or tanh layer, and scores."""
        layers = [_stat(layer) for layer in scope.layers if _stat(layer).column in scope.target]
        score = ScoreLabel()
        scored = [score] if scope.binary and scope.target.issuperset(score.columns) else []
        if not layers and not scored:
            raise Unavailable("no sigmoid or tanh layer was seen, and there are no probabilities with 0/1 labels",
                              hint="examine a PyTorch model, or a table with scores")
        return Needs.of(target=[*layers, *scored], reference=[stat for stat in layers if stat.column in scope.reference])

    def judge(self, target: Tally, reference: Tally, scope: Scope) -> Iterator[Finding]:
        shares: dict[str, tuple[float, float]] = {}  # place to (share, rows)
        for layer in scope.layers:
            if target.has(_stat(layer)):
                summary = target.get_summary(_stat(layer))
                if reference.has(_stat(layer)):
                    summary = summary + reference.get_summary(_stat(layer))
                require_rows(summary.count, f"the arguments of {layer}", least=ENOUGH_ROWS)
                shares[layer] = float(summary.saturated_share.mean()), summary.count
        score: Stat[ScoreLabelSummary] = ScoreLabel()
        if target.has(score) and target.get_summary(score).count >= ENOUGH_ROWS:
            shares[SCORE] = _flat_scores(target.get_summary(score)), target.get_summary(score).count
        if not shares:
            raise Unavailable(f"fewer than {ENOUGH_ROWS} rows have a score and a label", hint="give more rows")
        verdicts = {place: _verdict(share) for place, (share, _) in shares.items()}
        bars = Bars(title="Which share of each layer's values lies at the flat ends?", unit="share of (row, unit)", names=tuple(shares),
                    values=tuple(share for share, _ in shares.values()), reference=WARN,
                    highlighted=tuple(place for place, verdict in verdicts.items() if verdict is not Verdict.PASS),
                    caption=f"argument of a sigmoid or tanh beyond {FLAT:g}; {SCORE}: logit beyond {FLAT_LOGIT:g}")
        for place in (place for place, verdict in verdicts.items() if verdict is not Verdict.PASS):
            yield self._finding(place, *shares[place], verdicts[place], bars)
        if all(verdict is Verdict.PASS for verdict in verdicts.values()):
            worst = max(shares, key=lambda place: shares[place][0])
            yield self._finding(worst, *shares[worst], Verdict.PASS, bars)

    def _finding(self, place: str, share: float, rows: float, verdict: Verdict, bars: Bars) -> Finding:
        ends = f"a logit beyond {FLAT_LOGIT:g}, so that it is 0 or 1 to six digits" if place == SCORE else f"arguments beyond {FLAT:g}, where the function is flat"
        what = f"{percent(share)} of {plural(rows, 'score')} have {ends}" if place == SCORE else f"{percent(share)} of the values of layer {place} have {ends} ({plural(rows, 'row')})"
        return Finding(
            code=self.code, verdict=verdict, claim=f"{what}." if verdict is not Verdict.PASS else f"Nothing has run to its flat ends; the most: {what}.",
            place=Place() if verdict is Verdict.PASS or place == SCORE else Place(kind="layer", name=place),
            estimate=Estimate(value=share, unit="share at the flat ends", n=round(rows)), limit=FAIL if verdict is Verdict.FAIL else WARN,
            threshold=f"FAIL above {FAIL:.0%}, WARN above {WARN:.0%} of (row, unit) with an argument beyond {FLAT:g}, or of rows with a logit beyond {FLAT_LOGIT:g}",
            meaning="At its flat ends a function passes on no gradient and tells no difference: what lies before it cannot learn, and scores there cannot rank.",
            causes=("inputs that are not scaled, such as raw prices or times", "a learning rate that was too high", "weights that start too large, or no normalisation before the function"),
            remedies=(Remedy(code="scale_numeric_fields", text="Standardise numeric fields."), Remedy(code="lower_learning_rate", text="Lower the learning rate, or warm it up."),
                      Remedy(code="add_normalisation", text="Add layer normalisation before the function, or use ReLU, GELU or SiLU.")),
            evidence=(bars,), sources=self.sources)


def _stat(layer: str) -> UnitActivity:
    return UnitActivity(column=f"@squashed:{layer}", limit=FLAT)


def _flat_scores(summary: ScoreLabelSummary) -> float:
    edge = 1 / (1 + np.exp(FLAT_LOGIT))
    _, _, negative, missed = summary.confusion(edge)
    above, wrongly_above, _, _ = summary.confusion(1 - edge)
    return float(negative + missed + above + wrongly_above) / summary.count


def _verdict(share: float) -> Verdict:
    return Verdict.FAIL if share > FAIL else Verdict.WARN if share > WARN else Verdict.PASS
