"""Nothing that a configuration or a dataset folder says is run as code, and what FuxiCTR's own files say passes."""

import ast
import json
import shutil
from dataclasses import replace
from pathlib import Path

import fuxictr
import pytest
import sklearn.preprocessing
import torch
import yaml

from fuxictr_multimodal.cli.experiment import run_expid_main
from fuxictr_multimodal.cli.explain import run_explain_main
from fuxictr_multimodal.cli.predict import run_predict_main
from fuxictr_multimodal.cli.tuner import run_param_tuner_main
from fuxictr_multimodal.config import known_values
from fuxictr_multimodal.config.dataset_settings import DATASET_KEYS
from fuxictr_multimodal.config.expids import load_config
from fuxictr_multimodal.config.known_values import check_known_values
from fuxictr_multimodal.config.run_settings import FUXICTR_KEYS, RUN_KEYS
from fuxictr_multimodal.data.synthetic import build_from_config
from fuxictr_multimodal.errors import ConfigError
from fuxictr_multimodal.training.experiment import resumed_params
from fuxictr_multimodal.training.report import Report
from tests.helpers.resealed import reseal

COLUMNS = (
    "[{name: user_id, dtype: int, type: meta}, {name: likes_level, dtype: int, type: categorical, vocab_size: 11},"
    " {name: item_id, dtype: int, type: categorical, source: item}]"
)
PLANTED = "__import__('pathlib').Path({path!r}).touch()"
# A key of a run, and the value that carries the planted text.
RUN_VALUES = {
    "loss": "{planted}",
    "loss in a list": "[bce, {planted}]",
    "loss after a name": "{if_open}",
    "task": "{planted}",
    "optimizer": "{planted}",
    "metrics": "[AUC, {planted}]",
    "metrics of a group": "[AUC, {after_ndcg}]",
    "monitor": "{planted}",
    "monitor of several": "{{{planted}: 1}}",
    "monitor_mode": "{planted}",
    "embedding_initializer": "{planted}",
    "embedding_initializer in a partial": "{in_partial}",
    "activation": "{planted}",
    "dnn_activations": "[ReLU, {planted}]",
    "attention_output_activation": "{planted}",
    "embedding_regularizer": "{planted}",
    "net_regularizer": "{planted}",
    "hyper_net of a model": "{{hidden_activations: {planted}}}",
    "gru_type of a model": "{planted}",
    "feature_specs": "[{{name: likes_level, feature_encoder: {planted}}}]",
    "feature_specs of several": "[{{name: likes_level, feature_encoder: [nn.ReLU(), {planted}]}}]",
    "feature_cols": "[{{name: likes_level, dtype: {planted}, type: categorical, vocab_size: 11}}]",
    "label_col": "{{name: label, dtype: {planted}}}",
}


