"""Uploads to a stand-in for the hub on this machine: what is asked of it, and what is said where it refuses."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

UPLOAD = "from pathlib import Path; from clkit.engine.pushing import Repository; import sys\n"
UPLOAD += "Repository.reserve(sys.argv[1], public=sys.argv[2] == 'public').upload(Path(sys.argv[3]))"


class Hub(HTTPServer):
    """Knows as much of the hub's HTTP as one upload of small files needs."""

    def __init__(self) -> None:
        self.private: dict[str, bool] = {"me/seen": False}
        self.files: dict[str, bytes] = {}
        super().__init__(("127.0.0.1", 0), _Answers)


class _Answers(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        name = self.path.removeprefix("/api/models/").partition("?")[0]
        self._say({"id": name, "private": self.server.private[name], "siblings": []})

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/api/repos/create":
            asked = json.loads(content)
            name = f"{asked.get('organization', 'me')}/{asked['name']}"
            known = name in self.server.private
            self.server.private.setdefault(name, asked.get("visibility") == "private" or asked.get("private", False))
            self._say({"url": f"http://127.0.0.1:{self.server.server_port}/{name}"}, 409 if known else 200)
        elif "/preupload/" in self.path:
            names = [file["path"] for file in json.loads(content)["files"]]
            files = [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]
            self._say({"files": files})
        elif "/commit/" in self.path:
            for line in map(json.loads, content.splitlines()):
                if line["key"] == "file":
                    self.server.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self._say({"success": True, "commitOid": "1" * 40, "commitUrl": "http://127.0.0.1/me/made/commit/1"})
        else:  # whether the card's front matter is valid
            self._say({"errors": [], "warnings": []})

    def _say(self, what: dict[str, Any], code: int = 200) -> None:
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(what).encode())

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[Hub]:
    server = Hub()
    Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


def upload(name: str, seen: str, folder: Path, **environment: str) -> str:
    """The last line of what went wrong, if anything did."""
    hub = {"HF_TOKEN": "hf_" + "x" * 34, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    done = subprocess.run(
        [sys.executable, "-c", UPLOAD, name, seen, str(folder)],
        env={**os.environ, "HF_HUB_OFFLINE": "0", **hub, **environment},
        capture_output=True,
        text=True,
    )
    return done.stderr.strip().splitlines()[-1] if done.returncode else ""


def test_what_is_uploaded_is_private_unless_told_otherwise(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("---\ntags:\n- clkit\n---\n# made\n")
    (tmp_path / "config.json").write_text("{}")
    address = {"HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}"}
    assert upload("me/made", "private", tmp_path, **address) == ""
    assert hub.private["me/made"] is True
    assert hub.files == {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    hub.files.clear()
    assert "'me/seen' is there and everyone can see it; add --public" in upload(
        "me/seen", "private", tmp_path, **address
    )
    assert hub.files == {}
    assert upload("me/seen", "public", tmp_path, **address) == ""
    assert upload("me/open", "public", tmp_path, **address) == ""
    assert hub.private["me/open"] is False


def test_without_a_network_or_a_name_one_line_says_so(tmp_path: Path) -> None:
    said = upload("me/made", "private", tmp_path, HF_HUB_OFFLINE="1")
    assert "--push: 'me/made' cannot be made on the hub (" in said
    assert "offline" in said
    assert "--push: Repo id must" in upload("me/made/more", "private", tmp_path)
