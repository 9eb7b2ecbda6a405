"""MicroLens, micro-videos with comments: datasets from the challenge data and from the raw public release."""
