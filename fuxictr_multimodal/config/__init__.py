"""YAML and command line to checked settings: expids, names, paths, and the values that FuxiCTR may evaluate."""
