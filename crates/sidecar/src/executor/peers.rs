//! Executors of one queue know of each other: how many there are, and which hosts do not answer.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::Event;
use super::lease::Leases;
use crate::store::{HostPause, JobStore, sleep_or_ready};

/// How often to meet, and to look whether there is a reason to.
const PERIOD: Duration = Duration::from_secs(1);

/// Meets the others at first, and as long as there is work: nobody writes to an idle database.
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
        let mut knows = false;
        loop {
            let told = self.told.borrow().clone();
            if !knows || !self.leases.is_empty() || !told.is_empty() {
                match self.store.sync(&self.queue, &self.executor, &told).await {
                    Ok(peers) => {
                        if self.events.send(Event::Met(peers)).is_err() {
                            return;
                        }
                        knows = true;
                    }
                    Err(error) => tracing::debug!(%error, "could not hear of other executors"),
                }
            }
            sleep_or_ready(PERIOD, &mut state).await;
        }
    }
}
