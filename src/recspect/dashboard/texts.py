"""The words of the pages in English and Chinese, from gettext catalogues; what findings say stands in `findings_texts`."""

from __future__ import annotations

import gettext
from collections.abc import Callable, Mapping
from functools import cache
from importlib.resources import as_file, files

LANGUAGES = {"en": "English", "zh": "中文"}
"""Code to its own name."""


@cache
def translator(language: str) -> Callable[[str], str]:
    """Text of the page to the same in a language; a text that the catalogue lacks stays as it is."""
    if language not in LANGUAGES or language == "en":
        return lambda text: text
    with as_file(files("recspect.dashboard") / "texts") as folder:
        return gettext.translation("dashboard", folder, languages=[language], fallback=True).gettext


def chosen(asked: str | None, cookies: Mapping[str, str], accepted: str) -> str:
    """The language of a request: the one it asks for, else that of the last time, else the browser's."""
    for language in (asked, cookies.get("language")):
        if language in LANGUAGES:
            return str(language)
    return "zh" if accepted.lower().startswith("zh") else "en"


__all__ = ["LANGUAGES", "chosen", "translator"]
