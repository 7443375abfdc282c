"""The parts of `pareto.py`."""
