//! Bodies that the database keeps beside the logs: fetched before a call that sends them, put there after one that brought
//! them.

use std::time::Duration;

use bytes::Bytes;

use super::body;
use super::http::{Answer, CallError, Class};
use super::lease::Leases;
use super::request::Prepared;
use crate::backoff::Backoff;
use crate::store::{JobRef, JobStore, StoreError, sleep_or_ready};

/// The blobs of a job.
pub struct Blobs<'a, S> {
    /// Where they are.
    pub store: &'a S,
    /// Who still holds what.
    pub leases: &'a Leases,
    /// Whose they are.
    pub job: &'a JobRef,
}

impl<S: JobStore> Blobs<'_, S> {
    /// Puts a request's body together from those that it refers to.
    ///
    /// # Errors
    /// When one is not there, or the body cannot be sent.
    pub async fn fetch(&self, prepared: &mut Prepared) -> Result<(), CallError> {
        let invalid = |message| CallError { class: Class::InvalidRequest, message, hopeless: true };
        let mut blobs = body::Blobs::new();
        let mut size = 0;
        for sha256 in prepared.blobs().into_iter().map(str::to_owned).collect::<Vec<_>>() {
            let bytes = self.insist(|| self.store.read_blob(self.job, &sha256)).await?;
            size += bytes.len();
            if size > body::MAX_BYTES {
                return Err(invalid(body::too_large()));
            }
            blobs.insert(sha256, Bytes::from(bytes));
        }
        let filled = prepared.fill(&blobs);
        filled.map_err(|message| invalid(prepared.redactor.text(&message)))
    }

    /// Has the answer's body kept, if it is to be, and refers to it.
    ///
    /// # Errors
    /// When it cannot be kept.
    pub async fn keep(&self, mut answer: Answer) -> Result<Answer, CallError> {
        let Some(kept) = answer.kept.take() else { return Ok(answer) };
        // What stands in the place of secrets may be longer than they are.
        if kept.bytes.len() > body::MAX_BYTES {
            return Err(CallError {
                class: Class::ResponseTooLarge,
                message: format!("the response body is larger than {} bytes", body::MAX_BYTES),
                hopeless: true,
            });
        }
        let sha256 = self.insist(|| self.store.put_blob(self.job, &kept.bytes)).await?;
        answer.output["body_blob"] = kept.reference(&sha256);
        // What is left of it to be reported is small.
        answer.body_bytes = 0;
        Ok(answer)
    }

    /// Asks until the database answers, for as long as the job is ours.
    async fn insist<T, F>(&self, ask: impl Fn() -> F) -> Result<T, CallError>
    where
        F: Future<Output = Result<Option<T>, StoreError>>,
    {
        let failed = |message: String, hopeless| CallError { class: Class::Blob, message, hopeless };
        let mut state = self.store.state();
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        loop {
            match ask().await {
                Ok(Some(found)) => return Ok(found),
                Ok(None) => return Err(failed("the lease is lost".to_owned(), false)),
                Err(error @ StoreError::Refused { .. }) => return Err(failed(error.to_string(), true)),
                Err(StoreError::Unavailable(_)) if self.leases.worth_reporting(self.job) => {
                    sleep_or_ready(backoff.next_wait(), &mut state).await;
                }
                Err(error @ StoreError::Unavailable(_)) => return Err(failed(error.to_string(), false)),
            }
        }
    }
}
