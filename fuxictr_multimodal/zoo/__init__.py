"""From the name of a model to its class, and from a batch to what that class reads."""
