"""One binder for all YAML: `--set` over an entry, then typed settings, or one line that says what is wrong."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, WrapValidator

from fuxictr_multimodal.config.names import check_plain_name
from fuxictr_multimodal.config.user_paths import with_home
from fuxictr_multimodal.config.yaml_files import parse_value
from fuxictr_multimodal.errors import ConfigError, did_you_mean, nearest

LONGEST_VALUE = 200
_UNKNOWN = ("extra_forbidden", "invalid_key")
_KINDS = {
    "integer": "a whole number",
    "number": "a number",
    "string": "text",
    "boolean": "true or false",
    "array": "a list",
    "object": "a mapping of settings",
}


class Settings(BaseModel):
    """A group of settings. Keys are known, values have exactly the type that they say, and nothing changes them."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


Bound = TypeVar("Bound", bound=Settings)
Item = TypeVar("Item")
# YAML has lists; settings are frozen.
ListOf = Annotated[tuple[Item, ...], BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value)]
# A whole number stays one, so that its text and its hash stay.
AS_WRITTEN = WrapValidator(lambda value, check: (check(value), value)[1])
UserPath = Annotated[str, AfterValidator(with_home)]
PlainName = Annotated[str, AfterValidator(lambda name: check_plain_name(name, "the name"))]
Count = Annotated[int, Field(ge=1)]
# The default of a setting that may be left out, but not be null.
UNSET: Any = None


def bind(model: type[Bound], values: Any, where: str, *, hint: str = "") -> Bound:
    """Make settings of a mapping, all the way down.

    Args:
        model: what the mapping must be.
        values: as YAML gives them; settings with a default may be missing.
        where: file and entry, for the error.
        hint: added to the error about a key that is missing.

    Raises:
        ConfigError: an unknown key (nearest named), a missing one, or a value of another type or range.

    >>> class Search(Settings):
    ...     trials: int = Field(ge=1, examples=[20])
    >>> bind(Search, {"trials": 3}, "search.yaml").trials
    3
    >>> bind(Search, {"trails": 3}, "search.yaml")
    Traceback (most recent call last):
    fuxictr_multimodal.errors.ConfigError: search.yaml: unknown key 'trails'. Did you mean 'trials'?
    >>> bind(Search, {"trials": 0}, "search.yaml")
    Traceback (most recent call last):
    fuxictr_multimodal.errors.ConfigError: search.yaml: trials must be a whole number from 1, found 0
    """
    try:
        return model.model_validate(values)
    except ValidationError as invalid:
        errors = invalid.errors(include_url=False)
    # A misspelt key is often a missing one too: the misspelt one says more.
    error = min(errors, key=lambda error: 0 if error["type"] in _UNKNOWN else 1 if _is_missing(model, error) else 2)
    raise ConfigError(_message(model, error, where, hint))


def bind_known(model: type[Bound], values: Mapping[str, Any], where: str, *, hint: str = "") -> Bound:
    """`bind` of those values that the model knows, of a flat mapping that holds others too; null leaves the default."""
    known = {key: value for key, value in values.items() if key in model.model_fields and value is not None}
    return bind(model, known, where, hint=hint)


def check_keys(given: Iterable[str], known: Iterable[str], where: str) -> None:
    """Refuse an unread key, and name the nearest known one.

    Raises:
        ConfigError: naming the key.
    """
    known = set(known)
    for key in given:
        if key not in known:
            raise ConfigError(f"{where}: unknown key {key!r}. {nearest(str(key), known)}".rstrip())


def override(values: dict[str, Any], texts: Sequence[str], *models: type[Settings]) -> None:
    """Set keys of `values` by the `key=value` texts of `--set`; the last one on a key wins.

    Args:
        values: changed in place; a mapping on the way to a nested key is copied, since entries are shared.
        texts: values in YAML, a dot between levels: `synthetic.rows=1000`.
        models: what the values are, for the keys that a group may have and for groups that no file writes down.

    Raises:
        ConfigError: no `key=value`, a group or a nested key that is not there (nearest named), or no YAML.
    """
    for text in texts:
        path, value = parse_override(text)
        where, holder, schemas = f"--set {text!r}", values, [schema_of(model) for model in models]
        for group in path[:-1]:
            inside = [schema for outer in schemas for schema in _groups(outer, group)]
            given, known = holder.get(group), any(group in schema.get("properties", ()) for schema in schemas)
            if not isinstance(given, Mapping) and (given is not None or not (known and inside)):
                groups = {str(key) for key, inner in holder.items() if isinstance(inner, Mapping)}
                groups |= {key for schema in schemas for key in schema.get("properties", ()) if _groups(schema, key)}
                raise ConfigError(
                    f"{where}: {group!r} is not a group of settings here. {did_you_mean(group, groups)}".rstrip()
                )
            # A group that the file leaves to its defaults begins with them.
            holder[group] = dict(inside[0].get("default") or {} if given is None else given)
            holder, schemas = holder[group], inside
        if len(path) > 1 and not any(isinstance(schema.get("additionalProperties"), Mapping) for schema in schemas):
            keys = {*map(str, holder), *(key for schema in schemas for key in schema.get("properties", ()))}
            if path[-1] not in keys:
                raise ConfigError(f"{where}: {path[-2]!r} has no key {path[-1]!r}. {did_you_mean(path[-1], keys)}")
        holder[path[-1]] = value


