"""The catalogue says of every entry what answers it, and leaves no finding out."""

import re
from pathlib import Path

from recspect.diagnosis.diagnostic import all_diagnostics

TEXT = (Path(__file__).parents[1] / "docs" / "catalogue.md").read_text(encoding="utf-8")


def test_every_entry_has_a_row_and_an_answer():
    rows = re.findall(r"^\| (\d+) [^|]+\| ([^|]+) \|", TEXT, flags=re.MULTILINE)
    assert [int(number) for number, _ in rows] == list(range(1, 47))
    assert all(re.search(r"\]\(\S+\.md\)", answer) for _, answer in rows)


def test_every_finding_is_in_the_catalogue():
    named = set(re.findall(r"\[([a-z]+\.[a-z_]+)\]\(findings/\1\.md\)", TEXT))
    shipped = {diagnostic.code for diagnostic in all_diagnostics() if type(diagnostic).__module__.startswith("recspect.diagnosis.diagnostics.")}
    assert named == shipped | {"run.unlike_healthy"}
