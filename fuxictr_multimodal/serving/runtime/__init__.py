"""Ranks with an exported model; an export takes this folder with it, so it needs nothing else of this project."""

from .errors import FolderError, RequestError
from .ranker import Ranker
from .request import Ranked, Request, Scores

__all__ = ["FolderError", "Ranked", "Ranker", "Request", "RequestError", "Scores"]
