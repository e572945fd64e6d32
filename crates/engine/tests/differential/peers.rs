//! Running jq and jaq.

use std::fmt;
use std::io::Write;
use std::process::{Command, Stdio};

use jaq_core::load::{Arena, File, Loader};
use jaq_core::{Ctx, Vars, data};
use jaq_json::Val;
use meshhook_engine::json::Json;

use super::generate::Case;

/// Cases given to one process or one compilation: jq takes 50 ms to start.
pub const BATCH: usize = 100;

/// What a case came to.
#[derive(Debug)]
pub enum Outcome {
    /// Its outputs, and whether an error came after them
    Done(Vec<Json>, bool),
    /// The peer does not take it for an expression
    Refused,
    /// The peer ended without an answer
    Crashed,
    /// The peer's answer is no JSON
    NotJson(String),
}

impl PartialEq for Outcome {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Outcome::Done(a, failed), Outcome::Done(b, other)) => failed == other && a == b,
            _ => false,
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Done(values, failed) => {
                let values: Vec<String> = values.iter().map(Json::to_string).collect();
                write!(f, "{}", values.join(" "))?;
                f.write_str(if *failed { " !" } else { "" })
            }
            Outcome::Refused => f.write_str("refused"),
            Outcome::Crashed => f.write_str("crashed"),
            Outcome::NotJson(text) => write!(f, "not JSON: {text}"),
        }
    }
}

impl Outcome {
    /// From what [`caught`] gives.
    pub fn of_json(outputs: &Json) -> Outcome {
        let outputs = outputs.as_arr().expect("an array");
        let failed = outputs.last().is_some_and(Json::is_null);
        let values = outputs[..outputs.len() - usize::from(failed)].iter();
        Outcome::Done(values.map(|one| one.as_arr().expect("in an array")[0].clone()).collect(), failed)
    }

    fn of_line(line: &str) -> Outcome {
        match Json::parse(line) {
            Ok(outputs) => Outcome::of_json(&outputs),
            Err(_) => Outcome::NotJson(line.to_owned()),
        }
    }
}

/// An expression that gives all outputs of another in one array, each in an array of its own, and null in place of an
/// error. Ours, jq's and jaq's alike, so that outputs before an error are compared as well.
pub fn caught(expr: &str) -> String {
    format!("[try ({expr} | [.]) catch null]")
}

/// Another implementation.
#[derive(Clone, Copy)]
pub enum Peer {
    /// jq 1.6, the one of Debian 12
    Jq,
    /// jaq, as a library
    Jaq,
}

impl Peer {
    pub fn name(self) -> &'static str {
        match self {
            Peer::Jq => "jq",
            Peer::Jaq => "jaq",
        }
    }

    /// Whether it has all functions of an expression, and ends. What only newer versions of jq have is compared with jaq alone.
    pub fn knows(self, expr: &str) -> bool {
        let endless = match self {
            // jq 1.6 does not end on some searches for what is empty.
            Peer::Jq => expr.contains("(\"\""),
            // Where an update has several outputs jaq goes on with each, which may take for ever.
            Peer::Jaq => expr.contains("foreach range") || expr.contains("reduce ("),
        };
        if endless {
            return false;
        }
        let lacks: &[&str] = match self {
            Peer::Jq => &["abs", "trim", "ltrim", "rtrim", "add("],
            // Its tonumber reads several numbers from a text, or none for ever.
            Peer::Jaq => &["@csv", "@tsv", "tonumber"],
        };
        let starts_word = |at: usize| !expr[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let ends_word = |at: usize| !expr[at..].starts_with(|c: char| c.is_alphanumeric() || c == '_');
        !lacks.iter().any(|name| {
            let mut places = expr.match_indices(name);
            places.any(|(at, _)| starts_word(at) && (name.ends_with('(') || ends_word(at + name.len())))
        })
    }

    /// Evaluates cases; if they cannot be done together, by halves.
    pub fn run(self, cases: &[&Case]) -> Vec<Outcome> {
        if cases.is_empty() {
            return Vec::new();
        }
        let programs: Vec<String> =
            cases.iter().map(|case| format!("({} | {})", case.input, caught(&case.expr))).collect();
        let lines = match self {
            Peer::Jq => jq(&programs.join(",\n")),
            Peer::Jaq => jaq(&programs.join(",\n")),
        };
        match lines {
            Ok(lines) if lines.len() == cases.len() => {
                lines.iter().map(|line| Outcome::of_line(line)).collect()
            }
            Ok(_) | Err(_) if cases.len() > 1 => {
                let (left, right) = cases.split_at(cases.len() / 2);
                self.run(left).into_iter().chain(self.run(right)).collect()
            }
            Ok(_) => vec![Outcome::Crashed],
            Err(outcome) => vec![outcome],
        }
    }
}

/// The lines jq answers.
fn jq(program: &str) -> Result<Vec<String>, Outcome> {
    let mut file = tempfile::NamedTempFile::new().expect("temporary file");
    file.write_all(program.as_bytes()).expect("written");
    // Some versions of jq do not end on some expressions.
    let answer = Command::new("timeout")
        .args(["10", "jq", "-n", "-c", "-f"])
        .arg(file.path())
        .env("TZ", "UTC")
        .stdin(Stdio::null())
        .output()
        .expect("timeout of the coreutils");
    match answer.status.code() {
        Some(0) => Ok(String::from_utf8_lossy(&answer.stdout).lines().map(str::to_owned).collect()),
        Some(127) => panic!("jq is not installed; make setup installs it"),
        // jq could not read the program.
        Some(2 | 3) => Err(Outcome::Refused),
        _ => Err(Outcome::Crashed),
    }
}

/// The lines jaq answers.
fn jaq(program: &str) -> Result<Vec<String>, Outcome> {
    let defs = jaq_core::defs().chain(jaq_std::defs()).chain(jaq_json::defs());
    let funs = jaq_core::funs().chain(jaq_std::funs()).chain(jaq_json::funs());
    let arena = Arena::default();
    let modules =
        Loader::new(defs).load(&arena, File { code: program, path: () }).map_err(|_| Outcome::Refused)?;
    let compiler = jaq_core::Compiler::default().with_funs(funs);
    let filter = compiler.compile(modules).map_err(|_| Outcome::Refused)?;
    let context = Ctx::<data::JustLut<Val>>::new(&filter.lut, Vars::new([]));
    let outputs = filter.id.run((context, Val::Null));
    outputs.map(|output| output.map(|value| value.to_string()).map_err(|_| Outcome::Crashed)).collect()
}
