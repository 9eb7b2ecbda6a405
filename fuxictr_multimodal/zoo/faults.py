"""FuxiCTR's faults that affect this project: where and what goes wrong, the handling, and the test of it.

`python -m fuxictr_multimodal.zoo.faults > docs/fuxictr_faults.md` writes the page. A test checks that every place and
every test named here exists. Many of the tests fail when FuxiCTR fixes the fault: then the handling can be removed.
"""

from __future__ import annotations

from collections.abc import Iterable

from fuxictr_multimodal.zoo.clone_faults import CLONE_FAULTS
from fuxictr_multimodal.zoo.fault import AREAS, VERSION, Fault
from fuxictr_multimodal.zoo.repairs import FILLED_AFTER

SHORT_MASK = Fault(
    name="the short history's mask is shifted by one",
    area="Models",
    where="model_zoo/LongCTR: forward of SIM, ETA, SDIM, TWIN and MIRRN",
    # The embeddings end with the target, the mask does not.
    wrong="`mask[:, -short_seq_len:-1]` stands beside `item_feat_emb[:, -short_seq_len:-1]`: each item is kept or "
    "dropped by the mask of the item before it, and the newest one of a short history is lost",
    handling="none, since published figures have it; leaderboards mark these models",
    handled_by="fuxictr_multimodal.comparison.notes.marks_of",
    test="tests/zoo/test_longctr.py::test_fault_the_short_mask_is_shifted_by_one",
    models=frozenset({"SIM", "ETA", "SDIM", "TWIN", "MIRRN"}),
    footnote=f"FuxiCTR's SIM, ETA, SDIM, TWIN and MIRRN (FuxiCTR {VERSION}) mask their short history one position "
    "off: each item is kept or dropped by the mask of the item before it. The numbers are those of FuxiCTR's code, "
    "unchanged.",
)

