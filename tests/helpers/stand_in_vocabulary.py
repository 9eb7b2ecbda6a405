"""Encoders of the made-by-hand folder, until those of the runtime are there."""

import json
import sys
import types

import numpy as np

from tests.helpers.exported_folder import KIND_NAMES, USER_NAMES

NAME = "fuxictr_multimodal.serving.runtime.vocabulary"


class Vocabulary:
    context_columns = ("user_id", "price")
    event_columns = ("hour",)

    def __init__(self, content):
        self.ids = content["items"]["ids"]
        self.item_column = content["items"]["column"]

    @classmethod
    def read(cls, path):
        return cls(json.loads(path.read_text()))

    def context(self, values, *, time=None):
        from fuxictr_multimodal.serving.runtime.errors import RequestError

        for name in ("user_id", "price"):
            if name not in values:
                raise RequestError(f"context: {name!r} is missing")
        code = USER_NAMES.index(values["user_id"]) + 1 if values["user_id"] in USER_NAMES else len(USER_NAMES) + 1
        return {"user_id": np.array([code]), "price": np.array([values["price"]], np.float32)}

    def events(self, behaviour, values, *, length, context=None, time=None):
        hours = values.get("hour", [0] * length)
        from fuxictr_multimodal.serving.runtime.errors import RequestError

        if len(hours) != length:
            raise RequestError("events: hour has another length")
        return {"hour": np.array(hours, np.int64) + 1}

    def items(self, values):
        return {
            "kind": np.array([KIND_NAMES.index(v["kind"]) + 1 if v["kind"] in KIND_NAMES else 4 for v in values]),
            "emb": np.array([v["emb"] for v in values], np.float32),
        }


try:
    import fuxictr_multimodal.serving.runtime.vocabulary  # noqa: F401
except ImportError:
    sys.modules[NAME] = types.ModuleType(NAME)
    sys.modules[NAME].Vocabulary = Vocabulary
