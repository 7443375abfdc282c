"""The process of one task of a sweep: `python -m dyt.sweeps DIR`, its run as a line of JSON on standard input.

Standard input stays open as long as the sweep lives: when it ends, this process saves and stops as at Ctrl-C, so that
no task goes on alone after its sweep was killed. A thread waits for that end below Python's own stream, whose lock
would else be held for good in every loader process that is forked meanwhile, where closing standard input waits for it.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

from dyt.config.files import parse_json
from dyt.config.spec import parse
from dyt.errors import DyTError
from dyt.sweeps.pool import FAILED, INTERRUPTED
from dyt.train.loop import fit
from dyt.train.spec import RunSpec
from dyt.train.state import Interrupted


def main() -> int:
    """Runs the task; 0 when it is finished, 2 for what its user can mend, 130 when it was interrupted."""
    try:
        run = parse(RunSpec, parse_json(sys.stdin.readline(), "standard input"))
        threading.Thread(target=_lifeline, args=(sys.stdin.fileno(),), daemon=True).start()
        fit(run, Path(sys.argv[1]))
    except (Interrupted, KeyboardInterrupt) as error:
        print(f"interrupted; {error}", file=sys.stderr)
        return INTERRUPTED
    except DyTError as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        return FAILED
    return 0


def _lifeline(descriptor: int) -> None:
    while os.read(descriptor, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
