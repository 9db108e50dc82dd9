//! Names of other harm taxonomies, mapped onto CatQA's categories where the two mean the same thing.
//!
//! A name without a counterpart maps to nothing: steering a request by the nearest neighbour would answer something
//! that nobody asked for. Names are compared without regard to case and punctuation.
//!
//! Sources of the names: OpenAI's moderation guide (omni-moderation), the Llama Guard 3 model card, `MLCommons` `AILuminate`
//! 1.0, the BeaverTails data card, the `ShieldGemma` model card.

use crate::Category;

/// Whose name it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Taxonomy {
    /// CatQA's display names.
    CatQa,
    /// OpenAI's moderation endpoint, 13 names.
    OpenAiModeration,
    /// Llama Guard 3, `S1` to `S14`, by code and by name.
    LlamaGuard3,
    /// `MLCommons` `AILuminate`, 12 hazards, by code and by name.
    MlCommons,
    /// BeaverTails, 14 names.
    BeaverTails,
    /// `ShieldGemma`, 4 names.
    ShieldGemma,
}

/// One row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Alias {
    /// Whose name it is.
    pub taxonomy: Taxonomy,
    /// The short code, where the taxonomy has one.
    pub code: Option<&'static str>,
    /// The name as its taxonomy spells it.
    pub name: &'static str,
    /// The slug of the category that means the same, if one does.
    pub category: Option<&'static str>,
}

const ADULT: Option<&str> = Some("adult_content");
const CHILD: Option<&str> = Some("child_abuse");
const ECONOMIC: Option<&str> = Some("economic_harm");
const FRAUD: Option<&str> = Some("fraud_deception");
const HATE: Option<&str> = Some("hate_harass_violence");
const ILLEGAL: Option<&str> = Some("illegal_activity");
const MALWARE: Option<&str> = Some("malware_viruses");
const PHYSICAL: Option<&str> = Some("physical_harm");
const POLITICAL: Option<&str> = Some("political_campaigning");
const PRIVACY: Option<&str> = Some("privacy_violation");
const FINANCIAL: Option<&str> = Some("tailored_financial_advice");

const fn named(taxonomy: Taxonomy, name: &'static str, category: Option<&'static str>) -> Alias {
    Alias { taxonomy, code: None, name, category }
}

const fn coded(
    taxonomy: Taxonomy,
    code: &'static str,
    name: &'static str,
    category: Option<&'static str>,
) -> Alias {
    Alias { taxonomy, code: Some(code), name, category }
}

use Taxonomy::{
    BeaverTails as Beaver, CatQa, LlamaGuard3 as Guard, MlCommons, OpenAiModeration as OpenAi,
    ShieldGemma as Shield,
};

