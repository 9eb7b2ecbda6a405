"""An exported model behind HTTP: one process that ranks, takes new items and follows its folder."""
