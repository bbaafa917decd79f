"""What a finding's page says of the exam is what the table of docs/exam.md says."""

import re
from pathlib import Path

from recspect.exam import FAULTS

DOCS = Path(__file__).parents[1] / "docs"
ROW = re.compile(r"^\| (\w+) \| (\d+ of \d+) \| (\d+ of \d+) \|", re.MULTILINE)
SAID = re.compile(r"`(\w+)`(?: \(this or [^)]*\))? (\d+ of \d+) barely visible and (\d+ of \d+) typical")


def test_pages_and_the_table_of_the_exam_agree():
    table = {name: (barely, typical) for name, barely, typical in ROW.findall((DOCS / "exam.md").read_text(encoding="utf-8"))}
    assert set(table) == set(FAULTS)
    expected: dict[str, set[str]] = {}
    for fault in FAULTS.values():
        for code in fault.expected:
            expected.setdefault(code, set()).add(fault.name)
    for code, faults in expected.items():
        said = {name: (barely, typical) for name, barely, typical in SAID.findall((DOCS / "findings" / f"{code}.md").read_text(encoding="utf-8"))}
        assert said == {name: table[name] for name in faults}, code
