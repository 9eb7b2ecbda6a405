"""The tables of the user: files and frames, items, users, lists, values and times, checked where they are read."""
