"""A Hugging Face hub on loopback for `cargo xtask hub`, with switches that break it.

    fake_hub.py FOLDER [--make] [--log FILE] [switches]

Serves every FOLDER/OWNER/NAME/REVISION/ as a revision of OWNER/NAME and prints its address. It ends when its
standard input is closed. Like the real hub it redirects: small files to a relative address, large files (LFS:
.safetensors, .gguf) to another host, here another port, which must never see a token.

It answers what the hub documents of its API:
  GET /api/models/OWNER/NAME/revision/REVISION    the commit
  GET /api/models/OWNER/NAME/tree/COMMIT          the files, with sizes and LFS ids, by pages
  GET|HEAD /OWNER/NAME/resolve/COMMIT/PATH        the bytes
"""

import argparse
import hashlib
import json
import os
import random
import struct
import sys
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

LFS = (".safetensors", ".gguf")


def make(folder):
    """Writes the repository `skeg/tiny` with two revisions: shards with an index, and GGUF files."""
    for seed, revision in enumerate(["main", "v1"]):
        root = folder / "skeg" / "tiny" / revision
        (root / "quantised").mkdir(parents=True, exist_ok=True)
        content = random.Random(seed)
        weight_map = {}
        for shard in (1, 2):
            name = f"model-{shard:05}-of-00002.safetensors"
            tensor = f"model.layers.{shard - 1}.weight"
            data = content.randbytes(200_000)
            header = {tensor: {"dtype": "F32", "shape": [50_000], "data_offsets": [0, len(data)]}}
            header = json.dumps(header).encode()
            (root / name).write_bytes(struct.pack("<Q", len(header)) + header + data)
            weight_map[tensor] = name
        index = {"metadata": {"total_size": 400_000}, "weight_map": weight_map}
        (root / "model.safetensors.index.json").write_text(json.dumps(index))
        (root / "config.json").write_text(json.dumps({"model_type": "llama", "revision": revision}))
        for name in ("generation_config.json", "tokenizer.json", "tokenizer_config.json"):
            (root / name).write_text("{}")
        (root / "README.md").write_text("Not part of the model.\n")
        for name in ("tiny.gguf", "quantised/tiny-q4.gguf"):
            (root / name).write_bytes(b"GGUF" + struct.pack("<I", 3) + content.randbytes(500_000))


class Repositories:
    """What is served, read once."""

    def __init__(self, folder):
        self.commits = {}  # (repository, revision or commit) -> commit
        self.files = {}  # (repository, commit) -> {path: bytes}
        self.blobs = {}  # sha256 -> bytes
        for root in sorted(folder.glob("*/*/*")):
            owner, name, revision = root.relative_to(folder).parts
            paths = sorted(path for path in root.rglob("*") if path.is_file())
            files = {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}
            names = "".join(path + sha256(data) for path, data in files.items())
            commit = hashlib.sha1(names.encode()).hexdigest()
            repository = f"{owner}/{name}"
            self.commits[repository, revision] = self.commits[repository, commit] = commit
            self.files[repository, commit] = files
            self.blobs.update({sha256(data): data for data in files.values()})


