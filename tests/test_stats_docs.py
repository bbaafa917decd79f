"""What the documentation of the stats shows runs."""

import doctest
import re
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

import numpy as np
import pytest

from recspect.diagnosis import stats
from recspect.diagnosis.batch import Batch
from recspect.diagnosis.stat import Stat
from recspect.diagnosis.stats.measures import AreaUnderCurve

DOC = Path(__file__).parents[1] / "docs" / "stats.md"


def test_the_code_of_the_page_runs():
    blocks = re.findall(r"```python\n(.*?)```", DOC.read_text(), re.DOTALL)
    assert len(blocks) == 4
    names = {}
    for block in blocks:
        exec(compile(block, str(DOC), "exec"), names)


def test_every_stat_is_on_the_page():
    page = DOC.read_text()
    for module in iter_modules(stats.__path__):
        import_module(f"{stats.__name__}.{module.name}")
    shipped = [name for name, cls in Stat.registry.items() if cls.__module__.startswith(f"{stats.__name__}.")]
    assert len(shipped) >= 12
    assert [name for name in shipped if f"`{name}(" not in page] == []


@pytest.mark.parametrize("module", [module.name for module in iter_modules(stats.__path__)])
def test_examples_in_docstrings(module):
    names = {"np": np, "Batch": Batch, "AreaUnderCurve": AreaUnderCurve}
    found = doctest.testmod(import_module(f"{stats.__name__}.{module}"), extraglobs=names)
    assert found.failed == 0