def planted_value(form: str, marker: Path) -> str:
    planted = PLANTED.format(path=str(marker))
    return form.format(
        planted=json.dumps(planted),
        if_open=json.dumps(f"__name__ if {planted} is None else 0"),
        after_ndcg=json.dumps(f"NDCG(k={planted})"),
        in_partial=json.dumps(f"partial(nn.init.normal_, std={planted})"),
    )


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with a configuration; `write` puts lines into the experiment or the dataset entry."""
    monkeypatch.chdir(tmp_path)

    def write(experiment=(), dataset=()):
        base = "Base: {model_root: ./checkpoints/, seed: 1, epochs: 1, batch_size: 64, group_id: user_id}\n"
        own = ["model: QIN", "dataset_id: D", "embedding_dim: 4", "num_layers: 1", "num_row: 2", *experiment]
        given = {line.split(":")[0] for line in experiment}
        own += [line for line in ("metrics: [AUC]", "monitor: AUC") if line.split(":")[0] not in given]
        entry = ["data_root: ./data/", "max_len: 8", "synthetic: {rows: 64, valid_rows: 64, test_rows: 64, items: 20}"]
        given = {line.split(":")[0] for line in dataset}
        entry += [
            line
            for line in (f"feature_cols: {COLUMNS}", "label_col: {name: label, dtype: float}")
            if line.split(":")[0] not in given
        ]
        Path("config").mkdir(exist_ok=True)
        Path("config/model_config.yaml").write_text(base + "E:\n" + "".join(f"    {line}\n" for line in own))
        lines = "".join(f"    {line}\n" for line in [*entry, *dataset])
        Path("config/dataset_config.yaml").write_text("D:\n" + lines)
        return tmp_path

    return write


def refused(command, *arguments):
    with pytest.raises(SystemExit) as ended:
        command([*map(str, arguments)])
    assert ended.value.code == 2


@pytest.mark.parametrize("name", RUN_VALUES)
def test_a_planted_text_in_yaml_or_set_ends_the_command_and_does_not_run(folder, capsys, name):
    key, marker = name.split()[0], folder() / "planted"
    line = f"{key}: {planted_value(RUN_VALUES[name], marker)}"
    for arguments in (["--set", line.replace(": ", "=", 1)], []):
        if not arguments:
            folder(**{"dataset" if key in DATASET_KEYS else "experiment": [line]})
        refused(run_expid_main, "--expid", "E", *arguments)
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert "\n" not in error.strip()
        assert key in error
    assert not marker.exists()
    assert {path.name for path in folder().iterdir()} == {"config"}


@pytest.mark.parametrize("command", [run_predict_main, run_explain_main])
def test_other_commands_refuse_it_too(folder, capsys, command):
    marker = folder() / "planted"
    refused(command, "--expid", "E", "--set", f"loss={planted_value('{if_open}', marker)}")
    assert "loss" in capsys.readouterr().err
    assert not marker.exists()


@pytest.mark.parametrize("key", ["loss", "embedding_initializer", "metrics", "activation"])
def test_a_tuner_file_is_refused_before_its_first_trial(folder, capsys, key):
    marker = folder() / "planted"
    harmless = {"loss": "bce", "embedding_initializer": "nn.init.normal_", "metrics": "[AUC]", "activation": "relu"}[
        key
    ]
    value = planted_value("[{planted}]" if key == "metrics" else "{planted}", marker)
    Path("tuner.yaml").write_text(
        f"base_config: ./config\nbase_expid: E\ntuner_space: {{seed: [1, 2], {key}: [{harmless}, {value}]}}\n"
    )
    refused(run_param_tuner_main, "--config", "tuner.yaml", "--search", "random", "--trials", "4")
    assert f"tuner.yaml: tuner_space: {key}" in capsys.readouterr().err
    assert not marker.exists()
    assert not Path("tuner_random_s0").exists()


@pytest.mark.parametrize("name", RUN_VALUES)
def test_a_planted_text_in_the_report_of_a_run_is_refused(folder, name):
    key, marker = name.split()[0], folder() / "planted"
    params = load_config(Path("config"), "E")
    theirs = {**params, key: yaml.safe_load(planted_value(RUN_VALUES[name], marker))}
    before = Report(expid="theirs", model="QIN", dataset_id="D", seed=1, config=json.loads(json.dumps(theirs)))
    assert resumed_params(replace(before, config=json.loads(json.dumps(params))), params, ()) == params
    with pytest.raises(ConfigError, match=f"the report of run 'theirs'.*{key}"):
        resumed_params(before, params, ())
    assert not marker.exists()


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A dataset on disk, to be copied and tampered with."""
    root = tmp_path_factory.mktemp("built")
    (root / "dataset_config.yaml").write_text(
        "D: {data_root: x, synthetic: {rows: 64, valid_rows: 64, test_rows: 64, items: 20},"
        f" feature_cols: {COLUMNS}, label_col: {{name: label, dtype: float}}}}\n"
    )
    build_from_config("D", config_dir=root, data_root=root / "data")
    return root / "data"


@pytest.mark.parametrize("key", ["feature_encoder", "dtype", "normalizer", "preprocess", "pretrained_emb", "type"])
def test_a_planted_text_in_a_downloaded_feature_map_does_not_run(folder, built, capsys, key):
    marker = folder() / "planted"
    shutil.copytree(built, "data")
    path = Path("data/D/feature_map.json")
    stored = json.loads(path.read_text())
    (spec,) = [entry["likes_level"] for entry in stored["features"] if "likes_level" in entry]
    spec[key] = PLANTED.format(path=str(marker))
    path.write_text(json.dumps(stored))
    reseal(path.parent)
    refused(run_expid_main, "--expid", "E")
    assert key in capsys.readouterr().err
    assert not marker.exists()


