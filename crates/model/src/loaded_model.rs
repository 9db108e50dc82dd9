//! A model with everything that belongs to it.

use std::path::Path;

use crate::chat_template::ChatTemplate;
use crate::error::{Error, Result};
use crate::identity::ModelIdentity;
use crate::llama::Llama;
use crate::loader::{
    GgufSource, LoadOptions, ModelFiles, SafetensorsSource, TensorShapes, architecture_id,
    config_from_json, read_json, stop_tokens_from_gguf, stop_tokens_from_json, weights_id,
};
use crate::tokenizer::Tokenizer;

/// A loaded model: weights, text and identity.
#[derive(Debug)]
pub struct LoadedModel {
    /// The forward pass.
    pub llama: Llama,
    /// Text to ids and back.
    pub tokenizer: Tokenizer,
    /// Messages to text; `None` where the files hold no template.
    pub chat_template: Option<ChatTemplate>,
    /// Ids that end an answer, sorted.
    pub stop_token_ids: Vec<u32>,
    /// What steering vectors are bound to.
    pub identity: ModelIdentity,
}

impl LoadedModel {
    /// Loads the model at `path`: a `.gguf` file or a Hugging Face folder (see [`ModelFiles`]). Where it runs is
    /// [`Llama::device`]; a warning in the log says so where [`DeviceChoice::Auto`](crate::DeviceChoice::Auto) found no GPU.
    ///
    /// # Errors
    /// Every variant of [`Error`] but `Steering` and `Request`, naming the file and the field or tensor.
    pub fn load(path: &Path, options: &LoadOptions) -> Result<Self> {
        let files = ModelFiles::discover(path)?;
        let weights_id = weights_id(files.weight_files())?;
        match &files {
            ModelFiles::Gguf { file } => from_gguf(file, files.folder(), weights_id, options),
            ModelFiles::Safetensors { folder, shards } => {
                let devices = options.open_devices()?;
                let json_path = folder.join("config.json");
                let config = config_from_json(&json_path, &read_json(&json_path)?)?;
                let mut source = SafetensorsSource::open(folder, shards, options.weights)?;
                let tokenizer = Tokenizer::from_json_file(&folder.join("tokenizer.json"))?;
                let stop_token_ids = stop_tokens_from_json(folder, &tokenizer)?;
                let chat_template = ChatTemplate::from_folder(folder)?;
                let mut shapes = source.tensor_shapes();
                if config.tie_word_embeddings {
                    // Some writers store the tied matrix twice.
                    shapes.remove("lm_head.weight");
                }
                let identity = identity(&config, &shapes, &tokenizer, weights_id);
                let llama = Llama::load(config, &mut source, &devices, (options.cpu, options.gpu))?;
                finish(Self { llama, tokenizer, chat_template, stop_token_ids, identity }, path)
            }
        }
    }
}

fn from_gguf(
    file: &Path,
    folder: &Path,
    weights_id: String,
    options: &LoadOptions,
) -> Result<LoadedModel> {
    let devices = options.open_devices()?;
    let mut source = GgufSource::open(file, options.weights)?;
    let json = folder.join("tokenizer.json");
    let tokenizer = if json.is_file() {
        Tokenizer::from_json_file(&json)?
    } else {
        Tokenizer::from_gguf(source.metadata())?
    };
    let chat_template = match ChatTemplate::from_folder(folder)? {
        Some(template) => Some(template),
        None => ChatTemplate::from_gguf(source.metadata(), &tokenizer)?,
    };
    let stop_token_ids = stop_tokens_from_gguf(source.metadata(), &tokenizer)?;
    let config = source.config().clone();
    let identity = identity(&config, &source.tensor_shapes(), &tokenizer, weights_id);
    let llama = Llama::load(config, &mut source, &devices, (options.cpu, options.gpu))?;
    finish(LoadedModel { llama, tokenizer, chat_template, stop_token_ids, identity }, file)
}

fn identity(
    config: &crate::config::LlamaConfig,
    shapes: &TensorShapes,
    tokenizer: &Tokenizer,
    weights_id: String,
) -> ModelIdentity {
    ModelIdentity {
        architecture_id: architecture_id(config, shapes, &tokenizer.fingerprint()),
        weights_id,
        hidden_size: config.hidden_size,
        num_hidden_layers: config.num_hidden_layers,
    }
}

/// Checks that text and weights belong together.
fn finish(model: LoadedModel, path: &Path) -> Result<LoadedModel> {
    let rows = model.llama.config().vocab_size;
    // Embeddings are often padded to a round number of rows; they are never too few.
    if model.tokenizer.vocab_size() > rows {
        return Err(Error::BadFile {
            path: path.to_owned(),
            reason: format!(
                "its tokenizer has {} tokens and its embedding {rows} rows; they are of different models",
                model.tokenizer.vocab_size()
            ),
        });
    }
    Ok(model)
}
