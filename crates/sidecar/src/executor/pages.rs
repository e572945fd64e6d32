//! A list that comes page by page: `pages` of an `http` node.

use http::HeaderMap;
use http::header::LINK;
use serde::Deserialize;
use serde_json::{Value, json};
use url::Url;

use super::http::{CallError, Class};
use super::redirect::Hop;

/// `pages` as the payload has it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pages {
    by: By,
    #[serde(default)]
    at: String,
    query: Option<String>,
    #[serde(default = "one")]
    first: u64,
    #[serde(default)]
    items: String,
    limit: u64,
    #[serde(default)]
    partial: bool,
}

fn one() -> u64 {
    1
}

/// Where the next page is told of.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum By {
    /// The `Link` header (RFC 8288), relation `next`.
    Link,
    /// A URL in the body.
    Url,
    /// A cursor in the body.
    Cursor,
    /// Nowhere: pages have numbers, and one without items is the last.
    Page,
}

/// What has come so far.
pub struct Walk {
    pages: Pages,
    items: Vec<Value>,
    count: u64,
}

/// What to do after a page.
pub enum Step {
    /// This comes next.
    Next(Url),
    /// The list is complete, or as long as it may get.
    Done {
        /// Whether there is more.
        more: bool,
    },
}

impl Walk {
    /// Begins with the page that `hop` asks for.
    pub fn new(pages: Pages, hop: &mut Hop) -> Self {
        if pages.by == By::Page {
            set_query(&mut hop.url, pages.parameter(), &pages.first.to_string());
        }
        Self { pages, items: Vec::new(), count: 0 }
    }

    /// The number of the page that is asked for next, from 1.
    pub fn page(&self) -> u64 {
        self.count + 1
    }

    /// Takes in a page, that may lead on to `next`.
    ///
    /// # Errors
    /// When it is none, leads astray, or is one too many.
    pub fn take(&mut self, hop: &Hop, next: Option<Url>, page: &mut Value) -> Result<Step, CallError> {
        self.count += 1;
        let items = page.pointer_mut(&self.pages.items).map(Value::take);
        let Some(Value::Array(mut items)) = items else {
            let place = if self.pages.items.is_empty() { "its root" } else { &self.pages.items };
            return Err(wrong(&format!("page {} has no list at {place}", self.count)));
        };
        let next = next.filter(|_| self.pages.by != By::Page || !items.is_empty());
        self.items.append(&mut items);
        match next {
            None => Ok(Step::Done { more: false }),
            Some(_) if self.count >= self.pages.limit && self.pages.partial => Ok(Step::Done { more: true }),
            Some(_) if self.count >= self.pages.limit => {
                Err(wrong(&format!("the list has more than {} pages", self.pages.limit)))
            }
            Some(url) if url.origin() != hop.url.origin() => {
                Err(wrong(&format!("page {} leads to another server", self.count)))
            }
            Some(url) if url == hop.url => Err(wrong(&format!("page {} leads to itself", self.count))),
            Some(url) => Ok(Step::Next(url)),
        }
    }

    /// Makes the output of the last page that of the list: with the items of all.
    pub fn finish(self, output: &mut Value, more: bool) {
        output["body"] = Value::Array(self.items);
        output["pages"] = json!(self.count);
        if more {
            output["more"] = json!(true);
        }
    }

    /// Where a page leads on to, with whatever secrets that has in it.
    ///
    /// # Errors
    /// When what should lead on is no URL, or no text.
    pub fn next(&self, hop: &Hop, headers: &HeaderMap, page: &Value) -> Result<Option<Url>, CallError> {
        let told = page.pointer(&self.pages.at).filter(|_| !self.pages.at.is_empty());
        let told = match told {
            None | Some(Value::Null | Value::Bool(false)) => None,
            Some(Value::String(text)) if text.is_empty() => None,
            Some(Value::String(text)) => Some(text.clone()),
            Some(Value::Number(number)) if self.pages.by == By::Cursor => Some(number.to_string()),
            Some(_) => {
                let problem =
                    format!("page {}: what leads on, at {}, is no text", self.page(), self.pages.at);
                return Err(wrong(&problem));
            }
        };
        let target = match self.pages.by {
            By::Link => next_link(headers),
            By::Url => told,
            By::Cursor | By::Page => {
                let value = if self.pages.by == By::Page {
                    Some((self.pages.first + self.page()).to_string())
                } else {
                    told
                };
                return Ok(value.map(|value| {
                    let mut url = hop.url.clone();
                    set_query(&mut url, self.pages.parameter(), &value);
                    url
                }));
            }
        };
        let Some(target) = target else { return Ok(None) };
        let mut url = hop
            .url
            .join(&target)
            .map_err(|_| wrong(&format!("page {} leads to no valid url", self.page())))?;
        url.set_fragment(None);
        Ok(Some(url))
    }
}