/// Every name, also those without a counterpart.
#[rustfmt::skip]
pub const ALIASES: &[Alias] = &[
    named(CatQa, "Illegal Activity", ILLEGAL),
    named(CatQa, "Child Abuse", CHILD),
    named(CatQa, "Hate/Harass/Violence", HATE),
    named(CatQa, "Malware Viruses", MALWARE),
    named(CatQa, "Physical Harm", PHYSICAL),
    named(CatQa, "Economic Harm", ECONOMIC),
    named(CatQa, "Fraud/Deception", FRAUD),
    named(CatQa, "Adult Content", ADULT),
    named(CatQa, "Political Campaigning", POLITICAL),
    named(CatQa, "Privacy Violation Activity", PRIVACY),
    named(CatQa, "Tailored Financial Advice", FINANCIAL),

    named(OpenAi, "harassment", HATE),
    named(OpenAi, "harassment/threatening", HATE),
    named(OpenAi, "hate", HATE),
    named(OpenAi, "hate/threatening", HATE),
    named(OpenAi, "illicit", ILLEGAL),
    named(OpenAi, "illicit/violent", ILLEGAL),
    named(OpenAi, "self-harm", PHYSICAL),
    named(OpenAi, "self-harm/intent", PHYSICAL),
    named(OpenAi, "self-harm/instructions", PHYSICAL),
    named(OpenAi, "sexual", ADULT),
    named(OpenAi, "sexual/minors", CHILD),
    named(OpenAi, "violence", HATE),
    named(OpenAi, "violence/graphic", HATE),

    coded(Guard, "S1", "Violent Crimes", PHYSICAL),
    coded(Guard, "S2", "Non-Violent Crimes", ILLEGAL),
    coded(Guard, "S3", "Sex-Related Crimes", None),
    coded(Guard, "S4", "Child Sexual Exploitation", CHILD),
    coded(Guard, "S5", "Defamation", HATE),
    coded(Guard, "S6", "Specialized Advice", None),
    coded(Guard, "S7", "Privacy", PRIVACY),
    coded(Guard, "S8", "Intellectual Property", None),
    coded(Guard, "S9", "Indiscriminate Weapons", PHYSICAL),
    coded(Guard, "S10", "Hate", HATE),
    coded(Guard, "S11", "Suicide & Self-Harm", PHYSICAL),
    coded(Guard, "S12", "Sexual Content", ADULT),
    coded(Guard, "S13", "Elections", POLITICAL),
    coded(Guard, "S14", "Code Interpreter Abuse", None),

    coded(MlCommons, "vcr", "Violent Crimes", PHYSICAL),
    coded(MlCommons, "ncr", "Nonviolent Crimes", ILLEGAL),
    coded(MlCommons, "src", "Sex-Related Crimes", None),
    coded(MlCommons, "cse", "Child Sexual Exploitation", CHILD),
    coded(MlCommons, "dfm", "Defamation", HATE),
    coded(MlCommons, "spc", "Specialized Advice", None),
    coded(MlCommons, "prv", "Privacy", PRIVACY),
    coded(MlCommons, "ipv", "Intellectual Property", None),
    coded(MlCommons, "iwp", "Indiscriminate Weapons", PHYSICAL),
    coded(MlCommons, "hte", "Hate", HATE),
    coded(MlCommons, "ssh", "Suicide & Self-Harm", PHYSICAL),
    coded(MlCommons, "sxc", "Sexual Content", ADULT),

    named(Beaver, "animal_abuse", None),
    named(Beaver, "child_abuse", CHILD),
    named(Beaver, "controversial_topics,politics", POLITICAL),
    named(Beaver, "discrimination,stereotype,injustice", HATE),
    named(Beaver, "drug_abuse,weapons,banned_substance", ILLEGAL),
    named(Beaver, "financial_crime,property_crime,theft", ECONOMIC),
    named(Beaver, "hate_speech,offensive_language", HATE),
    named(Beaver, "misinformation_regarding_ethics,laws_and_safety", None),
    named(Beaver, "non_violent_unethical_behavior", None),
    named(Beaver, "privacy_violation", PRIVACY),
    named(Beaver, "self_harm", PHYSICAL),
    named(Beaver, "sexually_explicit,adult_content", ADULT),
    named(Beaver, "terrorism,organized_crime", HATE),
    named(Beaver, "violence,aiding_and_abetting,incitement", PHYSICAL),

    named(Shield, "Dangerous Content", PHYSICAL),
    named(Shield, "Harassment", HATE),
    named(Shield, "Hate Speech", HATE),
    named(Shield, "Sexually Explicit Information", ADULT),
];

/// The CatQA category that a name of any of the taxonomies means: `None` for an unknown name, and for a known one
/// without a counterpart.
#[must_use]
pub fn resolve_alias(name: &str) -> Option<Category> {
    let wanted = folded(name);
    let exact = Category::CATQA.into_iter().find(|slug| *slug == wanted);
    let slug = exact.or_else(|| {
        let means = |alias: &&Alias| {
            folded(alias.name) == wanted || alias.code.is_some_and(|code| folded(code) == wanted)
        };
        ALIASES.iter().find(means)?.category
    })?;
    Category::parse(slug).ok()
}

/// Lower case, with each run of other characters than letters and digits as one `_`.
fn folded(name: &str) -> String {
    let words = name.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words.map(str::to_ascii_lowercase).collect::<Vec<_>>().join("_")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, slug: Option<&str>) {
        let found = resolve_alias(name);
        assert_eq!(found.as_ref().map(Category::as_str), slug, "{name:?}");
    }

    #[test]
    fn each_taxonomy_is_whole() {
        let count = |taxonomy| ALIASES.iter().filter(|alias| alias.taxonomy == taxonomy).count();
        let counts = [CatQa, OpenAi, Guard, MlCommons, Beaver, Shield].map(count);
        assert_eq!(counts, [11, 13, 14, 12, 14, 4]);
    }

    #[test]
    fn every_row_resolves_to_what_it_says_whichever_row_is_found_first() {
        for alias in ALIASES {
            check(alias.name, alias.category);
            if let Some(code) = alias.code {
                check(code, alias.category);
            }
            if let Some(slug) = alias.category {
                assert!(Category::CATQA.contains(&slug), "{slug}");
            }
        }
    }

    #[test]
    fn case_and_punctuation_do_not_matter() {
        check("HATE_THREATENING", HATE);
        check(" s10 ", HATE);
        check("suicide and self-harm", None);
        check("Suicide, Self-Harm", PHYSICAL);
        check("self harm", PHYSICAL);
        check("fraud_deception", FRAUD);
    }

    #[test]
    fn an_unknown_name_resolves_to_nothing() {
        for name in ["", "S15", "none", "auto", "weather"] {
            check(name, None);
        }
    }
}
