//! The binary: settings, log, signals, and then [`meshhook_sidecar::run`].

use std::process::ExitCode;

use clap::Parser;
use meshhook_sidecar::config::Config;
use meshhook_sidecar::{check, ops, shutdown};

fn main() -> ExitCode {
    let config = Config::parse();
    match start(config) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("meshhook-sidecar: {error:#}");
            ExitCode::FAILURE
        }
    }
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