impl Pages {
    fn parameter(&self) -> &str {
        let default = if self.by == By::Page { "page" } else { "cursor" };
        self.query.as_deref().unwrap_or(default)
    }
}

fn wrong(message: &str) -> CallError {
    CallError { class: Class::Pages, message: message.to_owned(), hopeless: true }
}

/// Puts a parameter into a query, in place of one of its name.
fn set_query(url: &mut Url, name: &str, value: &str) {
    let others = url.query_pairs().filter(|(other, _)| other != name);
    let others: Vec<_> = others.map(|(name, value)| (name.into_owned(), value.into_owned())).collect();
    url.query_pairs_mut().clear().extend_pairs(others).append_pair(name, value);
}

/// The target of the first link whose relations hold `next`.
fn next_link(headers: &HeaderMap) -> Option<String> {
    let values = headers.get_all(LINK).iter().filter_map(|value| value.to_str().ok());
    values
        .flat_map(links)
        .find(|(_, relations)| {
            relations.split_ascii_whitespace().any(|relation| relation.eq_ignore_ascii_case("next"))
        })
        .map(|(target, _)| target)
}

/// Each link of a header with its relations: `<target>; rel="a b"; title="x, y", …`.
fn links(value: &str) -> Vec<(String, String)> {
    let mut links = Vec::new();
    let mut rest = value;
    while let Some((_, after)) = rest.split_once('<') {
        let Some((target, after)) = after.split_once('>') else { break };
        let (relations, after) = parameters(after);
        links.push((target.to_owned(), relations));
        rest = after;
    }
    links
}

