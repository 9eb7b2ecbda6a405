"""Files that somebody else wrote: what they declare is compared with what they can hold before memory is taken."""
