"""A first schema for a table, guessed from names, types and a sample, for a person to correct."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from recspect.diagnosis.source import Source
from recspect.drafting_columns import Look, determines, follows, look_at, separator_of
from recspect.drafting_roles import ITEM_WORDS, RoleGuess, labels_of, role_of_names, time_of
from recspect.schema import Field, Kind, Role, Schema, Side
from recspect.validating import validate

__all__ = ["draft", "draft_text", "validate"]

AFTERWARDS = re.compile(r"(play|watch|stay|dwell|view|read|listen)(ed|ing)?_?(time|duration|seconds|secs|ms|progress)")
"""Names of what is known only after the item was shown."""

COUNTS = re.compile(r"(^|_)(n|num|number|cnt|count|counts|total|sum|avg|mean|age|price|amount|duration|days|size|width|height"
                    r"|balance|income|credits|attempts|length|year|rate|ratio|share|score|clicks|views|minutes|seconds)(_|$)")
CODES = re.compile(r"(^|_)(id|ids|code|codes|type|cat|category|class|tag|feat|feature|onehot|group|level|zip|zip_code|hour"
                   r"|weekday|month|tab|scene|channel)\d*(_|$)|id$")
ORDERED = re.compile(r"(^|_)(seq|sequence|hist|history|recent|last|past|previous|session)(_|$)")
PROSE = re.compile(r"(^|_)(title|description|headline|text|body|review|caption|summary|abstract|query|name)(_|$)")
IMAGE = re.compile(r"\.(jpe?g|png|webp|gif|bmp)(\?.*)?$", re.IGNORECASE)
URL = re.compile(r"^https?://", re.IGNORECASE)
MISSING_TEXTS = ("?", "N/A", "n/a", "NA", "NaN", "nan", "null", "NULL", "None", "")


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A schema and, per column, why it says what it says."""

    schema: Schema
    reasons: dict[str, str]
    rows: int


def draft(source: Source) -> Schema:
    """A schema guessed from names, types and the first 100,000 rows. A person must correct it.

    Raises:
        DataError: The source holds no rows or cannot be read.
    """
    return _draft(source).schema


def draft_text(source: Source) -> str:
    """The draft as TOML that `Schema.read` takes, with a comment on each line that says why, and how sure it is.

    Raises:
        DataError: The source holds no rows or cannot be read.
    """
    made = _draft(source)
    lines = [
        f"# A draft, guessed from {_clean(source.name)}: names, types and {made.rows:,} rows. Please correct it:",
        "# - is the label what the model shall predict, and is every field known before the row's outcome?",
        "# - is each field's side (user, item, context) right? Lists of recommendations depend on it.",
        "",
    ]
    # to_toml writes one line per role, label and field, in this order
    columns = iter([*(column for role, column in made.schema.roles.items() if role is not Role.LABEL),
                    *(label.name for label in made.schema.labels), *made.schema.field_names])
    section = ""
    for line in made.schema.to_toml().rstrip("\n").split("\n"):  # splitlines would also cut at \x85 inside a name
        if line.startswith("[") and line.endswith("]"):
            section = line
        elif line.startswith("ignored = "):
            lines += [f"# {_clean(name)}: {_clean(made.reasons.get(name, ''))}" for name in made.schema.ignored]
        elif line and (section in ("[roles]", "[fields]") or (section == "[[labels]]" and line.startswith("name = "))):
            # a user id is a role and a field: the role's line says why, the field's line says what of its kind
            lines.append(f"{line}  # {_clean(made.reasons[f'{section} {next(columns)}'])}")
            continue
        lines.append(line)
    return "\n".join(lines) + "\n"


def _clean(text: str) -> str:
    """One line, without control characters: column names can be anything."""
    return "".join(sign if sign.isprintable() else " " for sign in text)


