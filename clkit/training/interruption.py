"""Ctrl-C and its relatives: the first signal asks the run to stop where nothing is lost, a second stops it at once."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any, Self

from clkit.errors import InterruptionError

#: Ctrl-C; what `kill` and batch systems send; what a terminal that is closed sends; what batch systems can be told to
#: send some time before the end.
SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name))

#: Seconds in which a second signal counts as the first: launchers pass on a Ctrl-C that the terminal sent as well.
SAME_REQUEST = 1.0


class Interruption:
    """Whether a signal asked this process to stop. As a context manager, it listens for signals inside.

    Only a program's main thread can listen; in another one, and for signals that the process was told to ignore,
    nothing changes.
    """

    def __init__(self) -> None:
        self.signal: str | None = None
        self._since = 0.0
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) not in (signal.SIG_IGN, None):  # None: not set by Python, so not ours
                    self._handlers[number] = signal.signal(number, self._asked)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers.clear()

    def join(self) -> None:
        """Stop with the other processes: one of them was asked to."""
        self.signal = self.signal or "a signal to another process"

    def check(self, where: str) -> None:
        """Stop here if a signal asked for it; everything up to here must have been saved.

        Raises:
            InterruptionError: it did. ``where`` says in its message how far the run came.
        """
        if self.signal is not None:
            raise InterruptionError(
                f"{self.signal}: stopped {where}; nothing is lost, and the same command with --resume goes on from here"
            )

    def _asked(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.signal is None:
            self.signal, self._since = signal.Signals(number).name, now
        elif now - self._since >= SAME_REQUEST:
            raise KeyboardInterrupt
