"""Writes embeddings.json: what the sentence embedder must give for three sentences.

    python gen_embeddings.py MODEL_FOLDER OUT_FOLDER

Made with numpy 2.4.6, scipy 1.17.1, tokenizers 0.23.3 and safetensors 0.8.0 from the folder of all-MiniLM-L6-v2 (model.safetensors sha256
53aa5117...d9db): the published forward pass (BERT, post-norm, erf GELU), written out in float64 and one sentence at a
time, so without padding or masks; then the mean over all tokens and division by the L2 norm, as the folder's
modules.json says. The tokenizer is the folder's tokenizer.json, truncated at 256 tokens as sentence_bert_config.json says.

The third sentence is longer than 256 tokens. Of each embedding all 384 numbers are kept, rounded to 7 digits.
"""

import json
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file
from scipy.special import erf
from tokenizers import Tokenizer

MAX_TOKENS = 256
SENTENCES = [
    "A heron stood in the shallow water and waited.",
    "Grüße aus Köln: can you tell me how long bread dough should rest?",
    "The harbour was quiet that morning, and the boats lay still. " * 30,
]


class Bert:
    def __init__(self, folder: Path, dtype=np.float64):
        self.config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        tensors = load_file(folder / "model.safetensors")
        self.w = {name: value.astype(dtype) for name, value in tensors.items() if value.dtype.kind == "f"}
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(MAX_TOKENS)

    def linear(self, x, name):
        return x @ self.w[name + ".weight"].T + self.w[name + ".bias"]

    def norm(self, x, name):
        centred = x - x.mean(-1, keepdims=True)
        variance = (centred ** 2).mean(-1, keepdims=True)
        scaled = centred / np.sqrt(variance + self.config["layer_norm_eps"])
        return scaled * self.w[name + ".weight"] + self.w[name + ".bias"]

    def attention(self, x, name):
        num_tokens, hidden = x.shape
        heads = self.config["num_attention_heads"]
        split = lambda y: y.reshape(num_tokens, heads, hidden // heads).transpose(1, 0, 2)
        q, k, v = (split(self.linear(x, f"{name}.self.{part}")) for part in ("query", "key", "value"))
        scores = q @ k.transpose(0, 2, 1) / np.sqrt(hidden // heads)
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        context = (scores / scores.sum(-1, keepdims=True)) @ v
        context = context.transpose(1, 0, 2).reshape(num_tokens, hidden)
        return self.norm(self.linear(context, f"{name}.output.dense") + x, f"{name}.output.LayerNorm")

    def embed(self, text: str) -> np.ndarray:
        ids = self.tokenizer.encode(text).ids
        w = self.w
        x = (w["embeddings.word_embeddings.weight"][ids] + w["embeddings.position_embeddings.weight"][: len(ids)]
             + w["embeddings.token_type_embeddings.weight"][0])
        x = self.norm(x, "embeddings.LayerNorm")
        for layer in range(self.config["num_hidden_layers"]):
            name = f"encoder.layer.{layer}"
            x = self.attention(x, f"{name}.attention")
            y = self.linear(x, f"{name}.intermediate.dense")
            y = 0.5 * y * (1 + erf(y / np.sqrt(2)))
            x = self.norm(self.linear(y, f"{name}.output.dense") + x, f"{name}.output.LayerNorm")
        mean = x.mean(0)
        return mean / np.linalg.norm(mean)


def main() -> None:
    folder, out = Path(sys.argv[1]), Path(sys.argv[2])
    bert = Bert(folder)
    assert len(bert.tokenizer.encode(SENTENCES[2]).ids) == MAX_TOKENS
    rows = [{"text": text, "embedding": [round(float(x), 7) for x in bert.embed(text)]} for text in SENTENCES]
    (out / "embeddings.json").write_text(json.dumps(rows, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
