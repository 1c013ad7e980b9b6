"""One writer per run folder: a lock that no dead process keeps, and a file that says who holds it.

The lock is `filelock`'s: the system gives it back when a process dies, however it dies. `lock.json` says who holds it.
Where two machines do not see each other's locks, that name is all there is: a lock of another machine's is never taken
over, and the error says how to remove it. Reading needs no lock: every file of a run is replaced as a whole.
"""

from __future__ import annotations

import errno
import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from clkit.errors import RunError
from clkit.run.atomic import write_json

if TYPE_CHECKING:
    from filelock import BaseFileLock

LOCK_FILE = "lock.json"
#: The files that are there while a run is written.
LOCK_FILES = (LOCK_FILE, ".lock", ".lock.soft")


#: The folders that this process had the lock of.
_taken: list[Path] = []


@dataclass(frozen=True)
class Holder:
    """Who holds a lock.

    Attributes:
        boot: identifies the running kernel, which containers share whatever they call themselves; None if unknown.
        since: when it was taken, ISO 8601.
    """

    pid: int
    host: str
    boot: str | None
    since: str

    @classmethod
    def this_process(cls) -> Holder:
        boot = None
        with suppress(OSError, ValueError):
            boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip() or None
        return cls(os.getpid(), platform.node(), boot, datetime.now(UTC).isoformat(timespec="seconds"))

    @classmethod
    def of(cls, folder: Path) -> Holder | None:
        """Who holds, or held, the lock of a run folder, as its lock file says; None where that says nothing."""
        try:
            return cls(**json.loads((folder / LOCK_FILE).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def shares_locks_with(self, other: Holder) -> bool:
        """Whether a lock of one keeps the other out: they run on one kernel, be it before and after a restart."""
        return self.host == other.host or (self.boot is not None and self.boot == other.boot)

    def is_gone(self) -> bool:
        """Whether the process is known to have ended; that of another machine never is."""
        if os.name == "nt" or not self.shares_locks_with(Holder.this_process()):  # signal 0 is Ctrl-C on Windows
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except OSError:  # it is another user's
            return False
        return False

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {self.since}"


@contextmanager
def locked(folder: Path, option: str = "--run") -> Iterator[str | None]:
    """Hold the lock of a run folder. A missing folder is made, and removed again if nothing was written into it.

    Args:
        option: how the command names the folder.

    Yields:
        One line for the user where the lock of a dead process was taken over, else None.

    Raises:
        RunError: another process holds the lock, or it cannot be known whether one does.
    """
    from filelock import Timeout  # in 0.1 s, and `clkit matrix` needs none

    made = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    holder, path = (folder / name for name in LOCK_FILES[:2])
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = _acquire(path)
        try:
            remark = _take_over(folder)
            write_json(holder, asdict(Holder.this_process()))
        except BaseException:
            _release(lock, path)
            raise
    except Timeout:
        raise RunError(
            f"{folder} is being written by {Holder.of(folder) or 'another process'}: wait until it ends, stop it, or "
            f"train into another folder with {option} DIR"
        ) from None
    except OSError as error:
        raise RunError(
            f"{path} cannot be written ({error.strerror or error}), and nothing is written into a run without its "
            f"lock: make the folder writable, or choose another with {option} DIR"
        ) from error
    _taken.append(folder)
    try:
        yield remark
    finally:
        holder.unlink(missing_ok=True)
        _release(lock, path)
        for parent in made:
            with suppress(OSError):  # not empty
                parent.rmdir()


def _acquire(path: Path) -> BaseFileLock:
    from filelock import FileLock, SoftFileLock

    lock: BaseFileLock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except OSError as error:
        if error.errno != errno.ENOLCK:
            raise
        # Some network file systems have no locks, and filelock sees that of others only.
        lock = SoftFileLock(f"{path}.soft")
        lock.acquire(timeout=0)
    return lock


def _take_over(folder: Path) -> str | None:
    """Make sure that whoever left `lock.json` is gone; what to tell the user of it."""
    path = folder / LOCK_FILE
    if not path.exists():
        return None
    holder, this = Holder.of(folder), Holder.this_process()
    if holder is None:
        raise RunError(f"{path} does not say which process holds it: if none writes this run, remove that file")
    if not holder.shares_locks_with(this):
        raise RunError(
            f"{folder} is locked by {holder}, and whether that still runs cannot be seen from {this.host}: "
            f"if it does not, remove {path}"
        )
    return f"{folder}: took over the lock of {holder}, which ended without giving it back"


def _release(lock: BaseFileLock, path: Path) -> None:
    with suppress(OSError):  # Windows removes no file that is open, and filelock does it there
        path.unlink()  # while it is held: whoever has it open already sees that it is gone, and makes a new one
    lock.release()


def has_written() -> bool:
    """Whether this process left something in a folder that it had the lock of."""
    return any(one.name not in LOCK_FILES for folder in _taken if folder.is_dir() for one in folder.iterdir())
