//! What one steering does to a row, as a value that can be compared: by content, never by slot or name.
//!
//! Two plans with the same id change a row they cover in the same way, bit for bit. SHA-256, because vectors
//! come from files and requests: nobody can make two that collide.

use sha2::{Digest, Sha256};

use super::{Operator, Site};

/// The content of one layer's row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RowId([u8; 32]);

impl RowId {
    /// - `values`: `[hidden_size]`
    pub(crate) fn of(values: &[f32]) -> Self {
        let mut hasher = Sha256::new();
        for value in values {
            hasher.update(value.to_le_bytes());
        }
        Self(hasher.finalize().into())
    }
}

/// What a plan that acts does to a row it covers: site, operator, strength, and the row of each layer.
/// Rows that no plan covers, and plans that do nothing, have none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SteeringId([u8; 32]);

impl SteeringId {
    /// `rows` are the steered layers, ascending, with what they use.
    pub(crate) fn of(
        site: Site,
        operator: Operator,
        strength: f32,
        rows: impl Iterator<Item = (usize, RowId)>,
    ) -> Self {
        let site = match site {
            Site::AttnOut => 0_u8,
            Site::ResidPost => 1,
        };
        let operator = match operator {
            Operator::Add => 0_u8,
            Operator::AddNormRestored => 1,
            Operator::ProjectOut => 2,
        };
        let mut hasher = Sha256::new();
        hasher.update([site, operator]);
        hasher.update(strength.to_le_bytes());
        for (layer, RowId(row)) in rows {
            hasher.update((layer as u64).to_le_bytes());
            hasher.update(row);
        }
        Self(hasher.finalize().into())
    }

    pub(crate) fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_changes_a_row_changes_the_id() {
        let row = |values: &[f32]| RowId::of(values);
        let id = |site, operator, strength, rows: &[(usize, RowId)]| {
            SteeringId::of(site, operator, strength, rows.iter().copied())
        };
        let (one, other) = (row(&[1.0, -2.0]), row(&[1.0, 2.0]));
        let (site, operator) = (Site::AttnOut, Operator::Add);
        let ids = [
            id(site, operator, 1.0, &[(1, one)]),
            id(Site::ResidPost, operator, 1.0, &[(1, one)]),
            id(site, Operator::AddNormRestored, 1.0, &[(1, one)]),
            id(site, Operator::ProjectOut, 1.0, &[(1, one)]),
            id(site, operator, -1.0, &[(1, one)]),
            id(site, operator, 1.0 + f32::EPSILON, &[(1, one)]),
            id(site, operator, 1.0, &[(2, one)]),
            id(site, operator, 1.0, &[(1, other)]),
            id(site, operator, 1.0, &[(1, one), (2, one)]),
            id(site, operator, 1.0, &[(1, one), (2, other)]),
        ];
        for (idx, id) in ids.iter().enumerate() {
            assert!(!ids[..idx].contains(id), "case {idx}");
        }
        assert_eq!(ids[0], id(site, operator, 1.0, &[(1, row(&[1.0, -2.0]))]));
    }
}