def parse_override(text: str) -> tuple[list[str], Any]:
    """The key of a `--set`, split at its dots, and the value.

    Raises:
        ConfigError: no `key=value`, or a value that is not YAML.

    >>> parse_override("synthetic.rows=1000"), parse_override("learning_rate=1e-3")
    ((['synthetic', 'rows'], 1000), (['learning_rate'], 0.001))
    """
    key, separator, value = text.partition("=")
    path = key.split(".")
    if not separator or not all(path):
        raise ConfigError(f"--set {text!r}: write key=value, for example --set learning_rate=1.e-3")
    return path, parse_value(value, f"--set {text!r}")


@functools.lru_cache(maxsize=64)
def schema_of(model: type[Settings]) -> dict[str, Any]:
    """The JSON schema of settings, references resolved: keys, types, bounds, defaults and descriptions."""
    schema = model.model_json_schema()
    return _resolved(schema, schema.get("$defs", {}))


def expected(schema: Mapping[str, Any]) -> str:
    """What a value must be, in words.

    >>> expected({"type": "integer", "minimum": 1}), expected({"type": "number", "exclusiveMinimum": 0, "maximum": 1})
    ('a whole number from 1', 'a positive number up to 1')
    >>> expected({"type": "string", "enum": ["rows", "groups"]})
    'rows or groups'
    """
    if "enum" in schema:
        return " or ".join(map(str, schema["enum"]))
    kind = _KINDS.get(schema.get("type", ""), "a value")
    if schema.get("exclusiveMinimum") == 0:
        kind = kind.replace("a ", "a positive ")
    least, most, below = (schema.get(key) for key in ("minimum", "maximum", "exclusiveMaximum"))
    if least is not None:
        kind += f" from {_plain(least)}"
    if most is not None:
        kind += f" {'up ' if least is None else ''}to {_plain(most)}"
    if below is not None:
        kind += f" {'' if least is None else 'to '}below {_plain(below)}"
    return kind + (", at least one character" if schema.get("minLength") == 1 else "")


def _plain(number: float) -> str:
    return str(int(number)) if number == int(number) else str(number)


def _is_missing(model: type[Settings], error: Mapping[str, Any]) -> bool:
    """Whether a setting without a default is not there, null or empty."""
    *around, key = error["loc"] or ("",)
    required = any(key in schema.get("required", ()) for schema in _schemas(model, around))
    return error["type"] in ("missing", "too_short") or (error["input"] is None and required)


def _message(model: type[Settings], error: Mapping[str, Any], where: str, hint: str) -> str:
    kind, value, schemas = error["type"], error["input"], _schemas(model, error["loc"])
    # A place in a list says less than the name of the list.
    *around, key = [part for part in error["loc"] if isinstance(part, str) or kind in _UNKNOWN] or ("",)
    inside = ": ".join([where, *map(str, around)])
    if kind in _UNKNOWN:
        known = {key for schema in _schemas(model, around) for key in schema.get("properties", ())}
        return f"{inside}: unknown key {key!r}. {did_you_mean(str(key), known)}"
    if _is_missing(model, error):
        advice = _example(model, error["loc"]) or (f"; {hint}" if hint else "")
        return f"{inside} does not set `{key}`{advice}"
    if kind == "value_error":
        return f"{inside}{': ' if key else ''}{key}: {error['ctx']['error']}"
    found = repr(value)
    found = found if len(found) <= LONGEST_VALUE else f"{found[:LONGEST_VALUE]}..."
    if key == "[key]":
        return f"{inside}: key {found} is read as {type(value).__name__}, not as text: write it in quotes"
    if kind == "literal_error":
        choices = [str(choice) for schema in schemas for choice in schema.get("enum", [schema.get("const")])]
        near = nearest(str(value), choices)
        return f"{inside}: {key} {found} is unknown; choose from {', '.join(choices)}" + (f". {near}" if near else "")
    wanted = " or ".join(map(expected, schemas))
    advice = ": write it in quotes" if wanted == "text" and isinstance(value, int | float) else ""
    if kind in ("dict_type", "tuple_type"):
        advice = _example(model, error["loc"])
    return f"{inside}{': ' if key else ''}{key} must be {wanted}, found {found}{advice}"


def _example(model: type[Settings], path: Sequence[Any]) -> str:
    """An example of the setting at a place, or of the group around it that has one."""
    for length in range(len(path), 0, -1):
        for schema in _schemas(model, path[:length]):
            if "examples" in schema:
                return f"; write for example {path[length - 1]}: {schema['examples'][0]}"
    return ""


def _schemas(model: type[Settings], path: Iterable[Any]) -> list[dict[str, Any]]:
    """Schemas of what may be at a place inside settings; none where they say nothing of it."""
    found = [schema_of(model)]
    for part in path:
        found = [inner for schema in found for inner in _inside(schema, part)]
    return found


def _inside(schema: Mapping[str, Any], part: Any) -> list[dict[str, Any]]:
    """Schemas of what may be under a key, or at a place of a list; null, which is none of them, left out."""
    inner = schema.get("properties", {}).get(part)
    if inner is None:
        inner = schema.get("items" if isinstance(part, int) else "additionalProperties")
    if not isinstance(inner, Mapping):
        return []
    options: list[dict[str, Any]] = [{**inner, **option} for option in inner.get("anyOf", [inner])]
    return [option for option in options if option.get("type") != "null"]


def _groups(schema: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    return [inner for inner in _inside(schema, key) if inner.get("type") == "object"]


def _resolved(schema: Any, definitions: Mapping[str, Any]) -> Any:
    if isinstance(schema, list):
        return [_resolved(inner, definitions) for inner in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        group = definitions[schema["$ref"].rpartition("/")[2]]
        # What the setting is for, and what all groups of this kind are.
        schema = {**group, "about": group.get("description", ""), **schema}
    return {key: _resolved(inner, definitions) for key, inner in schema.items() if key not in ("$ref", "$defs")}
