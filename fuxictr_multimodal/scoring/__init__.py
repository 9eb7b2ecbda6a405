"""Scores of a trained model: of the test split, of new rows, as a submission; published weights in and out."""
