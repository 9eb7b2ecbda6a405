"""Explanations of trained models: attention, importance of inputs, and scales of activations."""
