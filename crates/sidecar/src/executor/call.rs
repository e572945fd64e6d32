//! One call from its first message to its output: access tokens, signatures, redirects, pages.

use std::time::Duration;

use http::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use http::{Response, StatusCode};
use hyper::body::Incoming;
use tokio::time::{Instant, timeout_at};

use super::auth::Auth;
use super::decode;
use super::http::{Answer, CallError, Class, HostClass, Hyper, classify};
use super::oauth::{Grant, Token, Tokens};
use super::pages::{Step, Walk};
use super::redirect::{self, Hop};
use super::request::{IDEMPOTENCY_KEY, Prepared};
use super::response::{self, Form};
use crate::secrets::redact::Redactor;

/// Largest answer of a token endpoint.
const MAX_TOKEN_BYTES: usize = 64 << 10;
/// How long a token endpoint may take, and whoever waits for the one who asks.
const TOKEN_LIMIT: Duration = Duration::from_secs(10);

/// How far a call has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// An access token is waited for.
    Token,
    /// The response is waited for.
    Sent,
    /// The response is coming.
    Answered,
}

impl Stage {
    /// The error of a clock that ran out in this stage. What a token endpoint does says nothing of the host.
    pub fn timed_out(self, limit: Duration) -> CallError {
        let (class, stage) = match self {
            Self::Token => (Class::Auth, "before there was an access token"),
            Self::Sent => (Class::Timeout, "before the response began"),
            Self::Answered => (Class::Timeout, "before the response was complete"),
        };
        let message = format!("timed out after {} ms, {stage}", limit.as_millis());
        CallError { class, message, hopeless: false }
    }
}

/// Under what a call is made.
pub struct Call<'a> {
    /// Opens and keeps the connections.
    pub client: Hyper,
    /// Whose it is.
    pub project: &'a str,
    /// Access tokens that are at hand.
    pub tokens: &'a Tokens,
    /// Largest body of all responses together.
    pub max_bytes: usize,
    /// What must not come back; grows with the access tokens that are sent.
    pub redactor: Redactor,
    /// How far it has come.
    pub stage: Stage,
}

/// How each message of a call is sent.
struct Manner {
    auth: Auth,
    redirects: u8,
    first_byte: Duration,
}

/// A response that is here as a whole, with whatever secrets it repeats.
struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    body: Vec<u8>,
    host: HostClass,
}

