"""A real TCP connection that tests can cut: forwards to a server until it is told not to."""

import contextlib
import socket
import threading


class Forwarder:
    """Listens on a free port of this machine and forwards; `cut` ends what is open and refuses, `mend` takes connections again.

    Args:
        host, port: Where to.
    """

    def __init__(self, host, port):
        self._target = (host, port)
        self._pairs, self._lock = [], threading.Lock()
        self._listening = None
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.mend()

    def mend(self):
        self._listening = socket.socket()
        self._listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listening.bind(("127.0.0.1", self.port))
        self._listening.listen(64)
        threading.Thread(target=self._accept, args=(self._listening,), daemon=True).start()

    def cut(self):
        listening, self._listening = self._listening, None
        if listening is not None:
            with contextlib.suppress(OSError):
                listening.shutdown(socket.SHUT_RDWR)
            listening.close()
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            for each in pair:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
                each.close()

    def _accept(self, listening):
        while True:
            try:
                client, _ = listening.accept()
                server = socket.create_connection(self._target, timeout=10)
                server.settimeout(None)
            except OSError:
                return
            with self._lock:
                self._pairs.append((client, server))
            for source, sink in ((client, server), (server, client)):
                threading.Thread(target=_pump, args=(source, sink), daemon=True).start()


def _pump(source, sink):
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    for each in (source, sink):
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def forwarding(host, port):
    """A forwarder that is cut in the end."""
    made = Forwarder(host, port)
    try:
        yield made
    finally:
        made.cut()
