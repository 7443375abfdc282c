"""Checks components of your own against the library's laws: `dyt.testing.check("dispatchers", "mine")`.

`check` needs hypothesis (`pip install "dyt[testing]"`), which is imported when it is called.
"""

from dyt.testing.checking import Held, Report, check

__all__ = ["Held", "Report", "check"]
