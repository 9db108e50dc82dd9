//! How text is cut before byte-level BPE, by the name a GGUF file gives it in `tokenizer.ggml.pre`.
//!
//! Each entry is the published `tokenizer.json` of the models that carry the name. A name that is not here
//! is an error: a near miss would give other ids without anyone noticing.

use tokenizers::normalizers::unicode::NFC;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{NormalizerWrapper, PreTokenizerWrapper, SplitDelimiterBehavior};

use crate::{Error, Result};

/// What a name in `tokenizer.ggml.pre` stands for.
pub(super) struct Rules {
    pub(super) normalizer: Option<NormalizerWrapper>,
    pub(super) pre_tokenizer: PreTokenizerWrapper,
    /// A piece that is a token as a whole is taken without merging (Llama 3).
    pub(super) ignore_merges: bool,
    /// Whether a text begins with the beginning-of-text token when the file does not say.
    pub(super) add_bos_by_default: bool,
}

const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The rules for a name in `tokenizer.ggml.pre`.
pub(super) fn rules(pre: &str) -> Result<Rules> {
    // GPT-2's own expression is inside ByteLevel; `use_regex` turns it on.
    let byte_level = |use_regex| ByteLevel::new(false, true, use_regex);
    let plain = |pre_tokenizer: PreTokenizerWrapper| Rules {
        normalizer: None,
        pre_tokenizer,
        ignore_merges: false,
        add_bos_by_default: false,
    };
    Ok(match pre {
        "gpt-2" | "gpt2" => plain(byte_level(true).into()),
        "smollm" | "starcoder" | "refact" => {
            plain(Sequence::new(vec![Digits::new(true).into(), byte_level(true).into()]).into())
        }
        "qwen2" | "deepseek-r1-qwen" => Rules {
            normalizer: Some(NFC.into()),
            ..plain(Sequence::new(vec![split(QWEN2)?, byte_level(false).into()]).into())
        },
        "llama-bpe" | "llama3" | "llama-v3" => Rules {
            ignore_merges: true,
            add_bos_by_default: true,
            ..plain(Sequence::new(vec![split(LLAMA3)?, byte_level(false).into()]).into())
        },
        unknown => {
            return Err(Error::Tokenizer(format!(
                "`tokenizer.ggml.pre` is `{unknown}`, whose rules are not known here (known: smollm, starcoder, \
                 refact, llama-bpe, llama3, llama-v3, qwen2, deepseek-r1-qwen, gpt-2); put the model's \
                 tokenizer.json beside the GGUF file"
            )));
        }
    })
}

fn split(pattern: &str) -> Result<PreTokenizerWrapper> {
    Split::new(SplitPattern::Regex(pattern.to_owned()), SplitDelimiterBehavior::Isolated, false)
        .map(Into::into)
        .map_err(|cause| Error::Tokenizer(format!("pre-tokenizer expression: {cause}")))
}
