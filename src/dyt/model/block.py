"""What every variant is: a block in which some branches are dispatched, in the place of the original one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from inspect import getattr_static
from types import FunctionType, MethodType
from typing import Any, ClassVar, TypeVar
from weakref import ref

from pydantic import field_validator
from timm.layers import DropPath  # type: ignore[attr-defined]
from timm.models import register_notrace_module
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd
from torch.utils.checkpoint import checkpoint

from dyt.config.base import ComponentSpec
from dyt.core import context
from dyt.core.execution import MLPBranch
from dyt.core.route import ALL_TOKENS, Route
from dyt.errors import UnsupportedError
from dyt.families.base import Family
from dyt.model.site import Site
from dyt.model.token_state import TokenReduction
from dyt.registry import variants

T = TypeVar("T")
POINTWISE = frozenset({"mlp"})
"""Branches that treat tokens independently; in all others tokens see one another."""


class VariantSpec(ComponentSpec):
    """Fields that every variant has."""

    layers: tuple[int, ...] | None = None
    """The dynamic blocks, in ascending order, counted from 0, or from the end when negative. The others stay plain timm
    blocks, without dispatcher and adapter. Null for all blocks, as in the paper."""

    @field_validator("layers")
    @classmethod
    def _some(cls, layers: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if layers is not None and (not layers or len(set(layers)) != len(layers)):
            raise ValueError("layers names at least one block, and none twice; leave it out for all blocks")
        return layers


HOOKS = (
    *("_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called"),
    *("_forward_pre_hooks", "_forward_pre_hooks_with_kwargs"),
    *("_backward_hooks", "_backward_pre_hooks", "_is_full_backward_hook"),
    *("_state_dict_hooks", "_state_dict_pre_hooks"),
    *("_load_state_dict_pre_hooks", "_load_state_dict_post_hooks"),
)
"""Where torch keeps a module's hooks."""


