"""How threads wait on a machine that others use as well; what the user has set stays."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from clkit import WAITING, wait_briefly


@pytest.mark.parametrize(("running", "spins"), [(1, "1000"), (2, "0"), (13, "0")])
def test_threads_sleep_at_once_where_others_compute(running: int, spins: str) -> None:
    environment: dict[str, str] = {}
    wait_briefly(environment, f"0.00 0.01 0.05 {running}/345 12345\n")
    assert environment == {"GOMP_SPINCOUNT": spins}


@pytest.mark.parametrize("name", WAITING)
def test_what_the_user_has_set_stays(name: str) -> None:
    environment = {name: "7"}
    wait_briefly(environment, "0.00 0.01 0.05 3/345 12345")
    assert environment == {name: "7"}


@pytest.mark.skipif(sys.platform != "linux", reason="it is read from /proc/loadavg")
def test_it_is_set_when_clkit_is_imported_and_torch_is_not() -> None:
    code = "import os, sys, clkit; print(os.environ['GOMP_SPINCOUNT'], 'torch' in sys.modules)"
    environment = {name: value for name, value in os.environ.items() if name not in WAITING}
    done = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True)
    assert done.stdout.split()[0] in ("0", "1000")
    assert done.stdout.split()[1] == "False"
