"""The library's main job for a newcomer, offline: a small pretrained backbone, real images, three ways to fine-tune."""

from dyt.demo.run import Demo, run_demo

__all__ = ["Demo", "run_demo"]
