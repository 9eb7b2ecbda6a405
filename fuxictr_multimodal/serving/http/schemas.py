"""Bodies of requests, strictly typed, and of answers; a body that is wrong is one sentence."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, FailFast, Field, GetPydanticSchema, ValidationError
from pydantic_core import ErrorDetails, core_schema, from_json

from fuxictr_multimodal.errors import did_you_mean
from fuxictr_multimodal.serving.http.limits import check_count
from fuxictr_multimodal.serving.http.refusals import Refused
from fuxictr_multimodal.serving.http.settings import Settings
from fuxictr_multimodal.serving.runtime import Request

# One error with one place, where a union of pydantic's own has an error for each of its types.
_ID = core_schema.union_schema(
    [core_schema.str_schema(strict=True), core_schema.int_schema(strict=True)],
    custom_error_type="id",
    custom_error_message="must be text or a whole number",
)
Id = Annotated[str | int, GetPydanticSchema(lambda source, handler: _ID)]
# A list of a million wrong values has one error, not a million.
Ids = Annotated[list[Id], FailFast()]
Values = Annotated[list[Any], FailFast()]
# The nearest name is looked for where one is not known, which takes a while for a name of megabytes.
LONGEST_NAME, MOST_NAMES = 256, 10_000
Name = Annotated[str, Field(max_length=LONGEST_NAME)]

SENTENCES = {
    "id": "must be text or a whole number",
    "missing": "is missing",
    "model_type": "must be an object",
    "dict_type": "must be an object",
    "list_type": "must be a list",
    "int_type": "must be a whole number",
    "greater_than_equal": "must be {ge} or more",
    "string_too_long": "must have at most {max_length} characters",
    "too_long": "must have at most {max_length} names",
}


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class ScoreBody(_Body):
    """A user and the candidates that are scored for this user."""

    context: dict[Name, Any] = Field(
        {}, max_length=MOST_NAMES, description="columns of the user and of the request, in raw form"
    )
    history: Ids = Field([], description="items of the user's history, newest last")
    candidates: Ids = Field([], description="items to score; needed where the model has items")
    behaviours: dict[Name, Ids] = Field(
        {},
        max_length=MOST_NAMES,
        description="items of further kinds of history, newest last; those that the model does not read are ignored",
    )
    events: dict[Name, dict[Name, Values]] = Field(
        {},
        max_length=MOST_NAMES,
        description="features of the events of each history, by the name of the history, then of the feature",
    )
    time: Any = Field(None, description="time of the request, where the dataset has features of time")

    def request(self) -> Request:
        """What the model is asked."""
        return Request(self.context, self.history, self.candidates, self.behaviours, self.events, self.time)

    def check_sizes(self, settings: Settings) -> None:
        """Refuse lists that are too long.

        Raises:
            Refused: naming the list.
        """
        check_count("candidates", self.candidates, settings.max_candidates)
        check_count("history", self.history, settings.max_history)
        for name, items in self.behaviours.items():
            check_count(f"behaviours.{name}", items, settings.max_history)


class RankBody(ScoreBody):
    """A user, the candidates to rank for this user, and how many of them to return."""

    k: Annotated[int, Field(ge=1)] | None = Field(None, description="number of items wanted; all without it")


class UpsertBody(_Body):
    """Items that are added, or replace those of the same id."""

    items: Annotated[list[dict[str, Any]], FailFast()] = Field(description="each with its id and its features")

    def check_sizes(self, settings: Settings) -> None:
        """Refuse too many items.

        Raises:
            Refused: with the number.
        """
        check_count("items", self.items, settings.max_items)


class RemoveBody(_Body):
    """Items that are removed."""

    item_ids: Ids

    def check_sizes(self, settings: Settings) -> None:
        """Refuse too many ids.

        Raises:
            Refused: with the number.
        """
        check_count("item_ids", self.item_ids, settings.max_items)


class ScoreAnswer(BaseModel):
    """Scores in the order of the candidates."""

    scores: list[float]
    unknown: list[Id] = Field(description="candidates that the model does not know; they are scored as padding")
    unknown_history: int = Field(description="items of histories that the model does not know; they are left out")
    model: str
    version: str


class RankAnswer(ScoreAnswer):
    """Candidates, best first, without those that are unknown."""

    items: list[Id]
    unknown: list[Id] = Field(description="candidates that the model does not know; they are left out")


class UpsertAnswer(BaseModel):
    """How many items were added, and how many changed."""

    added: int
    changed: int


class RemoveAnswer(BaseModel):
    """How many items were removed."""

    removed: int


class HealthAnswer(BaseModel):
    """The model in use."""

    status: str
    model: str
    version: str
    items: int


class ErrorAnswer(BaseModel):
    """Why a request was not served."""

    error: str


BodyType = TypeVar("BodyType", ScoreBody, RankBody, UpsertBody, RemoveBody)


def parse(kind: type[BodyType], raw: bytes, settings: Settings) -> BodyType:
    """Read a body.

    Raises:
        Refused: it is no JSON, as RFC 8259 has it, without NaN and Infinity (400); or it has another form or too many
            values (422).

    >>> parse(RankBody, b'{"candidates": ["a", 5], "k": 1}', Settings()).candidates
    ['a', 5]
    """
    # Twice as fast as pydantic's own reading of the same bytes, which also lets NaN through.
    try:
        given = from_json(raw, allow_inf_nan=False)
    except ValueError as error:
        raise Refused(400, f"the body is no JSON: {error}") from None
    # Found at the first one, where pydantic collects all of them.
    for name in given if isinstance(given, dict) else ():
        if name not in kind.model_fields:
            shown = name[:LONGEST_NAME]
            raise Refused(422, f"unknown key {shown!r}. {did_you_mean(shown, kind.model_fields)}")
    try:
        body = kind.model_validate(given)
    except ValidationError as error:
        raise Refused(422, _sentence(error.errors(include_url=False, include_input=False)[0])) from None
    body.check_sizes(settings)
    return body


def _sentence(error: ErrorDetails) -> str:
    parts = [f"[{part}]" if isinstance(part, int) else f".{str(part)[:100]}" for part in error["loc"]]
    name = "".join(parts).lstrip(".") or "the body"
    text = SENTENCES.get(error["type"])
    return f"{name}: {error['msg']}" if text is None else f"{name} {text.format(**error.get('ctx', {}))}"
