"""What the wheel holds: the packages, `config/` and `datasets/` as `fuxictr_multimodal/packaged/`, `run_expid.py`."""

from setuptools import find_namespace_packages, setup

CODE = ["bilingual_embedding*", "fuxictr_multimodal*", "model_zoo.QIN*", "model_zoo.Trees*"]
PACKAGED = {f"fuxictr_multimodal.packaged.{name}": name for name in ("config", "datasets")}

setup(
    packages=[*find_namespace_packages(include=CODE), *PACKAGED],
    package_dir=PACKAGED,
    py_modules=["run_expid"],  # runs the trials of a search
)
