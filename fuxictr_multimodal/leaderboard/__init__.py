"""From the reports of a dataset to one table and one page."""
