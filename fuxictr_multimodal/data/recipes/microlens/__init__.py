"""MicroLens, micro-videos with comments: the challenge data and the raw public release, on their way into a store."""
