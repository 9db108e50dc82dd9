"""Measures skeg on a machine with a GPU and nothing from outside: one binary, Python 3 and, to compare with, torch and transformers.

    python3 tests/gpu/bench.py --skeg ./skeg --results results.json       on a GPU: under 10 minutes
    python3 tests/gpu/bench.py --skeg ./skeg --tiny [--no-torch]          the same on a CPU, with a model of two layers

It makes a model of Llama-3-8B's shape with random weights (`model.py`), runs `skeg bench gpu` on it, then the same model in
transformers (`reference.py`), compares the logits of both, and prints one table: each figure beside the limit that was measured in the
same run, what was aimed at, and what transformers does. It ends with 1 where logits are out of bounds or a measurement failed, not
where an aim was missed.
"""

import argparse
import importlib.util
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
NUM_TOKENS = 96
# Shares of the time: the rest is for weights, for loading, and for transformers.
SKEG_SHARE = 0.4
# Above what --budget says, for loading and for what was begun.
GRACE_SECONDS = 150
# Memory as a folder, where there is enough of it for the large model twice: faster than a disk.
MEMORY_FOLDER = Path("/dev/shm")
MEMORY_BYTES = 35 << 30

SIZES = {
    "batch": [1, 8, 32, 128], "context": [128, 1024, 4096], "prefill": [512, 2048], "pairs": 200,
    "vocabulary": 128256,
    "decode_aims": {(1, 128): 0.85, (128, 1024): 0.70}, "prefill_aims": {2048: 0.55},
    "reference": {"batch": [1, 32], "context": [128], "prefill": [2048]},
}  # fmt: skip
TINY_SIZES = {
    "batch": [1, 4], "context": [16, 64], "prefill": [32, 128], "pairs": 10,
    "vocabulary": 512,
    "decode_aims": {(1, 16): 0.85, (4, 64): 0.70}, "prefill_aims": {128: 0.55},
    "reference": {"batch": [1, 4], "context": [16], "prefill": [128]},
}  # fmt: skip
STEERING_AIM, ONE_SEQUENCE_AIM, SERVED_AIM = 1.01, 2.0, 5.0


def say(text):
    print(text, file=sys.stderr, flush=True)


def listed(sizes):
    return ",".join(map(str, sizes))


def run(command, seconds, **options):
    """To its end or to that of its time; whether it succeeded."""
    say(f"$ {' '.join(map(str, command))}    at most {seconds:.0f} s")
    try:
        return subprocess.run(command, timeout=max(seconds, 1), **options).returncode == 0
    except subprocess.TimeoutExpired:
        say(f"stopped after {seconds:.0f} s")
        return False


def environment():
    """This one, with the CUDA libraries that came with torch."""
    found = importlib.util.find_spec("nvidia")
    places = found.submodule_search_locations if found else []
    folders = [str(folder) for place in places for folder in Path(place).glob("*/lib")]
    folders += filter(None, [os.environ.get("LD_LIBRARY_PATH")])
    return {**os.environ, "LD_LIBRARY_PATH": os.pathsep.join(folders)}


def read(path):
    return json.loads(path.read_text()) if path.exists() else {}


def measure(given, sizes, folder, end):
    """Runs everything in `folder`; what skeg and transformers reported, and what went wrong."""

    def left():
        return end - time.monotonic()

    model, tokens, logits = folder / "model", folder / "tokens.json", folder / "logits.safetensors"
    report, reference = folder / "report.json", folder / "reference.json"
    failed = []
    flags = [flag for flag in ("--tiny", "--no-torch") if getattr(given, flag[2:].replace("-", "_"))]
    if not run([sys.executable, HERE / "model.py", model, *flags], left()):
        raise SystemExit("the model could not be made")
    source = random.Random(1)
    tokens.write_text(json.dumps([source.randrange(sizes["vocabulary"]) for _ in range(NUM_TOKENS)]))
    budget = int(left() * SKEG_SHARE)
    command = [given.skeg.resolve(), "bench", "gpu", "--model", model, "--device", given.device, "--report", report]
    command += ["--logits", tokens, "--out", logits, "--pairs", str(sizes["pairs"]), "--budget", str(budget)]
    for name in ("batch", "context", "prefill"):
        command += [f"--{name}", listed(sizes[name])]
    if not run(command, budget + GRACE_SECONDS, env=environment(), stdout=sys.stderr):
        failed.append("skeg bench gpu")
    if given.no_torch:
        say("no comparison with transformers: --no-torch")
    else:
        command = [sys.executable, HERE / "reference.py", model, tokens, logits, reference]
        for name, values in sizes["reference"].items():
            command += [f"--{name}", listed(values)]
        if not run(command, left(), stdout=sys.stderr):
            failed.append("transformers")
        if not read(reference).get("logits", {}).get("is_within"):
            failed.append("logits")
    return read(report), read(reference), failed


def verdict(is_met, aim):
    return f"{aim}: {'met' if is_met else 'missed'}"


def passes_row(name, row, aim, theirs, times_aim=None):
    """One size of forward pass; `theirs` is the seconds of the same in transformers."""
    share = row["share_of_limit"]
    limit = f"{1e3 * row['limit_seconds']:.3f} ({row['limited_by']})"
    aims = [verdict(share >= aim, f">= {aim:.0%}")] if aim else []
    beside = ""
    if theirs:
        ratio = theirs / row["seconds"]
        beside = f"{1e3 * theirs:.3f} ms, {ratio:.2f} times"
        aims += [verdict(ratio >= times_aim, f">= {times_aim:g} times")] if times_aim else []
    rate = row["tokens_per_second"]["median"]
    return [name, f"{1e3 * row['seconds']:.3f}", f"{rate:.1f}", limit, f"{share:.1%}", "; ".join(aims), beside]


