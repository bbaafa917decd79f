"""What requests and answers look like: their types, bounds and names, of which the OpenAPI description is made."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, StrictInt, StrictStr

NAME = r"^[^\x00-\x1f\x7f-\x9f]+$"
"""Names hold no control characters: databases, terminals and logs take them for commands."""


class Strict(BaseModel):
    """No field but those that are named."""

    model_config = ConfigDict(extra="forbid")


def _whole(value: Any) -> Any:
    """JSON knows one kind of number: 7.0 is the whole number 7."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _id(value: Any) -> Any:
    """Validators of JSON compare as float64, in which these last whole numbers are the bound: they are ids as texts."""
    whole = _whole(value)
    beyond = isinstance(whole, int) and not -(2**63) <= whole < 2**63 and abs(whole) < 2**63 + 2**12
    return str(whole) if beyond and abs(float(whole)) == 2.0**63 else whole


Value = bool | int | float | StrictStr | None
Id = Annotated[Annotated[StrictStr, Field(min_length=1, max_length=256, pattern=NAME)] | Annotated[StrictInt, Field(ge=-(2**63), le=2**63 - 1)], BeforeValidator(_id)]
Length = Annotated[StrictInt, Field(ge=1, le=200), BeforeValidator(_whole)]
Context = dict[Annotated[str, Field(max_length=256)], Value | Annotated[list[Value], Field(max_length=1000)]]


class RecommendRequest(Strict):
    """Who wants a list."""

    user: Id
    k: Length = 10
    context: Context = Field(default_factory=dict, max_length=64)
    surface: Annotated[StrictStr, Field(max_length=256, pattern=NAME)] | None = None
    trace: bool = False


class PlaceAnswer(Strict):
    """One place of a list."""

    item: StrictStr | int | float
    rank: int
    score: float | None
    propensity: float | None
    model: str = ""


class RecommendAnswer(Strict):
    """A list, and what made it."""

    request: str
    user: StrictStr | int
    items: list[PlaceAnswer]
    model: str
    arm: str
    notes: list[str]
    degraded: list[str]
    trace: dict[str, Any] | None = None


class SimilarAnswer(Strict):
    """Items like one, most alike first."""

    item: str
    items: list[PlaceAnswer]


class ExchangeRequest(Strict):
    """Another recommender for one of the two places."""

    folder: Annotated[StrictStr, Field(min_length=1, max_length=256, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    arm: Annotated[StrictStr, Field(pattern="^(first|second)$")] = "first"


class ExplainRequest(Strict):
    """Whose list is explained, and what of it."""

    user: Id
    item: Id | None = Field(default=None, description="default the first of the list")
    over: Id | None = Field(default=None, description="why is `item` above this one")
    k: Length = 10
    context: Context = Field(default_factory=dict, max_length=64)
    below: float | None = Field(default=None, allow_inf_nan=False, description="what would take the ranking score below this")
    against: Literal["alike", "mean"] = Field(default="alike", description="pairs with other values that are as frequent, or the mean pair")
    names: Annotated[StrictStr, Field(min_length=1, max_length=256, pattern=NAME)] | None = Field(default=None, description="column of items with names for people")
    language: Literal["en", "zh"] = "en"
    counterfactual: StrictBool = True
    arm: Literal["first", "second"] | None = Field(default=None, description="of which model; default the one that the user gets")


class PartAnswer(Strict):
    """What one field, or one entry of a list, did to the score."""

    field: str
    value: Any
    contribution: float | None
    entry: int | None = None


class ReasonsAnswer(Strict):
    """Contributions to a score, or to the distance between two."""

    score: float | None
    baseline: float | None
    bound: float | None
    parts: list[PartAnswer]
    entries: list[PartAnswer]
    is_logit: bool
    against: str


class UnitAnswer(Strict):
    """What was taken away: an action, an entry of a list, or a field."""

    kind: str
    field: str
    value: Any


class CounterfactualAnswer(Strict):
    """The smallest set that was found whose removal changes the answer; tried with the recommender."""

    goal: str
    removed: list[UnitAnswer]
    instead: Any
    score: float | None
    instead_score: float | None
    necessary: bool
    sufficient: bool | None
    smallest: bool
    tried: int
    units: int


class EvidenceAnswer(Strict):
    """What training saw that is nearest to the pair; of others only counts."""

    met: int
    wanted: int
    wanted_by: int
    alike: int
    shared: list[tuple[Any, int]]
    nearest: list[int]


class ExplainAnswer(Strict):
    """One recommendation explained, in numbers and in sentences."""

    format: str
    version: int
    user: StrictStr | int
    item: Any
    over: Any
    rank: int | None
    listed: int
    way: dict[str, Any] | None
    reasons: ReasonsAnswer | None
    contrast: ReasonsAnswer | None
    whole: ReasonsAnswer | None
    counterfactual: CounterfactualAnswer | None
    evidence: EvidenceAnswer | None
    names: dict[str, str]
    recommender: str
    notes: list[str]
    language: str
    sentences: list[str]
    arm: str
    degraded: list[str]


class Fault(Strict):
    """What went wrong."""

    code: str
    message: str
    hint: str = ""


class FaultAnswer(Strict):
    """The shape of every error."""

    error: Fault


FAULTS: dict[int | str, dict[str, Any]] = {
    status: {"model": FaultAnswer, "description": what} for status, what in {
        400: "Not a request of HTTP or JSON", 401: "No token, or a wrong one", 404: "Not there", 405: "Not done here", 413: "Too large", 422: "Not well formed",
        429: "Too many requests", 503: "Cannot be done now"}.items()}
