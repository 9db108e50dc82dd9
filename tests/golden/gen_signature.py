"""Writes signature.json: signatures by another implementation of ed25519, which skeg must read, and make to the last bit.

    pip install cryptography==48.0.0 && python gen_signature.py OUT_FOLDER

ed25519 signs without randomness (RFC 8032), so for a key and a text there is one signature. The secret keys are no secrets: RFC 8032's
test 1, and 32 bytes that count from 0. Of the first the RFC gives the public key, which is compared here. The text is that of
crates/vector-store/src/signature/mod.rs.
"""

import base64
import hashlib
import json
import sys
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

SEEDS = ("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60", bytes(range(32)).hex())
RFC_8032_PUBLIC_KEY = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"


def text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def case(seed: str) -> dict:
    key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(seed))
    root_hash = hashlib.sha256(b"a generation").hexdigest()
    signed = f"skeg generation v1\n{root_hash}\n".encode("ascii")
    return {
        "secret_key": text(bytes.fromhex(seed)),
        "public_key": text(key.public_key().public_bytes_raw()),
        "root_hash": root_hash,
        "signature": text(key.sign(signed)),
    }


if __name__ == "__main__":
    cases = [case(seed) for seed in SEEDS]
    assert base64.b64decode(cases[0]["public_key"]).hex() == RFC_8032_PUBLIC_KEY
    Path(sys.argv[1], "signature.json").write_text(json.dumps(cases, indent=2) + "\n")
