"""What `startup.py` starts: `run_expid.py` with a clock at each station, ended after the first training step.

    python benchmarks/_startup_child.py --expid QIN_test --gpu -1

The last line on stdout is a JSON object: the clock when a station was passed, by name and in order. `time.monotonic` is
one clock for all processes of a machine, so the parent knows when it started this one.
"""

import time

STARTED = time.monotonic()


def main() -> None:
    """Import what the command imports, a package at a time, then run the command."""
    from fuxictr_multimodal.cli.experiment import run_expid_main

    passed = {"interpreter": STARTED, "arguments": time.monotonic()}

    def stamp(station: str) -> None:
        passed[station] = time.monotonic()

    import torch

    stamp("import_torch")
    import fuxictr.pytorch.dataloaders
    import fuxictr.pytorch.models  # noqa: F401

    stamp("import_fuxictr")
    from fuxictr_multimodal.training import experiment, runner
    from fuxictr_multimodal.training.experiment import Experiment

    stamp("import_ours")

    import functools
    import json
    import os
    from collections.abc import Callable
    from typing import Any

    def between(
        owner: Any,
        name: str,
        *,
        before: str | None = None,
        after: str | None = None,
        then: Callable[[Any], None] | None = None,
    ) -> None:
        """Stamp when a function is entered and when it returns; `then` receives its result."""
        function: Callable[..., Any] = getattr(owner, name)

        @functools.wraps(function)
        def stamped(*args: Any, **kwargs: Any) -> Any:
            if before:
                stamp(before)
            result = function(*args, **kwargs)
            if then:
                then(result)
            if after:
                stamp(after)
            return result

        setattr(owner, name, stamped)

    between(experiment, "open_or_build", before="config", after="open_store")
    between(Experiment, "build_model", before="report_and_log", after="build_model")
    between(Experiment, "loaders", after="open_loaders")

    def end(step_loss: torch.Tensor) -> None:
        loss = step_loss.item()  # .item() waits for a GPU
        stamp("first_step")
        print(json.dumps({"passed": passed, "loss": loss}), flush=True)
        os._exit(0)  # at once: what a run does at its end is not its start

    between(runner.Trainer, "_train_step", before="first_batch", then=end)
    run_expid_main()


if __name__ == "__main__":
    main()