FAULTS = (
    Fault(
        name="texts are run as code",
        area="Configuration",
        where="fuxictr/pytorch/torch_utils.py, metrics.py, layers/embeddings, preprocess/feature_processor.py",
        wrong="`eval` of loss, metrics, initializer, feature_encoder and dtype, also from a dataset's "
        "feature_map.json: a downloaded file can run code",
        handling="each such text must be one of the values listed there",
        handled_by="fuxictr_multimodal.config.known_values.RULES",
        test="tests/config/test_known_values.py::test_fuxictr_evaluates_nothing_but_what_the_list_knows",
    ),
    Fault(
        name="unknown keys vanish",
        area="Configuration",
        where="every model's `**kwargs`",
        wrong="a misspelt parameter is silently dropped, and the run has the default",
        handling="an error that names the nearest key",
        handled_by="fuxictr_multimodal.config.expids.check_model_keys",
        test="tests/config/test_config.py::test_unknown_model_key_names_the_nearest",
    ),
    Fault(
        name="an integer regulariser is ignored",
        area="Configuration",
        where="fuxictr/pytorch/torch_utils.py: get_regularizer",
        wrong="`embedding_regularizer: 1` trains without any",
        handling="an integer becomes a float",
        handled_by="fuxictr_multimodal.config.expids",
        test="tests/config/test_config.py::test_integer_regulariser_becomes_a_float_that_fuxictr_reads",
    ),
    Fault(
        name="1e-3 is a text",
        area="Configuration",
        where="fuxictr/utils.py: load_model_config (YAML 1.1)",
        wrong="`learning_rate: 1e-3` ends as an unsupported optimizer",
        handling="an error that says how to write the number",
        handled_by="fuxictr_multimodal.config.expids",
        test="tests/config/test_config.py::test_bad_configuration_is_one_clear_error",
    ),
    Fault(
        name="a missing GPU is replaced by the CPU",
        area="Configuration",
        where="fuxictr/pytorch/torch_utils.py: get_device",
        wrong="`gpu: 0` on a machine without a usable GPU trains on the CPU silently",
        handling="refused before anything is loaded",
        handled_by="fuxictr_multimodal.system.gpus.check_gpus",
        test="tests/system/test_gpus.py::test_a_gpu_that_is_not_there",
    ),
    Fault(
        name="an unfinished build counts as finished",
        area="Dataset",
        where="fuxictr/preprocess/build_dataset.py",
        wrong="feature_map.json is written before the data, so an interrupted build is taken for a finished one",
        handling="a dataset is built beside its place and renamed at the end; without a manifest there is none",
        handled_by="fuxictr_multimodal.data.store.staging",
        test="tests/data/store/test_store.py::test_interrupted_build",
    ),
    Fault(
        name="parallel runs write the same dataset files",
        area="Dataset",
        where="fuxictr/preprocess/build_dataset.py",
        wrong="json, pickle and vocabulary are written anew at every run",
        handling="one builder at a time, under a lock; runs only read",
        handled_by="fuxictr_multimodal.data.store.staging",
        test="tests/data/store/test_staging.py::test_a_second_build_waits_and_then_finds_the_dataset",
    ),
    Fault(
        name="the processor is a pickle",
        area="Dataset",
        where="fuxictr/preprocess/feature_processor.py: save_pickle, load_pickle",
        wrong="a downloaded dataset folder can run code",
        handling="vocabularies and feature map only, both JSON",
        handled_by="fuxictr_multimodal.data.store.feature_map.restore_processor",
        test="tests/data/store/test_encoding.py::test_no_pickle_is_written_or_read",
    ),
    Fault(
        name="buckets crash",
        area="Dataset",
        where="fuxictr/preprocess/feature_processor.py: hash_bucket, quantile_bucket",
        wrong="a KeyError while fitting",
        handling="buckets of our own, whose boundaries the manifest keeps",
        handled_by="fuxictr_multimodal.data.store.buckets",
        test="tests/data/store/test_encoding.py::test_fuxictr_still_cannot_bucket",
    ),
    Fault(
        name="remap: False crashes",
        area="Dataset",
        where="fuxictr/preprocess/feature_processor.py",
        wrong="encoded ids cannot be given",
        handling="refused; `vocab_size` says that a column comes encoded",
        handled_by="fuxictr_multimodal.data.store.feature_cols.check_feature_cols",
        test="tests/data/store/test_feature_cols.py::test_refused_columns",
    ),
    Fault(
        name="an empty vocabulary crashes",
        area="Dataset",
        where="fuxictr/preprocess/tokenizer.py",
        wrong="a column without a value that is frequent enough ends the build in an index error",
        handling="refused by name before it is fitted",
        handled_by="fuxictr_multimodal.data.store.encoding",
        test="tests/data/store/test_encoding.py::test_fuxictr_still_crashes_on_an_empty_vocabulary",
    ),
    Fault(
        name="lists of text crash",
        area="Dataset",
        where="fuxictr/preprocess/feature_processor.py: preprocess",
        wrong="a sequence must be one text, joined with ^ whatever the splitter says",
        handling="lists, arrays and texts are brought into its form",
        handled_by="fuxictr_multimodal.data.store.encoding",
        test="tests/data/store/test_encoding.py::test_lists_arrays_and_text_are_one_sequence",
    ),
    Fault(
        name="statistics depend on threads",
        area="Dataset",
        where="fuxictr/preprocess/feature_processor.py: fit",
        wrong="sums are added in the order in which threads finish: equal data gives unequal bytes",
        handling="computed in the order of the rows",
        handled_by="fuxictr_multimodal.data.store.encoding",
        test="tests/data/store/test_encoding.py::test_statistics_do_not_depend_on_threads",
    ),
    Fault(
        name="batches come through Ray",
        area="Loading",
        where="fuxictr/pytorch/dataloaders/parquet_dataloader.py",
        wrong="seconds for 5,000 rows, and a shuffle that ignores the seed",
        handling="our own loader, passed by FuxiCTR's `data_loader` hook",
        handled_by="fuxictr_multimodal.data.loader.MultimodalDataLoader",
        test="tests/data/test_loader.py::test_epochs_differ_and_a_seed_repeats_them",
    ),
    Fault(
        name="a NaN replaces the best checkpoint",
        area="Training",
        where="fuxictr/pytorch/models/rank_model.py: checkpoint_and_earlystop",
        wrong="a run that diverges overwrites what it had learnt",
        handling="training ends with an error, the best checkpoint stays",
        handled_by="fuxictr_multimodal.training.trainer.Trainer",
        test="tests/training/test_runner.py::test_divergence_keeps_the_best_checkpoint_and_says_so",
    ),
    Fault(
        name="a checkpoint may run code",
        area="Training",
        where="fuxictr/pytorch/models/rank_model.py: load_weights",
        wrong="`torch.load` without `weights_only`",
        handling="tensors only",
        handled_by="fuxictr_multimodal.training.checkpoint.load_checkpoint",
        test="tests/zoo/test_faults.py::test_a_checkpoint_with_code_is_refused",
    ),
    Fault(
        name="the plateau factor is fixed",
        area="Training",
        where="fuxictr/pytorch/models/rank_model.py: fit, lr_decay",
        wrong="no setting reaches `factor`: the learning rate always falls to a tenth",
        handling="`factor` of the experiment",
        handled_by="fuxictr_multimodal.training.trainer.Trainer",
        test="tests/zoo/test_longctr.py::test_a_plateau_lowers_the_rate_by_the_factor_of_the_experiment",
    ),
    Fault(
        name="gradients leak into the next epoch",
        area="Training",
        where="model_zoo/LongCTR: train_step with accumulation_steps",
        wrong="the last partial window of an epoch is neither stepped nor dropped",
        handling="QIN steps it, averaged over its size; for other models the trainer drops it",
        handled_by="model_zoo.QIN.QIN.QIN.train_step",
        test="tests/qin/test_model.py::test_accumulation_does_not_leak_over_an_epoch",
    ),
    Fault(
        name="an interruption becomes an error",
        area="Training",
        where="bare `except:` in fuxictr/metrics.py and torch_utils.py",
        wrong="Ctrl-C or a signal inside ends as NotImplementedError",
        handling="raised again as what it was",
        handled_by="fuxictr_multimodal.system.interruption.interruption_kept",
        test="tests/training/test_runner.py::test_an_interruption_that_fuxictr_makes_an_error_of_is_one",
    ),
    Fault(
        name="grouped metrics start a process a group",
        area="Metrics",
        where="fuxictr/metrics.py: evaluate_metrics",
        wrong="68 s for 10,000 groups",
        handling="one sort for all groups, with the same values",
        handled_by="fuxictr_multimodal.metrics.classification.grouped_auc",
        test="tests/metrics/test_classification.py::test_equal_to_scikit_learn_and_fuxictr_with_ties",
    ),
    Fault(
        name="an undefined AUC is NaN",
        area="Metrics",
        where="fuxictr/metrics.py: evaluate_metrics",
        wrong="a split of one class gives NaN, on which early stopping then acts",
        handling="a monitored one is refused before training; any other is null in the report, with the reason",
        handled_by="fuxictr_multimodal.metrics.classification.undefined",
        test="tests/training/test_runner.py::test_a_metric_that_is_not_defined_is_null_and_noted_once",
    ),
    SHORT_MASK,
    Fault(
        name="a short history fails",
        area="Models",
        where="model_zoo/LongCTR: forward of SIM, ETA, SDIM, TWIN and MIRRN",
        wrong="a batch whose longest history is shorter than short_seq_len ends in a RuntimeError",
        handling="such models always get that many slots",
        handled_by="fuxictr_multimodal.zoo.repairs.least_slots",
        test="tests/zoo/test_longctr.py::test_fault_histories_shorter_than_short_seq_len_fail",
        models=SHORT_MASK.models,
    ),
    Fault(
        name="DIEN reads padding",
        area="Models",
        where="model_zoo/LongCTR/DIEN",
        wrong="it packs histories from the left, where FuxiCTR's default `padding: pre` has item 0",
        handling="filled after the items",
        handled_by="fuxictr_multimodal.zoo.repairs.padding_side",
        test="tests/zoo/test_longctr.py::test_fault_dien_reads_padding_when_histories_are_filled_before",
        models=FILLED_AFTER,
    ),
    Fault(
        name="DIEN fails on one history",
        area="Models",
        where="model_zoo/LongCTR/DIEN: interest_evolution",
        wrong="`h_out.squeeze()` drops the axis of the rows where only one row of a batch has a history: an error",
        handling="none: such batches do not occur at usual sizes",
        test="tests/zoo/test_longctr.py::test_fault_dien_fails_on_a_batch_with_one_history",
        models=frozenset({"DIEN"}),
    ),
    Fault(
        name="every slot is embedded",
        area="Models",
        where="model_zoo/LongCTR: embedding_layer(item_dict)",
        wrong="padding and repeated items are embedded again in every batch",
        handling="each distinct item once; values are the same",
        handled_by="fuxictr_multimodal.zoo.distinct_items.DistinctItems",
        test="tests/zoo/test_distinct_items.py::test_losses_gradients_and_scores_are_those_of_every_slot",
    ),
    Fault(
        name="tables of unshared layers are not initialised",
        area="Models",
        where="fuxictr/pytorch/layers/embeddings/feature_embedding.py: init_weights",
        wrong="a feature with share_embedding keeps torch's N(0, 1) in a layer that does not share, as in "
        "LogisticRegression: it drowns the rest",
        handling="initialised as the others are",
        handled_by="fuxictr_multimodal.zoo.repairs.initialise_forgotten_tables",
        test="tests/zoo/test_models.py::test_fault_fuxictr_forgets_tables_that_a_layer_does_not_share",
    ),
    Fault(
        name="pretrained embeddings are not projected",
        area="Models",
        where="layers of width 1 of clone models",
        wrong="a pretrained embedding reaches a layer of another width, and the model crashes",
        handling="such a model is built without pretrained embeddings, with a warning",
        handled_by="fuxictr_multimodal.zoo.repairs.without_projection",
        test="tests/zoo/test_models.py::test_faults_that_interaction_models_of_a_clone_have_are_handled",
    ),
    Fault(
        name="one regulariser instead of two",
        area="Models",
        where="clone models that only have embeddings, such as LR and FM",
        wrong="they call it `regularizer` and fail when given the usual two names",
        handling="named as the model has it",
        handled_by="fuxictr_multimodal.zoo.repairs.name_one_regularizer",
        test="tests/zoo/test_models.py::test_faults_that_interaction_models_of_a_clone_have_are_handled",
    ),
    Fault(
        name="an old keyword",
        area="Models",
        where="clone models that call `embedding_layer(..., dynamic_emb_dim=True)`",
        wrong="FuxiCTR has renamed it to flatten_emb: a TypeError",
        handling="renamed on the way",
        handled_by="fuxictr_multimodal.zoo.repairs.accept_old_keyword",
        test="tests/zoo/test_models.py::test_faults_that_interaction_models_of_a_clone_have_are_handled",
    ),
    Fault(
        name="every model of a clone is called src",
        area="Models",
        where="model_zoo/<Model>/src",
        wrong="two models cannot be imported in one process",
        handling="each gets a package name of its own",
        handled_by="fuxictr_multimodal.zoo.clone.load_model",
        test="tests/zoo/test_clone.py::test_each_package_is_src_to_itself_and_has_its_own_name_afterwards",
    ),
    Fault(
        name="different settings share an id",
        area="Tuning",
        where="fuxictr/autotuner.py: enumerate_params",
        wrong="ids hash the sorted characters of a setting",
        handling="ids hash the whole resolved configuration",
        handled_by="fuxictr_multimodal.launch.tuning.space",
        test="tests/launch/tuning/test_space.py::test_settings_whose_sorted_characters_agree_are_two_trials",
    ),
    Fault(
        name="two dataset settings crash",
        area="Tuning",
        where="fuxictr/autotuner.py: enumerate_params",
        wrong="a KeyError; the same for an inline model_config",
        handling="any number of settings, inline or in files",
        handled_by="fuxictr_multimodal.launch.tuning.space",
        test="tests/launch/tuning/test_space.py::test_two_dataset_settings",
    ),
    Fault(
        name="failures of trials are not seen",
        area="Tuning",
        where="fuxictr/autotuner.py: grid_search",
        wrong="exit codes are ignored and orphans stay",
        handling="each trial is watched; what failed is named with its reason",
        handled_by="fuxictr_multimodal.launch.tuning.scheduler",
        test="tests/launch/tuning/test_run.py::test_twelve_trials_on_two_slots_one_crashing_and_one_killed",
    ),
    *CLONE_FAULTS,
)


