"""The WeChat at the other end: the program's own sandbox, on this machine, over HTTP."""
import contextlib
import json
import subprocess
import urllib.request


class WeChat:
    """`faregate sandbox` on a port of 127.0.0.1. Its book is what was charged."""

    def __init__(self, program, log):
        self.log = open(log, "ab")
        command = [str(program), "sandbox", "--listen", "127.0.0.1:0"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self.log, text=True)
        first = self.process.stdout.readline()
        self.port = int(first.rsplit(":", 1)[1])
        self.opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def _ask(self, path, body=None):
        data = json.dumps(body).encode() if body is not None else None
        with self.opener.open(f"http://127.0.0.1:{self.port}{path}", data, timeout=20) as answer:
            return json.loads(answer.read() or b"null")

    def charges(self):
        return self._ask("/sandbox/book")["charges"]

    def close(self):
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(10)
        self.process.stdout.close()
        self.log.close()