def _draft(source: Source) -> Draft:
    looks = look_at(source)
    reasons: dict[str, str] = {}
    roles: dict[str, str] = {}
    taken: set[str] = set()

    def give(role: Role, guess: RoleGuess | None) -> None:
        if guess is not None:
            roles[role.value] = guess.column
            taken.add(guess.column)
            reasons[f"[roles] {guess.column}"] = f"{guess.sure}: guessed from {guess.why}"

    for role in (Role.USER, Role.ITEM, Role.REQUEST):
        give(role, role_of_names(looks, role, taken))
    of_user = follows(looks, roles.get("user"))
    of_item = follows(looks, roles.get("item"))
    when = time_of(looks, taken, of_user | of_item)
    give(Role.TIME, when)
    outcomes = labels_of(looks, taken, of_user | of_item)
    taken |= {guess.column for guess in outcomes}
    reasons |= {f"[[labels]] {guess.column}": f"{guess.sure}: guessed from {guess.why}" for guess in outcomes}
    for role in (Role.PROPENSITY, Role.POSITION, Role.WEIGHT, Role.ARM, Role.SCORE):
        give(role, role_of_names(looks, role, taken))

    fields: list[Field] = []
    ignored: list[str] = []
    label = looks[outcomes[0].column] if outcomes else None
    for look in looks.values():
        if look.name in taken and look.name not in (roles.get("user"), roles.get("item")):
            continue
        why_not = _ignored_because(look, label, of_user | of_item)
        if why_not:
            ignored.append(look.name)
            reasons[look.name] = why_not
            continue
        side, of_side = _side(look, roles, of_user, of_item)
        field, of_kind = _field(look, side)
        fields.append(field)
        reasons[f"[fields] {look.name}"] = f"{of_kind}; {of_side}"
    schema = Schema(
        fields=tuple(fields), labels=tuple(guess.label for guess in outcomes if guess.label is not None),
        time_unit=when.unit if when else None, ignored=tuple(ignored), name=source.name, **roles)
    return Draft(schema=schema, reasons=reasons, rows=next(iter(looks.values())).rows)


def _ignored_because(look: Look, label: Look | None, fixed: set[str]) -> str:
    """Why a column is no input, or an empty text."""
    if look.form == "nothing" or look.known == 0:
        return "no value in the sample"
    if look.codes is not None and look.distinct == 1:
        return "the same value in every row of the sample"
    if label is not None and determines(look, label):
        return f"it determines {label.name}: probably the outcome in other words"
    if AFTERWARDS.search(look.plain) and look.name not in fixed and look.is_number:
        return "by its name known only after the item was shown"
    if look.form == "integers" and look.low >= 19_000_101 and look.high <= 21_001_231 and _is_calendar(look):
        return "a calendar date as a number; derive weekday or age from it if it matters"
    if look.form == "times":
        return "a second time; derive a number from it if it matters"
    if re.fullmatch(r"(index|row|row_?(id|number|no|nr)|unnamed.*|level_0)", look.plain) and look.distinct == look.rows:
        return "a number of the row"
    if look.form == "texts" and look.distinct > 0.99 * look.known and look.known >= 100 and not _is_prose(look) \
            and not IMAGE.search(look.texts(1)[0]):
        return "another value in nearly every row: an id, or free text?"
    if look.form == "lists" and look.values.dtype.kind == "f":
        return "lists of fractions; store them as lists of fixed size to make them a vector"
    return ""


