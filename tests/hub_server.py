"""A small server that speaks as much of the Hugging Face hub's API as an upload takes, for every test that pushes."""

import base64
import contextlib
import http.server
import json
import threading


class Server(http.server.BaseHTTPRequestHandler):
    """Creates repositories, takes every file as a regular one, and keeps commits."""

    def answer(self, body, status=200):
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        if "/tree/" in self.path:
            return self.answer([])
        return self.answer({"sha": "0" * 40, "id": "someone/model", "siblings": [], "modelId": "someone/model"})

    def do_POST(self):
        length = self.headers.get("Content-Length")
        if length is None:  # chunks
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(length))
        token = self.headers.get("Authorization")
        self.server.calls.append((self.path, token))
        if token != "Bearer hf_test":
            self.answer({"error": "no such token"}, 401)
        elif self.path == "/api/repos/create":
            self.server.created = json.loads(body)
            self.answer({"url": f"{self.server.url}/someone/model", "id": "someone/model"})
        elif "/preupload/" in self.path:
            files = json.loads(body)["files"]
            self.answer({"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]})
        elif "/commit/" in self.path:
            rows = [json.loads(line) for line in body.splitlines()]
            summary = next(row["value"]["summary"] for row in rows if row["key"] == "header")
            files = {
                row["value"]["path"]: base64.b64decode(row["value"]["content"]) for row in rows if row["key"] == "file"
            }
            self.server.commits.append((summary, files))
            self.answer(
                {
                    "commitUrl": f"{self.server.url}/someone/model/commit/1",
                    "commitOid": "1" * 40,
                    "pullRequestUrl": None,
                }
            )
        else:
            self.answer({})

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def serving():
    """The server, with what it was sent: `calls`, `created`, `commits` of (summary, files)."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    server.url = f"http://127.0.0.1:{server.server_port}"
    server.calls, server.commits, server.created = [], [], None
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
