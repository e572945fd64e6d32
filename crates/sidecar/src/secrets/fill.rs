//! Puts secrets into a request.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;
use zeroize::Zeroizing;

use super::ring::Ring;

/// The secrets a call sends, by name.
pub type Opened = BTreeMap<String, Zeroizing<String>>;

/// A string of the payload that needs some.
#[derive(Deserialize)]
struct Place {
    /// JSON pointer into the payload.
    at: String,
    parts: Vec<Part>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Part {
    Text(String),
    Secret { secret: String },
}

/// The payload with its secrets in it, and the secrets. `sealed` holds them by name, as JSON text.
///
/// # Errors
/// When one is missing or cannot be opened; the text names it and quotes nothing.
pub fn fill(
    ring: &Ring,
    project: &str,
    payload: &str,
    sealed: Option<&str>,
) -> Result<(Zeroizing<String>, Opened), String> {
    let mut payload: Value = serde_json::from_str(payload)
        .map_err(|error| format!("the payload is not that of an http job: {error}"))?;
    let wanted = payload.as_object_mut().and_then(|payload| payload.remove("secrets")).unwrap_or_default();
    let places: Vec<Place> =
        serde_json::from_value(wanted).map_err(|_| "the payload's secrets cannot be read")?;
    let sealed: BTreeMap<String, String> = sealed
        .map_or(Ok(BTreeMap::new()), serde_json::from_str)
        .map_err(|_| "the sealed secrets cannot be read")?;
    let mut opened = Opened::new();
    for place in places {
        let mut text = String::new();
        for part in place.parts {
            match part {
                Part::Text(part) => text.push_str(&part),
                Part::Secret { secret } => {
                    let sealed =
                        sealed.get(&secret).ok_or_else(|| format!("there is no secret {secret:?}"))?;
                    let value = ring
                        .open(project, &secret, sealed)
                        .map_err(|problem| format!("secret {secret:?} cannot be opened: {problem}"))?;
                    text.push_str(&value);
                    opened.insert(secret, value);
                }
            }
        }
        let target = payload.pointer_mut(&place.at).ok_or("a secret has no place in the payload")?;
        *target = Value::String(text);
    }
    Ok((Zeroizing::new(payload.to_string()), opened))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::ring::tests::ring;
    use super::*;

    #[test]
    fn secrets_get_into_their_places() {
        let ring = ring(&["k"]);
        let sealed =
            json!({"a": ring.seal("p", "a", "al\"pha").unwrap(), "b": ring.seal("p", "b", "beta").unwrap()});
        let payload = json!({
            "url": null, "headers": {"authorization": null, "x/y": "1"}, "body": {"list": [1, null]},
            "secrets": [
                {"at": "/url", "parts": [{"secret": "b"}, "/charge"]},
                {"at": "/headers/authorization", "parts": ["Bearer ", {"secret": "a"}]},
                {"at": "/body/list/1", "parts": [{"secret": "a"}, {"secret": "b"}]}]});
        let filled = fill(&ring, "p", &payload.to_string(), Some(&sealed.to_string()));
        let (filled, opened) = filled.unwrap();
        assert_eq!(
            serde_json::from_str::<Value>(&filled).unwrap(),
            json!({"url": "beta/charge", "headers": {"authorization": "Bearer al\"pha", "x/y": "1"},
                   "body": {"list": [1, "al\"phabeta"]}})
        );
        assert_eq!(opened.keys().collect::<Vec<_>>(), ["a", "b"]);
    }

    #[test]
    fn what_is_missing_is_named_and_not_quoted() {
        let ring = ring(&["k"]);
        let payload =
            json!({"url": null, "secrets": [{"at": "/url", "parts": [{"secret": "api"}]}]}).to_string();
        let told = |sealed: Option<String>| fill(&ring, "p", &payload, sealed.as_deref()).unwrap_err();
        assert_eq!(told(None), "there is no secret \"api\"");
        let moved = json!({"api": ring.seal("other", "api", "hunter2").unwrap()}).to_string();
        assert!(told(Some(moved)).starts_with("secret \"api\" cannot be opened: it was sealed for another"));
        let clear = told(Some(json!({"api": "hunter2"}).to_string()));
        assert!(clear.contains("no sealed value") && !clear.contains("hunter2"));
    }
}
