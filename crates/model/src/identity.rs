//! What binds a set of steering vectors to a model.

/// Fingerprints and dimensions of a loaded model, as plain data: the vector store compares them and
/// needs nothing else of a model.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct ModelIdentity {
    /// Lower-case hex SHA-256 over the configuration (canonical JSON of the fields that change the
    /// arithmetic), the tensors' logical names and shapes, and the tokenizer. Two quantisations of one model share it.
    pub architecture_id: String,
    /// Lower-case hex SHA-256 over the weight files' bytes, in file-name order.
    pub weights_id: String,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Number of blocks.
    pub num_hidden_layers: usize,
}
