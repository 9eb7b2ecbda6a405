"""From raw files to batches: recipes, the dataset on disk, its loader and the item table."""
