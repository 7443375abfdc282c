"""Deterministic tests: one hypothesis profile, one thread, a seed before each test."""

import os
from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest
import torch

# Derandomised, so that a failure on one machine is a failure on all. No health check is suppressed.
hypothesis.settings.register_profile("dyt", derandomize=True, deadline=None, database=None, max_examples=9)
hypothesis.settings.load_profile("dyt")


def pytest_configure(config: pytest.Config) -> None:
    changed: dict[str, Any] = {}
    if config.getoption("--examples") is not None:
        changed["max_examples"] = int(config.getoption("--examples"))
    if config.getoption("--unshrunk"):
        changed["phases"] = (hypothesis.Phase.explicit, hypothesis.Phase.generate)
    if changed:  # before tests are imported, which fixes the profile of each
        hypothesis.settings.register_profile("changed", hypothesis.settings.get_profile("dyt"), **changed)
        hypothesis.settings.load_profile("changed")


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist, where it is installed
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Of `-n auto`: one a core that this process may use, up to eight, since each takes up to two gigabytes."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(usable, 8)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="slow tests too, and every combination of laws/test_matrix.py")
    parser.addoption("--examples", metavar="N", help="of each property so many examples, in place of nine")
    parser.addoption("--unshrunk", action="store_true", help="a failing example as it was drawn, not made smaller")
    parser.addoption("--part", default="1/1", metavar="I/N", help="of those with --full one of N seeded parts")


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """For fixtures that are made before a test's own begin: sums of several threads differ in their last bits."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _deterministic() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)
