"""What columns mean: roles, kinds, labels. Everything else in recspect reads a table through a `Schema`.

A role says what a column is *for* (the user, the time, the label); a kind says how a column is *read* as a model input
(categorical, numeric, ...). A column can have both: `user_id` is usually the user and a categorical field.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

from recspect.errors import SchemaError, listing
from recspect.schema_derived import Derived, DerivedKind, require_sound
from recspect.schema_files import read_content

SCHEMA_FORMAT = 1
"""Version of the schema file format."""


class Kind(StrEnum):
    """How a column is read as a model input."""

    CATEGORICAL = "categorical"
    NUMERIC = "numeric"
    MULTI_VALUED = "multi_valued"
    SEQUENCE = "sequence"
    TEXT = "text"
    IMAGE = "image"
    VECTOR = "vector"


class Role(StrEnum):
    """What a column is for. `label` may be given to several columns, every other role to one."""

    USER = "user"
    ITEM = "item"
    REQUEST = "request"
    TIME = "time"
    LABEL = "label"
    SCORE = "score"
    POSITION = "position"
    PROPENSITY = "propensity"
    WEIGHT = "weight"
    ARM = "arm"


Side = Literal["user", "item", "context"]
Scaling = Literal["standardise", "quantile", "log"]
TimeUnit = Literal["s", "ms", "us", "ns", "days", "row"]


@dataclass(frozen=True, kw_only=True)
class Field:
    """One input of a model.

    Args:
        name: Column name.
        kind: How it is read.
        side: Whether it describes the user, the item or the context; lists are built by pairing user and context fields
            with every item's fields, so this must be right wherever lists are examined.
        minimum_count: Categories seen fewer times in training share one "rare" id, which those that training never saw
            get too. At least 1.
        hash_buckets: When given, ids are hashed into so many rows instead of being listed in a vocabulary.
        scaling: For numeric fields: `standardise` (mean 0, deviation 1), `quantile` (bucket ids of equal counts) or
            `log` (sign(x) ln(1+|x|), then standardised).
        quantile_buckets: Number of buckets with `scaling="quantile"`.
        max_length: For multi-valued and sequence fields, the number of entries kept (sequences keep the last ones).
        separator: For multi-valued and sequence columns that arrive as one string, such as "Comedy|Drama".
        missing: Codes that mean "not known" besides null and NaN, such as -124.
        time: For features that carry a time of their own: the column that says when the value became known.
        shares: Another field whose ids and vectors this one's values read, such as the item for a sequence of earlier items. Its
            settings for ids (`minimum_count`, `hash_buckets`) count for both.
        encoder: For text and image fields, what makes vectors of them, see docs/features.md; None for the default.
    """

    name: str
    kind: Kind = Kind.CATEGORICAL
    side: Side = "context"
    minimum_count: int = 1
    hash_buckets: int | None = None
    scaling: Scaling = "standardise"
    quantile_buckets: int = 32
    max_length: int = 50
    separator: str | None = None
    missing: tuple[str | int | float, ...] = ()
    time: str | None = None
    shares: str | None = None
    encoder: str | None = None

    def __post_init__(self) -> None:
        _column(self.name, "the name of a field")
        what = f"field '{self.name}'"
        _set(self, "kind", _choice(Kind, self.kind, f"kind of {what}"))
        _require(isinstance(self.missing, (list, tuple)) and all(isinstance(code, (str, int, float)) for code in self.missing),
                 f"{what}: missing is {self.missing!r:.80}, expected a list of codes", "missing = [-1, 'NA']")
        _set(self, "missing", tuple(self.missing))
        _require(self.side in ("user", "item", "context"), f"{what}: side is {self.side!r:.80}", "sides are 'user', 'item', 'context'")
        _require(self.scaling in ("standardise", "quantile", "log"), f"{what}: scaling is {self.scaling!r:.80}",
                 "scalings are 'standardise', 'quantile', 'log'")
        _whole(self.minimum_count, 1, f"{what}: minimum_count")
        if self.hash_buckets is not None:
            _whole(self.hash_buckets, 2, f"{what}: hash_buckets", "use 2 or more, or leave it out for a vocabulary")
        _whole(self.max_length, 1, f"{what}: max_length")
        _whole(self.quantile_buckets, 2, f"{what}: quantile_buckets")
        _require(self.separator is None or (isinstance(self.separator, str) and bool(self.separator)),
                 f"{what}: separator is {self.separator!r:.80}, expected a text", 'separator = "|"')
        if self.time is not None:
            _column(self.time, f"{what}: time")
        _require(self.encoder is None or (isinstance(self.encoder, str) and bool(self.encoder) and self.kind in (Kind.TEXT, Kind.IMAGE)),
                 f"{what} is {self.kind.value} and its encoder is {self.encoder!r:.80}", "only text and image fields have an encoder, given by its name")
        if self.shares is not None:
            _column(self.shares, f"{what}: shares")
            _require(self.kind in (Kind.CATEGORICAL, Kind.MULTI_VALUED, Kind.SEQUENCE), f"{what} is {self.kind.value} and shares the ids of {self.shares!r}",
                     "only categorical, multi_valued and sequence fields have ids")
            _require(self.minimum_count == 1 and self.hash_buckets is None, f"{what} shares the ids of {self.shares!r} and has settings for ids of its own",
                     f"give minimum_count and hash_buckets to {self.shares!r}")


@dataclass(frozen=True, kw_only=True)
class Label:
    """One thing that happened or did not, or a grade.

    Args:
        name: Column name.
        kind: `binary` (trained with cross-entropy) or `graded` (a rating or a dwell time, trained with squared error).
        positive: For binary labels that are not 0/1: the value that counts as 1, such as "yes".
        at_least: For binary labels made from grades: 1 where the value is at least this, such as 4 stars.
        after: Another label without which this one never happens, such as the click before a purchase. A model of both then learns
            the chance of this one, given the other, from all rows.
    """

    name: str
    kind: Literal["binary", "graded"] = "binary"
    positive: str | int | float | bool | None = None
    at_least: float | None = None
    after: str | None = None

    def __post_init__(self) -> None:
        _column(self.name, "the name of a label")
        _require(self.kind in ("binary", "graded"), f"label '{self.name}': kind is {self.kind!r:.80}",
                 "kinds of label are 'binary' and 'graded'")
        _require(self.positive is None or self.at_least is None,
                 f"label '{self.name}' has both 'positive' and 'at_least'", "give one of them")
        _require(self.kind == "binary" or (self.positive is None and self.at_least is None),
                 f"label '{self.name}' is graded and has 'positive' or 'at_least'",
                 "these make a binary label: set kind = 'binary'")
        _require(self.positive is None or isinstance(self.positive, (str, int, float)),
                 f"label '{self.name}': positive is {self.positive!r:.80}, expected one value", 'positive = "yes"')
        _require(self.at_least is None or _is_number(self.at_least),
                 f"label '{self.name}': at_least is {self.at_least!r:.80}, expected a number", "at_least = 4")
        if self.after is not None:
            _column(self.after, f"label '{self.name}': after")
            _require(self.kind == "binary", f"label '{self.name}' is graded and happens after {self.after!r}", "only binary labels happen or do not")


@dataclass(frozen=True, kw_only=True)
class Schema:
    """What the columns of a table mean. Immutable; equal when equal.

    Args:
        fields: The inputs of the model, in order.
        labels: The outcomes; the first is the one that is trained and judged unless another is named.
        user, item, request, time, score, position, propensity, weight, arm: Column names of these roles, or None.
        time_unit: Unit of a numeric time column; `row` when it only gives an order.
        ignored: Columns known and deliberately not used (a leak, a free text).
        derived: Columns that are computed from earlier rows before anything is encoded; those that are also fields are inputs.
        name: What the data is called in reports.

    Raises:
        SchemaError: A name twice, a role on a column that is also a label, an empty name.

    Example:
        >>> schema = Schema(user="user_id", item="item_id", labels=[Label(name="click")], fields=[Field(name="user_id")])
        >>> schema.label.name
        'click'
    """

    fields: tuple[Field, ...] = ()
    labels: tuple[Label, ...] = ()
    user: str | None = None
    item: str | None = None
    request: str | None = None
    time: str | None = None
    score: str | None = None
    position: str | None = None
    propensity: str | None = None
    weight: str | None = None
    arm: str | None = None
    time_unit: TimeUnit | None = None
    ignored: tuple[str, ...] = ()
    name: str = ""
    derived: tuple[Derived, ...] = ()

    def __post_init__(self) -> None:
        _set(self, "fields", tuple(self.fields))
        _set(self, "labels", tuple(self.labels))
        _set(self, "ignored", tuple(self.ignored))
        names = [field.name for field in self.fields]
        twice = sorted({name for name in names if names.count(name) > 1})
        _require(not twice, f"fields named more than once: {listing(twice)}", "a field stands for one column")
        label_names = [label.name for label in self.labels]
        also_fields = sorted(set(names) & set(label_names))
        _require(not also_fields, f"columns that are both label and input field: {listing(also_fields)}",
                 "a model that reads its label predicts nothing; remove them from the fields")
        also_ignored = sorted(set(self.ignored) & (set(names) | set(label_names)))
        _require(not also_ignored, f"columns that are both ignored and used: {listing(also_ignored)}",
                 "remove them from one of the two")
        self._require_sound_roles(label_names)
        self._require_sound_links()
        _set(self, "derived", tuple(self.derived))
        require_sound(self.derived, labels=label_names, roles=self.roles.values(), time=self.time, time_unit=self.time_unit)

    def _require_sound_roles(self, label_names: list[str]) -> None:
        """Roles name columns, and none has two meanings that exclude each other."""
        twice = sorted({name for name in label_names if label_names.count(name) > 1})
        _require(not twice, f"labels named more than once: {listing(twice)}", "a label stands for one column")
        for role, column in self.roles.items():
            _column(column, f"role '{role.value}'")
            _require(role is Role.LABEL or column not in label_names, f"column {column!r} is both a label and the {role.value}",
                     "what is to be predicted cannot be anything else; name another column for one of the two")
            _require(role is not Role.SCORE or column not in self.field_names,
                     f"column {column!r} is both the score and an input field", "remove it from the fields: a score is made from them")
        _require(self.user is None or self.user != self.item, f"column {self.user!r} is both the user and the item",
                 "name another column for one of the two")
        _require(self.time_unit in (None, "s", "ms", "us", "ns", "days", "row"), f"time_unit is {self.time_unit!r:.80}",
                 "units: 's', 'ms', 'us', 'ns', 'days', or 'row' where the time only gives an order")

    def _require_sound_links(self) -> None:
        """`shares` and `after` name what is there, and do not run in circles."""
        fields, labels = ({each.name: each for each in group} for group in (self.fields, self.labels))
        for field in self.fields:
            if field.shares is not None:
                owner = fields.get(field.shares)
                _require(owner is not None and owner.name != field.name, f"field {field.name!r} shares the ids of {field.shares!r}, which is no other field",
                         f"fields: {listing(fields)}")
                _require(owner.kind is Kind.CATEGORICAL and owner.shares is None,  # type: ignore[union-attr]
                         f"field {field.name!r} shares the ids of {field.shares!r}, which must be a categorical field with ids of its own",
                         "name the field that owns them")
        for label in self.labels:
            seen, at = {label.name}, label
            while at.after is not None:
                before = labels.get(at.after)
                _require(before is not None and before.kind == "binary", f"label {at.name!r} happens after {at.after!r}, which is no binary label",
                         f"labels: {listing(labels)}")
                _require(at.after not in seen, f"label {at.name!r} happens after itself", "correct 'after' in the labels")
                seen.add(at.after)
                at = before  # type: ignore[assignment]

    # ------------------------------------------------------------------ looking up

    @property
    def label(self) -> Label:
        """The first label.

        Raises:
            SchemaError: There is none.
        """
        if not self.labels:
            raise SchemaError("the schema has no label", hint="Schema(labels=[Label(name='click')])")
        return self.labels[0]

    @property
    def field_names(self) -> tuple[str, ...]:
        """Names of the input fields, in order."""
        return tuple(field.name for field in self.fields)

    def field(self, name: str) -> Field:
        """The field of that name.

        Raises:
            SchemaError: There is none.
        """
        for field in self.fields:
            if field.name == name:
                return field
        raise SchemaError(f"the schema has no field {name!r}; fields: {listing(self.field_names)}",
                          hint="add it under [fields] of the schema file")

    def column(self, role: Role | str) -> str | None:
        """The column that has the role, or None. For `label`, the first label's column."""
        chosen: Role = _choice(Role, role, "role")
        if chosen is Role.LABEL:
            return self.labels[0].name if self.labels else None
        value: str | None = getattr(self, chosen.value)
        return value

    def require(self, role: Role | str) -> str:
        """The column that has the role.

        Raises:
            SchemaError: No column has it.
        """
        column = self.column(role)
        if column is None:
            role = Role(role)
            example = "labels=[Label(name='click')]" if role is Role.LABEL else f"{role.value}='...'"
            raise SchemaError(f"the schema has no column with role '{role.value}'", hint=f"Schema({example})")
        return column

    @property
    def roles(self) -> dict[Role, str]:
        """Role to column, for the roles that are given (label: the first)."""
        return {role: column for role in Role if (column := self.column(role)) is not None}

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column the schema names, without repeats and without the ignored ones."""
        named = [*self.field_names, *(label.name for label in self.labels), *self.roles.values(),
                 *(field.time for field in self.fields if field.time)]
        return tuple(dict.fromkeys(named))

    # ------------------------------------------------------------------ changing

    def with_roles(self, **roles: str | None) -> Schema:
        """A copy with these roles set."""
        known = {role.value for role in Role} - {"label"}
        unknown = sorted(set(roles) - known)
        _require(not unknown, f"no such role: {listing(unknown)}", f"roles: {listing(sorted(known))}")
        return replace(self, **roles)  # type: ignore[arg-type]

    def with_label(self, name: str) -> Schema:
        """A copy in which the label of that name comes first (is the one trained and judged)."""
        chosen = [label for label in self.labels if label.name == name]
        if not chosen:
            raise SchemaError(f"the schema has no label {name!r}; labels: {listing(label.name for label in self.labels)}",
                              hint="add it under [[labels]] of the schema file")
        return replace(self, labels=(*chosen, *(label for label in self.labels if label.name != name)))

    def without_fields(self, names: Iterable[str]) -> Schema:
        """A copy without these input fields; they move to `ignored`."""
        gone = {self.field(name).name for name in names}
        kept = (field for field in self.fields if field.name not in gone)
        return replace(self, fields=tuple(replace(field, shares=None) if field.shares in gone else field for field in kept),
                       ignored=(*self.ignored, *sorted(gone - set(self.ignored))))

    # ------------------------------------------------------------------ files

    @classmethod
    def read(cls, path: str | Path) -> Schema:
        """Read a schema from a `.toml`, `.yaml`, `.yml` or `.json` file.

        Raises:
            SchemaError: The file is missing, not of its format, or names unknown settings.
        """
        content = read_content(Path(path))
        return cls.from_mapping(content, where=str(path))

    @classmethod
    def from_mapping(cls, content: Mapping[str, Any], *, where: str = "schema") -> Schema:
        """Build a schema from plain data: keys `schema`, `roles`, `labels`, `fields`, `derived`, `ignored`, `name`, `time_unit`.

        Raises:
            SchemaError: Unknown keys or values, with the choices.
        """
        known = {"schema", "name", "roles", "labels", "fields", "derived", "ignored", "time_unit"}
        _refuse_unknown(content, known, f"{where}: unknown setting", f"settings: {listing(sorted(known))}")
        version = content.get("schema", SCHEMA_FORMAT)
        _require(version == SCHEMA_FORMAT, f"{where}: schema format {version!r}, this recspect reads {SCHEMA_FORMAT}",
                 "upgrade recspect, or write the file anew with `recspect schema init`")
        roles = _table(content.get("roles"), f"{where}: roles", '[roles] followed by lines such as user = "user_id"')
        role_names = {role.value for role in Role} - {"label"}
        _refuse_unknown(roles, role_names, f"{where}: unknown role",
                        f"roles: {listing(sorted(role_names))}; labels have a list of their own")
        labels = [_from_entry(Label, entry, where=f"{where}: labels") for entry in _as_list(content.get("labels"))]
        inputs = content.get("fields")
        if isinstance(inputs, (list, tuple)):
            built = [_from_entry(Field, entry, where=f"{where}: fields") for entry in inputs]
        else:
            table = _table(inputs, f"{where}: fields", '[fields] followed by lines such as user_id = "categorical"')
            built = [_from_entry(Field, _named(name, entry, where), where=f"{where}: fields") for name, entry in table.items()]
        computed = _table(content.get("derived"), f"{where}: derived", '[derived] followed by lines such as seen = { kind = "count", by = "user_id" }')
        derived = tuple(_derived(name, entry, f"{where}: derived") for name, entry in computed.items())
        ignored = content.get("ignored") or ()
        _require(isinstance(ignored, (list, tuple)), f"{where}: ignored is {ignored!r}", 'give a list, such as ignored = ["comment"]')
        try:
            return cls(fields=tuple(built), labels=tuple(labels), ignored=tuple(ignored), name=str(content.get("name") or ""),
                       time_unit=content.get("time_unit"), derived=derived, **roles)
        except SchemaError as error:
            raise SchemaError(f"{where}: {error.message}", hint=error.hint) from None

    def to_mapping(self) -> dict[str, Any]:
        """Plain data that `from_mapping` reads back to an equal schema."""
        content: dict[str, Any] = {"schema": SCHEMA_FORMAT}
        if self.name:
            content["name"] = self.name
        if self.time_unit:
            content["time_unit"] = self.time_unit
        if self.ignored:
            content["ignored"] = list(self.ignored)
        content["roles"] = {role.value: column for role, column in self.roles.items() if role is not Role.LABEL}
        content["labels"] = [_to_entry(label) for label in self.labels]
        content["fields"] = {}
        for field in self.fields:
            entry = _to_entry(field)
            del entry["name"]
            entry.setdefault("kind", field.kind.value)
            content["fields"][field.name] = entry["kind"] if set(entry) == {"kind"} else entry
        if self.derived:
            content["derived"] = {column.name: column.to_entry() for column in self.derived}
        return content

    def to_toml(self) -> str:
        """The schema as the text of a TOML file."""
        content = self.to_mapping()
        lines = [f"{key} = {_toml(content[key])}" for key in ("schema", "name", "time_unit", "ignored") if key in content]
        lines += ["", "[roles]", *(f"{key} = {_toml(value)}" for key, value in content["roles"].items())]
        for label in content["labels"]:
            lines += ["", "[[labels]]", *(f"{key} = {_toml(value)}" for key, value in label.items())]
        for table in ("fields", "derived"):
            if table in content:
                lines += ["", f"[{table}]", *(f"{_toml_key(key)} = {_toml(value)}" for key, value in content[table].items())]
        return "\n".join(lines) + "\n"


# ---------------------------------------------------------------------- details


def _set(target: object, name: str, value: object) -> None:
    object.__setattr__(target, name, value)


def _require(condition: bool, message: str, hint: str) -> None:
    if not condition:
        raise SchemaError(message, hint=hint)


def _choice(enumeration: type[Any], value: object, what: str) -> Any:
    try:
        return enumeration(value)
    except ValueError:
        raise SchemaError(f"{what} is {value!r}", hint=f"choices: {listing(e.value for e in enumeration)}") from None


def _as_list(value: object) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _table(value: object, what: str, example: str) -> dict[str, Any]:
    if value is None:
        return {}
    _require(isinstance(value, Mapping), f"{what} is {value!r:.80}, expected a table", example)
    return dict(value)  # type: ignore[call-overload, no-any-return]


def _refuse_unknown(given: Iterable[object], known: set[str], what: str, hint: str) -> None:
    unknown = sorted(str(name) for name in given if name not in known)
    _require(not unknown, f"{what} {listing(unknown)}", hint)


def _named(name: object, entry: object, where: str) -> dict[str, Any]:
    """An entry of a table of fields: a kind, or settings."""
    if isinstance(entry, str):
        return {"name": name, "kind": entry}
    _require(isinstance(entry, Mapping), f"{where}: field {name!r} is {entry!r:.80}, expected a kind or a table of settings",
             f'{name} = "categorical"; kinds: {listing(kind.value for kind in Kind)}')
    return {"name": name, **dict(entry)}  # type: ignore[call-overload]


def _derived(name: object, entry: object, where: str) -> Derived:
    example = f'{name} = {{ kind = "count", by = "user_id" }}; kinds: {listing(kind.value for kind in DerivedKind)}'
    _require(isinstance(entry, Mapping) and "kind" in entry, f"{where}: {name!r} is {entry!r:.80}, expected a table of settings with a kind", example)
    found: Derived = _from_entry(Derived, {"name": name, **entry}, where=where)  # type: ignore[dict-item]
    return found


def _column(value: object, what: str) -> None:
    """A name of a column is text."""
    _require(isinstance(value, str) and bool(value), f"{what} is {value!r:.80}, expected the name of a column", "names of columns are text")


def _whole(value: object, least: int, what: str, hint: str = "") -> None:
    right = isinstance(value, int) and not isinstance(value, bool) and value >= least
    _require(right, f"{what} is {value!r:.80}, expected a whole number of {least} or more", hint or f"use {least} or more")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _from_entry(target: type[Any], entry: object, *, where: str) -> Any:
    if isinstance(entry, str):
        entry = {"name": entry}
    what = {Label: "label", Derived: "derived column"}.get(target, "field")
    if not isinstance(entry, Mapping):
        raise SchemaError(f"{where}: {entry!r:.80} is neither a name nor a table of settings",
                          hint=f'give the name of a column, or {{ name = "...", ... }} for a {what}')
    known = {field.name for field in fields(target)}
    _refuse_unknown(entry, known, f"{where}: unknown setting", f"settings of a {what}: {listing(sorted(known))}")
    _require("name" in entry, f"{where}: an entry without 'name': {dict(entry)!r:.200}", 'add name = "..."')
    try:
        return target(**entry)
    except SchemaError as error:
        raise SchemaError(f"{where}: {error.message}", hint=error.hint) from None


def _to_entry(value: Field | Label) -> dict[str, Any]:
    entry: dict[str, Any] = {}
    for spec in fields(value):
        setting = getattr(value, spec.name)
        if spec.name == "name" or setting != spec.default:
            if isinstance(setting, StrEnum):
                setting = setting.value
            entry[spec.name] = list(setting) if isinstance(setting, tuple) else setting
    return entry


def _toml_key(key: str) -> str:
    bare = key.isascii() and key.replace("_", "").replace("-", "").isalnum()
    return key if bare else _toml(key)


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_toml_key(str(k))} = {_toml(v)}" for k, v in value.items()) + " }"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_toml(v) for v in value) + "]"
    return repr(value)
