//! The binary: settings, log, signals, and then [`meshhook_sidecar::run`].

use std::process::ExitCode;

use clap::Parser;
use meshhook_sidecar::config::Config;
use meshhook_sidecar::{ops, shutdown};

fn main() -> ExitCode {
    let config = Config::parse();
    match start(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("meshhook-sidecar: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(config: Config) -> anyhow::Result<()> {
    ops::install_log(config.log_format, &config.log)?;
    let metrics = ops::install_metrics()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(async {
        let (trigger, draining) = shutdown::channel();
        shutdown::on_signals(trigger)?;
        meshhook_sidecar::run(config, metrics, draining).await
    });
    // A name lookup may be stuck in a thread of the system's resolver: not worth waiting for.
    runtime.shutdown_background();
    result
}