@pytest.mark.parametrize(
    "settings",
    [
        {"loss": "binary_crossentropy", "task": "binary_classification", "optimizer": "adam"},
        {"loss": ["binary_crossentropy", "bce"], "task": ["binary_classification", "regression"]},
        {"optimizer": "AdamW", "deep_optimizer": "ADAM", "contrastive_loss": 10.0, "first_order_loss": "own"},
        {"metrics": ["gAUC", "AUC", "logloss", "avgAUC", "MRR", "NDCG(k=5)", "NDCG(10)"], "monitor": "NDCG(k=5)"},
        {"metrics": ["MAP", "MAP(k=5)", "HR(k = 10)", "Precision(3)", "Recall(k=3)"], "monitor": {"HR(k=10)": 1}},
        {"monitor": {"AUC": 1, "logloss": -1}, "monitor_mode": "min"},
        {"embedding_initializer": "partial(nn.init.normal_, std=1e-4)"},
        {"embedding_initializer": "partial(torch.nn.init.uniform_, a=-0.05, b=.05)"},
        {"embedding_initializer": "nn.init.xavier_normal_"},
        {"embedding_initializer": None, "hidden_activations": None, "attention_output_activation": None},
        {"dnn_activations": "relu", "attention_hidden_activations": "Dice", "conv_activation": "Tanh"},
        {"hidden_activations": ["ReLU", "PReLU"], "attention_activation": "softmax", "use_activation": True},
        {"embedding_regularizer": "l1_l2(1.e-5, 1e-6)", "net_regularizer": "l2(0.1)", "regularizer": 0},
        {"first_order_regularizer": {"user_id": 1e-3}},
        {"feature_specs": [{"name": "item_emb", "feature_encoder": ["nn.Linear(128, 64, bias=False)", "nn.ReLU()"]}]},
        {"feature_specs": [{"name": "tags", "feature_encoder": "layers.MaskedAveragePooling()"}]},
        {"feature_specs": [{"name": "tags", "feature_encoder": None}], "gru_type": "AUGRU", "obtain": "ask (kindly)"},
        {"hypernet_config": {"hidden_units": [8], "hidden_activations": "relu"}, "aux_loss_alpha": 0},
    ],
)
def test_what_fuxictr_s_own_files_say_passes(settings):
    check_known_values(settings, "here", free=RUN_KEYS | DATASET_KEYS | FUXICTR_KEYS)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": "binary_crossentrpy"}, "loss 'binary_crossentrpy' is not known. Did you mean 'binary_crossentropy'"),
        ({"task": "classification"}, "Did you mean 'binary_classification'"),
        ({"optimizer": "adamw"}, "Did you mean 'AdamW'"),
        ({"metrics": ["AUC", "gauc"]}, "metrics 'gauc' is not known. Did you mean 'gAUC'"),
        ({"metrics": "AUC"}, r"metrics 'AUC' is not a list: write \[AUC\]"),
        ({"loss": None}, "loss None is not known"),
        ({"metrics": ["NDCG"]}, r"Did you mean 'NDCG\(k=5\)'"),
        ({"metrics": ["HR(k=0)"]}, r"Did you mean 'HR\(k=5\)'"),
        ({"monitor": "AUC(k=5)"}, r"monitor 'AUC\(k=5\)' is not known"),
        ({"monitor": {"AUC": "1"}}, "gives AUC the weight '1'"),
        ({"embedding_initializer": "nn.init.xavier_norml_"}, "Did you mean 'xavier_normal_'"),
        ({"embedding_initializer": "partial(nn.init.normal_"}, "would be run as code"),
        ({"dnn_activations": "LeakyRelu"}, "Did you mean 'LeakyReLU'"),
        ({"net_regularizer": "l3(0.1)"}, r"neither a number .* nor l1\(x\)"),
        ({"gru_type": "print(1)"}, "gru_type 'print.1.' reads like code"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(settings, message):
    with pytest.raises(ConfigError, match=f"here: .*{message}"):
        check_known_values(settings, "here", free=())


def test_the_known_names_are_there():
    functional, aliases = torch.nn.functional, {"binary_crossentropy", "bce"}
    assert all(hasattr(functional, name) for name in set(known_values.LOSSES) - aliases)
    weights = [torch.nn.Parameter(torch.zeros(2))]
    assert all(getattr(torch.optim, name)(weights, lr=0.1) for name in known_values.OPTIMIZERS)
    assert all(hasattr(torch.nn.init, name) for name in known_values.INITIALIZERS)
    assert all(hasattr(sklearn.preprocessing, name) for name in known_values.NORMALIZERS)
    own = {"Dice", "PReLU", "relu_mean"}
    assert all(getattr(torch.nn, name)() for name in set(known_values.ACTIVATIONS) - own)


def test_fuxictr_evaluates_nothing_but_what_the_list_knows():
    """A new version of FuxiCTR that evaluates more must be looked at before it is allowed."""
    package = Path(fuxictr.__file__).parent
    files = [path for path in package.rglob("*.py") if "tensorflow" not in path.parts]
    found = set()
    for path in files:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
            for node in ast.walk(function):
                if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("eval", "exec", "getattr"):
                    found.add((path.stem, function.name, node.func.id, ast.unparse(node.args[-1])))
    assert found == {
        ("metrics", "evaluate_metrics", "eval", "metric"),
        ("feature_processor", "__init__", "eval", "feat['dtype']"),
        ("feature_processor", "preprocess", "getattr", "preprocess_args[0]"),
        ("feature_embedding", "get_feature_encoder", "eval", "enc"),
        ("feature_embedding", "get_feature_encoder", "eval", "encoder"),
        ("torch_utils", "get_optimizer", "getattr", "optimizer"),
        ("torch_utils", "get_loss", "getattr", "loss"),
        ("torch_utils", "get_loss", "eval", "'losses.' + loss"),
        ("torch_utils", "get_activation", "getattr", "activation"),
        ("torch_utils", "get_initializer", "eval", "initializer"),
    }
