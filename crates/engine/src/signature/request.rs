//! A request as the verifier sees it, and what of it is signed.

use std::collections::BTreeSet;

use sha2::{Digest, Sha256};

use super::headers::Headers;
use super::preset::{Part, Preset};

/// Most pairs of a form that are looked at.
const MAX_PAIRS: usize = 2_000;

/// One request.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a, H: Headers + ?Sized> {
    /// Its headers.
    pub headers: &'a H,
    /// The address the sender was given, as configured and never as the request says, with the query the request came
    /// with.
    pub url: &'a str,
    /// The raw bytes received.
    pub body: &'a [u8],
}

impl<H: Headers + ?Sized> Request<'_, H> {
    /// The value at one place of a [`HeaderSet`](super::HeaderSet): of a header, or of a parameter of the query.
    pub(super) fn value(&self, name: &str) -> Option<String> {
        match name.strip_prefix('?') {
            None => self.headers.get(name).map(str::to_owned),
            Some(parameter) => self.parameter(parameter),
        }
    }

    /// A parameter of the query, if exactly one of the name is there.
    fn parameter(&self, name: &str) -> Option<String> {
        let (_, query) = self.url.split_once('?')?;
        let mut values = form_urlencoded::parse(query.as_bytes()).filter(|(key, _)| key == name);
        match (values.next(), values.next()) {
            (Some((_, value)), None) => Some(value.into_owned()),
            _ => None,
        }
    }

    fn is_form(&self) -> bool {
        let media = self.headers.get("content-type").and_then(|value| value.split(';').next());
        media.is_some_and(|media| media.trim().eq_ignore_ascii_case("application/x-www-form-urlencoded"))
    }

    /// The pairs of a form, sorted by name, each once, one after the other; of anything else nothing. Where the address
    /// has the body's digest that must be right, whatever the headers say the body is: they are not signed. None where
    /// it is not, and where there is neither a form nor a digest.
    fn form(&self) -> Option<Vec<u8>> {
        let named = self.parameter("bodySHA256");
        if let Some(named) = &named
            && !named.eq_ignore_ascii_case(&hex::encode(Sha256::digest(self.body)))
        {
            return None;
        }
        if !self.is_form() {
            return named.map(|_| Vec::new());
        }
        let pairs: BTreeSet<_> = form_urlencoded::parse(self.body).take(MAX_PAIRS + 1).collect();
        (pairs.len() <= MAX_PAIRS).then(|| {
            pairs.iter().flat_map(|(name, value)| [name.as_bytes(), value.as_bytes()].concat()).collect()
        })
    }

    /// What a sender may have signed: of all that it may have, each as its parts in order. None where it cannot have
    /// signed anything.
    pub(super) fn contents(&self, preset: &Preset, id: &str, timestamp: &str) -> Vec<Vec<u8>> {
        let form = if preset.signed.contains(&Part::Form) { self.form() } else { Some(Vec::new()) };
        let Some(form) = form else { return Vec::new() };
        let urls = if preset.any_port { with_and_without_port(self.url) } else { vec![self.url.to_owned()] };
        let content = |url: &String| {
            let part = |part: &Part| match part {
                Part::Id => id.as_bytes().to_vec(),
                Part::Timestamp => timestamp.as_bytes().to_vec(),
                Part::Body => self.body.to_vec(),
                Part::Url => url.as_bytes().to_vec(),
                Part::Form => form.clone(),
                Part::Literal(text) => text.as_bytes().to_vec(),
            };
            preset.signed.iter().flat_map(part).collect()
        };
        urls.iter().map(content).collect()
    }
}

/// An address as it is, and with its port left out, or the usual one put in.
fn with_and_without_port(url: &str) -> Vec<String> {
    let mut urls = vec![url.to_owned()];
    let Some((scheme, rest)) = url.split_once("://") else { return urls };
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let usual = if scheme == "http" { 80 } else { 443 };
    urls.push(match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => format!("{scheme}://{host}{path}"),
        _ => format!("{scheme}://{authority}:{usual}{path}"),
    });
    urls
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_comes_and_goes() {
        let both = |url: &str| with_and_without_port(url).pop().unwrap();
        assert_eq!(both("https://a.example/hooks/1?x=y:1"), "https://a.example:443/hooks/1?x=y:1");
        assert_eq!(both("https://a.example:8443/hooks"), "https://a.example/hooks");
        assert_eq!(both("http://[::1]:8080?x"), "http://[::1]?x");
        assert_eq!(both("http://[::1]/"), "http://[::1]:80/");
        assert_eq!(with_and_without_port("nonsense"), ["nonsense"]);
    }
}
