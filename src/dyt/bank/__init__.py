"""Many tasks on one backbone: `dyt.Bank`."""

from dyt.bank.bank import Bank

__all__ = ["Bank"]
