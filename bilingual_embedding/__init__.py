"""Bilingual text embeddings for inputs of up to 8192 tokens: tokenizer, encoder, training stages, item vectors."""
