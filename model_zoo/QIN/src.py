"""`src`, as every model of a FuxiCTR clone is called there: `import src` of its run_expid.py finds QIN in this folder.

The clone's `model_zoo/__init__.py` takes it as it takes the others: `from .QIN.src import QIN`.
"""

from pathlib import Path

if __name__ == "src":
    from fuxictr_multimodal.zoo.clone import load_own

    # The copy in this folder, not an installed one.
    QIN = load_own("QIN", Path(__file__).absolute().parent)
else:
    from model_zoo.QIN.QIN import QIN

__all__ = ["QIN"]
