"""Evidence as a picture, for places that show pictures and no Vega charts."""

from __future__ import annotations

import json
from functools import lru_cache

from recspect.diagnosis.evidence import Evidence
from recspect.report.charts import spec


@lru_cache(maxsize=64)  # the same chart goes to several places
def png(evidence: Evidence, *, scale: float = 2.0) -> bytes:
    """The chart of one piece of evidence as PNG, 640 x `scale` pixels of drawing wide; 0.1 s a chart."""
    import vl_convert

    picture: bytes = vl_convert.vegalite_to_png(json.dumps(spec(evidence)), scale=scale, allowed_base_urls=[])
    return picture
