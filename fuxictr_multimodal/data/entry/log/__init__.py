"""A log of events to a dataset: splits, histories without a look ahead, negatives, and the columns of its samples."""
