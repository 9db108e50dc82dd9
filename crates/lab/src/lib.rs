//! skeg-lab: extraction and evaluation of steering vectors.
