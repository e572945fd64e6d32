//! Executors of one queue know of each other: how many there are, and which hosts do not answer.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::Event;
use super::lease::Leases;
use crate::store::{HostPause, JobStore, sleep_or_ready};

/// How often to meet while there is work, and while there is none.
const BUSY: Duration = Duration::from_secs(1);
const QUIET: Duration = Duration::from_secs(5);

/// Meets the others now and then.
pub struct Meeting<S> {
    /// Where they meet.
    pub store: Arc<S>,
    /// What this one holds.
    pub leases: Arc<Leases>,
    /// The queue that they serve.
    pub queue: String,
    /// What this one is called.
    pub executor: String,
    /// Hosts that this one found out do not answer.
    pub told: watch::Receiver<Vec<HostPause>>,
    /// Hears of the others.
    pub(super) events: mpsc::UnboundedSender<Event>,
}

impl<S: JobStore> Meeting<S> {
    /// Meets until nobody listens any more. Where the database is away everybody is alone meanwhile, with what was heard.
    pub async fn run(self) {
        let mut state = self.store.state();
        loop {
            let told = self.told.borrow().clone();
            let mut pause = if !self.leases.is_empty() || !told.is_empty() { BUSY } else { QUIET };
            match self.store.sync(&self.queue, &self.executor, &told).await {
                Ok(peers) => {
                    if self.events.send(Event::Met(peers)).is_err() {
                        return;
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "could not hear of other executors");
                    pause = BUSY;
                }
            }
            sleep_or_ready(pause, &mut state).await;
        }
    }
}
