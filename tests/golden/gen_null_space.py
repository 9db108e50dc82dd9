"""Writes null_space.json: null-space projection and strengths by projection, by NumPy.

    python gen_null_space.py OUT_FOLDER

Made with NumPy 2.4.6. The activations are random, in f32: harmless ones lie near a subspace of three dimensions, one of
them massive; harmful ones have a direction of their own besides. One case has more harmless rows than dimensions and fewer
harmful ones, the other the reverse. Written as published, without the identities that the crate uses: the projector from
the d x d second moment, the regression by the pseudo-inverse of `P H_m H_m^T P^T + a P P^T` (arXiv 2506.07022).
"""

import json
import sys
from pathlib import Path

import numpy as np

HIDDEN_SIZE, NUM_USED = 8, 3


def activations(rng: np.random.Generator, num_benign: int, num_harmful: int) -> tuple[np.ndarray, np.ndarray]:
    """Harmless and harmful rows: `[rows, hidden_size]`, f32."""
    used = rng.normal(0.0, 1.0, (NUM_USED, HIDDEN_SIZE))
    used[0] += 20.0 * np.eye(HIDDEN_SIZE)[5]
    own = rng.normal(0.0, 1.0, HIDDEN_SIZE)

    def rows(count: int) -> np.ndarray:
        within = rng.normal(0.5, 1.0, (count, NUM_USED)) @ used
        return within + rng.normal(0.0, 0.2, (count, HIDDEN_SIZE))

    harmful = rows(num_harmful) + rng.normal(1.0, 0.3, (num_harmful, 1)) * own
    return rows(num_benign).astype(np.float32), harmful.astype(np.float32)


def null_space(benign: np.ndarray, variance_kept: float) -> tuple[int, np.ndarray]:
    """Rank of what is used, and the projector on the rest."""
    values, vectors = np.linalg.eigh(benign.T @ benign / len(benign))
    values, vectors = values[::-1], vectors[:, ::-1]
    rank = int(np.searchsorted(np.cumsum(values), variance_kept * np.trace(benign.T @ benign) / len(benign))) + 1
    rest = vectors[:, rank:]
    return rank, rest @ rest.T


def case(seed: int, num_benign: int, num_harmful: int, variance_kept: float, ridge: float) -> dict:
    rng = np.random.default_rng(seed)
    benign32, harmful32 = activations(rng, num_benign, num_harmful)
    vector32 = rng.normal(0.0, 1.0, HIDDEN_SIZE).astype(np.float32)
    benign, harmful, vector = (array.astype(np.float64) for array in (benign32, harmful32, vector32))
    rank, projector = null_space(benign, variance_kept)
    # Columns are prompts, as in the paper; R is a row of ones.
    h_m, ones = harmful.T, np.ones((1, num_harmful))
    system = projector @ h_m @ h_m.T @ projector.T + ridge * projector @ projector.T
    w = (ones @ h_m.T @ projector.T @ np.linalg.pinv(system, rcond=1e-12, hermitian=True))[0]
    rows = np.concatenate([benign, harmful])
    to_harmful = harmful.mean(axis=0) - benign.mean(axis=0)
    along = {}
    for name, direction in [("means", to_harmful), ("vector", vector)]:
        place = rows @ direction
        zero, one = place[:num_benign].mean(), place[num_benign:].mean()
        along[name] = ((place - zero) / (one - zero)).tolist()
    projected = projector @ vector
    return {
        "benign": benign32.tolist(),
        "harmful": harmful32.tolist(),
        "vector": vector32.tolist(),
        "variance_kept": variance_kept,
        "ridge": ridge,
        "rank": rank,
        "projector": projector.tolist(),
        "projected": projected.tolist(),
        "projected_keep_norm": (projected * np.linalg.norm(vector) / np.linalg.norm(projected)).tolist(),
        "weights": (projector @ w).tolist(),
        "conditional_factors": np.clip(rows @ projector @ w, 0.0, 1.0).tolist(),
        "projection_scores": along["means"],
        "projection_scores_along_vector": along["vector"],
    }


def main(folder: Path) -> None:
    cases = [case(1, 14, 5, 0.98, 0.5), case(2, 6, 11, 0.999, 2.0), case(3, 14, 11, 0.9, 0.01)]
    (folder / "null_space.json").write_text("[\n" + ",\n".join(map(json.dumps, cases)) + "\n]\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
