"""A GPU that is not there is an error of every command, before anything is written."""

import pytest
import torch

from fuxictr_multimodal.cli.comparison import run_comparison_main
from fuxictr_multimodal.cli.experiment import run_expid_main
from fuxictr_multimodal.cli.explain import run_explain_main
from fuxictr_multimodal.cli.predict import run_predict_main
from fuxictr_multimodal.cli.tuner import run_param_tuner_main

ONE = [(run_expid_main, ["--expid", "QIN_test"])]
ONE += [(main, ["--expid", "QIN_test"]) for main in (run_predict_main, run_explain_main)]
SEVERAL = [
    (run_expid_main, ["--expid", "QIN_test", "--seeds", "1,2"]),
    (run_param_tuner_main, ["--config", "config/tuner/QIN_demo_tuner.yaml"]),
    (run_comparison_main, ["--config", "config/comparison/demo.yaml"]),
]


@pytest.mark.parametrize(("main", "arguments"), [*ONE, *SEVERAL])
@pytest.mark.parametrize(
    ("count", "index", "message"),
    [
        (0, "0", "--gpu 0: this machine has no GPU that PyTorch can use (0 GPUs); -1 is the CPU"),
        (1, "1", "--gpu 1: this machine has 1 GPU, with index 0; -1 is the CPU"),
        (2, "7", "--gpu 7: this machine has 2 GPUs, with indices 0 to 1; -1 is the CPU"),
        (2, "-2", "--gpu -2: this machine has 2 GPUs, with indices 0 to 1; -1 is the CPU"),
    ],
)
def test_a_gpu_that_is_not_there(repository, tmp_path, monkeypatch, capsys, main, arguments, count, index, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config").symlink_to(repository / "config")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    tried = [["--gpu", index]]
    if any(main is other and arguments == more for other, more in SEVERAL):
        tried.append(["--gpu", "-1", index])
    for gpus in tried:
        with pytest.raises(SystemExit) as ended:
            main([*arguments, *gpus])
        assert ended.value.code == 2
        assert capsys.readouterr().err == f"error: {message}\n"
    assert [path.name for path in tmp_path.iterdir()] == ["config"]