def footnotes(faults: Iterable[Fault] = FAULTS) -> dict[str, Fault]:
    """Faults with a leaderboard footnote, by the letter that marks their models.

    >>> [(letter, fault.name) for letter, fault in footnotes().items()]
    [('a', "the short history's mask is shifted by one")]
    """
    return {chr(ord("a") + place): fault for place, fault in enumerate(f for f in faults if f.footnote)}


def as_markdown(faults: Iterable[Fault] = FAULTS) -> str:
    """The page of all faults, a table an area."""
    faults = list(faults)
    lines = [
        "# FuxiCTR's faults, and what is done about them",
        "",
        f"What this project met in FuxiCTR {VERSION}, as PyPI ships it, and in a clone of its repository. A test",
        "covers each row. This page is generated: `python -m fuxictr_multimodal.zoo.faults > docs/fuxictr_faults.md`.",
    ]
    for area in AREAS:
        lines += ["", f"## {area}", "", "| fault | in FuxiCTR | here | test |", "|---|---|---|---|"]
        for fault in (fault for fault in faults if fault.area == area):
            by = f" (`{fault.handled_by}`)" if fault.handled_by else ""
            test = fault.test.split("::")[1]
            lines.append(f"| {fault.name} | {fault.where}: {fault.wrong} | {fault.handling}{by} | `{test}` |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(as_markdown(), end="")
