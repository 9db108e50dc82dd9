"""The same model in transformers: its logits beside those of skeg, and its speed with SDPA and a compiled static cache.

    python3 reference.py MODEL_FOLDER TOKENS.json LOGITS.safetensors RESULTS.json --batch 1,32 --context 128 --prefill 2048

RESULTS.json is written anew after each figure, so that what was measured is there when this program is stopped.
Needs: torch, transformers, safetensors.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, StaticCache

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPE = torch.bfloat16
WARM_UP_STEPS = 4
STEPS = 32
PREFILLS = 5


def synchronize():
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def timed(work):
    synchronize()
    started = time.perf_counter()
    work()
    synchronize()
    return time.perf_counter() - started


def all_logits(model, token_ids, dtype):
    """With parameters in `dtype`. Buffers keep theirs: RoPE's frequencies are f32 in any case."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    with torch.inference_mode():
        return model(token_ids, use_cache=False).logits[0].float()


def distance(exact, other):
    """How far logits [tokens, vocabulary] are from exact ones."""
    p, q = (torch.log_softmax(logits.double(), dim=-1) for logits in (exact, other))
    return {
        "max_abs": (exact - other).abs().max().item(),
        "top_1_agreement": (exact.argmax(-1) == other.argmax(-1)).float().mean().item(),
        "mean_divergence": (p.exp() * (p - q)).sum(-1).mean().item(),
    }


def compare(model, token_ids, path):
    """Everybody's distance to the model in f32, and whether skeg's is within its bounds.

    The bounds are transformers' own error in bf16, twice, and a tenth of the tokens: rounding is allowed to differ, not to be
    worse. Where another arithmetic is at work, its error is there to be compared with.
    """
    rounded = all_logits(model, token_ids, DTYPE)
    exact = all_logits(model, token_ids, torch.float32)
    all_logits(model, token_ids[:, :1], DTYPE)  # leaves the parameters as they were
    found = {name: logits.to(DEVICE) for name, logits in load_file(path).items()}
    own = distance(exact, rounded)
    bounds = {
        "max_abs": 2 * own["max_abs"],
        "top_1_agreement": own["top_1_agreement"] - 0.1,
        "mean_divergence": 2 * own["mean_divergence"],
    }
    skeg = {name: distance(exact, logits) for name, logits in found.items()}
    is_within = all(
        errors["max_abs"] <= bounds["max_abs"]
        and errors["top_1_agreement"] >= bounds["top_1_agreement"]
        and errors["mean_divergence"] <= bounds["mean_divergence"]
        for errors in skeg.values()
    )
    names = {"skeg": skeg, "transformers": own, "bounds": bounds}
    return {**names, "tokens": token_ids.shape[1], "is_within": is_within}


def decode(model, batch, context):
    """Seconds of a step: one token of each of `batch` sequences, compiled, with the cache at a fixed place."""
    cache = StaticCache(config=model.config, max_cache_len=context + WARM_UP_STEPS + STEPS)
    vocabulary = model.config.vocab_size

    def step(token_ids):
        logits = model(token_ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
        return logits[:, -1].argmax(-1, keepdim=True)

    compiled = torch.compile(step, mode="reduce-overhead", dynamic=False)
    with torch.inference_mode():
        # The prompt makes the cache, outside of what is compiled; a row at a time would do, and take longer.
        last = step(torch.randint(vocabulary, (batch, context), device=DEVICE))

        def steps(number):
            nonlocal last
            for _ in range(number):
                torch.compiler.cudagraph_mark_step_begin()
                last = compiled(last).clone()

        compile_seconds = timed(lambda: steps(WARM_UP_STEPS))
        seconds = timed(lambda: steps(STEPS)) / STEPS
    shape = {"num_seqs": batch, "context_tokens": context}
    return {**shape, "seconds": seconds, "compile_seconds": compile_seconds}


def prefill(model, length):
    """Seconds of a prompt, the median of several; not compiled, as in `generate`."""
    token_ids = torch.randint(model.config.vocab_size, (1, length), device=DEVICE)

    def once():
        model(token_ids, use_cache=True, logits_to_keep=1)

    with torch.inference_mode():
        runs = [timed(once) for _ in range(PREFILLS + 1)]
    return {"tokens": length, "seconds": sorted(runs[1:])[PREFILLS // 2]}


def numbers(text):
    return [int(number) for number in text.split(",")]


def main():
    style = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=style)
    for name in ("model", "tokens", "logits", "results"):
        parser.add_argument(name, type=Path)
    for name in ("--batch", "--context", "--prefill"):
        parser.add_argument(name, type=numbers, required=True)
    given = parser.parse_args()
    results = {"torch": torch.__version__, "device": DEVICE, "decode": [], "prefill": []}

    def save(what):
        given.results.write_text(json.dumps(results, indent=2))
        print(f"transformers: {what}", flush=True)

    load = AutoModelForCausalLM.from_pretrained
    model = load(given.model, dtype=DTYPE, attn_implementation="sdpa").to(DEVICE).eval()
    token_ids = torch.tensor([json.loads(given.tokens.read_text())], device=DEVICE)
    results["logits"] = compare(model, token_ids, given.logits)
    save(f"logits compared, within bounds: {results['logits']['is_within']}")
    for length in given.prefill:
        results["prefill"].append(prefill(model, length))
        save(results["prefill"][-1])
    for context in given.context:
        for batch in given.batch:
            results["decode"].append(decode(model, batch, context))
            save(results["decode"][-1])


if __name__ == "__main__":
    main()
