"""Writes control_vector.gguf and vectors.npz: files of other programs, which `skeg vectors import` must read.

    pip install gguf==0.19.0 numpy==1.26.4 && pip install --no-deps repeng==0.4.0 && python gen_control_vector.py OUT_FOLDER
    python gen_control_vector.py --check FILE.gguf FILE.npz

control_vector.gguf is written by repeng's own `ControlVector.export_gguf`. What repeng imports and that function does not use (torch,
transformers, scikit-learn) is replaced by empty modules. Its layers go from the last one down, as in repeng. vectors.npz is
`numpy.savez`. Both hold, in f32, computed in f64:
    vector[layer][i] = sin(0.37 * i + 1.3 * layer), i < 8

`--check` reads files that skeg exported of the same numbers, by gguf's and repeng's readers and by NumPy, and compares bit for bit. Run by
hand on what the test `exports_are_files_of_their_formats` leaves where SKEG_EXPORT_FOLDER says.
"""

import json
import sys
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np

for name in ("torch", "torch.types", "transformers", "sklearn", "sklearn.decomposition"):
    sys.modules[name] = MagicMock()
sys.modules["torch"].nn.Module = object

import gguf
from repeng import ControlVector

LAYERS = (1, 2, 4)
HIDDEN_SIZE = 8


def row(layer: int) -> np.ndarray:
    return np.sin(0.37 * np.arange(HIDDEN_SIZE) + 1.3 * layer).astype(np.float32)


def write(folder: Path) -> None:
    directions = {layer: row(layer) for layer in reversed(LAYERS)}
    ControlVector(model_type="llama", directions=directions).export_gguf(folder / "control_vector.gguf")
    np.savez(folder / "vectors.npz", fraud_deception=np.stack([row(layer) for layer in LAYERS]), layers=np.array(LAYERS))


def check(control_vector: str, arrays: str) -> None:
    read = ControlVector.import_gguf(control_vector)
    assert read.model_type == "llama" and sorted(read.directions) == list(LAYERS), read
    for layer in LAYERS:
        assert read.directions[layer].dtype == np.float32
        assert read.directions[layer].tobytes() == row(layer).tobytes(), layer
    fields = {name: field.contents() for name, field in gguf.GGUFReader(control_vector).fields.items()}
    assert fields["general.architecture"] == "controlvector" and fields["controlvector.layer_count"] == len(LAYERS), fields
    with np.load(arrays) as file:
        assert file["layers"].tolist() == list(LAYERS)
        assert file["fraud_deception"].tobytes() == np.stack([row(layer) for layer in LAYERS]).tobytes()
        declared = json.loads(file["__metadata__"].tobytes())
    print("gguf:", {name: value for name, value in fields.items() if "." in name})
    print("npz:", declared)


if __name__ == "__main__":
    if sys.argv[1] == "--check":
        check(*sys.argv[2:])
    else:
        write(Path(sys.argv[1]))
