"""QIN, the Quadratic Interest Network, beside the toolkit's own `model_zoo.LongCTR`."""

from model_zoo.QIN.QIN import QIN

__all__ = ["QIN"]
