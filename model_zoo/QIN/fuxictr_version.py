"""What FuxiCTR's own run_expid.py imports first, where it is copied into this folder."""

from fuxictr.version import __version__

if tuple(int(part) for part in __version__.split(".")[:3]) < (2, 3, 10):
    raise ImportError(f"QIN was tested with FuxiCTR 2.3.10 and newer, found {__version__}: pip install -U fuxictr")