def sha256(data):
    return hashlib.sha256(data).hexdigest()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        url = urllib.parse.urlsplit(self.path)
        parts = [urllib.parse.unquote(part) for part in url.path.split("/")[1:]]
        for fault in self.switches.status:
            what, status = fault.rsplit("=", 1)
            if what in self.path:
                return self.answer(int(status), b'{"error": "switched on"}')
        if self.server.is_cdn:
            return self.data(parts[-1], self.repositories.blobs[parts[0]])
        expected = self.switches.token
        if expected and self.headers.get("Authorization") != f"Bearer {expected}":
            return self.answer(401, b'{"error": "Invalid credentials in Authorization header"}')
        if parts[:2] == ["api", "models"] and len(parts) == 6:
            repository, what, revision = "/".join(parts[2:4]), parts[4], parts[5]
            commit = self.repositories.commits.get((repository, revision))
            if commit is None:
                return self.answer(404, b'{"error": "Repository or revision not found"}')
            if what == "revision":
                return self.answer(200, json.dumps({"id": repository, "sha": commit}).encode())
            return self.tree(repository, commit, urllib.parse.parse_qs(url.query))
        if parts[:2] == ["api", "resolve-cache"]:
            return self.data(parts[-1], self.repositories.blobs[parts[2]])
        if len(parts) > 4 and parts[2] == "resolve":
            return self.resolve("/".join(parts[:2]), parts[3], "/".join(parts[4:]))
        return self.answer(404, b'{"error": "Not found"}')

    do_HEAD = do_GET

    def tree(self, repository, commit, query):
        files = self.repositories.files[repository, commit]
        recursive = query.get("recursive") == ["true"]
        entries = []
        for path, data in files.items():
            folder = path.rpartition("/")[0]
            if folder and not recursive:
                continue
            oid = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
            entry = {"type": "file", "oid": oid, "size": len(data), "path": path}
            if path.endswith(LFS):
                digest = sha256(data)
                if path in self.switches.wrong_hash:
                    digest = digest[::-1]
                entry["lfs"] = {"oid": digest, "size": len(data), "pointerSize": 134}
            entries.append(entry)
        entries += [
            {"type": "file", "oid": commit, "size": 4, "path": path} for path in self.switches.list
        ]
        folders = sorted({path.rpartition("/")[0] for path in files} - {""})
        entries += [{"type": "directory", "oid": commit, "size": 0, "path": path} for path in folders]
        start = int(query.get("cursor", ["0"])[0])
        end = start + self.switches.page_size
        headers = {}
        if end < len(entries):
            page = urllib.parse.urlencode({"recursive": str(recursive).lower(), "cursor": end})
            address = f"{self.server.address}{self.path.split('?')[0]}?{page}"
            headers["Link"] = f'<{address}>; rel="next"'
        self.answer(200, json.dumps(entries[start:end]).encode(), headers)

    def resolve(self, repository, revision, path):
        commit = self.repositories.commits.get((repository, revision))
        data = self.repositories.files.get((repository, commit), {}).get(path)
        if data is None:
            return self.answer(404, b"Entry not found", {"X-Error-Code": "EntryNotFound"})
        digest, headers = sha256(data), {"X-Repo-Commit": commit}
        name = urllib.parse.quote(path.rpartition("/")[2])
        if path.endswith(LFS):
            headers |= {"X-Linked-ETag": f'"{digest}"', "X-Linked-Size": str(len(data))}
            headers["Location"] = f"{self.cdn.address}/{digest}/{name}"
            return self.answer(302, b"Found", headers)
        if self.switches.token:
            return self.data(name, data, headers)
        headers["Location"] = f"/api/resolve-cache/{digest}/{name}"
        return self.answer(307, b"Temporary Redirect", headers)

    def data(self, name, data, headers=None):
        headers, status, start = dict(headers or {}), 200, 0
        headers["ETag"] = f'"{sha256(data)}"'
        ranged = self.headers.get("Range", "")
        if ranged.startswith("bytes=") and not self.switches.no_ranges:
            start = int(ranged.removeprefix("bytes=").split("-")[0])
            status = 206
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        cuts = dict(cut.rsplit("=", 1) for cut in self.switches.cut)
        self.answer(status, data[start:], headers, int(cuts.get(name, len(data))))

    def answer(self, status, body, headers=None, cut_after=None):
        self.log(status)
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if cut_after is not None and cut_after < len(body):
            self.close_connection = True
            body = body[:cut_after]
        self.wfile.write(body)

    def log(self, status):
        if self.switches.log:
            entry = {
                "server": "cdn" if self.server.is_cdn else "hub",
                "path": self.path,
                "range": self.headers.get("Range"),
                "authorization": self.headers.get("Authorization"),
                "status": status,
            }
            with open(self.switches.log, "a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")

    def log_message(self, *_):
        pass


def serve(is_cdn):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.is_cdn = is_cdn
    server.address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--make", action="store_true", help="write the repository skeg/tiny first")
    parser.add_argument("--log", help="append a line of JSON for each request")
    parser.add_argument("--token", help="refuse requests without this token")
    parser.add_argument("--page-size", type=int, default=1000)
    parser.add_argument("--no-ranges", action="store_true", help="send whole files, whatever is asked")
    several = {"action": "append", "default": []}
    parser.add_argument("--cut", metavar="NAME=BYTES", help="close the connection after so many", **several)
    parser.add_argument("--wrong-hash", metavar="PATH", help="say another hash of this file", **several)
    parser.add_argument("--list", metavar="PATH", help="list a file that is not there", **several)
    parser.add_argument("--status", metavar="TEXT=STATUS", help="answer paths with TEXT so", **several)
    Handler.switches = parser.parse_args()
    if Handler.switches.make:
        make(Handler.switches.folder)
    Handler.repositories = Repositories(Handler.switches.folder)
    Handler.cdn = serve(is_cdn=True)
    print(serve(is_cdn=False).address, flush=True)
    sys.stdin.buffer.read()
    os._exit(0)


if __name__ == "__main__":
    main()
