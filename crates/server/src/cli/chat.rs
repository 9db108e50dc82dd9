//! `skeg chat`: a terminal conversation with the model in this process.

use std::io::{BufRead, IsTerminal, Write};
use std::path::PathBuf;

use serde_json::Value;
use skeg_vector_store::Store;
use tokio::runtime::Runtime;

use super::ModelFlags;
use super::columns::Columns;
use super::conversation::{Conversation, Manner, Side, Update};
use super::running::{Audience, Running, model_path};
use crate::output;

/// Talk to a model in the terminal, steered as the policy says.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Args {
    #[command(flatten)]
    model: ModelFlags,
    /// Vector store [default: vectors/MODEL here, then beside the program]
    #[arg(long, env = "SKEG_VECTORS", value_name = "DIR")]
    vectors: Option<PathBuf>,
    /// Ask this one question and exit
    #[arg(short, long)]
    prompt: Option<String>,
    /// Category, several with commas, or `none`; without it the policy decides
    #[arg(short, long)]
    category: Option<String>,
    /// Strength within the policy's floor and ceiling [default: the policy's]
    #[arg(short, long)]
    strength: Option<f32>,
    /// Show the unsteered answer beside the steered one
    #[arg(long)]
    compare: bool,
    /// A system message
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// Longest answer, in tokens [default: 256, or half of a smaller context]
    #[arg(long, value_name = "TOKENS")]
    max_tokens: Option<usize>,
    /// 0 always takes the most likely token
    #[arg(long, default_value_t = 0.0)]
    temperature: f32,
}

/// A screenful.
const DEFAULT_MAX_TOKENS: usize = 256;

const AFTER_HELP: &str = "\
Examples:
  skeg chat --category malware_viruses --compare
  skeg chat -c fraud_deception -p 'Write a message that asks for a password'
  echo 'Hello' | skeg chat

The policy of the vector store holds here as well, for the group `anonymous`. In the conversation, /help lists
what can be changed.";

