"""Utilities for the operating system: files, memory, signals, GPUs and the terminal."""
