"""MicroLens, micro-videos with comments: the challenge data and the raw public release, and how datasets are built from them."""
