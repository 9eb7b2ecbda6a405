"""Scores of a trained model for the test split, new samples or a submission; published weights in and out."""
