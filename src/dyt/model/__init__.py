"""What is composed of components: the dynamic model, its blocks, their sites, the state of their tokens."""

from dyt.model.dynamic import DynamicModel, execution, forced, plain, record

__all__ = ["DynamicModel", "execution", "forced", "plain", "record"]
