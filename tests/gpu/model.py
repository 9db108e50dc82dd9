"""Writes a Llama with random weights: config.json, a minimal tokenizer.json, and safetensors in bf16.

    python3 model.py FOLDER [--tiny] [--no-torch]

With torch the numbers are drawn on the GPU where there is one: Llama-3-8B's 16 GB in seconds. Without it they are drawn by Python,
which does for the tiny model. The seed is fixed; the numbers are the same on the same kind of device and version of torch.
"""

import argparse
import json
import random
import struct
from math import prod
from pathlib import Path

SEED = 7
# What a product does to the size of its input: 0.02 of Llama-3-8B's weights. A narrower model has larger weights.
GAIN = 0.02 * 4096**0.5
SHARD_BYTES = 4 << 30
BF16_BYTES = 2

LLAMA_3_8B = {
    "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 128256,
    "max_position_embeddings": 8192,
}  # fmt: skip
TINY = {
    "hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 512,
    "max_position_embeddings": 512,
}  # fmt: skip


def shapes(config):
    """Every tensor by its name in a checkpoint."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    heads = (config["num_attention_heads"], config["num_key_value_heads"])
    q, kv = (number * config["head_dim"] for number in heads)
    yield "model.embed_tokens.weight", (config["vocab_size"], hidden)
    for layer in range(config["num_hidden_layers"]):
        for name, shape in {
            "input_layernorm": (hidden,),
            "self_attn.q_proj": (q, hidden),
            "self_attn.k_proj": (kv, hidden),
            "self_attn.v_proj": (kv, hidden),
            "self_attn.o_proj": (hidden, q),
            "post_attention_layernorm": (hidden,),
            "mlp.gate_proj": (inner, hidden),
            "mlp.up_proj": (inner, hidden),
            "mlp.down_proj": (hidden, inner),
        }.items():
            yield f"model.layers.{layer}.{name}.weight", shape
    yield "model.norm.weight", (hidden,)
    yield "lm_head.weight", (config["vocab_size"], hidden)


def drawn_by_torch(deviation):
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator(device).manual_seed(SEED)

    def draw(shape):
        numbers = torch.empty(shape, dtype=torch.bfloat16, device=device)
        if len(shape) == 1:
            numbers.fill_(1.0)
        else:
            numbers.normal_(0.0, deviation, generator=generator)
        return memoryview(numbers.view(torch.uint8).cpu().numpy()).cast("B")

    return draw


def drawn_by_python(deviation):
    source = random.Random(SEED)

    def draw(shape):
        mean, spread = (1.0, 0.0) if len(shape) == 1 else (0.0, deviation)
        # bf16 is the upper half of f32.
        return b"".join(struct.pack("<f", source.gauss(mean, spread))[2:] for _ in range(prod(shape)))

    return draw


def write_shard(path, tensors, draw):
    """The format: the header's length, the header, and the numbers one after the other."""
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in tensors:
        end = offset + prod(shape) * BF16_BYTES
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, shape in tensors:
            file.write(draw(shape))


def shards(config):
    """Tensors in groups of at most SHARD_BYTES."""
    group, size = [], 0
    for name, shape in shapes(config):
        if group and size + prod(shape) * BF16_BYTES > SHARD_BYTES:
            yield group
            group, size = [], 0
        group.append((name, shape))
        size += prod(shape) * BF16_BYTES
    yield group


def write_text_files(folder, config):
    rest = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
        "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "tie_word_embeddings": False,
        "torch_dtype": "bfloat16", "bos_token_id": 0, "eos_token_id": 1,
    }  # fmt: skip
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    words = ["<s>", "</s>", *"abcdefghijklmnopqrstuvwxyz"]
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None, "normalizer": None, "post_processor": None,
        "added_tokens": [
            {"id": i, "content": word, "special": True, **special} for i, word in enumerate(words[:2])
        ],
        "pre_tokenizer": byte_level, "decoder": byte_level,
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
            "vocab": {word: i for i, word in enumerate(words)}, "merges": [],
        },
    }  # fmt: skip
    files = {
        "config.json": {**config, **rest},
        "tokenizer.json": tokenizer,
        "tokenizer_config.json": {"bos_token": "<s>", "eos_token": "</s>"},
        "generation_config.json": {"eos_token_id": 1},
    }
    for name, value in files.items():
        (folder / name).write_text(json.dumps(value))


def write(folder, config, draw):
    folder.mkdir(parents=True, exist_ok=True)
    write_text_files(folder, config)
    places = {}
    for number, tensors in enumerate(shards(config)):
        name = f"model-{number:05}.safetensors"
        write_shard(folder / name, tensors, draw)
        places.update((tensor, name) for tensor, _ in tensors)
    size = sum(prod(shape) for _, shape in shapes(config)) * BF16_BYTES
    index = {"metadata": {"total_size": size}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


if __name__ == "__main__":
    style = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=style)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--no-torch", action="store_true")
    given = parser.parse_args()
    sizes = TINY if given.tiny else LLAMA_3_8B
    drawn = drawn_by_python if given.no_torch else drawn_by_torch
    write(given.folder, sizes, drawn(GAIN / sizes["hidden_size"] ** 0.5))
