"""Embedding tables whose rows are spread over the processes of a training, by torchrec, behind FuxiCTR's layer."""
