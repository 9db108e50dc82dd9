"""Writes variants.json: what each variant of arXiv 2410.01174 makes of the same activations, by NumPy.

    python gen_variants.py OUT_FOLDER

Made with NumPy 2.4.6. The activations are random, in f32, with one massive dimension; unsafe input 8 is an outlier. They
stand in the file beside the vectors, so nothing has to be made again to compare.
"""

import json
import sys
from pathlib import Path

import numpy as np

NUM_INPUTS, HIDDEN_SIZE = 9, 16


def activations() -> tuple[np.ndarray, np.ndarray]:
    """Safe and unsafe sides: `[inputs, hidden_size]`, f32."""
    rng = np.random.default_rng(20241001)
    safe = rng.normal(0.4, 1.0, (NUM_INPUTS, HIDDEN_SIZE))
    not_safe = rng.normal(-0.2, 1.0, (NUM_INPUTS, HIDDEN_SIZE))
    not_safe[8] *= 5.0
    safe[:, 3] += 300.0
    not_safe[:, 3] += 297.0
    return safe.astype(np.float32), not_safe.astype(np.float32)


def above_median(rows: np.ndarray) -> np.ndarray:
    """The paper's pruning: the differences whose L2 norm is above the median."""
    norms = np.linalg.norm(rows, axis=1)
    return rows[norms > np.median(norms)]


def by_agreement(rows: np.ndarray, keep: float) -> np.ndarray:
    """The share of the differences with the largest cosine to their mean."""
    mean = rows.mean(axis=0)
    cosines = rows @ mean / np.linalg.norm(rows, axis=1) / np.linalg.norm(mean)
    return rows[np.argsort(-cosines)[: int(keep * len(rows))]]


def principal(rows: np.ndarray) -> np.ndarray:
    """First right singular vector, not centred, with the mean's norm and sign."""
    mean = rows.mean(axis=0)
    direction = np.linalg.svd(rows, full_matrices=False)[2][0]
    return direction * np.sign(direction @ mean) * np.linalg.norm(mean)


def main(folder: Path) -> None:
    safe32, not_safe32 = activations()
    safe, not_safe = safe32.astype(np.float64), not_safe32.astype(np.float64)
    to_mean, matched = safe.mean(axis=0) - not_safe, safe - not_safe
    sizes = np.abs(np.concatenate([safe, not_safe])).mean(axis=0)
    masked = np.where(sizes > 100.0 * np.median(sizes), 0.0, to_mean.mean(axis=0))
    largest = np.argsort(-np.abs(masked))[:5]
    top = np.zeros(HIDDEN_SIZE)
    top[largest] = masked[largest]
    half = {"criterion": "norm", "keep": 0.5}
    cases = [
        ({}, safe.mean(axis=0) - not_safe.mean(axis=0)),
        ({"pruning": half}, above_median(to_mean).mean(axis=0)),
        ({"pairing": "matched", "pruning": half}, above_median(matched).mean(axis=0)),
        (
            {"pairing": "matched", "pruning": {"criterion": "agreement", "keep": 0.7}},
            by_agreement(matched, 0.7).mean(axis=0),
        ),
        ({"estimator": "principal_component"}, principal(to_mean)),
        (
            {"estimator": "principal_component", "pairing": "matched", "pruning": half},
            principal(above_median(matched)),
        ),
        ({"mask_massive": 100.0}, masked),
        ({"mask_massive": 100.0, "top_k": 5}, top),
    ]
    golden = {
        "safe": safe32.tolist(),
        "unsafe": not_safe32.tolist(),
        "cases": [{"variant": variant, "vector": vector.tolist()} for variant, vector in cases],
    }
    (folder / "variants.json").write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
