"""One experiment: from an expid to a trained model, its metrics and its report."""
