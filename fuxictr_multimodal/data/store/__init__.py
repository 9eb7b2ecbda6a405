"""The data set on disk: one HDF5 file a split and one for the items, described by a manifest."""

from fuxictr_multimodal.data.store.manifest import SPLITS
from fuxictr_multimodal.data.store.reader import ITEM_FILE, SplitReader, read_item_table, read_item_titles
from fuxictr_multimodal.data.store.store import Store

__all__ = ["ITEM_FILE", "SPLITS", "SplitReader", "Store", "read_item_table", "read_item_titles"]
