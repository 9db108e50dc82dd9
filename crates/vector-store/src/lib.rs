//! skeg-vector-store: category vectors and policy as immutable generations.
