//! `skeg bench serve`: a load on a running server, ours or another.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use serde::Serialize;
use skeg_lab::figures::{Figure, Line, NamedPoint};
use ureq::http::{HeaderName, HeaderValue};

use super::load::{Api, Client, Generator, Level, Limit, Load, RequestShape, endpoint};
use super::stats::Percentiles;
use crate::output::{self, Table};

/// Clients of a closed loop: each is a thread and a connection.
const MAX_CLIENTS: usize = 1024;

/// Load on a running OpenAI-compatible server: throughput and latency by concurrency or arrival rate
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(in crate::cli) struct Args {
    /// The server, as http://HOST:PORT; an address of this machine
    #[arg(long)]
    url: String,
    /// Send it to another machine all the same
    #[arg(long)]
    allow_remote: bool,
    /// Name of the model, as the server knows it
    #[arg(long, default_value = "default")]
    model: String,
    /// Header for every request, as `Name: value`; may be given several times
    #[arg(long, value_name = "HEADER", value_parser = parse_header)]
    header: Vec<(HeaderName, HeaderValue)>,
    /// Interface to call
    #[arg(long, value_enum, default_value_t = Api::Chat)]
    api: Api,
    /// Closed loop: numbers of clients, one level each [default: 1,4,8,16,32, or none with --rate]
    #[arg(long, value_name = "CLIENTS", value_delimiter = ',')]
    clients: Option<Vec<usize>>,
    /// Open loop: Poisson arrivals a second, one level each
    #[arg(long, value_name = "PER_SECOND", value_delimiter = ',')]
    rate: Vec<f64>,
    /// Most requests in flight in an open loop; arrivals beyond it are counted and not sent
    #[arg(long, value_name = "NUM", default_value_t = 256)]
    max_in_flight: usize,
    /// Requests of each level [default: 64, or no bound with --duration]
    #[arg(long, value_name = "NUM")]
    requests: Option<u64>,
    /// Seconds of each level, after which no request starts
    #[arg(long, value_name = "SECONDS")]
    duration: Option<f64>,
    /// Requests before the first level, one by one and not counted; if one fails, so does the command
    #[arg(long, value_name = "NUM", default_value_t = 2)]
    warmup: u64,
    /// Words of each prompt: about as many tokens, and the chat template
    #[arg(long, value_name = "WORDS", default_value_t = 128)]
    prompt_words: usize,
    /// Tokens of each answer
    #[arg(long, value_name = "TOKENS", default_value_t = 64)]
    max_tokens: usize,
    /// Sampling temperature
    #[arg(long, default_value_t = 0.0)]
    temperature: f64,
    /// Leave out vLLM's `ignore_eos`, for servers that refuse it; answers may then end early
    #[arg(long)]
    openai_fields_only: bool,
    /// Seconds after which a request has failed
    #[arg(long, value_name = "SECONDS", default_value_t = 120.0)]
    timeout: f64,
    /// Seed of prompts and arrivals
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Write a chart of throughput by number of clients, or by rate where only rates are given
    #[arg(long, value_name = "FILE.svg")]
    chart: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

const AFTER_HELP: &str = "\
Examples:
  skeg bench serve --url http://127.0.0.1:8080
  skeg bench serve --url http://127.0.0.1:8080 --header 'X-Safety-Category: malware_viruses' --clients 8
  skeg bench serve --url http://127.0.0.1:8080 --rate 1,2,4 --duration 30
  skeg bench serve --url http://127.0.0.1:8081 --model other --openai-fields-only --chart load.svg

Answers are streamed; tokens are the server's own count (usage), or one a chunk where it sends none. Latencies of an
open loop count from when a request was due. docs/performance.md says what each figure means.";

/// What is printed with `--json`.
#[derive(Debug, Serialize)]
struct Report<'a> {
    endpoint: &'a str,
    model: &'a str,
    api: Api,
    /// Names alone: a value may be a key.
    headers: Vec<&'a str>,
    prompt_words: usize,
    max_tokens: usize,
    temperature: f64,
    ignore_eos: bool,
    max_in_flight: usize,
    seed: u64,
    levels: Vec<Level>,
}

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let loads = args.loads()?;
    let endpoint = endpoint(&args.url, args.api, args.allow_remote)?;
    let client = args.client(endpoint.clone())?;
    let generator = Generator {
        client: &client,
        limit: args.limit()?,
        max_in_flight: args.max_in_flight,
        seed: args.seed,
    };
    generator.warm_up(args.warmup).map_err(|failure| {
        anyhow!(
            "{endpoint}: a request before the load failed ({}): {}",
            failure.kind,
            failure.reason
        )
    })?;
    let mut levels = Vec::new();
    for (load, level_idx) in loads.into_iter().zip(0..) {
        let bar = generator.limit.requests.map(|number| output::step_bar(&name(load), number));
        let on_end = || bar.iter().for_each(|bar| bar.inc(1));
        levels.push(generator.run(load, level_idx, on_end));
        bar.iter().for_each(|bar| bar.finish_and_clear());
    }
    let report = Report {
        endpoint: &endpoint,
        model: &args.model,
        api: args.api,
        headers: args.header.iter().map(|(name, _)| name.as_str()).collect(),
        prompt_words: args.prompt_words,
        max_tokens: args.max_tokens,
        temperature: args.temperature,
        ignore_eos: !args.openai_fields_only,
        max_in_flight: args.max_in_flight,
        seed: args.seed,
        levels,
    };
    if args.json {
        output::json(&report)?;
    } else {
        report.print()?;
    }
    args.chart.as_deref().map_or(Ok(()), |path| report.chart().write(path))?;
    Ok(())
}

