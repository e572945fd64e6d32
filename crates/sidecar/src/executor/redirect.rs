//! Redirects, where the definition asks for them: each is a call of its own, vetted like the first.

use std::fmt;

use bytes::Bytes;
use http::header::{
    ACCEPT, ACCEPT_ENCODING, ACCEPT_LANGUAGE, CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_TYPE, HeaderMap,
    LOCATION, USER_AGENT,
};
use http::{HeaderName, Method, Request, StatusCode, Uri};
use http_body_util::Full;
use url::Url;

use super::http::{CallError, Class};
use super::request;

/// What another server than the one that was called gets to see. Everything else may be a credential.
const HARMLESS: [HeaderName; 7] =
    [ACCEPT, ACCEPT_ENCODING, ACCEPT_LANGUAGE, USER_AGENT, CONTENT_TYPE, CONTENT_ENCODING, CONTENT_LANGUAGE];

/// A request that can be sent again.
#[derive(Clone)]
pub struct Hop {
    /// How.
    pub method: Method,
    /// Where; without a fragment.
    pub url: Url,
    /// With what.
    pub headers: HeaderMap,
    /// Empty if there is none.
    pub body: Bytes,
}

/// Shows where it goes and nothing that may be secret.
impl fmt::Debug for Hop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.url.origin().ascii_serialization())
    }
}

impl Hop {
    /// The request as it is sent.
    ///
    /// # Errors
    /// When the URL is no request target.
    pub fn request(&self) -> Result<Request<Full<Bytes>>, String> {
        let uri: Uri =
            self.url.as_str().parse().map_err(|_| "the url cannot be sent as a request target".to_owned())?;
        let mut request = Request::new(Full::new(self.body.clone()));
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = uri;
        *request.headers_mut() = self.headers.clone();
        Ok(request)
    }

    /// Where a response leads; `None` if it is no redirect that names a place.
    ///
    /// # Errors
    /// When it leads where no request may go, or out of TLS.
    pub fn after(&self, status: StatusCode, headers: &HeaderMap) -> Result<Option<Self>, CallError> {
        if !matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308) {
            return Ok(None);
        }
        let Some(location) = headers.get(LOCATION) else {
            return Ok(None);
        };
        let place = location.to_str().ok().and_then(|location| self.url.join(location).ok());
        let mut url = place.ok_or_else(|| refused("the redirect leads to no valid url"))?;
        request::check_url(&url).map_err(|problem| refused(&format!("redirected: {problem}")))?;
        if self.url.scheme() == "https" && url.scheme() != "https" {
            return Err(refused("the redirect leads from https to http"));
        }
        url.set_fragment(None);
        let mut next = Self { url, ..self.clone() };
        let becomes_get = match status.as_u16() {
            303 => next.method != Method::HEAD,
            // What browsers do, and what RFC 9110 allows for POST.
            301 | 302 => next.method == Method::POST,
            _ => false,
        };
        if becomes_get {
            next.method = Method::GET;
            next.body = Bytes::new();
            for name in [CONTENT_TYPE, CONTENT_ENCODING, CONTENT_LANGUAGE] {
                next.headers.remove(name);
            }
        }
        if next.url.origin() != self.url.origin() {
            let kept = std::mem::take(&mut next.headers);
            next.headers =
                HARMLESS.iter().filter_map(|name| Some((name.clone(), kept.get(name)?.clone()))).collect();
        }
        Ok(Some(next))
    }
}

/// A redirect that is not followed for good.
pub fn refused(message: &str) -> CallError {
    CallError { class: Class::Redirect, message: message.to_owned(), hopeless: true }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hop(method: Method, url: &str) -> Hop {
        let headers = [
            ("authorization", "Bearer secret"),
            ("x-api-key", "secret"),
            ("idempotency-key", "run/node"),
            ("content-type", "application/json"),
            ("accept", "*/*"),
        ];
        let headers = headers.map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
        Hop { method, url: url.parse().unwrap(), headers: headers.into_iter().collect(), body: "{}".into() }
    }

    fn after(hop: &Hop, status: u16, location: &str) -> Result<Option<Hop>, String> {
        let headers = [(LOCATION, location.parse().unwrap())].into_iter().collect();
        hop.after(StatusCode::from_u16(status).unwrap(), &headers).map_err(|error| error.message)
    }

    #[test]
    fn methods_and_bodies() {
        let post = hop(Method::POST, "https://a.example/x/y?z");
        for (status, method, body) in
            [(301, "GET", ""), (302, "GET", ""), (303, "GET", ""), (307, "POST", "{}"), (308, "POST", "{}")]
        {
            let next = after(&post, status, "../q#f").unwrap().unwrap();
            assert_eq!((next.method.as_str(), &*next.body), (method, body.as_bytes()), "{status}");
            assert_eq!(next.url.as_str(), "https://a.example/q");
            assert_eq!(next.headers["x-api-key"], "secret");
            assert_eq!(next.headers.contains_key("content-type"), method == "POST");
        }
        assert_eq!(after(&hop(Method::PUT, "http://a/"), 302, "/b").unwrap().unwrap().method, Method::PUT);
        assert_eq!(after(&hop(Method::HEAD, "http://a/"), 303, "/b").unwrap().unwrap().method, Method::HEAD);
        for status in [200, 300, 304, 305, 404] {
            assert!(after(&post, status, "/b").unwrap().is_none(), "{status}");
        }
        assert!(post.after(StatusCode::FOUND, &HeaderMap::new()).unwrap().is_none());
    }

    #[test]
    fn credentials_stay_with_their_origin() {
        let post = hop(Method::POST, "https://a.example/");
        for location in ["https://b.example/", "https://a.example:444/", "//a.example.evil/"] {
            let next = after(&post, 307, location).unwrap().unwrap();
            let mut names: Vec<_> = next.headers.keys().map(HeaderName::as_str).collect();
            names.sort_unstable();
            assert_eq!(names, ["accept", "content-type"], "{location}");
        }
    }

    #[test]
    fn what_is_not_followed() {
        let post = hop(Method::POST, "https://a.example/");
        for location in
            ["http://a.example/", "ftp://a.example/", "https://u:secret@a.example/", "https://", "file:///x"]
        {
            let error = after(&post, 302, location).unwrap_err();
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
