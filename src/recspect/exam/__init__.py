"""The exam of the judges: faults of known place and cause are planted in worlds and trainings, and it is counted what is found.

A *program* is a world and an architecture; a *case* is one training on one program; a *fault* changes a case at one of three severities;
a *benign variation* changes it in a way that nobody should be alarmed by. Each faulty case has a healthy twin of the same program and seed.
"""

from recspect.exam.case import Case, Columns
from recspect.exam.faults import BENIGN, FAULTS, SEVERITIES, Benign, Fault
from recspect.exam.marking import Marks, Result, mark
from recspect.exam.programs import PROGRAMS, REAL, Program
from recspect.exam.seen import Seen
from recspect.exam.sitting import Outcome, Sheet, cells, read_outcomes, sit, sit_all

__all__ = ["BENIGN", "FAULTS", "PROGRAMS", "REAL", "SEVERITIES", "Benign", "Case", "Columns", "Fault", "Marks", "Outcome", "Program", "Result", "Seen", "Sheet",
           "cells", "mark", "read_outcomes", "sit", "sit_all"]
