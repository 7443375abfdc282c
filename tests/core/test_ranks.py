"""`dyt.core.ranks`: without a process group nothing is communicated; over two ranks, sums, gathering, the first's."""

import json
import subprocess
import sys
from pathlib import Path

import torch

from dyt.core import ranks

SCRIPT = """
import json, sys
import torch
import torch.distributed as dist
from dyt.core import ranks
dist.init_process_group("gloo")
rank = dist.get_rank()
own = torch.tensor([1.5, 2.0 + rank])
half = torch.ones(2, dtype=torch.float16)
found = {
    "several": ranks.several(),
    "total": [ranks.total(own.clone())[0].tolist(), ranks.total(own.clone())[1]],
    "summed": [ranks.summed(half).tolist(), str(ranks.summed(half).dtype), half.tolist()],
    "largest": ranks.largest(float(rank)),
    "gathered": ranks.gathered(torch.arange(3.0)[: 1 + 2 * rank] + 10 * rank).tolist(),
    "none of one rank": ranks.gathered(torch.ones(rank)).tolist(),
    "objects": ranks.gathered_objects([f"{rank}{i}" for i in range(2 - rank)]),
    "first": ranks.first(torch.tensor([7.0 + rank])).tolist(),
}
open(f"{sys.argv[1]}.{rank}", "w").write(json.dumps(found))
dist.destroy_process_group()
"""


def test_alone_everything_is_its_own() -> None:
    own = torch.tensor([1.5, 2.0])
    assert not ranks.several()
    assert ranks.total(own) == (own, 1)
    assert ranks.summed(own).dtype == torch.float64
    assert ranks.summed(own).tolist() == [1.5, 2.0]
    assert ranks.largest(3.0) == 3.0
    assert ranks.gathered(own) is own
    assert ranks.first(own) is own
    assert ranks.gathered_objects(["a"]) == ["a"]


def test_two_ranks_together(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT, encoding="utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*command, str(tmp_path / "script.py"), str(tmp_path / "found")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    first, second = (json.loads((tmp_path / f"found.{rank}").read_text(encoding="utf-8")) for rank in (0, 1))
    assert first == second
    assert first == {
        "several": True,
        "total": [[3.0, 5.0], 2],
        "summed": [[2.0, 2.0], "torch.float64", [1.0, 1.0]],
        "largest": 1.0,
        "gathered": [0.0, 10.0, 11.0, 12.0],
        "none of one rank": [1.0],
        "objects": ["00", "01", "10"],
        "first": [7.0],
    }
