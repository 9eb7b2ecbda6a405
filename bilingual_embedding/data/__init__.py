"""Sources of texts: read, checked, and cleaned of what is evaluated on."""
