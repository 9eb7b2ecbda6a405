"""The text encoder: tokenizer, attention, encoder, checkpoint."""