def _is_calendar(look: Look) -> bool:
    days = look.values.astype(np.int64)
    return bool(((days // 100 % 100 >= 1) & (days // 100 % 100 <= 12) & (days % 100 >= 1) & (days % 100 <= 31)).all())


def _side(look: Look, roles: dict[str, str], of_user: set[str], of_item: set[str]) -> tuple[Side, str]:
    user, item = roles.get("user"), roles.get("item")
    if look.name == user:
        return "user", "the user itself"
    if look.name == item:
        return "item", "the item itself"
    if look.name in of_user and look.name not in of_item:
        return "user", "one value per user"
    if look.name in of_item and look.name not in of_user:
        return "item", "one value per item"
    stem = re.sub(r"_?(id|key)$|^id_", "", item.lower()) if item else "item"
    if re.match(r"(user|customer|visitor|member)(_|$)", look.plain):
        return "user", "user by its name"
    if re.match(rf"({ITEM_WORDS}|{re.escape(stem)})_", look.plain):
        return "item", "item by its name"
    return "context", "follows neither user nor item" if user or item else "no user and no item to follow"


def _field(look: Look, side: Side) -> tuple[Field, str]:
    """The field and what spoke for its kind."""
    kind, why, settings = _kind(look)
    missing = _missing_codes(look, kind)
    if missing:
        why += f"; {', '.join(map(str, missing))} looks like a code for not known"
    return Field(name=look.name, kind=kind, side=side, missing=missing, **settings), why  # type: ignore[arg-type]


def _kind(look: Look) -> tuple[Kind, str, dict[str, object]]:
    few = f"{look.distinct:,} distinct values"
    if look.form == "vectors":
        return Kind.VECTOR, "sure: vectors of one width", {}
    if look.form == "lists":
        if ORDERED.search(look.plain):
            return Kind.SEQUENCE, "likely: lists with an ordered name", {}
        return Kind.MULTI_VALUED, "likely: lists; make it a sequence if their order matters", {}
    if look.form == "texts":
        return _kind_of_texts(look, few)
    if look.form == "booleans":
        return Kind.CATEGORICAL, "sure: true or false", {}
    if look.form == "fractions":
        return Kind.NUMERIC, "likely: fractions", _scaling(look)
    if COUNTS.search(look.plain) and not re.search(r"id$", look.plain):
        return Kind.NUMERIC, "likely: whole numbers named like an amount", _scaling(look)
    if CODES.search(look.plain):
        return Kind.CATEGORICAL, f"likely: whole numbers named like a code, {few}", {}
    if look.distinct <= 32:
        return Kind.CATEGORICAL, f"a guess: whole numbers, only {few}", {}
    if look.low in (0, 1) and look.distinct >= 0.95 * (look.high - look.low + 1):
        return Kind.CATEGORICAL, f"a guess: codes without gaps, {few}", {}
    return Kind.NUMERIC, f"a guess: whole numbers, {few}", _scaling(look)


def _kind_of_texts(look: Look, few: str) -> tuple[Kind, str, dict[str, object]]:
    texts = look.texts(200)
    if sum(bool(IMAGE.search(text)) for text in texts) > 0.9 * len(texts):
        return Kind.IMAGE, "likely: paths of images", {}
    if sum(bool(URL.search(text)) for text in texts) > 0.9 * len(texts):
        return Kind.CATEGORICAL, f"a guess: addresses, {few}", {}
    sign = separator_of(look)
    if sign is not None:
        kind = Kind.SEQUENCE if ORDERED.search(look.plain) else Kind.MULTI_VALUED
        return kind, f"likely: several values parted by {sign!r}", {"separator": sign}
    if _is_prose(look):
        return Kind.TEXT, "likely: free text, which becomes a vector (pip install 'recspect[multimodal]'); or move it to ignored", {}
    return Kind.CATEGORICAL, f"likely: texts, {few}", {}


def _is_prose(look: Look) -> bool:
    texts = look.texts(500)
    words = float(np.mean([len(text.split()) for text in texts]))
    length = float(np.mean([len(text) for text in texts]))
    return look.distinct > 100 and ((words >= 4 and length >= 25) or (words >= 2 and bool(PROSE.search(look.plain))))


def _scaling(look: Look) -> dict[str, object]:
    """Logarithmic where a few values are far larger than the usual one."""
    numbers = look.values.astype(np.float64)
    assert look.codes is not None
    median = float(np.median(numbers[look.codes[look.codes >= 0]]))
    return {"scaling": "log"} if look.high > 20 * max(abs(median), 1.0) else {}


def _missing_codes(look: Look, kind: Kind) -> tuple[str | int | float, ...]:
    """A single negative value below whole numbers that are else not negative, or a text such as "?"."""
    if look.form == "integers" and look.distinct >= 2 and kind in (Kind.NUMERIC, Kind.CATEGORICAL):
        negative = look.values[look.values < 0]
        if len(negative) == 1:
            return (int(negative[0]),)
    if look.form == "texts":
        return tuple(text for text in MISSING_TEXTS if text in set(map(str, look.values)))
    return ()
