//! What becomes of runs when things fail.
//!
//! * `sweep`: one crash at every named point of the extension, under every example.
//! * `judge`: random workflows under random faults, compared with what the engine predicts and with a ledger.
//! * `recovery`: how long each kind of fault keeps runs from starting and from ending.
//!
//! Each prints a table and ends with exit code 1 if anything was lost, doubled or stuck.

mod judge;
mod recovery;
mod sweep;

use anyhow::Result;
use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// What becomes of runs when things fail.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    part: Part,
}

#[derive(Debug, Subcommand)]
enum Part {
    /// Crashes at every named point, under every example
    Sweep(sweep::Options),
    /// Random workflows under random faults
    Judge(judge::Options),
    /// How long faults are felt
    Recovery(recovery::Options),
}

fn main() -> Result<ExitCode> {
    let sound = match Arguments::parse().part {
        Part::Sweep(options) => sweep::run(&options)?,
        Part::Judge(options) => judge::run(&options)?,
        Part::Recovery(options) => recovery::run(&options)?,
    };
    Ok(if sound { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
