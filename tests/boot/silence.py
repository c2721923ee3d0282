"""A TCP port before a server that may fall silent: it accepts whoever comes, and says nothing."""

import select
import socket
import threading
from pathlib import Path
from types import TracebackType
from urllib.parse import urlsplit

_LOOK = 0.05  # seconds


class Silence:
    """Listens on `endpoint` while the block lasts; what comes is handed on while the file `answers` is there.

    Whoever was kept waiting is cut off when it answers again.
    """

    def __init__(self, upstream: str, answers: Path) -> None:
        split = urlsplit(upstream)
        self._upstream = split.hostname or "", split.port or 80
        self._answers, self._over = answers, threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(_LOOK)
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self.kept_waiting = 0

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> "Silence":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()
        self._listener.close()

    def _accept(self) -> None:
        serving = []
        while not self._over.is_set():
            try:
                client, _ = self._listener.accept()
            except TimeoutError:
                continue
            serving.append(threading.Thread(target=self._serve, args=(client,), daemon=True))
            serving[-1].start()
        for thread in serving:
            thread.join()

    def _serve(self, client: socket.socket) -> None:
        with client:
            if self._silent():
                return
            with socket.create_connection(self._upstream) as server:
                while not self._over.is_set() and not self._silent():
                    for source in select.select([client, server], [], [], _LOOK)[0]:
                        if not (data := source.recv(1 << 16)):
                            return
                        if self._silent():
                            return
                        (server if source is client else client).sendall(data)

    def _silent(self) -> bool:
        """Wait while it should be silent; whether that was so."""
        if self._answers.exists():
            return False
        self.kept_waiting += 1
        while not self._over.is_set() and not self._answers.exists():
            self._over.wait(_LOOK)
        return True
