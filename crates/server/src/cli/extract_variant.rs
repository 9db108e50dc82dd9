//! Flags that say how inputs become a vector.

use skeg_lab::extract::{Estimator, Pairing, PruneCriterion, Pruning, Variant};

/// The variant of the method.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Variant")]
pub(super) struct VariantFlags {
    /// Subtract pair by pair: a harmful prompt from its harmless twin (`twin_of`), or the unsafe answer to a prompt from the
    /// safe one; what has no partner is left out
    #[arg(long)]
    matched: bool,
    /// Keep only this share of the differences; 0.5 is the paper's pruning
    #[arg(long, value_name = "SHARE")]
    prune: Option<f32>,
    /// What pruning goes by: the differences' norm, or their cosine with the mean difference
    #[arg(long, value_enum, value_name = "CRITERION", default_value_t = PruneBy::Norm, requires = "prune")]
    prune_by: PruneBy,
    /// What the differences become: their mean, or their first principal component
    #[arg(long, value_enum, value_name = "ESTIMATOR", default_value_t = EstimatorFlag::Mean)]
    estimator: EstimatorFlag,
    /// Set dimensions to 0 whose mean absolute activation is over so many times the median's
    #[arg(long, value_name = "RATIO")]
    mask_massive: Option<f32>,
    /// Keep only so many coordinates of the largest size in each layer
    #[arg(long, value_name = "NUM")]
    top_k: Option<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum PruneBy {
    Norm,
    Agreement,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum EstimatorFlag {
    Mean,
    PrincipalComponent,
}

impl VariantFlags {
    /// What the flags come to.
    pub(super) fn variant(&self) -> Variant {
        let criterion = match self.prune_by {
            PruneBy::Norm => PruneCriterion::Norm,
            PruneBy::Agreement => PruneCriterion::Agreement,
        };
        Variant {
            pairing: if self.matched { Pairing::Matched } else { Pairing::SafeMean },
            pruning: self.prune.map(|keep| Pruning { criterion, keep }),
            estimator: match self.estimator {
                EstimatorFlag::Mean => Estimator::DifferenceOfMeans,
                EstimatorFlag::PrincipalComponent => Estimator::PrincipalComponent,
            },
            mask_massive: self.mask_massive,
            top_k: self.top_k,
        }
    }
}
