"""What a finding's page says of the exam is what the table of docs/exam.md says."""

import re
from pathlib import Path

from recspect.exam import FAULTS

DOCS = Path(__file__).parents[1] / "docs"
ROW = re.compile(r"^\| (\w+) \| (\d+)% \| (\d+)% \|", re.MULTILINE)
SAID = re.compile(r"`(\w+)`(?: \(this or [^)]*\))? (\d) of 3 barely visible and (\d) of 3 typical")


def test_pages_and_the_table_of_the_exam_agree():
    table = {name: (round(3 * int(barely) / 100), round(3 * int(typical) / 100)) for name, barely, typical in ROW.findall((DOCS / "exam.md").read_text(encoding="utf-8"))}
    expected: dict[str, set[str]] = {}
    for fault in FAULTS.values():
        for code in fault.expected:
            expected.setdefault(code, set()).add(fault.name)
    for code, faults in expected.items():
        said = {name: (int(barely), int(typical)) for name, barely, typical in SAID.findall((DOCS / "findings" / f"{code}.md").read_text(encoding="utf-8"))}
        assert said == {name: table[name] for name in faults}, code
