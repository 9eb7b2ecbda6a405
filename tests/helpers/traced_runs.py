"""A run whose loss of every step comes with its report, as one of several processes trains it."""

import os
import signal

from fuxictr_multimodal.system import ranks
from fuxictr_multimodal.training.trainer import Trainer


def traced(run_qin, monkeypatch, *settings, kill_at=None, **arguments):
    """What a rank does, for `run_forked`: the losses of the global batches, the report and its file.

    Args:
        run_qin: the fixture.
        monkeypatch: the fixture.
        settings: of the run.
        kill_at: the rank that is killed, and the step in which it is.
        arguments: of `run_qin`.
    """
    # What this process would do beside the training: pictures, and a process of git.
    monkeypatch.setattr("fuxictr_multimodal.training.runner.draw_curves_beside", lambda *arguments: None)
    monkeypatch.setattr("fuxictr_multimodal.training.recorder.git_commit", lambda: None)

    def body(rank):
        losses = []
        step = Trainer._train_step

        def kept(self, batch):
            if kill_at == (rank, len(losses) + 1):
                os.kill(os.getpid(), signal.SIGKILL)
            loss = step(self, batch)
            losses.append(ranks.sum_over_ranks(loss.detach().double()).item())
            return loss

        with monkeypatch.context() as patch:
            patch.setattr(Trainer, "_train_step", kept)
            report, path = run_qin(*settings, **arguments)
        return losses, report, path

    return body
