//! The binary: settings, log, signals, and then [`meshhook_sidecar::run`].

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser;
use meshhook_sidecar::config::Config;
use meshhook_sidecar::secrets::command::{SecretCommand, SecretLine};
use meshhook_sidecar::secrets::memory;
use meshhook_sidecar::{check, ops, shutdown};

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    let secret = arguments.nth(1).is_some_and(|first| first == "secret");
    // Before anything is read that could be a secret.
    let secluded = memory::seclude().context("cannot keep memory out of core files");
    let done = secluded.and_then(|()| {
        if secret {
            let program = std::iter::once("secret".into());
            seal(SecretLine::parse_from(program.chain(arguments)).command)
        } else {
            start(Config::parse())
        }
    });
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("meshhook-sidecar: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn seal(command: SecretCommand) -> anyhow::Result<bool> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(command.run()).map(|()| true)
}

/// False if a check found something wrong.
fn start(config: Config) -> anyhow::Result<bool> {
    ops::install_log(config.log_format, &config.log)?;
    let metrics = ops::install_metrics()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(async {
        if config.check {
            return Ok(check::run(&config).await);
        }
        let (trigger, draining) = shutdown::channel();
        shutdown::on_signals(trigger)?;
        meshhook_sidecar::run(config, metrics, draining).await.map(|()| true)
    });
    // The look-up of the database's name may be stuck in a thread of the system's resolver: not worth waiting for.
    runtime.shutdown_background();
    result
}
