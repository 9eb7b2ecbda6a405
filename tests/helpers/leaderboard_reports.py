"""Reports and kept predictions of simulated runs, whose scores are the labels under noise of a chosen strength."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fuxictr_multimodal.data.store import Store
from fuxictr_multimodal.metrics import classification as metrics
from fuxictr_multimodal.training.report import Report


def simulated_scores(labels: np.ndarray, *, strength: float, expid: str, seed: int) -> np.ndarray:
    """Probabilities (N,) float32; noise is half shared by all models, a quarter by seeds of a model."""

    def noise(*key: int) -> np.ndarray:
        return np.random.default_rng([len(labels), *key]).standard_normal(len(labels))

    name = zlib.crc32(expid.encode())
    mixed = 0.8 * noise(1) + 0.5 * noise(2, name) + 0.33 * noise(3, name, seed)
    return (1 / (1 + np.exp(-(strength * (labels - 0.5) * 2 + mixed - 0.8)))).astype(np.float32)


def write_run(
    directory: Path,
    store: Store,
    *,
    expid: str,
    model: str,
    seed: int = 1,
    strength: float = 0.5,
    epochs: int = 6,
    predictions: bool = True,
    seconds: float = 90.0,
    parameters: int = 1_000_000,
    splits: Sequence[str] = ("valid", "test"),
    config: dict | None = None,
) -> Report:
    """Write `<expid>_s<seed>.report.json` and `.predictions.npz`; return the report."""
    directory.mkdir(parents=True, exist_ok=True)
    report = Report(
        expid=f"{expid}_s{seed}",
        model=model,
        dataset_id=store.manifest.dataset_id,
        seed=seed,
        status="completed",
        best_epoch=max(1, epochs - 1),
        rows_per_s={"train": round(5e8 / parameters, 1), "score": round(4e9 / parameters, 1)},
        seconds=seconds + seed,
        peak_memory_mib={"host": 900.0 + seed, "device": None},
        parameters={"total": parameters, "embedding": parameters // 2},
        dataset_facts=store.manifest.facts,
        versions={"fuxictr": "2.3.10", "torch": "2.13.0"},
        commit="0123456789abcdef0123456789abcdef01234567",
        config={"model": model, "seed": seed, "epochs": epochs, "batch_size": 256, **(config or {})},
        manifest_hash=store.manifest.hash,
    )
    kept = {}
    for split in splits:
        with store.reader(split) as rows:
            labels = rows.read("label", 0, rows.rows)
            groups = rows.read("user_id", 0, rows.rows)
        kept[f"{split}_scores"] = simulated_scores(labels, strength=strength, expid=expid, seed=seed)
        report.metrics[split] = metrics.evaluate(labels, kept[f"{split}_scores"], ["AUC", "gAUC", "logloss"], groups)
    final = report.metrics["valid"]["AUC"]
    wobble = np.random.default_rng([zlib.crc32(expid.encode()), seed]).standard_normal(epochs) * 0.003
    for epoch in range(1, epochs + 1):
        reached = 0.5 + (final - 0.5) * (1 - np.exp(-1.1 * epoch * (0.6 + strength)))
        report.curve.append(
            {
                "epoch": epoch,
                "step": 16 * epoch,
                "train_loss": round(0.35 + 0.3 * float(np.exp(-0.5 * epoch * (0.5 + strength))), 6),
                "learning_rate": 0.002,
                "metrics": {"AUC": round(float(reached + wobble[epoch - 1]), 6)},
                "monitor": float(reached),
                "best": epoch == report.best_epoch,
                "seconds": 10.0 * epoch,
            }
        )
    if predictions:
        np.savez(directory / f"{report.expid}.predictions.npz", **kept)
    report.write(directory / f"{report.expid}.report.json")
    return report