def rows(report, reference, sizes):
    step = {(row["num_seqs"], row["context_tokens"]): row["seconds"] for row in reference.get("decode", [])}
    prompt = {row["tokens"]: row["seconds"] for row in reference.get("prefill", [])}
    for row in report.get("decode", []):
        shape = batch, context = row["num_seqs"], row["context_tokens"]
        times = ONE_SEQUENCE_AIM if batch == 1 else None
        aim = sizes["decode_aims"].get(shape)
        yield passes_row(f"decode {batch} at {context}", row, aim, step.get(shape), times)
    for row in report.get("prefill", []):
        length = row["timed_tokens"]
        aim = sizes["prefill_aims"].get(length)
        yield passes_row(f"prefill {length}", row, aim, prompt.get(length))
    for row in report.get("served", []):
        name = f"served {row['num_seqs']}, {row['vectors']} vectors"
        aim = beside = ""
        if step:
            # The largest batch of transformers: its steps alone, with all sequences always there.
            batch, context = max(step)
            theirs = batch / step[batch, context]
            ratio = row["tokens_per_second"] / theirs
            if row["num_seqs"] > 1:
                aim = verdict(ratio >= SERVED_AIM, f">= {SERVED_AIM:g} times")
            beside = f"{theirs:.1f} tok/s of {batch} at {context}, {ratio:.2f} times"
        seconds, limit = (f"{1e3 * row[key]:.1f}" for key in ("seconds", "limit_seconds"))
        rate, share = f"{row['tokens_per_second']:.1f}", f"{row['share_of_limit']:.1%}"
        yield [name, seconds, rate, limit, share, aim, beside]
    for row in report.get("steering", []):
        name = f"{row['mode']}, {row['num_seqs']} sequences, {row['num_layers']} layers"
        bounds = f"{row['ratio']:.4f} [{row['lower']:.4f}, {row['upper']:.4f}]"
        is_noise = row["mode"] == "disabled"
        aim = "noise" if is_noise else verdict(row["ratio"] < STEERING_AIM, "under 1 %")
        yield [name, f"{1e3 * row['median_step_seconds']:.3f}", "", "", bounds, aim, ""]
    swap = report.get("swap")
    if swap:
        busy = f"the same, {swap['registrations']} registrations of {swap['vectors']} vectors"
        for name, times in {
            f"engine's step of {swap['num_seqs']}": swap["quiet_step_seconds"],
            busy: swap["step_seconds"],
            "a registration": swap["register_seconds"],
        }.items():
            yield [name, f"p50 {1e3 * times['p50']:.3f}, p99 {1e3 * times['p99']:.3f}", *[""] * 5]


def errors_row(name, errors):
    return [name, *(f"{errors[key]:.3g}" for key in ("max_abs", "top_1_agreement", "mean_divergence"))]


def table(header, body):
    lines = [header, ["---"] * len(header), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def summary(report, reference, sizes):
    """What a person reads."""
    subject = report.get("subject", {})
    device = subject.get("device", "nothing was measured")
    parts = [f"{device}: {subject.get('weight_types')}, loaded in {report.get('load_seconds', 0):.1f} s"]
    for name, unit in (("copies", "GB/s"), ("products", "GFLOP/s")):
        if name in report:
            parts.append(f"{report[name]['what']}: {report[name]['per_second']['median'] / 1e9:.1f} {unit}")
    header = ["what", "ms", "tok/s", "limit, ms", "of the limit, or ratio", "aim", "transformers"]
    parts.append(table(header, rows(report, reference, sizes)))
    logits = reference.get("logits")
    if logits:
        title = f"logits of {logits['tokens']} tokens, against f32"
        header = [title, "max abs", "top-1 agreement", "divergence, nats"]
        compared = {f"skeg, {name}": errors for name, errors in logits["skeg"].items()}
        compared |= {"transformers, bf16": logits["transformers"], "bounds": logits["bounds"]}
        parts.append(table(header, [errors_row(name, errors) for name, errors in compared.items()]))
    for kind in ("left_out", "failed"):
        parts += [f"{kind}: {entry['what']}: {entry['reason']}" for entry in report.get(kind, [])]
    return "\n\n".join(parts)


def work_folder(tiny):
    is_there = MEMORY_FOLDER.is_dir()
    is_roomy = is_there and shutil.disk_usage(MEMORY_FOLDER).free > MEMORY_BYTES
    return tempfile.TemporaryDirectory(dir=MEMORY_FOLDER if is_roomy and not tiny else None)


def main():
    style = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=style)
    parser.add_argument("--skeg", type=Path, required=True, help="the binary")
    parser.add_argument("--results", type=Path, default=Path("results.json"), help="what was found, as JSON")
    parser.add_argument("--budget", type=float, default=540, help="seconds in all")
    parser.add_argument("--device", default="auto", help="as skeg takes it; a GPU that must be there: cuda")
    parser.add_argument("--tiny", action="store_true", help="a model of two layers, for a CPU")
    parser.add_argument("--no-torch", action="store_true", help="weights by Python, and no comparison")
    given = parser.parse_args()
    end = time.monotonic() + given.budget
    sizes = TINY_SIZES if given.tiny else SIZES
    with work_folder(given.tiny) as folder:
        report, reference, failed = measure(given, sizes, Path(folder), end)
    results = {"skeg": report, "transformers": reference, "failed": failed}
    given.results.write_text(json.dumps(results, indent=2))
    print(summary(report, reference, sizes))
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
