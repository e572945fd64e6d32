//! Two-step shutdown: the first signal drains, the second exits.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Starts a shutdown; cheap to clone.
#[derive(Clone, Debug)]
pub struct Trigger(watch::Sender<bool>);

impl Trigger {
    /// Asks everything to drain. Asking twice is harmless.
    pub fn drain(&self) {
        self.0.send_replace(true);
    }
}

/// Tells whether a shutdown has begun; cheap to clone.
#[derive(Clone, Debug)]
pub struct Shutdown(watch::Receiver<bool>);

impl Shutdown {
    /// True once draining has begun.
    pub fn is_draining(&self) -> bool {
        *self.0.borrow()
    }

    /// Returns once draining has begun (for ever pending if the trigger was dropped unused).
    pub async fn draining(&mut self) {
        if self.0.wait_for(|draining| *draining).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// A connected pair.
pub fn channel() -> (Trigger, Shutdown) {
    let (sender, receiver) = watch::channel(false);
    (Trigger(sender), Shutdown(receiver))
}

/// Listens for SIGTERM and SIGINT from now on: the first drains, the second ends the process with
/// 128 + signal number.
///
/// # Errors
/// When the handlers cannot be installed.
pub fn on_signals(trigger: Trigger) -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        let mut draining = false;
        loop {
            let (name, code) = tokio::select! {
                _ = terminate.recv() => ("SIGTERM", 128 + 15),
                _ = interrupt.recv() => ("SIGINT", 128 + 2),
            };
            if draining {
                tracing::warn!(signal = name, "second signal: exiting at once");
                std::process::exit(code);
            }
            draining = true;
            tracing::info!(signal = name, "draining; a second signal exits without waiting");
            trigger.drain();
        }
    });
    Ok(())
}
