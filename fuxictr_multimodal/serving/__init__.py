"""A trained model in production: exported to a folder, ranked from it, served over HTTP."""
