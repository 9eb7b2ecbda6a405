"""From the reports of a dataset to tables, statistics and a page."""
