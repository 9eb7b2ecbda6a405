"""What FuxiCTR lacks for multimodal CTR data: an H5 store, its loader, a runner and reports."""

from fuxictr_multimodal.version import __version__

__all__ = ["__version__"]
