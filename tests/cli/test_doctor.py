"""`dyt doctor` names blocks of other libraries that have changed under the families."""

from typing import Any

import pytest
from timm.layers.attention import Attention
from typer.testing import CliRunner

from dyt.cli.main import app


def test_changed_blocks_are_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dyt.assembly.hub.reachable", lambda: False)

    def mine(self: Any, x: Any) -> Any:
        return x

    assert "all as the families were tested with" in CliRunner().invoke(app, ["doctor"]).stdout
    monkeypatch.setattr(Attention, "forward", mine)
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 0, result.output
    (line,) = [line for line in result.stdout.splitlines() if "WARNING" in line]
    assert "timm.layers.attention.Attention.forward" in line
    assert line.endswith("refused: family vit, vit_parallel_things, vit_respost")
    assert "DYT_UNCHECKED=timm==" in result.stdout
    assert "1 warned of: timm.layers.attention.Attention.forward" in result.stdout
    assert "all is well" not in result.stdout
