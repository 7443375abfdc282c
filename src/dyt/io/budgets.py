"""The table of `dyt.calibrate_budgets` in a saved file, and the rate that was set from it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from dyt.core.budgets import LARGEST, BudgetTable, SiteBudgets
from dyt.io.header import Header, refusal
from dyt.model.budget import Budgeted

ENTRY = "budgets"
"""The metadata entry with the table as JSON, and with the rate that was last set as its `budget`; absent before it."""
_FIELDS, _SITE_FIELDS = {"rates", "reached", "sites", "budget"}, {"thresholds", "rates"}


def entry(model: Budgeted) -> dict[str, str]:
    """The metadata entry of a model, or none."""
    table = model.budget_table
    return {} if table is None else {ENTRY: json.dumps({**asdict(table), "budget": model.budget})}


def read(header: Header) -> tuple[BudgetTable | None, float | None]:
    """A file's table and the rate that was last set from it; None where the file has none.

    Raises:
        CheckpointError: an entry that is no such table.
    """
    if ENTRY not in header.metadata:
        return None, None
    told = header.decoded(ENTRY)
    try:
        said = _mapping(told, _FIELDS)
        if type(said["sites"]) is not dict:
            raise TypeError("sites is a mapping by name")
        sites = {name: _mapping(each, _SITE_FIELDS) for name, each in said["sites"].items()}
        table = BudgetTable(
            _numbers(said["rates"]),
            _numbers(said["reached"]),
            {name: SiteBudgets(_numbers(each["thresholds"]), _numbers(each["rates"])) for name, each in sites.items()},
        )
        budget = None if said["budget"] is None else table.check(*_numbers([said["budget"]]))
    except (TypeError, ValueError) as error:  # a DyTError is a ValueError
        raise refusal(header.path, f": its {ENTRY} cannot be used: {error}") from error
    return table, budget


def _mapping(value: Any, fields: set[str]) -> Mapping[str, Any]:
    if type(value) is not dict or set(value) != fields:
        raise TypeError(f"a mapping is needed with {', '.join(sorted(fields))} alone")
    return value


def _numbers(values: Any) -> tuple[float, ...]:
    if type(values) is not list or not all(type(x) in {int, float} and abs(x) <= LARGEST for x in values):
        raise TypeError("a list of finite numbers is needed")
    return tuple(float(x) for x in values)
