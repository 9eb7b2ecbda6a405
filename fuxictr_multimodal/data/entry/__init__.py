"""An entry of `dataset_config/*.yaml` to a dataset: the user's own files, as samples or as a log of events."""