impl Call<'_> {
    /// Makes the call.
    ///
    /// # Errors
    /// Whatever kept a complete response from arriving; the text may hold secrets.
    pub async fn make(&mut self, prepared: Prepared) -> Result<Answer, CallError> {
        let Prepared { mut first, redirects, first_byte, form, auth, pages, .. } = prepared;
        let begun = Instant::now();
        let manner = Manner { auth, redirects, first_byte };
        let mut answer = match pages {
            Some(pages) => {
                let walk = Walk::new(pages, &mut first);
                self.walk(walk, first, &manner, form, begun).await?
            }
            None => {
                let reply = self.send(first, &manner, self.max_bytes).await?;
                self.answer(reply, form, begun)
            }
        };
        self.redactor.value(&mut answer.output);
        Ok(answer)
    }

    fn answer(&self, reply: Reply, form: Form, begun: Instant) -> Answer {
        let (status, host) = (reply.status.as_u16(), reply.host);
        let body = self.redactor.bytes(reply.body);
        let body_bytes = body.len();
        let (output, mut kept) = response::output(status, &reply.headers, body, form, begun.elapsed());
        if let Some(kept) = kept.as_mut().filter(|_| !self.redactor.is_empty()) {
            kept.strike_out(&self.redactor);
        }
        Answer { status, output, kept, body_bytes, host }
    }

    /// Follows a list. A page that is no success ends it, and is the answer.
    async fn walk(
        &mut self,
        mut walk: Walk,
        mut hop: Hop,
        manner: &Manner,
        form: Form,
        begun: Instant,
    ) -> Result<Answer, CallError> {
        let key = hop.headers.get(IDEMPOTENCY_KEY).and_then(|key| key.to_str().ok()).map(str::to_owned);
        let mut body_bytes = 0;
        loop {
            let reply = self.send(hop.clone(), manner, self.max_bytes.saturating_sub(body_bytes)).await?;
            body_bytes += reply.body.len();
            if !reply.status.is_success() {
                return Ok(Answer { body_bytes, ..self.answer(reply, form, begun) });
            }
            // What leads on may repeat what was sent, and has to be followed as it is.
            let headers = reply.headers.clone();
            let raw = (!self.redactor.is_empty()).then(|| response::json(&headers, reply.body.clone()));
            let mut answer = self.answer(reply, Form::Inline, begun);
            let page = &mut answer.output["body"];
            let next = walk.next(&hop, &headers, raw.as_ref().unwrap_or(page))?;
            match walk.take(&hop, next, page)? {
                Step::Next(url) => hop.url = url,
                Step::Done { more } => {
                    walk.finish(&mut answer.output, more);
                    self.redactor.value(&mut answer.output["body"]);
                    let kept = response::take_json(&mut answer.output, form);
                    return Ok(Answer { kept, body_bytes, ..answer });
                }
            }
            // Another page is another request: whoever knows the key would answer with the first one.
            let key =
                key.as_ref().and_then(|key| HeaderValue::from_str(&format!("{key}/{}", walk.page())).ok());
            key.map(|key| hop.headers.insert(IDEMPOTENCY_KEY, key));
        }
    }

    /// Sends one message, with whatever proves who sends it.
    async fn send(&mut self, mut hop: Hop, manner: &Manner, max_bytes: usize) -> Result<Reply, CallError> {
        match &manner.auth {
            Auth::Settled => {}
            Auth::Sign(signer) => signer.sign(&mut hop.headers, &hop.body).map_err(unsendable)?,
            Auth::Token(grant) => {
                let (token, was_kept) = self.token(grant, None).await?;
                hop.headers.insert(AUTHORIZATION, token.header.clone());
                let reply = self.exchange(hop.clone(), manner, max_bytes).await?;
                if reply.status != StatusCode::UNAUTHORIZED || !was_kept || token.is_last_word() {
                    return Ok(reply);
                }
                // It may have been revoked. What is refused for want of proof has not been done.
                let (token, _) = self.token(grant, Some(&token)).await?;
                hop.headers.insert(AUTHORIZATION, token.header);
            }
        }
        self.exchange(hop, manner, max_bytes).await
    }

    /// A token for the grant, other than the refused one; and whether it had been at hand.
    async fn token(&mut self, grant: &Grant, refused: Option<&Token>) -> Result<(Token, bool), CallError> {
        self.stage = Stage::Token;
        let kept = self.tokens.of(self.project, grant);
        let limit = Instant::now() + TOKEN_LIMIT;
        let late = |_| Stage::Token.timed_out(TOKEN_LIMIT);
        let mut held = timeout_at(limit, kept.lock()).await.map_err(late)?;
        let usable = held
            .token
            .as_ref()
            .filter(|token| token.is_fresh() && refused.is_none_or(|refused| refused.secret != token.secret));
        if let Some(token) = usable {
            self.redactor.also("access_token", &token.secret);
            return Ok((token.clone(), true));
        }
        if let Some(failure) = held.failure() {
            return Err(failure);
        }
        let mut asked =
            timeout_at(limit, self.fetch(grant)).await.unwrap_or_else(|elapsed| Err(late(elapsed)));
        if let Ok(token) = &mut asked {
            token.renewed = refused.is_some();
        }
        held.note(&asked);
        let token = asked?;
        self.redactor.also("access_token", &token.secret);
        Ok((token, false))
    }

    /// Asks for a token.
    async fn fetch(&self, grant: &Grant) -> Result<Token, CallError> {
        let asked = Instant::now();
        let unavailable = |message: String| CallError {
            class: Class::Auth,
            message: format!("no access token: {message}"),
            hopeless: false,
        };
        let request = grant.request().and_then(|hop| hop.request()).map_err(unsendable)?;
        let response = self.client.request(request).await.map_err(|error| classify(&error));
        let response = response.map_err(|error| match error.class {
            Class::Forbidden => error,
            _ => unavailable(error.message),
        })?;
        let (mut parts, body) = response.into_parts();
        let body = decode::read(&mut parts.headers, body, MAX_TOKEN_BYTES).await;
        let body = body.map_err(|error| unavailable(error.message))?;
        Token::from_answer(parts.status.as_u16(), &body, asked).map_err(unavailable)
    }

    async fn exchange(&mut self, hop: Hop, manner: &Manner, max_bytes: usize) -> Result<Reply, CallError> {
        self.stage = Stage::Sent;
        let response = self.follow(hop, manner).await?;
        self.stage = Stage::Answered;
        let (mut parts, body) = response.into_parts();
        let body = decode::read(&mut parts.headers, body, max_bytes).await?;
        let host = HostClass::of(&parts.extensions);
        Ok(Reply { status: parts.status, headers: parts.headers, body, host })
    }

    /// The response, after so many redirects at most.
    async fn follow(&self, mut hop: Hop, manner: &Manner) -> Result<Response<Incoming>, CallError> {
        let Manner { redirects, first_byte, .. } = *manner;
        for left in (0..=redirects).rev() {
            let request = hop.request().map_err(|problem| redirect::refused(&problem))?;
            let response = tokio::time::timeout(first_byte, self.client.request(request))
                .await
                .map_err(|_| Stage::Sent.timed_out(first_byte))?
                .map_err(|error| classify(&error))?;
            let next = if redirects == 0 { None } else { hop.after(response.status(), response.headers())? };
            match next {
                None => return Ok(response),
                Some(_) if left == 0 => break,
                Some(next)
                    if next.url.origin() != hop.url.origin()
                        && !next.body.is_empty()
                        && !self.redactor.is_empty() =>
                {
                    return Err(redirect::refused(
                        "the redirect leads to another server, and the body holds a secret",
                    ));
                }
                Some(next) => hop = next,
            }
        }
        Err(redirect::refused(&format!("more than {redirects} redirects")))
    }
}

fn unsendable(message: String) -> CallError {
    CallError { class: Class::InvalidRequest, message, hopeless: true }
}