/// `Name: value`.
fn parse_header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or("expected `Name: value`")?;
    let name = name.trim().parse::<HeaderName>().map_err(|error| error.to_string())?;
    let value = value.trim().parse::<HeaderValue>().map_err(|error| error.to_string())?;
    Ok((name, value))
}

fn seconds(flag: &str, seconds: f64) -> anyhow::Result<Duration> {
    Duration::try_from_secs_f64(seconds)
        .ok()
        .filter(|duration| !duration.is_zero())
        .with_context(|| format!("--{flag} {seconds}: expected a positive number of seconds"))
}

impl Args {
    /// The levels, closed loops first.
    fn loads(&self) -> anyhow::Result<Vec<Load>> {
        let default = if self.rate.is_empty() { &[1, 4, 8, 16, 32][..] } else { &[] };
        let clients = self.clients.as_deref().unwrap_or(default);
        if let Some(number) = clients.iter().find(|&number| !(1..=MAX_CLIENTS).contains(number)) {
            bail!("--clients {number}: expected 1 to {MAX_CLIENTS}");
        }
        // Above a million the gaps are below what a clock resolves.
        if let Some(rate) = self.rate.iter().find(|&&rate| !(rate > 0.0 && rate <= 1e6)) {
            bail!("--rate {rate}: expected a positive number of at most a million");
        }
        if self.max_in_flight == 0 || self.max_tokens == 0 || self.prompt_words == 0 {
            bail!("--max-in-flight, --max-tokens and --prompt-words must be at least 1");
        }
        let clients = clients.iter().map(|&number| Load::Clients(number));
        Ok(clients.chain(self.rate.iter().map(|&rate| Load::Rate(rate))).collect())
    }

    fn limit(&self) -> anyhow::Result<Limit> {
        let duration = self.duration.map(|given| seconds("duration", given)).transpose()?;
        let requests = self.requests.or_else(|| duration.is_none().then_some(64));
        Ok(Limit { requests, duration })
    }

    fn client(&self, endpoint: String) -> anyhow::Result<Client> {
        let shape = RequestShape {
            api: self.api,
            model: self.model.clone(),
            prompt_words: self.prompt_words,
            max_tokens: self.max_tokens,
            temperature: self.temperature,
            ignore_eos: !self.openai_fields_only,
            seed: self.seed,
        };
        let timeout = seconds("timeout", self.timeout)?;
        let most_clients = self.clients.iter().flatten().copied().max().unwrap_or(32);
        let max_connections = most_clients.max(self.max_in_flight);
        Ok(Client::new(endpoint, self.header.clone(), shape, timeout, max_connections))
    }
}

