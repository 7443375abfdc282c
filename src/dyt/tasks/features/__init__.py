"""Images without labels, for an encoder whose final tokens are held to its own."""

from dyt.tasks.features.metrics import Fidelity
from dyt.tasks.features.spec import FeaturesSpec
from dyt.tasks.features.task import Features

__all__ = ["Features", "FeaturesSpec", "Fidelity"]
