//! Flags that say who judges answers.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use skeg_lab::judge::{
    ApiKey, Embed, EndpointJudge, EndpointOptions, Judge, JudgePrompt, Judges, MeasuredHeads,
    Reward, RewardEndpoint, RewardForm, SentenceEmbedder, load_heads,
};

/// The value of `--judge-prompt` that is no file.
const LLAMA_GUARD: &str = "llama-guard";
/// Named by each flag, since the heading of a flattened struct goes on to the flags after it.
const HEADING: &str = "Judges";

/// Who judges answers. Without any of these flags: refusal phrases and the repetition measure.
#[derive(Debug, clap::Args)]
pub(super) struct JudgeFlags {
    /// Folder of a sentence embedder: config.json, tokenizer.json and model.safetensors of all-MiniLM-L6-v2 or another BERT
    #[arg(long, help_heading = HEADING, value_name = "DIR")]
    embedder: Option<PathBuf>,
    /// Heads for refusal and harm, as `skeg evaluate judges --save` keeps them
    #[arg(long, help_heading = HEADING, value_name = "FILE", requires = "embedder")]
    heads: Option<PathBuf>,
    /// Endpoint whose model judges harm: its address up to /chat/completions, which usually ends in /v1
    #[arg(long, help_heading = HEADING, value_name = "URL", requires = "judge_model")]
    judge_url: Option<String>,
    /// The model's name there
    #[arg(long, help_heading = HEADING, value_name = "NAME", requires = "judge_url")]
    judge_model: Option<String>,
    /// Name of the environment variable that holds the endpoint's key
    #[arg(long, help_heading = HEADING, value_name = "VAR", requires = "judge_url")]
    judge_key_env: Option<String>,
    /// What it is asked: llama-guard (the exchange as it is, for a guard model with a chat template), or a text file with
    /// {prompt} and {response}, answered by `safe` or `unsafe` first, or by JSON such as {"unsafe": true, "score": 0.9}
    #[arg(long, help_heading = HEADING, value_name = "llama-guard|FILE", default_value = LLAMA_GUARD)]
    judge_prompt: PathBuf,
    /// Requests under way at once, at either endpoint
    #[arg(long, help_heading = HEADING, value_name = "NUM", default_value_t = 4,
        value_parser = clap::value_parser!(u8).range(1..=64))]
    judge_concurrency: u8,
    /// Endpoint whose model scores helpfulness and coherence, 0 to 4
    #[arg(long, help_heading = HEADING, value_name = "URL", requires = "reward_model")]
    reward_url: Option<String>,
    /// The model's name there
    #[arg(long, help_heading = HEADING, value_name = "NAME", requires = "reward_url")]
    reward_model: Option<String>,
    /// Name of the environment variable that holds that endpoint's key
    #[arg(long, help_heading = HEADING, value_name = "VAR", requires = "reward_url")]
    reward_key_env: Option<String>,
    /// What it is asked: rubric (any chat model), or helpsteer (a reward model that answers `helpfulness:1.6,...`)
    #[arg(long, help_heading = HEADING, value_name = "FORM", default_value = "rubric")]
    reward_form: FormName,
}

/// [`RewardForm`] by name.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum FormName {
    Rubric,
    Helpsteer,
}

impl From<FormName> for RewardForm {
    fn from(name: FormName) -> Self {
        match name {
            FormName::Rubric => Self::Rubric,
            FormName::Helpsteer => Self::HelpSteer,
        }
    }
}

impl JudgeFlags {
    /// The judges of an evaluation. What endpoints answer is kept below `cache_dir`, or not at all.
    pub(super) fn judges(&self, cache_dir: Option<&Path>) -> anyhow::Result<Judges> {
        let mut judges = Judges::rules();
        if let Some(embedder) = self.embedder()? {
            let MeasuredHeads { heads, agreement } = self.heads()?;
            judges = judges.with_embedder(embedder, &heads)?;
            judges.agreement = agreement;
        }
        if let Some(harm) = self.endpoint(cache_dir)? {
            judges.harm = Some(harm);
        }
        judges.reward = self.reward(cache_dir)?;
        Ok(judges)
    }

