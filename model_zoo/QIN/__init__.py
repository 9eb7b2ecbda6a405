"""QIN, the Quadratic Interest Network, beside FuxiCTR's own `model_zoo.LongCTR`."""

from model_zoo.QIN.QIN import QIN

__all__ = ["QIN"]
