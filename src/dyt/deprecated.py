"""Names of before, which go on working for one minor version and say the new one: of modules, and inside of modules."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

MOVED = {
    "accumulation": "objective.accumulation",
    "allot": "assembly.allocation",
    "assemble": "assembly.build",
    "backbone": "assembly.backbone",
    "breakeven": "core.breakeven",
    "bridges": "core.interop",
    "bridges.architectures": "core.hf_architectures",
    "bridges.huggingface": "core.hf_model",
    "capacity": "inference.capacity",
    "checkpoint": "io.checkpoint",
    "control": "objective.thresholds",
    "data_config": "core.data_config",
    "executors.base": "core.execution",
    "executors.rows": "executors.sparse",
    "export": "io.export",
    "holding": "core.holding",
    "families.hearing": "families.capture",
    "families.isotropic": "families.vit",
    "hub": "assembly.hub",
    "image_size": "assembly.image_size",
    "joint": "objective.joint",
    "kept": "io.kept",
    "linear": "core.scores",
    "measure.calibration": "inference.break_even",
    "measure.paper": "paper.costs",
    "named_specs": "config.presets",
    "official": "io.official",
    "offloading": "core.offloading",
    "origin": "model.origin",
    "plugins": "entry_points",
    "reducers.stage": "model.token_state",
    "inference.rewrites.int8": "inference.quantize",  # what `from dyt.rewrites import int8` looks for
    "rewrites": "inference.rewrites",
    "rewrites.adapter": "inference.rewrites.adapter",
    "rewrites.apply": "inference.rewrites.apply",
    "rewrites.attention": "inference.rewrites.attention",
    "rewrites.block": "inference.rewrites.block",
    "rewrites.int8": "inference.quantize",
    "rewrites.mlp": "inference.rewrites.mlp",
    "rewrites.model": "inference.rewrites.model",
    "rewrites.products": "inference.rewrites.products",
    "rewrites.report": "inference.rewrites.report",
    "route": "core.route",
    "site": "model.site",
    "slots": "config.base",
    "spec": "config.spec",
    "specfile": "config.files",
    "steer": "core.context",
    "stem": "objective.shared_prefix",
    "support": "assembly.support",
    "tensors": "model.tensors",
    "tasks.layouts.inert": "tasks.layouts.safe_pickle",
    "ties": "core.scores",
    "timm_names": "model.timm_names",
    "timm_surface": "model.timm_surface",
    "train.calibrate": "inference.thresholds",
    "train.ranks": "core.ranks",
    "twins": "core.twins",
    "undo": "assembly.undo",
    "variants.base": "model.block",
    "versions": "core.versions",
    "window_attention": "assembly.window_attention",
}
"""Modules by their old path below `dyt`, and where they are now."""


class _Moved(MetaPathFinder, Loader):
    """Finds a module under its old name: the very module of the new name, so that classes and patches are the same."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Of a module that has moved; None of all others, which are found as ever."""
        package, _, rest = name.partition(".")
        if package != "dyt" or rest not in MOVED:
            return None
        holds = any(each.startswith(f"{rest}.") for each in MOVED)
        return ModuleSpec(name, self, origin=f"dyt.{MOVED[rest]}", is_package=holds)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """An empty one, which has the new one's names where it cannot be the new one itself."""
        return ModuleType(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Warns, and puts the module of the new name in the place of this one."""
        spec = module.__spec__
        assert spec is not None
        assert spec.origin is not None
        warnings.warn(
            f"{spec.name} is {spec.origin} now; the old name goes away in the next minor version",
            DeprecationWarning,
            stacklevel=2,
        )
        new = importlib.import_module(spec.origin)
        if spec.submodule_search_locations is None or hasattr(new, "__path__"):
            sys.modules[spec.name] = new  # what stands there after this call is what was imported
            return
        # a package of before that is a single file now: only a package can have submodules
        module.__dict__.update(
            __doc__=new.__doc__, __getattr__=lambda name: getattr(new, name), __dir__=lambda: dir(new)
        )


def install() -> None:
    """Has old module names found. Once is enough."""
    if not any(isinstance(finder, _Moved) for finder in sys.meta_path):
        # The first one: another would look for `dyt.rewrites.mlp` in the folder of `dyt.inference.rewrites`, and
        # load its file a second time.
        sys.meta_path.insert(0, _Moved())


def submodule(name: str) -> ModuleType:
    """The `__getattr__` of `dyt`: a module that has moved, by its old name, of which `import dyt` was enough."""
    if name not in MOVED:
        raise AttributeError(f"module 'dyt' has no attribute '{name}'")
    return importlib.import_module(f"dyt.{name}")


def renamed(module: str, names: dict[str, str]) -> Callable[[str], Any]:
    """A `__getattr__` for a module in which names have changed: old -> new."""

    def found(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module '{module}' has no attribute '{name}'")
        warnings.warn(
            f"{module}.{name} is {module}.{names[name]} now; the old name goes away in the next minor version",
            DeprecationWarning,
            stacklevel=2,
        )
        return getattr(sys.modules[module], names[name])

    return found
