"""One writer per run folder: a lock file that says who writes, and that no dead process keeps.

`lock.json` is made with ``O_EXCL``, which is atomic on network file systems too, and its maker holds an ``flock`` on it
until it ends. The kernel gives the ``flock`` back when a process dies, however it dies, and neither a reused process
number nor a restart of the machine misleads it; so whoever gets the ``flock`` of an old lock file knows that its maker
is gone, as far as both share a kernel. Where they do not, or where a file system has no ``flock``, a lock is never
taken over, and the error says how to remove it. Reading needs no lock: every file of a run is replaced as a whole.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from clkit.errors import RunError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK_FILE = "lock.json"


@dataclass(frozen=True)
class Holder:
    """Who holds a lock.

    Attributes:
        boot: identifies the running kernel, which containers share whatever they call themselves; None if unknown.
        machine: identifies the machine over restarts; None if unknown.
        since: when it was taken, ISO 8601.
    """

    pid: int
    host: str
    boot: str | None
    machine: str | None
    since: str

    @classmethod
    def this_process(cls) -> Holder:
        return cls(
            pid=os.getpid(),
            host=platform.node(),
            boot=_first_line("/proc/sys/kernel/random/boot_id"),
            machine=_first_line("/etc/machine-id"),
            since=datetime.now(UTC).isoformat(timespec="seconds"),
        )

    @classmethod
    def of(cls, folder: Path) -> Holder | None:
        """Who holds, or held, the lock of a run folder, as its lock file says; None where that says nothing."""
        try:
            return cls(**json.loads((folder / LOCK_FILE).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def shares_locks_with(self, other: Holder) -> bool:
        """Whether an ``flock`` of one keeps the other out: they run on one kernel, be it before and after a restart."""
        if self.boot is not None and self.boot == other.boot:
            return True
        return (self.host, self.machine) == (other.host, other.machine)

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {self.since}"


@contextmanager
def locked(folder: Path) -> Iterator[str | None]:
    """Hold the lock of a run folder. A missing folder is made, and removed again if nothing was written into it.

    Yields:
        One line for the user where the lock of a dead process was taken over, else None.

    Raises:
        RunError: another process holds the lock, or it cannot be known whether one does.
    """
    made = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    path = folder / LOCK_FILE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor, remark = _acquire(path)
    except OSError as error:
        raise RunError(
            f"{path} cannot be written: {error.strerror or error}; choose a folder with --run DIR"
        ) from error
    try:
        yield remark
    finally:
        _release(path, descriptor)
        for parent in made:
            with suppress(OSError):  # not empty
                parent.rmdir()


def _acquire(path: Path) -> tuple[int, str | None]:
    while True:
        with suppress(FileExistsError):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
            # Another process may look whether the file is locked, but without a holder in it lets go at once.
            _flock(descriptor, wait=True)
            _write_holder(descriptor)
            return descriptor, None
        try:
            descriptor = os.open(path, os.O_RDWR)
        except FileNotFoundError:
            continue  # released just now
        try:
            remark = _take_over(path, descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        if remark is not None:
            return descriptor, remark
        os.close(descriptor)


def _take_over(path: Path, descriptor: int) -> str | None:
    """Make an existing lock file this process's own. None if it was released meanwhile."""
    ours = _flock(descriptor, wait=False)
    if ours and not _is_at(path, descriptor):
        return None
    holder = Holder.of(path.parent)
    this = Holder.this_process()
    if ours is False:
        raise RunError(
            f"{path.parent} is being written by {holder or 'another process'}: wait until it ends, stop it, or train "
            "into another folder with --run DIR"
        )
    if holder is None:
        raise RunError(f"{path} does not say which process holds it: if none writes this run, remove that file")
    if ours is None or not holder.shares_locks_with(this):
        raise RunError(
            f"{path.parent} is locked by {holder}, and whether that still runs cannot be seen from {this.host}: "
            f"if it does not, remove {path}"
        )
    _write_holder(descriptor)
    return f"{path.parent}: took over the lock of {holder}, which ended without giving it back"


def _release(path: Path, descriptor: int) -> None:
    if fcntl is None:
        os.close(descriptor)  # Windows removes no file that is open
        path.unlink(missing_ok=True)
        return
    if _is_at(path, descriptor):  # and not another's, made after someone removed ours by hand
        path.unlink(missing_ok=True)
    os.close(descriptor)


def _flock(descriptor: int, *, wait: bool) -> bool | None:
    """Whether this process got the ``flock``; None where there is no such thing."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:  # some network file systems have none
        return None
    return True


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _write_holder(descriptor: int) -> None:
    content = json.dumps(asdict(Holder.this_process()), indent=2).encode() + b"\n"
    os.lseek(descriptor, 0, os.SEEK_SET)
    os.write(descriptor, content)
    os.ftruncate(descriptor, len(content))
    os.fsync(descriptor)


def _first_line(file: str) -> str | None:
    try:
        return Path(file).read_text(encoding="ascii").strip() or None
    except (OSError, ValueError):
        return None
