"""What the small models beside QIN share: how they read a batch, their settings, and the MLP that ends them."""
