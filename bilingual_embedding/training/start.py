"""Start a run from the encoder of another run after one of its stages.

An ablation of stage 3 then costs stage 3 only, and its arms start from the same weights.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bilingual_embedding.model.checkpoint import WEIGHTS
from bilingual_embedding.model.encoder import Encoder
from bilingual_embedding.model.presets import EncoderConfig, preset
from bilingual_embedding.model.tokenizer import BilingualTokenizer
from bilingual_embedding.training.resuming import plain_settings
from bilingual_embedding.training.run_folder import REPORT, run_name
from bilingual_embedding.training.run_report import EmbeddingReport
from bilingual_embedding.training.settings import Experiment
from bilingual_embedding.training.stage_setup import kept_encoder
from fuxictr_multimodal.errors import ConfigError


@dataclass(frozen=True)
class Start:
    """A stage of another run with the same seed.

    Attributes:
        name: `<expid>/<stage>`, as the experiment gives it; its scores stand in the report under this name.
        folder: of the stage's encoder and tokenizer.
        command: what makes it.
    """

    name: str
    folder: Path
    command: str

    @classmethod
    def of(cls, experiment: Experiment, seed: int | None) -> Start | None:
        """The start that `start_from` names, below the same `model_root`; None for a fresh start."""
        if experiment.start_from is None:
            return None
        expid, _, stage = experiment.start_from.partition("/")
        folder = Path(experiment.model_root) / run_name(expid, seed) / stage
        seeded = "" if seed is None else f" --seed {seed}"
        return cls(experiment.start_from, folder, f"python run_embedding.py --expid {expid} --stage all{seeded}")

    @property
    def stage(self) -> str:
        """The stage of the other run."""
        return self.folder.name

    def check(self, experiment: Experiment, *, precision: str) -> EmbeddingReport | None:
        """Refuse a start that is missing, or that may have been trained on what is evaluated here.

        Args:
            experiment: what starts here.
            precision: in which it is evaluated.

        Returns:
            The other run's report where it was evaluated as this one is, whose baselines and scores then hold here.

        Raises:
            ConfigError: naming the folder and the command that makes it, or the source.
        """
        if not (self.folder / WEIGHTS).is_file():
            raise ConfigError(
                f"start_from {self.name!r}: {self.folder} contains no trained encoder; `{self.command}` trains it "
                "(with the same --set data_root and model_root)"
            )
        report = EmbeddingReport.read(self.folder.parent / REPORT)
        config = plain_settings(experiment)
        here, there = _held_out(config), _held_out(report.config)
        unseen = sorted(name for name, settings in here.items() if settings not in there.values())
        if unseen:
            raise ConfigError(
                f"start_from {self.name!r}: {', '.join(unseen)} is evaluated here but was not held out there, so the "
                "start may have been trained on its texts: add it to the evaluation of the other experiment "
                "and train it again"
            )
        same = report.used_precision == precision
        same = same and all(config[key] == report.config[key] for key in ("evaluation", "data_root"))
        return report if same and here == there and self.stage in report.evaluation else None

    def load(self, experiment: Experiment) -> tuple[Encoder, BilingualTokenizer]:
        """The encoder and its tokenizer, on the CPU.

        Raises:
            ConfigError: if the encoder's size or positions are not those of the experiment. It may have no blocks where
                those of the experiment start at zero.
        """
        encoder, tokenizer = kept_encoder(self.folder, experiment)
        expected = preset(
            experiment.preset,
            vocabulary_size=tokenizer.vocabulary_size,
            dropout=encoder.config.dropout,
            positions=experiment.positions,
        )
        if encoder.config == expected:
            return encoder, tokenizer
        static, deep = (
            dict(dataclasses.asdict(config), inner=None, layers=None, heads=None)
            for config in (encoder.config, expected)
        )
        if encoder.config.layers == 0 and static == deep:
            return _deepened(encoder, expected, experiment), tokenizer
        raise ConfigError(
            f"start_from {self.name!r}: its encoder is not of preset {experiment.preset!r} with positions "
            f"{expected.positions!r}: set both as that experiment does"
        )


def _deepened(encoder: Encoder, config: EncoderConfig, experiment: Experiment) -> Encoder:
    """An encoder with blocks that gives the vectors of one without: its blocks start at zero."""
    torch.manual_seed(experiment.seed)
    deeper = Encoder(config, backend=encoder.backend, gradient_checkpointing=encoder.gradient_checkpointing)
    deeper.load_state_dict(encoder.state_dict(), strict=False)
    return deeper.eval()


def _held_out(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of the evaluated sources by name."""
    evaluation = config.get("evaluation") or {}
    names = [*evaluation.get("sources", ()), evaluation.get("masked_source")]
    return {name: config["data"][name] for name in names if name}
