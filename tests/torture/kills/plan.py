"""Where commands are killed: scenes and points, enumerated."""

from __future__ import annotations

from collections.abc import Iterator

from tests.torture.kills.points import AFTER, BEFORE, HALF, Point

TRAINER = "fuxictr_multimodal.training.trainer:Trainer"
RUNNER = "fuxictr_multimodal.training.runner"
BUILDER = "fuxictr_multimodal.data.store.builder:StoreBuilder"
STAGE = "bilingual_embedding.training.stage_trainer:StageTrainer"
TEXT = "bilingual_embedding.training.runner"


def planned() -> Iterator[tuple[str, Point]]:
    """All points, scene by scene."""
    yield from (("build", point) for point in _build())
    # Steps within an epoch: 32 to an epoch, two epochs; the last ones of an epoch and the first of the next too.
    for scene, steps in (
        ("plain", (3, 5, 6, 17, 31, 32, 33, 62)),
        ("averaged", (2, 4, 5, 11, 13, 21, 30, 41, 58)),
        ("streamed", (2, 4, 8, 20, 33, 34, 50)),
        ("DIN", (3, 7, 8, 10, 15, 30)),
    ):
        for nth in steps:
            yield scene, Point("step", f"{TRAINER}._train_step", BEFORE if nth % 2 else AFTER, nth)
    yield from (("plain", point) for point in _run())
    # The average is swapped with the weights while a model is scored and written.
    swapped = [point for point in _run() if point.kind in ("evaluation", "checkpoint", "state")]
    yield from (("averaged", point) for point in swapped)
    for scene in ("seeds", "grid", "search"):
        both = scene == "search"
        for nth in (2, 7, 19):
            yield scene, Point("step", f"{TRAINER}._train_step", AFTER, nth, child=True, both=both)
        yield scene, Point("checkpoint", "*.model", HALF, 1, child=True, both=both)
        yield scene, Point("state", "*.state", BEFORE, 2, child=True, both=both)
        yield scene, Point("report", "*.report.json", AFTER, 2, child=True, both=both)
        yield scene, Point("launch", "fuxictr_multimodal.launch.pool:Pool._start", AFTER, 2)
        yield scene, Point("launch", "fuxictr_multimodal.launch.pool:Pool._finish", AFTER, 1)
    yield from (("text", point) for point in _text())


def _build() -> Iterator[Point]:
    yield Point("build", f"{BUILDER}.write_items", BEFORE)
    for nth in (1, 2, 3):
        yield Point("build", f"{BUILDER}.append", AFTER, nth)
    for when in (BEFORE, AFTER):
        yield Point("build", f"{BUILDER}.finish", when)
        yield Point("build", "*/Synthetic_test", when)
    for when in (BEFORE, HALF, AFTER):
        yield Point("build", "*/manifest.json", when)


def _run() -> Iterator[Point]:
    yield Point("evaluation", f"{TRAINER}._evaluation", BEFORE, 1)
    yield Point("evaluation", f"{TRAINER}.predict", BEFORE, 2)
    yield Point("evaluation", f"{TRAINER}.predict", AFTER, 2)
    yield Point("evaluation", f"{TRAINER}._evaluation", AFTER, 2)
    for when in (BEFORE, HALF, AFTER):
        yield Point("checkpoint", "*.model", when, 1)
        yield Point("state", "*.state", when, 3)
        yield Point("report", "*.report.json", when, 3)
        yield Point("predictions", "*.predictions.npz", when, 1)
    yield Point("state", "*.state.before", BEFORE, 2)
    yield Point("state", "*.state.before", AFTER, 2)
    for when in (BEFORE, AFTER):
        yield Point("csv line", f"{RUNNER}:append_csv_line", when)
        yield Point("curve", f"{RUNNER}:draw_curves_beside", when)
        yield Point("end", f"{RUNNER}:remove_states", when)


def _text() -> Iterator[Point]:
    for nth in (2, 5, 9, 11, 17, 23, 29):
        yield Point("step", f"{STAGE}._step", BEFORE if nth % 2 else AFTER, nth)
    for nth in (1, 2):
        yield Point("between stages", f"{TEXT}:save_encoder", BEFORE, nth)
        yield Point("between stages", f"{TEXT}:save_encoder", AFTER, nth)
    for when in (BEFORE, HALF, AFTER):
        yield Point("state", "*.state.pt", when, 2)
        yield Point("checkpoint", "*/model.safetensors", when, 2)
        yield Point("report", "*/report.json", when, 3)
    yield Point("checkpoint", "*/head.safetensors", HALF, 1)
    yield Point("tokenizer", "*/tokenizer.json", HALF, 1)
    yield Point("end", f"{STAGE}.discard_state", BEFORE, 2)
    yield Point("end", f"{STAGE}.discard_state", AFTER, 1)
