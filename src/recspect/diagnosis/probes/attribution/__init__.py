"""What each field contributes to each row's score: integrated gradients over the lookups, and gradient x input.

The path runs in embedding space from a baseline to the row, since no path exists between ids. Along it only the recorded lookups change; tables are
not read again. What adds up is the logit: sum over fields = logit(row) - logit(baseline), and the deviation from that is reported for every row.

`quadrature` has the rules, `kinks` what is done where a ReLU switches, `baselines` where paths begin, `points` the passes, `integration` which points
which rows need, `sensitivity` how far rankings depend on the baseline, `probe` the columns; `candidates`, `readout` and `jacobian` many candidates of one user at once.
"""

from recspect.diagnosis.probes.attribution.baselines import (
    Baseline,
    mean_baseline,
    other_rows,
    sampled_rows,
    unknown_baseline,
    zero_baseline,
)
from recspect.diagnosis.probes.attribution.candidates import CandidateAttributions, candidate_attributions
from recspect.diagnosis.probes.attribution.integration import (
    averaged_gradients,
    expected_gradients,
    gradient_times_input,
    integrated_gradients,
)
from recspect.diagnosis.probes.attribution.probe import AttributionProbe
from recspect.diagnosis.probes.attribution.quadrature import RuleName, path_rule
from recspect.diagnosis.probes.attribution.result import Attribution
from recspect.diagnosis.probes.attribution.sensitivity import BaselineSensitivity, baseline_sensitivity

__all__ = [
    "Attribution", "AttributionProbe", "Baseline", "BaselineSensitivity", "CandidateAttributions", "RuleName", "averaged_gradients", "baseline_sensitivity",
    "candidate_attributions", "expected_gradients", "gradient_times_input", "integrated_gradients", "mean_baseline", "other_rows", "path_rule",
    "sampled_rows", "unknown_baseline", "zero_baseline",
]
