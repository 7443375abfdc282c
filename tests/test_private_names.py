"""Names with an underscore that the library takes from others: each is listed here with its reason, and is still there.

Such a name may go in any release of its library. Then this test fails, and not a user's run.
"""

import ast
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import dyt

SOURCE = Path(dyt.__file__).parent


def hooks_of(module: Any) -> Callable[[str], bool]:
    return lambda name: name in vars(module)


def transformers_config(name: str) -> bool:
    transformers = pytest.importorskip("transformers", reason="the name is transformers' own")
    return hasattr(transformers.ViTConfig(), name)


def below(module: str, *path: str) -> Callable[[str], bool]:
    """Whether a module, or something in it, has the name."""

    def there(name: str) -> bool:
        holder = importlib.import_module(module)
        for part in path:
            holder = getattr(holder, part)
        return hasattr(holder, name)

    return there


def of_blocks(module: str, cls: str) -> Callable[[str], bool]:
    return lambda name: hasattr(getattr(importlib.import_module(module), cls), name)


HOOKS = "torch has no public way to ask what hears of a module's calls"
BLOCK = "a dynamic block takes the place of another with its children, buffers and hooks as they are"
ATTRIBUTES: dict[str, tuple[Callable[[str], bool], str]] = {
    "_forward_hooks": (hooks_of(nn.Identity()), HOOKS),
    "_forward_hooks_with_kwargs": (hooks_of(nn.Identity()), HOOKS),
    "_forward_pre_hooks": (hooks_of(nn.Identity()), HOOKS),
    "_forward_pre_hooks_with_kwargs": (hooks_of(nn.Identity()), HOOKS),
    "_load_state_dict_pre_hooks": (hooks_of(nn.Identity()), HOOKS),
    "_backward_hooks": (hooks_of(nn.Identity()), HOOKS),
    "_backward_pre_hooks": (hooks_of(nn.Identity()), HOOKS),
    "_buffers": (hooks_of(nn.Identity()), BLOCK),
    "_modules": (hooks_of(nn.Identity()), BLOCK),
    "_parameters": (hooks_of(nn.Identity()), BLOCK),
    "_non_persistent_buffers_set": (hooks_of(nn.Identity()), BLOCK),
    "_version": (lambda name: hasattr(torch.zeros(1), name), "whether a tensor was written to since"),
    "_nested_tensor_size": (
        lambda name: hasattr(torch.zeros(1), name),
        "the sizes of what a nested tensor holds, for their products",
    ),
    "_schema": (
        lambda name: hasattr(torch.ops.aten.add.Tensor, name),
        "whether an operator writes to what it is given",
    ),
    "_C": (below("torch"), "the dispatcher's table, for counts without computing"),
    "_dispatch_has_computed_kernel_for_dispatch_key": (
        below("torch", "_C"),
        "whether an operator runs on shapes alone",
    ),
    "_dynamo": (below("torch"), "what torch.compile raises has no public name"),
    "_reset_state": (
        below("accelerate.state", "AcceleratorState"),
        "a second run in one process may want another precision",
    ),
    "_attn_implementation": (transformers_config, "which attention a model of transformers computes with"),
    "_get_rel_pos_bias": (
        of_blocks("timm.models.beit", "Attention"),
        "the bias of all pairs of tokens, to be gathered",
    ),
    "_attn": (of_blocks("timm.models.swin_transformer", "SwinTransformerBlock"), "attention in shifted windows"),
    "_compute_lambda": (
        of_blocks("timm.models.vision_transformer", "DiffParallelScalingBlock"),
        "the weight of the second",
    ),
    "_exit": (below("os"), "a loader process ends at once; public, in spite of its name"),
}
"""Attributes by their name: how it is seen that there still is one, and what it is needed for."""
MODULES: dict[str, str] = {
    "torch._ops": "the classes of operators, which a counter tells apart",
    "torch._subclasses.fake_tensor": "whether a tensor has no values, which cannot be read then",
    "torch.nn.modules.batchnorm._BatchNorm": "the base of every batch norm, whose statistics are to stay",
    "torch.nn.modules.batchnorm._NormBase": "the base of every norm that keeps statistics",
    "torch.nn.modules.dropout._DropoutNd": "the base of every dropout, which draws noise in train mode",
    "torch.nested._internal.nested_tensor": "jagged tensors, whose products have their own formula",
    "torch.utils._python_dispatch": "modes that see every operator; documented, without a public place",
    "torch.utils._pytree": "outputs of any nesting; optree is what it becomes",
}
"""Modules with an underscore that are imported, and what for; `module.name` of a name in a public one."""


def private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def trees() -> list[ast.AST]:
    return [ast.parse(path.read_text(encoding="utf-8")) for path in SOURCE.rglob("*.py")]


def own_names() -> set[str]:
    """What the library itself defines: functions, classes, variables, fields and attributes."""
    found: set[str] = set()
    for tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                found.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                found.add(node.id)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                found.add(node.attr)
            elif isinstance(node, ast.arg):
                found.add(node.arg)
    return found


def taken() -> tuple[set[str], set[str]]:
    """Private attributes that are read and are not the library's own, and private modules that are imported."""
    attributes: set[str] = set()
    modules: set[str] = set()
    for tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and private(node.attr):
                attributes.add(node.attr)
            elif isinstance(node, ast.ImportFrom) and not (node.module or "").startswith("dyt"):
                modules |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
            elif isinstance(node, ast.Import):
                modules |= {alias.name for alias in node.names}
    hidden = {module for module in modules if any(map(private, module.split(".")))}
    # of what a private module has, the module alone is listed
    return attributes - own_names(), {name for name in hidden if name.rpartition(".")[0] not in hidden}


def test_every_private_name_is_listed_and_none_too_many() -> None:
    attributes, modules = taken()
    assert attributes == set(ATTRIBUTES) - own_names(), "(names that the library has as well are not told apart)"
    assert modules == set(MODULES)


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_the_attribute_is_there(name: str) -> None:
    there, reason = ATTRIBUTES[name]
    assert there(name), f"{name} is gone, which was for: {reason}"


@pytest.mark.parametrize("name", MODULES)
def test_the_module_is_there(name: str) -> None:
    public, _, last = name.rpartition(".")
    if private(last) and last[1].isupper():
        assert hasattr(importlib.import_module(public), last), f"needed for: {MODULES[name]}"
        return
    module = importlib.import_module(name)
    names = {alias.name for tree in trees() for alias in imported_from(tree, name)}
    assert not [each for each in names if not hasattr(module, each)], f"needed for: {MODULES[name]}"


def imported_from(tree: ast.AST, module: str) -> list[ast.alias]:
    return [
        alias
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == module
        for alias in node.names
    ]
