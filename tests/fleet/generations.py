"""Generations made from the shipped one, by the format's description alone: no code of skeg's."""

import hashlib
import json
import shutil
import struct
from array import array


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def read(store):
    generation = json.loads((store / "CURRENT").read_text())["generation"]
    folder = store / "generations" / generation
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def write(store, files):
    """Writes files as the store's only generation; its id."""
    manifest = json.loads(files["manifest.json"])
    manifest["files"] = {name: sha256(files[name]) for name in manifest["files"]}
    files = {**files, "manifest.json": json.dumps(manifest, indent=2).encode()}
    lines = b"".join(
        name.encode() + b"\0" + sha256(files[name]).encode() + b"\n" for name in sorted(files)
    )
    generation = sha256(lines)[:16]
    shutil.rmtree(store, ignore_errors=True)
    folder = store / "generations" / generation
    folder.mkdir(parents=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    (store / "CURRENT").write_text(json.dumps({"sequence": 1, "generation": generation}))
    return generation


def with_card(files, text):
    return {**files, "CARD.md": files["CARD.md"] + text.encode()}


def reversed_vectors(files):
    """All vectors in the other direction: sound files, unsafe vectors."""
    data = files["vectors.safetensors"]
    start = 8 + struct.unpack("<Q", data[:8])[0]
    values = array("f", data[start:])
    return {**files, "vectors.safetensors": data[:start] + array("f", (-v for v in values)).tobytes()}
