"""Sources of texts: read, checked, and cleaned of evaluation texts."""
