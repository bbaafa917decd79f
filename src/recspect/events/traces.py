"""Where a person's id may stand inside a text that was kept, so that erasing finds it there too."""

from __future__ import annotations

import re

from recspect.events.pseudonyms import Pseudonyms
from recspect.events.reject import storable
from recspect.events.store import json_forms


def mentioning(user: str, pseudonyms: Pseudonyms | None) -> list[tuple[str, re.Pattern[str]]]:
    """The forms that an id takes in a text, each with the pattern that finds it as a word of its own.

    As a word: erasing user `1` must not take every text with a 1 in it. None under pseudonyms, where no text holds an id.
    """
    if pseudonyms is not None:
        return []
    forms = dict.fromkeys(storable(form) for form in json_forms(user))
    return [(form, re.compile(rf"(?<!\w){re.escape(form)}(?!\w)")) for form in forms if form]
