"""`python -m clkit.suites.child ARGUMENTS` is `clkit ARGUMENTS`, which ends at once when whoever started it is gone.

A sweep that is killed cannot end its runs; were they to go on, they would hold the locks of their folders against the
sweep that is started again. Whoever started this process keeps the other end of its standard input open.
"""

from __future__ import annotations

import os
import runpy
import threading


def _end_with_parent() -> None:
    while os.read(0, 1):  # not sys.stdin, whose lock would be held when this process ends by itself
        pass
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_end_with_parent, daemon=True).start()
    runpy.run_module("clkit", run_name="__main__", alter_sys=True)