class DynamicBlock(nn.Module, ABC):
    """Base of variants: set `dispatched`, implement `forward` with `branch` and `dispatch`, register it.

    The original block's children, parameters, buffers and plain attributes are taken over under their own names, so
    that timm's state-dict keys and whatever addresses a child by name keep working. What is new is `sites`.

    Args:
        spec: the variant's own spec.
        block: the block whose place is taken; kept for `restored`, and without use until then.
        family: how that block splits into branches.
        sites: one site per name in `dispatched`.
        reduction: what the block does about the number of tokens; None where the model has no reducer.
    """

    Spec: ClassVar[type[VariantSpec]] = VariantSpec
    dispatched: ClassVar[tuple[str, ...]]
    """The branches that have a site: of `attn`, `mlp`, `layer`."""
    reduces: ClassVar[bool] = False
    """Whether every token takes part in its attention, and `forward` starts with `enter` and ends with `leave`, so that
    a reducer may act in it."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        register_notrace_module(cls)  # FX feature extraction sees the block as one node, whatever its tokens do

    def __init__(
        self,
        spec: VariantSpec,
        block: nn.Module,
        family: Family,
        sites: Mapping[str, Site],
        reduction: TokenReduction | None = None,
    ) -> None:
        super().__init__()
        self._adopt(block)
        self._replaced = (block,)  # in a tuple, so that it is no child
        self.family = family
        self.grad_checkpointing = False
        self.sites = nn.ModuleDict(dict(sites))
        self._key = next(iter(sites.values())).key
        self.reduction = reduction
        self.training = block.training  # its children keep their own modes
        for new in (self.sites, self.reduction):
            if new is not None:
                new.train(block.training)

    def _adopt(self, block: nn.Module) -> None:
        for name, child in block.named_children():
            self.add_module(name, child)
        for name, parameter in block.named_parameters(recurse=False):
            self.register_parameter(name, parameter)
        for name, buffer in block._buffers.items():  # named_buffers leaves out those that are None
            self.register_buffer(name, buffer, persistent=name not in block._non_persistent_buffers_set)
        for name, value in vars(block).items():
            if not name.startswith("_") and not hasattr(self, name):
                setattr(self, name, value)
        for name in HOOKS:  # the same mappings, so that a handle that the user holds still removes its hook
            self.__dict__[name] = block.__dict__[name]
        self._original = type(block)

    def restored(self) -> nn.Module:
        """The block whose place was taken, with the children, parameters, buffers and attributes that are here now."""
        block = self._replaced[0]
        for kept, here in (
            (
                block._modules,
                {name: child for name, child in self._modules.items() if name not in {"sites", "reduction"}},
            ),
            (block._parameters, self._parameters),
            (block._buffers, self._buffers),
        ):
            kept.clear()
            kept.update(here)  # type: ignore[arg-type]
        own = {"family", "grad_checkpointing", "training"}
        for name, value in vars(self).items():
            if name in vars(block) and not name.startswith("_") and name not in own:
                setattr(block, name, value)
        for name in HOOKS:  # not all of them are mappings, which are shared anyway
            block.__dict__[name] = self.__dict__[name]
        hooks: Iterable[Any] = block._load_state_dict_pre_hooks.values()
        for hook in hooks:  # torch has them hold their module, weakly
            if getattr(hook, "with_module", False) and hook.module() is self:
                hook.module = ref(block)
        return block

    def __getattr__(self, name: str) -> Any:
        """The original block's own methods (`set_input_size`, say), which find here all that they work on."""
        for held in ("_modules", "_parameters", "_buffers"):  # first: an older torch.compile cannot trace what follows
            if name in (found := self.__dict__.get(held, {})):
                return found[name]
        original = self.__dict__.get("_original")
        method = None if original is None or name.startswith("__") else getattr_static(original, name, None)
        return MethodType(method, self) if isinstance(method, FunctionType) else super().__getattr__(name)

    def site(self, name: str) -> Site:
        """The site of a dispatched branch."""
        site = self.sites[name]
        assert isinstance(site, Site)
        return site

    @abstractmethod
    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """(B, N, C) -> (B, N, C), with whatever the backbone passes to its blocks beside x."""

    def enter(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The tokens that the block works on, for those that are passed to it: fewer where a reducer acts here.

        Raises:
            UnsupportedError: an attention mask, which is for tokens in their places, in a model with a reducer.
        """
        if self.reduction is None:
            return x
        if any(value is not None and value is not False for value in (*args, *kwargs.values())):
            raise UnsupportedError(
                "a reducer changes the tokens from block to block, and does not combine with attn_mask or is_causal"
            )
        return self.reduction.enter(x)

    def leave(self, x: Tensor) -> Tensor:
        """The tokens that the block passes on."""
        return x if self.reduction is None else self.reduction.leave(x)

    def whole_attention(self, x: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """As `attended`, for an attention that every token takes part in: what a block that reduces tokens needs."""
        if self.reduction is None or not self.reduction.needs_keys:
            return self.attended(x, self.branch("attn", x, *args, **kwargs))
        attn_with_keys = partial(self.family.attn_with_keys, self, tokens=self.reduction.tokens())
        branch, keys = self._computed(attn_with_keys, x)
        return self.attended(x, branch, keys)

    def attended(self, x: Tensor, branch: Tensor, keys: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The tokens after the attention, and what the MLP branch reads, (B, N, C) each.

        Args:
            x: the tokens that the block works on, (B, N, C).
            branch: the attention branch's output.
            keys: (B, N, D), those of the attention, for a reducer that needs them.
        """
        family = self.family
        after = x + branch if family.sequential else family.attend(self, x, branch)
        if self.reduction is not None:
            class_attention = partial(family.class_attention, self, x, self.reduction.prefix)
            after = self.reduction.middle(after, class_attention, keys)
        return after, after if family.sequential else family.mlp_input(self, x, after)

    def branch(self, name: str, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The whole branch, every token computed: what the original block's residual adds."""
        fn: Callable[..., Tensor] = partial(getattr(self.family, name), self)
        if name not in POINTWISE:
            args = (ALL_TOKENS if self.reduction is None else self.reduction.tokens(), *args)
        shared = context.current(self._key).shared_prefix
        if shared is None or shared.entered is not x or self.stochastic(name):
            return self._computed(fn, x, *args, **kwargs)
        # All passes of a tuning step enter here with the same tokens, and no dispatcher has decided anything yet.
        if name not in shared.branches:
            shared.branches[name] = self._computed(fn, x, *args, **kwargs)
        return shared.branches[name]

    def dispatch(self, name: str, x: Tensor, entered: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The branch for active tokens only, and the adapter for all: M * Branch(X) + Adapter(X), in the shape of x.

        Args:
            name: the branch.
            x: the tokens that it reads, (B, N, C) or (B, H, W, C).
            entered: the tokens that entered the block, for dispatchers that need its attention.
            *args: what the backbone passes to its blocks beside x.
            **kwargs: the same by name.
        """
        site, family = self.site(name), self.family
        method: Callable[..., Tensor] = getattr(family, name)
        x_BNC = x.flatten(1, -2)
        attention = None
        if site.dispatcher.needs_attention:
            attention = partial(family.class_attention, self, entered, site.prefix, *args, **kwargs)
        dropped = None if self.reduction is None else self.reduction.dropped()
        route: Route = site(x_BNC, family.padding(self, x, *args, **kwargs), attention, dropped)
        executor = site.executor(route, partial(self.stochastic, name))

        def fn(*given: Any) -> Tensor:
            return self._computed(method, self, *given, *args, **kwargs)

        if name in POINTWISE:
            parts = family.mlp_parts(self) if executor.reads_modules and not self.training else None
            out = executor.pointwise(fn if parts is None else MLPBranch(fn, *parts), x_BNC, route)
        else:
            out = executor.mixing(fn, x_BNC, route)
        return site.adapted(out, x_BNC, route, partial(family.normalised, self, name)).reshape(x.shape)

    def _computed(self, fn: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """fn(*args, **kwargs), computed again in the backward pass with checkpointing; routes are made only once."""
        if self.grad_checkpointing and self.training:
            out: T = checkpoint(fn, *args, use_reentrant=False, **kwargs)
            return out
        return fn(*args, **kwargs)

    def stochastic(self, name: str) -> bool:
        """Whether the branch draws drop path or dropout in train mode."""
        if not self.training:
            return False
        if self.family.stochastic(self, name):
            return True
        for child in self.family.children[name]:
            module = getattr(self, child, None)
            if isinstance(module, nn.Module) and any(map(_draws, module.modules())):
                return True
        return False


def _draws(module: nn.Module) -> bool:
    """Whether a module draws noise in train mode."""
    if isinstance(module, DropPath):
        return (module.drop_prob or 0) > 0
    return isinstance(module, _DropoutNd) and module.p > 0


variants.accepts(DynamicBlock, ComponentSpec)