/// The `rel` among a link's parameters, and what follows them.
fn parameters(text: &str) -> (String, &str) {
    let (mut relations, mut rest) = (String::new(), text);
    loop {
        rest = rest.trim_start();
        let Some(after) = rest.strip_prefix(';') else { return (relations, rest) };
        let end = after.find(['=', ';', ',']).unwrap_or(after.len());
        let name = after[..end].trim();
        let Some(value) = after[end..].strip_prefix('=') else {
            rest = &after[end..];
            continue;
        };
        let value = value.trim_start();
        let (value, after) = match value.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
            None => value.split_at(value.find([';', ',']).unwrap_or(value.len())),
        };
        // RFC 8288: only the first counts.
        if name.eq_ignore_ascii_case("rel") && relations.is_empty() {
            relations = value.trim().to_owned();
        }
        rest = after;
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::{HeaderValue, Method};

    use super::*;

    fn hop(url: &str) -> Hop {
        let url = Url::parse(url).unwrap();
        Hop { method: Method::GET, url, headers: HeaderMap::new(), body: Bytes::new() }
    }

    fn walk(pages: Value, url: &str) -> (Walk, Hop) {
        let mut hop = hop(url);
        let mut pages = pages;
        if pages.get("limit").is_none() {
            pages["limit"] = json!(3);
        }
        (Walk::new(serde_json::from_value(pages).unwrap(), &mut hop), hop)
    }

    fn take(walk: &mut Walk, hop: &Hop, headers: &HeaderMap, page: &mut Value) -> Result<Step, CallError> {
        let next = walk.next(hop, headers, page)?;
        walk.take(hop, next, page)
    }

    fn finish(walk: Walk, mut output: Value, more: bool) -> Value {
        walk.finish(&mut output, more);
        output
    }

    fn next(step: Result<Step, CallError>) -> Hop {
        match step.map_err(|error| error.message) {
            Ok(Step::Next(url)) => hop(url.as_str()),
            Ok(Step::Done { more }) => panic!("done, more: {more}"),
            Err(message) => panic!("{message}"),
        }
    }

    fn problem(step: Result<Step, CallError>) -> String {
        step.map(|_| ()).unwrap_err().message
    }

    #[test]
    fn by_link() {
        let (mut walk, hop) = walk(json!({"by": "link"}), "https://h/list?n=2");
        let mut headers = HeaderMap::new();
        let link = r#"</list?p=0>; rel="prev"; title="a, <b>; rel=next", <?p=2>; x; rel="last next""#;
        headers.insert(LINK, HeaderValue::from_static(link));
        let hop = next(take(&mut walk, &hop, &headers, &mut json!([1, 2])));
        assert_eq!(hop.url.as_str(), "https://h/list?p=2");
        let done = take(&mut walk, &hop, &HeaderMap::new(), &mut json!([3]));
        assert!(matches!(done, Ok(Step::Done { more: false })));
        assert_eq!(
            finish(walk, json!({"status": 200}), false),
            json!({"status": 200, "body": [1, 2, 3], "pages": 2})
        );
    }

    #[test]
    fn by_url_in_the_body() {
        let pages = json!({"by": "url", "at": "/links/next", "items": "/data"});
        let (mut walk, hop) = walk(pages, "https://h/list");
        let mut page = json!({"data": [1], "links": {"next": "/list?after=1#x"}});
        let hop = next(take(&mut walk, &hop, &HeaderMap::new(), &mut page));
        assert_eq!(hop.url.as_str(), "https://h/list?after=1");
        for last in [
            json!({"data": []}),
            json!({"data": [], "links": {"next": null}}),
            json!({"data": [], "links": {"next": ""}}),
        ] {
            let done = take(&mut walk, &hop, &HeaderMap::new(), &mut last.clone());
            assert!(matches!(done, Ok(Step::Done { more: false })), "{last}");
        }
    }

    #[test]
    fn by_cursor_and_by_number() {
        let (mut by_cursor, hop) = walk(
            json!({"by": "cursor", "at": "/next", "items": "/data", "query": "after"}),
            "https://h/?after=0&n=2",
        );
        let hop = next(take(&mut by_cursor, &hop, &HeaderMap::new(), &mut json!({"data": [1], "next": 17})));
        assert_eq!(hop.url.as_str(), "https://h/?n=2&after=17");
        let (mut numbered, hop) = walk(json!({"by": "page", "first": 0}), "https://h/?n=2");
        assert_eq!(hop.url.as_str(), "https://h/?n=2&page=0");
        let hop = next(take(&mut numbered, &hop, &HeaderMap::new(), &mut json!([1])));
        assert_eq!(hop.url.as_str(), "https://h/?n=2&page=1");
        let done = take(&mut numbered, &hop, &HeaderMap::new(), &mut json!([]));
        assert!(matches!(done, Ok(Step::Done { more: false })));
    }

    #[test]
    fn a_list_that_is_too_long_never_looks_complete() {
        let headers = HeaderMap::new();
        let (mut strict, hop) = walk(json!({"by": "page", "limit": 1}), "https://h/");
        assert_eq!(
            problem(take(&mut strict, &hop, &headers, &mut json!([1]))),
            "the list has more than 1 pages"
        );
        let (mut partial, hop) = walk(json!({"by": "page", "limit": 1, "partial": true}), "https://h/");
        assert!(matches!(take(&mut partial, &hop, &headers, &mut json!([1])), Ok(Step::Done { more: true })));
        assert_eq!(finish(partial, json!({}), true), json!({"body": [1], "pages": 1, "more": true}));
    }

    #[test]
    fn pages_that_lead_astray() {
        let to = |target: Value| {
            let (mut walk, hop) = walk(json!({"by": "url", "at": "/next", "items": "/d"}), "https://h/list");
            problem(take(&mut walk, &hop, &HeaderMap::new(), &mut json!({"d": [], "next": target})))
        };
        assert_eq!(to(json!("https://evil.example/")), "page 1 leads to another server");
        assert_eq!(to(json!("http://h/list")), "page 1 leads to another server");
        assert_eq!(to(json!("/list#again")), "page 1 leads to itself");
        assert_eq!(to(json!("https://")), "page 1 leads to no valid url");
        assert_eq!(to(json!({"a": 1})), "page 1: what leads on, at /next, is no text");
        let (mut walk, hop) = walk(json!({"by": "link", "items": "/data"}), "https://h/");
        assert_eq!(
            problem(take(&mut walk, &hop, &HeaderMap::new(), &mut json!([1]))),
            "page 1 has no list at /data"
        );
    }
}
