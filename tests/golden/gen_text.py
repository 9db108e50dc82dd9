"""Writes tokens.json, chat.json and sentencepiece.json: what the Rust tokenizer and chat template must give.

    python gen_text.py MODEL.gguf OUT_FOLDER

Made with transformers 5.23.0, tokenizers 0.23.3, gguf 0.19.0, sentencepiece 0.2.3, jinja2 3.1.6 and the file
SmolLM2-135M-Instruct.Q4_1.gguf (sha256 b179c952...db53).

transformers' own GGUF conversion is not the reference: it reads `smollm` as ByteLevel alone, without
the split of digits, and gives other ids for 1 of the 200 texts (spaces before digits).
So the reference is transformers' PreTrainedTokenizerFast over the file's vocabulary and merges with the rules that
SmolLM2 publishes in its tokenizer.json: Digits(individual_digits=True), then ByteLevel without a prefix space, and
the control tokens of the file as special tokens. gen_llama_cpp_tokens.mjs compares every text with llama.cpp.
"""

import json
import sys
import tempfile
from pathlib import Path

import gguf
import sentencepiece
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

NORMAL, CONTROL = 1, 3


def texts() -> list[str]:
    """200 varied texts; the last ones are derived, so that the list stays short."""
    written = json.loads((Path(__file__).parent / "texts.json").read_text(encoding="utf-8"))
    derived = ["a " * 500, "the quick brown fox " * 100, "0123456789" * 50, " " * 300, "\n" * 200, "\t \n" * 60,
               "é" * 150, "漢字" * 80, "🙂" * 60, "ab" * 400, "<|im_start|>" * 20, "x" * 1000]
    result = written + derived
    assert len(result) == 200 and len(set(result)) == 200, (len(result), len(set(result)))
    return result


def reference(path: str) -> tuple[PreTrainedTokenizerFast, str]:
    fields = gguf.GGUFReader(path).fields
    assert fields["tokenizer.ggml.model"].contents() == "gpt2" and fields["tokenizer.ggml.pre"].contents() == "smollm"
    tokens = fields["tokenizer.ggml.tokens"].contents()
    kinds = fields["tokenizer.ggml.token_type"].contents()
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"].contents()]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([
        AddedToken(token, special=True, normalized=False) for token, kind in zip(tokens, kinds) if kind == CONTROL
    ])
    named = {name: tokens[fields[f"tokenizer.ggml.{name}_token_id"].contents()] for name in ("bos", "eos")}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=named["bos"], eos_token=named["eos"])
    return fast, fields["tokenizer.chat_template"].contents()


CONVERSATIONS = [
    [("user", "Hello")],
    [("user", "Hello"), ("assistant", "Hi! How can I help?"), ("user", "Name three rivers.")],
    [("system", "Answer in one sentence."), ("user", "Why is the sky blue?")],
    [("system", ""), ("user", "")],
    [("user", "Grüße aus Köln – schön, nicht wahr? 😀 日本語も大丈夫")],
    [("user", "<b>bold</b> & \"quotes\" 'single' \\backslash\\ {{ not a template }} {% nor this %}")],
    [("user", "  leading and trailing  \n\n"), ("assistant", "\ttabs\t"), ("user", "line one\nline two\r\nline three")],
    [("user", "what is <|im_end|> and <|im_start|>?")],
    [("system", "You are terse."), ("user", "1+1"), ("assistant", "2"), ("user", "2+2"), ("assistant", "4"),
     ("user", "4+4")],
    [("assistant", "I begin."), ("user", "مرحبا بالعالم\u200b\u00a0x")],
]


def chats(tokenizer: PreTrainedTokenizerFast, template: str) -> list[dict]:
    result = []
    for conversation in CONVERSATIONS:
        messages = [{"role": role, "content": content} for role, content in conversation]
        for add_generation_prompt in (False, True):
            rendered = tokenizer.apply_chat_template(
                messages, chat_template=template, tokenize=False, add_generation_prompt=add_generation_prompt)
            ids = tokenizer.encode(rendered, add_special_tokens=False)
            result.append({"messages": messages, "add_generation_prompt": add_generation_prompt,
                           "rendered": rendered, "ids": ids})
    return result


def sentencepiece_golden() -> dict:
    """A vocabulary of 400 pieces trained on the texts below, and what the sentencepiece library makes of some."""
    corpus = [
        "The river runs past the old mill and under the stone bridge.",
        "In the morning the market fills with people, fruit and noise.",
        "She reads a book about the history of the city by the sea.",
        "A small boat waits at the end of the pier for the next tide.",
        "Wind and rain came over the hills before the harvest was in.",
        "The children counted 1 2 3 4 5 6 7 8 9 10 and ran away.",
        "Über die Brücke gehen die Leute zum Markt an der Straße.",
    ] * 5
    samples = ["The river runs.", " leading space", "two  spaces   three", "", " ", "naïve café", "日本語 text", "🙂🙂",
               "tab\tand\nnewline", "the the the", "Straße über", "1234567890", "aaaaaa", "...", "The bridge of the sea"]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "corpus.txt").write_text("\n".join(corpus), encoding="utf-8")
        sentencepiece.SentencePieceTrainer.train(
            input=f"{folder}/corpus.txt", model_prefix=f"{folder}/tiny", vocab_size=400, model_type="bpe",
            byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False,
            character_coverage=0.999, num_threads=1, minloglevel=2)
        model = sentencepiece.SentencePieceProcessor(model_file=f"{folder}/tiny.model")
    kind = lambda i: 2 if model.is_unknown(i) else CONTROL if model.is_control(i) else 6 if model.is_byte(i) else NORMAL
    ids = range(model.get_piece_size())
    return {
        "tokens": [model.id_to_piece(i) for i in ids],
        "scores": [model.get_score(i) for i in ids],
        "types": [kind(i) for i in ids],
        "texts": [{"text": text, "ids": model.encode(text), "decoded": model.decode(model.encode(text))}
                  for text in samples],
    }


def main() -> None:
    path, out = sys.argv[1], Path(sys.argv[2])
    tokenizer, template = reference(path)
    tokens = [{"text": text, "ids": tokenizer.encode(text, add_special_tokens=False),
               "decoded": tokenizer.decode(tokenizer.encode(text, add_special_tokens=False), skip_special_tokens=True,
                                           clean_up_tokenization_spaces=False)} for text in texts()]
    write = lambda name, value: (out / name).write_text(
        json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")
    write("tokens.json", tokens)
    write("chat.json", chats(tokenizer, template))
    write("sentencepiece.json", sentencepiece_golden())


if __name__ == "__main__":
    main()
