"""An example of a request, which an export has: every key that its model reads, with plausible values.

The values are made from the vocabulary, so that they are of the form of the training data: categories and items that
training saw, numbers in the middle of what it saw, dates where it had dates.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from fuxictr_multimodal.serving.runtime.encoders import encoder_of
from fuxictr_multimodal.serving.runtime.errors import RequestError
from fuxictr_multimodal.serving.runtime.event_encoders import TIMES, EventEncoder
from fuxictr_multimodal.serving.runtime.times import PER_DAY

FILE = "request.json"
HISTORY, CANDIDATES = 3, 10
NOW = datetime(2026, 1, 31, 12, 30, tzinfo=UTC)
# Times that only count are small numbers.
COUNTED = 1000

# A value of a column, and what encodes it.
Reader = tuple[Any, Callable[[Any], Any]]


def example_request(vocabulary: Mapping[str, Any], behaviours: Sequence[str]) -> dict[str, Any]:
    """A request as a client sends it: the keys of `Request`, and of the bodies of `fxmm serve`.

    Args:
        vocabulary: content of `vocabulary.json`.
        behaviours: histories that the model reads.

    >>> price = {"name": "price", "kind": "number", "dtype": "float", "subtract": 12.34567, "divide": 2.0}
    >>> hour = {"name": "hour", "kind": "hour", "unit": "us", "column": "at", "of_request": True}
    >>> items = {"ids": [None, "a", "b"], "rows": 3}
    >>> events = [hour | {"reads": {"history": "time"}}]
    >>> known = {"context": [price], "events": events, "items": items, "histories": ["history"]}
    >>> found = example_request(known, ["history"])
    >>> found["context"], found["history"], found["candidates"], found["time"]
    ({'price': 12.35}, ['a', 'b'], ['a', 'b'], '2026-01-31 12:30:00')
    >>> found["events"]
    {'history': {'time': ['2026-01-29 12:30:00', '2026-01-30 12:30:00']}}
    """
    events, items = vocabulary["events"], vocabulary["items"]
    found: dict[str, Any] = {"context": _context(vocabulary["context"], events)}
    known = _known(items)
    histories = {name: known[at * HISTORY :][:HISTORY] or known[:HISTORY] for at, name in enumerate(behaviours)}
    # The main history of the dataset, which the model may not read.
    main = next(iter(vocabulary["histories"]), None)
    further = {name: ids for name, ids in histories.items() if name != main}
    if main in histories:
        found["history"] = histories[main]
    if further:
        found["behaviours"] = further
    if items is not None:
        found["candidates"] = known[-CANDIDATES:]
    lists = {name: _events(events, name, len(ids)) for name, ids in histories.items()}
    if any(lists.values()):
        found["events"] = {name: values for name, values in lists.items() if values}
    times = [event for event in events if event.get("of_request")]
    if times:
        found["time"] = _time(times[0], "column_times", NOW)
    return found


def as_text(request: Mapping[str, Any]) -> str:
    """The request as JSON, one line a key."""
    lines = (f"  {json.dumps(name)}: {json.dumps(value, ensure_ascii=False)}" for name, value in request.items())
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _known(items: Mapping[str, Any] | None) -> list[Any]:
    """The first ids of items."""
    if items is None:
        return []
    ids = items["ids"] or range(items["rows"])
    return list(ids[1 : CANDIDATES + 2 * HISTORY + 1])


def _context(encoders: Sequence[Mapping[str, Any]], events: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A value of each column of the context that a request needs."""
    readers: dict[str, list[Reader]] = {}
    for one in encoders:
        readers.setdefault(one.get("from", one["name"]), []).append((_value(one), encoder_of(one).encode))
    now = None
    for event in events:
        column = event.get("column")
        if column is None:
            continue
        if event["kind"] not in TIMES:
            readers.setdefault(column, []).append((_value(event), _target(event, column)))
            continue
        own = _time(event, "column_times", NOW)
        now = own if now is None else now
        # The request's time stands in for the column, but for one that has another form.
        if column in readers or own != now:
            readers.setdefault(column, []).append((own, _target(event, column)))
    return {column: _read_by_all(known) for column, known in readers.items()}


def _target(event: Mapping[str, Any], column: str) -> Callable[[Any], Any]:
    encoder = EventEncoder(event)
    return lambda value: encoder.target(context={column: value})


def _read_by_all(readers: Sequence[Reader]) -> Any:
    """Of the values of a column's readers, one that all of them take; a missing value where none is."""
    for value, _ in readers:
        try:
            for _, encode in readers:
                encode(value)
        except RequestError:
            continue
        return value
    return None


def _value(encoder: Mapping[str, Any]) -> Any:
    """A raw value that an encoder, of a column or of an event, reads."""
    kind = encoder["kind"]
    if kind == "category":
        return encoder["tokens"][0] if encoder["tokens"] else None
    if kind == "sequence":
        return encoder["tokens"][: min(2, encoder["max_len"])]
    if kind in ("encoded_category", "encoded"):
        return min(1, encoder["vocab_size"] - 1)
    if kind == "encoded_sequence":
        return [min(1, encoder["vocab_size"] - 1)]
    if kind == "embedding":
        return [0.0] * encoder["width"]
    if kind == "hash":
        return 1 if encoder["dtype"] == "int" else "a"
    middle = 0.0
    if encoder.get("boundaries"):
        middle = encoder["boundaries"][len(encoder["boundaries"]) // 2]
    elif "divide" in encoder:
        middle = encoder["subtract"]
    elif encoder.get("multiply"):
        # Training saw 0 to 1.
        middle = (0.5 - encoder["add"]) / encoder["multiply"]
    return round(middle) if encoder.get("dtype") == "int" else float(f"{middle:.4g}")


def _events(events: Sequence[Mapping[str, Any]], behaviour: str, length: int) -> dict[str, list[Any]]:
    """Values of the events of one history by key; the newest event is a day old."""
    found: dict[str, list[Any]] = {}
    for event in events:
        key = event["reads"].get(behaviour)
        if key is None or key in found:
            continue
        if event["kind"] in TIMES:
            found[key] = [_time(event, "times", NOW - timedelta(days=length - at)) for at in range(length)]
        else:
            found[key] = [_value(event)] * length
    return found


def _time(event: Mapping[str, Any], form: str, moment: datetime) -> Any:
    """A time in the form of the training data.

    Args:
        event: its encoder.
        form: key of the form of whole numbers.
        moment: that is meant.
    """
    unit, whole = event.get("unit"), (event.get(form) or {}).get("unit")
    if unit is None:
        return COUNTED - (NOW - moment).days
    if whole in PER_DAY:
        return int(moment.timestamp()) * PER_DAY[whole] // PER_DAY["s"]
    return moment.strftime("%Y-%m-%d" if unit == "d" else "%Y-%m-%d %H:%M:%S")
