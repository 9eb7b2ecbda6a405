"""Tables, statistics and a page from the reports of a dataset."""
