"""Raw files to a store: what each data set means, and what recipes share."""