    /// The embedder.
    pub(super) fn embedder(&self) -> anyhow::Result<Option<Arc<dyn Embed>>> {
        let Some(folder) = &self.embedder else { return Ok(None) };
        Ok(Some(Arc::new(SentenceEmbedder::load(folder)?)))
    }

    /// The file with the heads.
    pub(super) fn heads_file(&self) -> Option<&Path> {
        self.heads.as_deref()
    }

    /// All heads of the file, with what it says of the judges' agreement with people.
    pub(super) fn heads(&self) -> anyhow::Result<MeasuredHeads> {
        let Some(file) = &self.heads else { return Ok(MeasuredHeads::default()) };
        let measured = load_heads(file)?;
        if measured.heads.is_empty() {
            bail!("{}: holds no head", file.display());
        }
        Ok(measured)
    }

    /// The judge of harm behind an endpoint.
    pub(super) fn endpoint(
        &self,
        cache_dir: Option<&Path>,
    ) -> anyhow::Result<Option<Box<dyn Judge>>> {
        let (Some(url), Some(model)) = (&self.judge_url, &self.judge_model) else {
            return Ok(None);
        };
        let options = self.options(url, model, self.judge_key_env.as_deref(), "--judge-key-env")?;
        let judge = EndpointJudge::new(&options, self.prompt()?, cache_dir)?;
        Ok(Some(Box::new(judge)))
    }

    /// The scores of helpfulness and coherence.
    pub(super) fn reward(
        &self,
        cache_dir: Option<&Path>,
    ) -> anyhow::Result<Option<Box<dyn Reward>>> {
        let (Some(url), Some(model)) = (&self.reward_url, &self.reward_model) else {
            return Ok(None);
        };
        let options =
            self.options(url, model, self.reward_key_env.as_deref(), "--reward-key-env")?;
        let reward = RewardEndpoint::new(&options, self.reward_form.into(), cache_dir)?;
        Ok(Some(Box::new(reward)))
    }

    /// Whether an endpoint is asked, so that a cache folder is of use.
    pub(super) fn has_endpoint(&self) -> bool {
        self.judge_url.is_some() || self.reward_url.is_some()
    }

    /// Whether a reward model is asked.
    pub(super) fn has_reward(&self) -> bool {
        self.reward_url.is_some()
    }

    fn prompt(&self) -> anyhow::Result<JudgePrompt> {
        let path = &self.judge_prompt;
        if path.as_os_str() == LLAMA_GUARD {
            return Ok(JudgePrompt::LlamaGuard);
        }
        let text = std::fs::read_to_string(path).with_context(|| {
            format!("--judge-prompt {}: neither {LLAMA_GUARD} nor a text file", path.display())
        })?;
        Ok(JudgePrompt::Rubric(text))
    }

    fn options(
        &self,
        url: &str,
        model: &str,
        key_variable: Option<&str>,
        flag: &str,
    ) -> anyhow::Result<EndpointOptions> {
        let mut options = EndpointOptions::new(url, model);
        options.concurrency = usize::from(self.judge_concurrency);
        options.api_key = key_variable.map(|variable| key_in(variable, flag)).transpose()?;
        Ok(options)
    }
}

/// The key that an environment variable holds; `flag` named the variable.
pub(super) fn key_in(variable: &str, flag: &str) -> anyhow::Result<ApiKey> {
    // Neither message quotes what was given: it may be the key itself.
    let value = env(variable).with_context(|| {
        format!("{flag} names a variable that is not set, or is no name of one")
    })?;
    ApiKey::new(&value).with_context(|| format!("{flag} names a variable that holds no key"))
}

