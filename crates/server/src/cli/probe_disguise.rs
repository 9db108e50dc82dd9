//! Flags of `skeg probe` on disguised prompts: which evasions, and which copies are trained on.

use skeg_lab::probe::{Augmentation, Corpus, Evasion, augment};

use crate::output;

/// Named by each flag, since the heading of a flattened struct goes on to the flags after it.
const HEADING: &str = "Disguised copies";

/// What is trained on beside the prompts as they are.
#[derive(Debug, clap::Args)]
pub(super) struct AugmentFlags {
    /// Train on disguised copies of some prompts as well: base64, leetspeak, `role_play` and others, or all; evaluate --evade puts other
    /// sentences around a prompt than these copies have
    #[arg(long, help_heading = HEADING, value_name = "EVASION", value_delimiter = ',')]
    augment: Vec<String>,
    /// Share of each source's prompts that get one such copy, of the harmful and of the harmless ones alike, above 0 and at most 1
    #[arg(long, help_heading = HEADING, value_name = "SHARE", default_value_t = 0.1, requires = "augment")]
    augment_share: f64,
    /// Draws the prompts and the sentences around their copies
    #[arg(long, help_heading = HEADING, value_name = "NUM", default_value_t = 0, requires = "augment")]
    augment_seed: u64,
}

impl AugmentFlags {
    /// The corpus with its copies, which a note counts; as it is where none are asked for.
    pub(super) fn augmented(&self, corpus: Corpus) -> anyhow::Result<Corpus> {
        if self.augment.is_empty() {
            return Ok(corpus);
        }
        let evasions = evasions(&self.augment)?;
        let augmentation = Augmentation {
            evasions: evasions.clone(),
            share: self.augment_share,
            seed: self.augment_seed,
        };
        let augmented = augment(&corpus, &augmentation)?;
        let num_copies = augmented.prompts.len() - corpus.prompts.len();
        output::note(&format!(
            "{num_copies} disguised copies of {} prompts, by {} evasions",
            corpus.prompts.len(),
            evasions.len()
        ));
        Ok(augmented)
    }
}

/// The evasions named, each once; `all` is every one.
pub(super) fn evasions(names: &[String]) -> anyhow::Result<Vec<Evasion>> {
    if names.iter().any(|name| name == "all") {
        return Ok(Evasion::ALL.to_vec());
    }
    let mut evasions = Vec::new();
    for name in names {
        let evasion = name.parse()?;
        if !evasions.contains(&evasion) {
            evasions.push(evasion);
        }
    }
    Ok(evasions)
}
