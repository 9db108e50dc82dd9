//! skeg-server: the OpenAI-compatible server.
