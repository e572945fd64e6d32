//! How long each kind of fault is felt: starts that find no answer, and runs that were under way.
//!
//! A durable server with its sidecar is under a steady load: clients that start a run, wait for the answer, rest, and
//! start the next; a workflow of two HTTP calls, so that orchestrator, executor and clients all have their part. Each
//! fault is caused once, in the midst of it. Whatever it breaks is put right as a supervisor would: at once.

mod fault;
mod scene;

use anyhow::Result;
use fault::Fault;
use scene::Scene;
use std::time::Duration;

/// What it is asked for.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Clients that start runs
    #[arg(long, default_value_t = 4)]
    clients: usize,
    /// Milliseconds that a client rests between two starts
    #[arg(long, default_value_t = 25)]
    rest: u64,
    /// Seconds under load before each fault
    #[arg(long, default_value_t = 3.0)]
    settle: f64,
    /// Seconds a job is leased to the sidecar: how long a dead one is waited for
    #[arg(long, default_value_t = 5)]
    lease: u64,
    /// Line for the server's postgresql.conf, name=value; may be repeated
    #[arg(long = "set", value_name = "NAME=VALUE")]
    settings: Vec<String>,
}

/// What one fault did.
#[derive(Debug)]
struct Row {
    fault: &'static str,
    under_way: usize,
    usual_gap: Duration,
    longest_gap: Duration,
    first_end: Duration,
    last_end: Duration,
    runs: usize,
    lost: usize,
    doubled: usize,
    stuck: usize,
}

impl Row {
    fn is_sound(&self) -> bool {
        (self.lost, self.doubled, self.stuck) == (0, 0, 0)
    }
}

/// Whether nothing was lost, doubled or stuck.
pub fn run(options: &Options) -> Result<bool> {
    println!(
        "{} clients that rest {} ms between two starts; two calls a run; leases of {} s; durable {}",
        options.clients,
        options.rest,
        options.lease,
        options.settings.join(" ")
    );
    print_heading();
    let mut sound = true;
    let mut scene = Scene::set(options)?;
    for fault in Fault::ALL {
        let row = scene.play(fault)?;
        print_row(&row);
        sound &= row.is_sound();
    }
    println!(
        "starts unavailable: the longest time between two acknowledged starts after the fault (usual gap: before it)\n\
         first run ended: behind the longest pause without an end, counted from the fault\n\
         all ended: the last of the runs that were under way, counted from the fault"
    );
    Ok(sound)
}

fn print_heading() {
    println!(
        "{:<42} {:>9} {:>12} {:>9} {:>12} {:>10} {:>6} {:>5} {:>8} {:>6}",
        "fault",
        "under way",
        "unavailable",
        "usual gap",
        "first ended",
        "all ended",
        "runs",
        "lost",
        "doubled",
        "stuck"
    );
}

fn print_row(row: &Row) {
    let ms = |time: Duration| format!("{} ms", time.as_millis());
    println!(
        "{:<42} {:>9} {:>12} {:>9} {:>12} {:>10} {:>6} {:>5} {:>8} {:>6}",
        row.fault,
        row.under_way,
        ms(row.longest_gap),
        ms(row.usual_gap),
        ms(row.first_end),
        format!("{:.2} s", row.last_end.as_secs_f64()),
        row.runs,
        row.lost,
        row.doubled,
        row.stuck
    );
}