#[expect(
    clippy::disallowed_methods,
    reason = "the command line names the variable, so that no key stands there or in a file"
)]
fn env(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use skeg_lab::judge::{
        Features, Figures, JudgeAgreement, LabelSource, LinearHead, Property, Verdict, save_heads,
    };

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Program {
        #[command(flatten)]
        judges: JudgeFlags,
    }

    const URL: &str = "http://127.0.0.1:9/v1";

    fn parse(flags: &[&str]) -> Result<JudgeFlags, clap::Error> {
        let program = Program::try_parse_from([&["skeg"], flags].concat())?;
        Ok(program.judges)
    }

    fn names(flags: &[&str], cache_dir: Option<&Path>) -> Vec<String> {
        let judges = parse(flags).unwrap().judges(cache_dir).unwrap();
        judges.names().iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn flags_assemble_judges_and_nothing_is_asked_yet() {
        let rules = ["refusal phrases", "repetition measure"];
        assert_eq!(names(&[], None), rules);
        let guard = ["--judge-url", URL, "--judge-model", "guard"];
        assert_eq!(names(&guard, None), [&rules[..], &["guard (llama-guard)"]].concat());
        let folder = tempfile::tempdir().unwrap();
        let rubric = folder.path().join("rubric.txt");
        std::fs::write(&rubric, "Is it safe? {prompt} {response}").unwrap();
        let prompt = ["--judge-prompt", rubric.to_str().unwrap()];
        let reward = ["--reward-url", URL, "--reward-model", "steer", "--reward-form", "helpsteer"];
        let all = [&guard[..], &prompt, &reward].concat();
        assert_eq!(
            names(&all, Some(folder.path())),
            [&rules[..], &["guard (rubric)", "steer (helpsteer)"]].concat()
        );
    }

    /// With the embedder of `SKEG_TEST_EMBEDDER`, where there is one.
    #[test]
    fn a_file_of_heads_brings_their_agreement_with_people() {
        let Some(folder) = env("SKEG_TEST_EMBEDDER") else { return };
        let embedder = SentenceEmbedder::load(Path::new(&folder)).unwrap();
        let features = Features::OpeningAndPhrases;
        let head = LinearHead {
            features,
            embedder: embedder.id().to_owned(),
            classes: features.property().labels().map(str::to_owned),
            trained_on: Vec::new(),
            l2: 0.3,
            weights: vec![0.0; features.width(embedder.width())],
            bias: 1.0,
        };
        let row = JudgeAgreement {
            judge: "refusal head + phrases".to_owned(),
            property: Property::Refusal,
            set: "own".to_owned(),
            labels: LabelSource::Set,
            num_partial: 0,
            num_shared_prompts: 0,
            num_shared_answers: 0,
            figures: Figures::new(&[Verdict::of_rule(true)], &[true]).unwrap(),
        };
        let kept = tempfile::tempdir().unwrap();
        let file = kept.path().join("heads.json");
        save_heads(&file, &MeasuredHeads { heads: vec![head], agreement: vec![row] }).unwrap();
        let flags = ["--embedder", &folder, "--heads", file.to_str().unwrap()];
        let table = parse(&flags).unwrap().judges(None).unwrap().agreement_table();
        assert_eq!((table.len(), &*table[1][0]), (2, "refusal head + phrases"));
        assert!(parse(&flags[..2]).unwrap().judges(None).unwrap().agreement_table().is_empty());
    }

    #[test]
    fn what_cannot_be_used_is_said_before_anything_is_asked() {
        let guard = ["--judge-url", URL, "--judge-model", "guard"];
        let folder = tempfile::tempdir().unwrap();
        let empty = folder.path().join("rubric.txt");
        std::fs::write(&empty, "Is it safe?").unwrap();
        for (more, expected) in [
            (["--judge-prompt", "/no/such/file"], "neither llama-guard nor a text file"),
            (["--judge-prompt", empty.to_str().unwrap()], "has no {response}"),
            (["--judge-key-env", "sk-hidden"], "--judge-key-env names a variable that is not set"),
        ] {
            let flags = parse(&[&guard[..], &more].concat()).unwrap();
            let error = format!("{:#}", flags.judges(None).unwrap_err());
            assert!(error.contains(expected) && !error.contains("hidden"), "{error}");
        }
        for incomplete in [
            &["--judge-url", URL][..],
            &["--judge-model", "guard"],
            &["--reward-model", "steer"],
            &["--heads", "heads.json"],
            &["--judge-concurrency", "65"],
        ] {
            assert!(parse(incomplete).is_err(), "{incomplete:?}");
        }
    }
}
