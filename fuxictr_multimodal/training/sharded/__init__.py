"""Embedding tables whose rows are spread over the processes of a training: torchrec's exchange behind FuxiCTR's layer."""
