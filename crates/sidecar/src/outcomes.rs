//! Senders that wait for what their run answers, and status URLs.
//!
//! The database is asked for all that wait at once, now and then, on a connection that is given back in between: however
//! many wait, they take none from what comes in.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::extract::{Path, Request, State};
use axum::response::Response;
use http::header::ALLOW;
use http::{HeaderValue, Method, StatusCode};
use tokio::sync::{Semaphore, oneshot};

use crate::intake::{Intake, busy, json_response, refuse};
use crate::resume::GUARDS;
use crate::shutdown::Shutdown;
use crate::store::{StoreError, WebhookReply, WebhookStore};

/// How long a run that is waited for is not looked at.
const PERIOD: Duration = Duration::from_millis(20);
/// The same, while the database cannot say.
const TROUBLED_PERIOD: Duration = Duration::from_secs(1);
/// Most senders that wait at once; another one is told where to ask later. Half of the connections that there may be:
/// the others are for those who do not wait.
const MAX_WAITING: usize = 512;
/// Most outcomes that are asked for at once.
const BATCH: usize = 1_000;

/// Who waits, by what for. A delivery that comes again waits for the same.
type Waiting = HashMap<String, Vec<oneshot::Sender<WebhookReply>>>;

/// The senders that wait.
pub(crate) struct Outcomes<S> {
    store: Arc<S>,
    /// Ends every wait.
    shutdown: Shutdown,
    /// One for each sender that may wait.
    places: Semaphore,
    waiting: Mutex<Waiting>,
    /// Whether somebody asks; changed while `waiting` is held.
    asking: AtomicBool,
}

impl<S: WebhookStore> Outcomes<S> {
    pub(crate) fn new(store: Arc<S>, shutdown: Shutdown) -> Arc<Self> {
        let places = Semaphore::new(MAX_WAITING);
        Arc::new(Self { store, shutdown, places, waiting: Mutex::default(), asking: AtomicBool::new(false) })
    }

    /// The answer to a sender that waits for an outcome, if there is one in time, and a place to wait at.
    pub(crate) async fn wait(self: &Arc<Self>, outcome: String, limit: Duration) -> Option<WebhookReply> {
        let _place = self.places.try_acquire().ok()?;
        let (sender, answer) = oneshot::channel();
        let nobody_asks = {
            let mut waiting = self.waiting();
            waiting.entry(outcome).or_default().push(sender);
            !self.asking.swap(true, Ordering::Relaxed)
        };
        if nobody_asks {
            tokio::spawn(self.clone().ask());
        }
        let mut shutdown = self.shutdown.clone();
        tokio::select! {
            answer = tokio::time::timeout(limit, answer) => answer.ok()?.ok(),
            // It learns where to ask later.
            () = shutdown.draining() => None,
        }
    }

    /// Asks for what is waited for until nobody waits.
    async fn ask(self: Arc<Self>) {
        while let Some(outcomes) = self.wanted() {
            let mut period = PERIOD;
            for batch in outcomes.chunks(BATCH) {
                match self.store.outcomes(batch).await {
                    Ok(answers) => self.tell(answers),
                    Err(error) => {
                        tracing::debug!(%error, "outcomes cannot be asked for");
                        period = TROUBLED_PERIOD;
                    }
                }
            }
            tokio::time::sleep(period).await;
        }
    }

    /// What somebody still waits for. If nobody does, whoever waits next has to see that somebody asks.
    fn wanted(&self) -> Option<Vec<String>> {
        let mut waiting = self.waiting();
        waiting.retain(|_, senders| {
            senders.retain(|sender| !sender.is_closed());
            !senders.is_empty()
        });
        if waiting.is_empty() {
            self.asking.store(false, Ordering::Relaxed);
            return None;
        }
        Some(waiting.keys().cloned().collect())
    }

    fn tell(&self, answers: Vec<(String, WebhookReply)>) {
        let mut waiting = self.waiting();
        for (outcome, reply) in answers {
            for sender in waiting.remove(&outcome).unwrap_or_default() {
                // Whoever has gone needs no answer.
                let _ = sender.send(reply.clone());
            }
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // Nothing panics while it is held.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The handler of `/outcomes/{token}`.
pub async fn handle<S: WebhookStore>(
    State(intake): State<Arc<Intake<S>>>,
    Path(token): Path<String>,
    request: Request,
) -> Response {
    let mut response = told(&intake, &token, request.method()).await;
    for (name, value) in GUARDS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

async fn told<S: WebhookStore>(intake: &Intake<S>, token: &str, method: &Method) -> Response {
    if ![Method::GET, Method::HEAD].contains(method) {
        let mut response = refuse(StatusCode::METHOD_NOT_ALLOWED, "send a GET request");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    let Some(_slot) = intake.slot() else { return busy("too many requests at once") };
    // The database's text has no U+0000, so no token has one.
    if token.contains('\0') {
        return refuse(StatusCode::NOT_FOUND, "this status URL does not exist");
    }
    match intake.store().open_outcome(token).await {
        Ok(reply) => {
            let status =
                u16::try_from(reply.status).ok().and_then(|status| StatusCode::from_u16(status).ok());
            json_response(status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), &reply.body)
        }
        Err(StoreError::Unavailable(reason)) => {
            tracing::debug!(reason, "status URL not served: database unavailable");
            busy("try again later")
        }
        Err(StoreError::Refused { code, message }) => {
            tracing::error!(code, message, "the database failed on a status URL");
            refuse(StatusCode::INTERNAL_SERVER_ERROR, "internal error")
        }
    }
}
