//! The judge: random workflows under random faults, held against what the engine predicts and against a ledger.
//!
//! A round draws programs (`program`), says what must come of them (`predict`), lets people (`people`) and executors
//! (`services`) live with them under a schedule of faults (`faults`), and judges what is found (`verdict`).

mod caller;
mod faults;
mod ledger;
mod people;
mod predict;
mod program;
mod report;
mod round;
mod services;
mod verdict;

use anyhow::{Context as _, Result};
use meshhook_testkit::Cluster;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use report::Asked;
use round::{Court, Outcome, Round};

/// How often the judge says how far it has come.
const PROGRESS: Duration = Duration::from_secs(5);

/// What it is asked for.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Everything is drawn from it [default: random]
    #[arg(long)]
    seed: Option<u64>,
    /// Rounds are begun for so long
    #[arg(long, default_value_t = 30.0, value_name = "MINUTES")]
    minutes: f64,
    /// So many rounds at most
    #[arg(long, value_name = "N")]
    rounds: Option<u64>,
    /// Only the round of this number
    #[arg(long, value_name = "R")]
    round: Option<u64>,
    /// Programs of a round; each is run five times
    #[arg(long, default_value_t = 12, value_name = "N")]
    programs: usize,
    /// Only the program of this number
    #[arg(long, value_name = "P")]
    program: Option<usize>,
    /// Seconds of faults in a round
    #[arg(long, default_value_t = 20, value_name = "SECONDS")]
    span: u64,
    /// Kinds of faults, separated by commas; `none`: no faults
    #[arg(long, value_delimiter = ',', value_name = "KINDS")]
    faults: Vec<String>,
    /// Exactly these faults instead of drawn ones: `cut@1200ms,kill-sidecar@3000ms`
    #[arg(long, value_delimiter = ',', value_name = "SCHEDULE")]
    schedule: Option<Vec<String>>,
    /// A file `name=content` that is put into the data folder whenever the server is started
    #[arg(long, value_name = "FILE")]
    data_file: Vec<String>,
    /// A line `name=value` of postgresql.conf
    #[arg(long, value_name = "SETTING")]
    setting: Vec<String>,
}

impl Options {
    fn kinds(&self) -> Result<Vec<faults::Kind>> {
        if self.faults.is_empty() {
            return Ok(faults::KINDS.map(|(kind, ..)| kind).to_vec());
        }
        let named = self.faults.iter().filter(|name| *name != "none");
        named.map(|name| name.parse().map_err(anyhow::Error::msg)).collect()
    }

    fn asked(&self, seed: u64) -> Asked {
        let option = |name: &'static str| move |value: &String| format!(" --{name} '{value}'");
        let settings = self.setting.iter().map(option("setting"));
        let cluster = settings.chain(self.data_file.iter().map(option("data-file"))).collect();
        Asked { seed, programs: self.programs, cluster }
    }

    fn draw(&self, seed: u64, number: u64) -> Result<Round> {
        let mut round = Round::draw(seed, number, self.programs, &self.kinds()?, self.span * 1000);
        if let Some(schedule) = &self.schedule {
            let named = schedule.iter().filter(|fault| *fault != "none");
            let read: Result<_> = named.map(|fault| fault.parse().map_err(anyhow::Error::msg)).collect();
            round.schedule = read?;
        }
        Ok(match self.program {
            Some(program) => round.only(program),
            None => round,
        })
    }
}

/// Splits `name=value` texts.
fn pairs(texts: &[String]) -> Result<Vec<(String, String)>> {
    let pair = |text: &String| {
        let (name, value) = text.split_once('=').with_context(|| format!("{text}: no name=value"))?;
        Ok((name.to_owned(), value.to_owned()))
    };
    texts.iter().map(pair).collect()
}

/// Whether nothing was lost, doubled or stuck.
pub fn run(options: &Options) -> Result<bool> {
    let seed = options.seed.unwrap_or_else(|| fastrand::u64(..1 << 48));
    let data_files = pairs(&options.data_file)?;
    let cluster = cluster(&data_files, &pairs(&options.setting)?);
    let asked = options.asked(seed);
    println!("judge: seed {seed}");
    let (begun, told) = (Instant::now(), Cell::new(Instant::now()));
    let mut total = Outcome::default();
    let limit = Duration::from_secs_f64(options.minutes * 60.0);
    let last = options.round.or(options.rounds).unwrap_or(u64::MAX);
    let mut number = options.round.unwrap_or(1);
    while number <= last && (begun.elapsed() < limit || total.rounds == 0) {
        let round = options.draw(seed, number)?;
        let progress = |injected: &BTreeMap<faults::Kind, u64>| {
            if told.get().elapsed() >= PROGRESS {
                told.set(Instant::now());
                report::progress(begun.elapsed(), number, &total, injected.values().sum());
            }
        };
        let court = Court { cluster: &cluster, data_files: &data_files, progress: &progress };
        let outcome = court.hold(&round);
        report::round(number, &outcome);
        if !outcome.faults.is_empty() {
            report::failure(&asked, &round, &outcome);
            report::shrink(&asked, &court, &round, &outcome);
            cluster.keep();
        }
        total.add(outcome);
        number += 1;
    }
    report::table(seed, begun.elapsed(), &total);
    Ok(total.faults.is_empty())
}

/// Durable but for the disk: a killed process loses nothing that the kernel has, and no power fails here.
fn cluster(data_files: &[(String, String)], settings: &[(String, String)]) -> Cluster {
    let builder = Cluster::builder().preload(true).kek(true).setting("fsync", "off");
    let builder = settings.iter().fold(builder, |builder, (name, value)| builder.setting(name, value));
    let cluster = meshhook_e2e::prepare(builder.start());
    if !data_files.is_empty() {
        faults::put_files(&cluster, data_files);
        cluster.restart(meshhook_testkit::StopMode::Fast);
    }
    cluster
}
