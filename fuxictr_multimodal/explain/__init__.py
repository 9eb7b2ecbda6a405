"""What a trained model attends to, which inputs it needs, and how large its activations are."""
