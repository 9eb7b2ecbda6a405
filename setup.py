"""What the wheel holds: the packages, `config/` and `datasets/` as `fuxictr_multimodal/packaged/`, `run_expid.py`."""

from setuptools import find_namespace_packages, setup

OWN = ["BST", "HSTU", "MUSE", "QIN", "RankMixer", "Trees", "peers"]
CODE = ["bilingual_embedding*", "fuxictr_multimodal*", *(f"model_zoo.{name}*" for name in OWN)]
PACKAGED = {f"fuxictr_multimodal.packaged.{name}": name for name in ("config", "datasets")}

setup(
    packages=[*find_namespace_packages(include=CODE), *PACKAGED],
    package_dir=PACKAGED,
    py_modules=["run_expid"],  # runs the trials of a search
)