fn name(load: Load) -> String {
    match load {
        Load::Clients(number) => format!("{number} clients"),
        Load::Rate(rate) => format!("{rate}/s"),
    }
}

/// The three percentiles in milliseconds.
fn milliseconds(percentiles: Option<Percentiles>) -> String {
    percentiles.map_or_else(
        || "-".to_owned(),
        |Percentiles { p50, p95, p99 }| {
            format!("{:.1} / {:.1} / {:.1}", p50 * 1e3, p95 * 1e3, p99 * 1e3)
        },
    )
}

impl Report<'_> {
    fn print(&self) -> anyhow::Result<()> {
        output::line(&format!(
            "{}, model {}, {} words in, {} tokens out; latencies in ms at p50 / p95 / p99",
            self.endpoint, self.model, self.prompt_words, self.max_tokens
        ))?;
        let header = [
            "LOAD",
            "OK",
            "FAILED",
            "TOK/S",
            "REQ/S",
            "FIRST TOKEN",
            "BETWEEN TOKENS",
            "WHOLE ANSWER",
        ];
        let mut table = Table::new(&header);
        for level in &self.levels {
            table.row(vec![
                name(level.load),
                level.num_answered.to_string(),
                (level.num_failed() + level.num_not_sent).to_string(),
                format!("{:.1}", level.output_tokens_per_second),
                format!("{:.2}", level.answers_per_second),
                milliseconds(level.time_to_first_token_seconds),
                milliseconds(level.inter_token_latency_seconds),
                milliseconds(level.end_to_end_latency_seconds),
            ]);
        }
        table.print()?;
        self.levels.iter().for_each(print_failures);
        Ok(())
    }

    /// Throughput of the closed loops; of the open ones where there is no other.
    fn chart(&self) -> Line {
        let point = |load: String, level: &Level| NamedPoint {
            label: load,
            value: level.output_tokens_per_second,
            range: None,
        };
        let (mut closed, mut open) = (Vec::new(), Vec::new());
        for level in &self.levels {
            match level.load {
                Load::Clients(number) => closed.push(point(number.to_string(), level)),
                Load::Rate(rate) => open.push(point(rate.to_string(), level)),
            }
        }
        let (x_name, points) =
            if closed.is_empty() { ("arrivals a second", open) } else { ("clients", closed) };
        Line {
            title: format!("{}: throughput", self.model),
            x_name: x_name.to_owned(),
            y_name: "output tokens per second".to_owned(),
            points,
        }
    }
}

/// Failures by kind, with the words of the first.
fn print_failures(level: &Level) {
    let mut kinds: Vec<String> =
        level.failures.iter().map(|(kind, number)| format!("{number} x {kind}")).collect();
    if level.num_not_sent > 0 {
        kinds.push(format!("{} x not sent, too many in flight", level.num_not_sent));
    }
    if kinds.is_empty() {
        return;
    }
    output::note(&format!("{}: {}", name(level.load), kinds.join(", ")));
    if let Some(failure) = &level.first_failure {
        output::note(&format!("  the first: {}", failure.reason.trim()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_a_name_and_a_value() {
        let (name, value) = parse_header("X-Safety-Category:  fraud_deception ").unwrap();
        assert_eq!(
            (name.as_str(), value.to_str().unwrap()),
            ("x-safety-category", "fraud_deception")
        );
        for text in ["X-Safety-Category", "a b: c", "a: b\nc: d"] {
            assert!(parse_header(text).is_err(), "{text}");
        }
    }

    #[test]
    fn latencies_are_printed_in_milliseconds() {
        let percentiles = Percentiles { p50: 0.0105, p95: 0.2, p99: 1.0 };
        assert_eq!(milliseconds(Some(percentiles)), "10.5 / 200.0 / 1000.0");
        assert_eq!(milliseconds(None), "-");
    }
}
