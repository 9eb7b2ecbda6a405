"""Text of unknown origin: decoded, cut into words, and escaped for where it is printed."""
