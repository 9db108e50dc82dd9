"""Writes guided.json: which exchanges a guided extraction keeps, and what Eq. 1 and pruning make of them, by NumPy.

    python gen_guided.py OUT_FOLDER

Made with NumPy 2.4.6. Activations (f32) and the judges' findings are random: the harm judge's score from 0 to 1, harmful
from one half, and whether an answer is a refusal or broken. They stand in the file beside the vectors.
"""

import json
import sys
from pathlib import Path

import numpy as np

NUM_INPUTS, HIDDEN_SIZE = 30, 8
RNG = np.random.default_rng(20241002)


def side(mean: float, scores: np.ndarray, refused_share: float) -> dict[str, np.ndarray]:
    """One side: activations `[inputs, hidden_size]`, and the findings on each input's answer."""
    return {
        "activations": RNG.normal(mean, 1.0, (NUM_INPUTS, HIDDEN_SIZE)).astype(np.float32),
        "scores": scores.round(3),
        "refused": RNG.random(NUM_INPUTS) < refused_share,
        "degenerate": RNG.random(NUM_INPUTS) < 0.15,
    }


def confirmed(one: dict[str, np.ndarray], min_score: float | None) -> tuple[np.ndarray, np.ndarray]:
    """Masks of the answers judged harmful and harmless, broken ones in neither."""
    least = 0.0 if min_score is None else min_score
    harmful = one["scores"] >= 0.5
    certainty = np.where(harmful, one["scores"], 1.0 - one["scores"])
    counts = ~one["degenerate"] & (certainty >= least)
    return counts & harmful, counts & ~harmful


def omega(safe: np.ndarray, not_safe: np.ndarray, matched: bool, pruned: bool) -> np.ndarray:
    """Eq. 1, or the mean of the differences whose L2 norm is above the median."""
    differences = (safe if matched else safe.mean(axis=0)) - not_safe
    if pruned:
        norms = np.linalg.norm(differences, axis=1)
        differences = differences[norms > np.median(norms)]
    return differences.mean(axis=0)


def case(
    safe: dict[str, np.ndarray],
    not_safe: dict[str, np.ndarray],
    min_score: float | None,
    keep_refusals: bool,
    matched: bool,
) -> dict[str, object]:
    harmful, harmless = confirmed(not_safe, min_score)
    unsafe_mask = harmful & ~not_safe["refused"]
    _, safe_mask = confirmed(safe, min_score)
    if matched:
        unsafe_mask = safe_mask = unsafe_mask & safe_mask
    safe_rows = safe["activations"].astype(np.float64)[safe_mask]
    unsafe_rows = not_safe["activations"].astype(np.float64)[unsafe_mask]
    if keep_refusals:
        moved = not_safe["activations"].astype(np.float64)[harmless & not_safe["refused"]]
        safe_rows = np.concatenate([safe_rows, moved])
    return {
        "min_score": min_score,
        "keep_refusals": keep_refusals,
        "matched": matched,
        "num_safe": len(safe_rows),
        "num_unsafe": len(unsafe_rows),
        "all": omega(safe_rows, unsafe_rows, matched, pruned=False).tolist(),
        "pruned": omega(safe_rows, unsafe_rows, matched, pruned=True).tolist(),
    }


def main(folder: Path) -> None:
    safe = side(0.4, RNG.beta(2.0, 5.0, NUM_INPUTS), 0.1)
    not_safe = side(-0.2, RNG.beta(3.0, 2.0, NUM_INPUTS), 0.4)
    cases = [
        case(safe, not_safe, min_score, keep_refusals, matched)
        for min_score in (None, 0.7)
        for keep_refusals, matched in ((False, False), (True, False), (False, True))
    ]
    as_lists = {
        name: {key: values.tolist() for key, values in one.items()}
        for name, one in (("safe", safe), ("unsafe", not_safe))
    }
    (folder / "guided.json").write_text(json.dumps({**as_lists, "cases": cases}, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
