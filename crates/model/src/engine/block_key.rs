//! What a full cache block holds, as a value that can be looked up.

use sha2::{Digest, Sha256};

use crate::steering::SteeringId;

/// The name of a full block's keys and values: its tokens, how each was steered, and all of that of every
/// block before it.
///
/// Steering in one layer changes the keys and values of every later layer, and through attention those of
/// every later token, so nothing less names them. SHA-256, because clients choose tokens: a collision would
/// answer one client from another's prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct BlockKey([u8; 32]);

impl BlockKey {
    /// The parent of a sequence's first block.
    pub(super) const ROOT: Self = Self([0; 32]);

    /// The key of the block that follows the one with this key; `tokens` are its tokens, each with its
    /// steering, none where it is not steered. All blocks of one cache have the same number of tokens.
    pub(super) fn child(&self, tokens: impl Iterator<Item = (u32, Option<SteeringId>)>) -> Self {
        let mut hasher = Sha256::new();
        hasher.update(self.0);
        for (token_id, steering_id) in tokens {
            hasher.update(token_id.to_le_bytes());
            // Says how far to read, so that no two lists of tokens are written alike.
            hasher.update([u8::from(steering_id.is_some())]);
            if let Some(steering_id) = steering_id {
                hasher.update(steering_id.as_bytes());
            }
        }
        Self(hasher.finalize().into())
    }
}