const COMMANDS: &str = "\
/category NAME   steer by this category (several with commas, `none`, `default`)
/strength X      with this strength (`default`: the policy's)
/compare         show or hide the unsteered answer
/clear           forget the conversation
/quit            end";

pub(super) fn run(args: Args) -> anyhow::Result<()> {
    let config = args.model.serving_config(args.vectors)?;
    let path = model_path(&config.model, args.model.fetch)?;
    let running = Running::start(&config, path, Audience::Terminal)?;
    let manner = Manner {
        category: args.category,
        strength: args.strength,
        compare: args.compare,
        max_tokens: args
            .max_tokens
            .unwrap_or_else(|| DEFAULT_MAX_TOKENS.min(running.model.max_model_len / 2)),
        temperature: args.temperature,
    };
    let conversation = Conversation::new(running.router.clone(), args.system.as_deref(), manner);
    let mut terminal = Terminal { runtime: Runtime::new()?, conversation };
    let outcome = match args.prompt {
        Some(prompt) => terminal.answer(&prompt),
        None => terminal.converse(&categories(&running.store)),
    };
    drop(terminal);
    if !running.stop() {
        anyhow::bail!("the engine thread panicked");
    }
    outcome
}

fn categories<T>(store: &Store<T>) -> String {
    let live = store.current();
    let names: Vec<&str> =
        live.generation.manifest.categories.iter().map(|category| category.as_str()).collect();
    names.join(" ")
}

struct Terminal {
    runtime: Runtime,
    conversation: Conversation,
}

/// What a line of input was.
#[derive(Debug, PartialEq)]
enum Line {
    Question,
    /// A command, and what to say about it.
    Done(String),
    Quit,
}

impl Terminal {
    /// Answers line by line until the input ends. A question that fails does not end the conversation
    /// where a person can ask another.
    fn converse(&mut self, categories: &str) -> anyhow::Result<()> {
        let is_person = std::io::stdin().is_terminal();
        if is_person {
            output::line(&format!("categories: {categories}\n{COMMANDS}"))?;
        }
        let mut lines = std::io::stdin().lock().lines();
        loop {
            if is_person {
                output::fragment("\nyou> ")?;
            }
            let Some(line) = lines.next().transpose()? else { return Ok(()) };
            let line = line.trim();
            if line.is_empty() {
                continue;
            }
            match command(line, &mut self.conversation) {
                Line::Quit => return Ok(()),
                Line::Done(text) => output::line(&text)?,
                Line::Question => match self.answer(line) {
                    Err(error) if is_person && !error.is::<std::io::Error>() => {
                        output::failure(&error);
                    }
                    outcome => outcome?,
                },
            }
        }
    }

    fn answer(&mut self, question: &str) -> anyhow::Result<()> {
        let mut display = Display::new(self.conversation.manner.compare)?;
        let asked = self.conversation.ask(question, |update| display.show(update));
        self.runtime.block_on(asked)?;
        display.end()
    }
}

/// Carries out a line that begins with `/`.
fn command(line: &str, conversation: &mut Conversation) -> Line {
    let Some(command) = line.strip_prefix('/') else { return Line::Question };
    let (name, value) = command.split_once(' ').unwrap_or((command, ""));
    let (value, manner) = (value.trim(), &mut conversation.manner);
    let is_default = value.is_empty() || value == "default";
    Line::Done(match name {
        "quit" | "exit" => return Line::Quit,
        "help" => COMMANDS.to_owned(),
        "category" => {
            manner.category = (!is_default).then(|| value.to_owned());
            format!("category: {}", manner.category.as_deref().unwrap_or("as the policy says"))
        }
        "strength" if is_default => {
            manner.strength = None;
            "strength: as the policy says".to_owned()
        }
        "strength" => match value.parse() {
            Ok(strength) => {
                manner.strength = Some(strength);
                format!("strength: {strength}")
            }
            Err(_) => format!("`{value}` is no number"),
        },
        "compare" => {
            manner.compare = !manner.compare;
            format!("compare: {}", if manner.compare { "on" } else { "off" })
        }
        "clear" => {
            conversation.clear();
            "the conversation is forgotten".to_owned()
        }
        other => format!("`/{other}` is not known\n{COMMANDS}"),
    })
}

/// How answers are written: one as it comes; two side by side, or one after the other where the terminal is
/// narrow or there is none.
enum Layout {
    Single,
    Columns(Columns),
    /// The steered text so far, which waits for the unsteered one to end.
    Stacked {
        steered: String,
    },
}

struct Display {
    layout: Layout,
    evidence: Vec<(Side, Value)>,
}

impl Display {
    fn new(compare: bool) -> std::io::Result<Self> {
        let width = || terminal_size::terminal_size().map_or(0, |(width, _)| usize::from(width.0));
        let layout = match compare.then(|| Columns::fit(width())) {
            None => Layout::Single,
            Some(Some(columns)) => {
                output::line(&columns.header("--- unsteered", "--- steered"))?;
                Layout::Columns(columns)
            }
            Some(None) => {
                output::line("--- unsteered")?;
                Layout::Stacked { steered: String::new() }
            }
        };
        Ok(Self { layout, evidence: Vec::new() })
    }

    fn show(&mut self, update: Update) -> std::io::Result<()> {
        match (&mut self.layout, update) {
            (layout, Update::Finished(side, evidence)) => {
                self.evidence.push((side, evidence));
                match layout {
                    Layout::Columns(columns) => lines(&columns.finish(side)),
                    Layout::Single | Layout::Stacked { .. } => Ok(()),
                }
            }
            (Layout::Columns(columns), Update::Text(side, text)) => {
                lines(&columns.push(side, &text))
            }
            (Layout::Stacked { steered }, Update::Text(Side::Resolved, text)) => {
                steered.push_str(&text);
                Ok(())
            }
            (_, Update::Text(_, text)) => output::fragment(&text),
        }
    }

    fn end(self) -> anyhow::Result<()> {
        match self.layout {
            Layout::Single => output::line("")?,
            Layout::Columns(_) => {}
            Layout::Stacked { steered } => output::line(&format!("\n--- steered\n{steered}"))?,
        }
        let steered = self.evidence.iter().find(|(side, _)| *side == Side::Resolved);
        if let Some((_, evidence)) = steered {
            output::note(&describe(evidence));
        }
        std::io::stdout().flush()?;
        Ok(())
    }
}

fn lines(rows: &[String]) -> std::io::Result<()> {
    rows.iter().try_for_each(|row| output::line(row))
}

/// The evidence in one line.
fn describe(evidence: &Value) -> String {
    let text = |field: &str| match &evidence[field] {
        Value::String(text) => text.clone(),
        Value::Array(items) => items
            .iter()
            .map(|item| item.as_str().map_or_else(|| item.to_string(), str::to_owned))
            .collect::<Vec<_>>()
            .join(","),
        other => other.to_string(),
    };
    format!(
        "[category {} by {}, strength {}, {} + {} tokens steered, generation {}]",
        text("category"),
        text("source"),
        text("strength"),
        text("steered_prompt_tokens"),
        text("steered_completion_tokens"),
        text("generation")
    )
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use serde_json::json;

    use super::*;

    fn conversation() -> Conversation {
        let manner = Manner {
            category: None,
            strength: None,
            compare: false,
            max_tokens: 1,
            temperature: 0.0,
        };
        Conversation::new(Router::new(), None, manner)
    }

    #[test]
    fn commands_change_the_manner_and_questions_do_not() {
        let mut talk = conversation();
        assert_eq!(command("What is /category?", &mut talk), Line::Question);
        command("/category fraud_deception", &mut talk);
        command("/strength 0.5", &mut talk);
        command("/compare", &mut talk);
        assert_eq!(talk.manner.category.as_deref(), Some("fraud_deception"));
        assert_eq!(talk.manner.strength, Some(0.5));
        assert!(talk.manner.compare);
        command("/category default", &mut talk);
        command("/strength", &mut talk);
        assert_eq!((talk.manner.category.as_deref(), talk.manner.strength), (None, None));
        assert_eq!(command("/quit", &mut talk), Line::Quit);
    }

    #[test]
    fn a_command_that_is_not_known_changes_nothing() {
        let mut talk = conversation();
        let Line::Done(said) = command("/strenght 3", &mut talk) else { panic!("no command") };
        assert!(said.contains("`/strenght` is not known"));
        let Line::Done(said) = command("/strength much", &mut talk) else { panic!("no command") };
        assert!(said.contains("no number"));
        assert_eq!(talk.manner.strength, None);
    }

    #[test]
    fn evidence_is_one_line() {
        let evidence = json!({"category": ["a", "b"], "source": "body", "strength": [0.5, 1.0],
            "steered_prompt_tokens": 3, "steered_completion_tokens": 4, "generation": "ab"});
        let expected =
            "[category a,b by body, strength 0.5,1.0, 3 + 4 tokens steered, generation ab]";
        assert_eq!(describe(&evidence), expected);
    }
}
