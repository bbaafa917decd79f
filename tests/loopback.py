"""Real servers on loopback, as processes of their own, for the tests of the sinks."""

import contextlib
import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


@contextlib.contextmanager
def server(arguments, url, *, cwd, attempts=240):
    """Start a Python process, wait until `url` answers, and end that very process afterwards."""
    with (cwd / "server.log").open("wb") as log:
        process = subprocess.Popen([sys.executable, *arguments], cwd=cwd, stdout=log, stderr=subprocess.STDOUT)
    try:
        for _ in range(attempts):
            if process.poll() is not None:
                raise RuntimeError(f"the server ended with {process.returncode}: {(cwd / 'server.log').read_text()[-3000:]}")
            try:
                DIRECT.open(url, timeout=5).close()
                break
            except urllib.error.HTTPError:
                break  # an answer, if not a kind one
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                time.sleep(0.25)
        else:
            raise RuntimeError(f"no answer from {url}: {(cwd / 'server.log').read_text()[-3000:]}")
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(20)


def get_json(url):
    with DIRECT.open(url, timeout=30) as answer:
        return json.loads(answer.read())


def post_json(url, content):
    with DIRECT.open(urllib.request.Request(url, data=json.dumps(content).encode(), headers={"Content-Type": "application/json"}), timeout=30) as answer:
        return json.loads(answer.read())


def eventually(fetch, holds, *, attempts=240):
    """What `fetch` gives once it `holds`: a server reads in the background."""
    found = None
    for _ in range(attempts):
        with contextlib.suppress(urllib.error.HTTPError):
            found = fetch()
            if holds(found):
                return found
        time.sleep(0.25)
    raise AssertionError(f"never came: {str(found)[:2000]}")
