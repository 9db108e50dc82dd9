"""Writes logits.safetensors and logits.json: what the forward pass must give, plain and steered.

    python gen_logits.py MODEL.gguf OUT_FOLDER

Made with transformers 5.23.0, torch 2.15.0 (CPU, f32, eager attention), gguf 0.19.0 and the file
SmolLM2-135M-Instruct.Q4_1.gguf (sha256 b179c952...db53). The weights are the file's, dequantised to f32; the script
checks layer 0's q_proj against gguf's own dequantisation with the rows put back in Hugging Face's order.

Of each last row of logits every 16th vocabulary id is kept, then the 64 largest, whose ids are in `top.*`.

The steering vector is the same for every layer up to a phase, so that Rust can make it again:
    vector[layer][i] = sin(0.37 * i + 1.3 * layer), i < hidden_size, computed in f64 and rounded to f32.
It is added with strength 0.7 at every position, to the output of o_proj (`attn_out`) of layers 8 to 19, or to the
output of block 14 (`resid_post`).
"""

import json
import sys
from pathlib import Path

import gguf
import numpy as np
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from gen_text import reference

STRENGTH = 0.7
ATTN_OUT_LAYERS = range(8, 20)
RESID_POST_LAYER = 14
CAPTURED_LAYERS = (0, 14, 29)
NUM_CAPTURED = 3
NUM_STEERED = 3
NUM_CONTINUED = 20

PROMPTS = [
    "The",
    "The capital of France is",
    "<|im_start|>user\nName three colours.<|im_end|>\n<|im_start|>assistant\n",
    "In 1969, the first people walked on the",
    "def add(a, b):\n    return",
    "Grüße aus Köln! Das Wetter ist heute",
    "1 2 3 4 5 6 7 8 9 10 11 12",
    "A lighthouse stands on the cliff above the harbour. Every evening the keeper climbs the stairs, lights the lamp "
    "and looks out over the water, where the fishing boats come home one after another. On clear nights one can see "
    "the islands from the top, and in winter the",
]


def vector(layer: int, hidden_size: int) -> torch.Tensor:
    return torch.from_numpy(np.sin(0.37 * np.arange(hidden_size) + 1.3 * layer).astype(np.float32))


def load(path: str):
    folder, name = str(Path(path).parent), Path(path).name
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32,
                                                 attn_implementation="eager").eval()
    check_q_proj(model, path)
    return model


def check_q_proj(model, path: str) -> None:
    stored = next(t for t in gguf.GGUFReader(path).tensors if t.name == "blk.0.attn_q.weight")
    rows = gguf.dequantize(stored.data, stored.tensor_type)
    heads = model.config.num_attention_heads
    # The file interleaves the two halves of each head for its kind of RoPE; Hugging Face keeps the halves apart.
    expected = rows.reshape(heads, rows.shape[0] // heads // 2, 2, rows.shape[1]).swapaxes(1, 2).reshape(rows.shape)
    found = model.model.layers[0].self_attn.q_proj.weight.detach().numpy()
    assert np.array_equal(found, expected), "q_proj is not in Hugging Face's order"


def add(layer: int):
    """A forward hook that adds the steering vector to a module's output."""
    def hook(_module, _inputs, output):
        first = output[0] if isinstance(output, tuple) else output
        steered = first + STRENGTH * vector(layer, first.shape[-1])
        return (steered, *output[1:]) if isinstance(output, tuple) else steered
    return hook


def hooks(model, mode: str) -> list:
    layers = model.model.layers
    if mode == "attn_out":
        return [layers[i].self_attn.o_proj.register_forward_hook(add(i)) for i in ATTN_OUT_LAYERS]
    if mode == "resid_post":
        return [layers[RESID_POST_LAYER].register_forward_hook(add(RESID_POST_LAYER))]
    return []


def forward(model, ids: list[int], mode: str = "plain", captured: dict | None = None) -> torch.Tensor:
    """Logits [seq_len, vocab_size]; `captured` receives the o_proj outputs [seq_len, hidden_size] by layer."""
    handles = hooks(model, mode)
    if captured is not None:
        for layer in CAPTURED_LAYERS:
            keep = lambda _m, _i, output, layer=layer: captured.__setitem__(layer, output[0].clone())
            handles.append(model.model.layers[layer].self_attn.o_proj.register_forward_hook(keep))
    try:
        with torch.no_grad():
            return model(torch.tensor([ids]), use_cache=False).logits[0]
    finally:
        for handle in handles:
            handle.remove()


def keep_row(tensors: dict, name: str, row: torch.Tensor) -> None:
    top = row.topk(64).indices
    tensors[f"top.{name}"] = top.to(torch.int32)
    tensors[f"logits.{name}"] = torch.cat([row[::16], row[top]])


def continuation(model, ids: list[int], mode: str) -> list[int]:
    found, margin = list(ids), float("inf")
    for _ in range(NUM_CONTINUED):
        row = forward(model, found, mode)[-1]
        top = row.topk(2).values
        margin = min(margin, float(top[0] - top[1]))
        found.append(int(row.argmax()))
    print(mode, "smallest margin of the continuation", margin)
    return found[len(ids):]


def main() -> None:
    path, out = sys.argv[1], Path(sys.argv[2])
    torch.set_num_threads(2)
    tokenizer, _ = reference(path)
    model = load(path)
    tensors, prompts = {}, []
    for index, text in enumerate(PROMPTS):
        ids = tokenizer.encode(text, add_special_tokens=False)
        captured = {} if index < NUM_CAPTURED else None
        logits = forward(model, ids, captured=captured)
        entry = {"text": text, "ids": ids, "argmax": logits.argmax(-1).tolist()}
        runs = {"plain": logits[-1]}
        if index < NUM_STEERED:
            for mode in ("attn_out", "resid_post"):
                runs[mode] = forward(model, ids, mode)[-1]
            for mode in ("plain", "attn_out", "resid_post"):
                entry[f"continuation_{mode}"] = continuation(model, ids, mode)
        for mode, row in runs.items():
            keep_row(tensors, f"{mode}.{index}", row)
            top = row.topk(2).values
            print(index, mode, len(ids), "margin", float(top[0] - top[1]))
        for layer, value in (captured or {}).items():
            tensors[f"attn_out.{index}.{layer}"] = value.contiguous()
        prompts.append(entry)
    save_file(tensors, out / "logits.safetensors")
    (out / "logits.safetensors").chmod(0o644)
    (out / "logits.json").write_text(json.dumps({
        "strength": STRENGTH, "attn_out_layers": list(ATTN_OUT_LAYERS), "resid_post_layer": RESID_POST_LAYER,
        "prompts": prompts}, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
