"""Faults of a FuxiCTR clone, its own runners and loaders, that someone meets who trains QIN there."""

from __future__ import annotations

from fuxictr_multimodal.zoo.fault import Fault

TEST = "tests/zoo/test_in_a_clone.py"

CLONE_FAULTS = (
    Fault(
        name="the clone's runners do not fit the wheel",
        area="Clone",
        where="experiment/run_expid.py, model_zoo/*/run_expid.py",
        wrong="`RankDataLoader(...).make_iterator()`, which the fuxictr of PyPI with the same version does not have: "
        "an AttributeError",
        handling="reported: run them with PYTHONPATH set to the clone, whose fuxictr is then used",
        test=f"{TEST}::test_the_clones_runner_needs_the_clones_fuxictr",
    ),
    Fault(
        name="keras_preprocessing fails with numpy 2",
        area="Clone",
        where="fuxictr/preprocess/tokenizer.py: encode_sequence",
        wrong="`pad_sequences` reads `np.unicode_`: csv data with sequences ends in an AttributeError, after "
        "feature_map.json is written",
        handling="reported: use numpy below 2 there and remove the folder of the dataset, or build it with this "
        "project's runner",
        test=f"{TEST}::test_sequences_in_csv_fail_with_numpy_2",
    ),
    Fault(
        name="prepared data is built again",
        area="Clone",
        where="experiment/run_expid.py",
        wrong="it calls build_dataset for every data_format; with `rebuild_dataset: False` that writes a "
        "feature_map.json without features over the one that is there",
        handling="reported: leave the key out there, then build_dataset skips a dataset that has a feature_map.json; "
        "QIN refuses a feature map without features",
        handled_by="model_zoo.QIN.fields.Fields",
        test="tests/qin/test_inputs.py::test_a_feature_map_without_features_is_refused",
    ),
    Fault(
        name="LongCTR's runner cannot start",
        area="Clone",
        where="model_zoo/LongCTR/run_expid.py, fuxictr_version.py",
        wrong="it demands version 2.3.2 exactly, and `from __init__ import *` fails on relative imports",
        handling="reported: LongCTR models and QIN train by this project's runner, or by a script of your own that "
        "imports `model_zoo.LongCTR` and passes LongCTRDataLoader",
        test=f"{TEST}::test_longctrs_runner_cannot_start",
    ),
    Fault(
        name="LongCTR's loader needs whole numbers",
        area="Clone",
        where="model_zoo/LongCTR/longctr_dataloader.py: ParquetDataset, BatchCollator",
        wrong="all columns become one matrix: a single column of floats, such as the label, makes the user index a "
        "float, and looking it up an IndexError",
        handling="reported: write labels and features as integers; QIN then trains on its batches",
        test=f"{TEST}::test_longctrs_loader_needs_whole_numbers",
    ),
    Fault(
        name="the sample tuner file does not run",
        area="Clone",
        where="experiment/config: DCN_tiny_parquet_tuner_config.yaml",
        wrong="its inline dataset is not read without a key `dataset_config`, and paths of `base_config` are relative "
        "to another folder",
        handling="reported: give `base_config` a folder whose dataset entry has paths that are right in experiment/",
        test=f"{TEST}::test_fuxictrs_tuner_tunes_it",
    ),
)
