//! The forms a request's body comes in.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::HeaderValue;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::request::scalars;

/// No larger body is sent, and none kept.
pub const MAX_BYTES: usize = 16 << 20;

/// One part of a `multipart/form-data` body.
#[derive(Deserialize)]
pub struct Part {
    name: String,
    value: Option<Value>,
    base64: Option<String>,
    blob: Option<Reference>,
    filename: Option<String>,
    content_type: Option<String>,
}

/// A reference to a blob: bytes that the database keeps.
#[derive(Deserialize)]
pub struct Reference {
    sha256: String,
    content_type: Option<String>,
}

/// Bytes of blobs by their SHA-256.
pub type Blobs = BTreeMap<String, Bytes>;

/// A body and its content type where the definition names none.
#[derive(Debug, Default)]
pub struct Encoded {
    /// What is sent.
    pub bytes: Bytes,
    /// What it is.
    pub content_type: Option<HeaderValue>,
}

/// What a payload says of the body: one of these, or nothing.
#[derive(Default)]
pub struct Given {
    /// A string is sent as it is, anything else as JSON.
    pub body: Option<Box<RawValue>>,
    /// `application/x-www-form-urlencoded`.
    pub form: Option<Map<String, Value>>,
    /// `multipart/form-data`, in this order.
    pub multipart: Option<Vec<Part>>,
    /// Bytes, as base64.
    pub body_base64: Option<String>,
    /// Bytes, as the database keeps them.
    pub body_blob: Option<Reference>,
}

/// Tells nothing of what may be secret.
impl fmt::Debug for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Given(…)")
    }
}

impl Given {
    /// The SHA-256 of every blob that it refers to.
    pub fn blobs(&self) -> BTreeSet<&str> {
        let parts = self.multipart.iter().flatten().filter_map(|part| part.blob.as_ref());
        self.body_blob.iter().chain(parts).map(|reference| reference.sha256.as_str()).collect()
    }

    /// The bytes to send. The error text quotes no values, which may be secret.
    ///
    /// # Errors
    /// When it cannot be sent: several forms at once, no base64, a blob that is not among `blobs`, too large.
    pub fn encode(&self, blobs: &Blobs) -> Result<Encoded, String> {
        let forms = [
            self.body.as_deref().map(raw),
            self.form.as_ref().map(form),
            self.multipart.as_ref().map(|parts| multipart(parts, blobs)),
            self.body_base64.as_deref().map(bytes),
            self.body_blob.as_ref().map(|reference| kept(reference, blobs)),
        ];
        let mut given = forms.into_iter().flatten();
        let encoded = given.next().unwrap_or_else(|| Ok(Encoded::default()))?;
        if given.next().is_some() {
            return Err(
                "the body is given in several forms: body, form, multipart, body_base64 or body_blob"
                    .to_owned(),
            );
        }
        if encoded.bytes.len() > MAX_BYTES {
            return Err(too_large());
        }
        Ok(encoded)
    }
}

/// What is wrong with a body of more than [`MAX_BYTES`].
pub fn too_large() -> String {
    format!("the body is larger than {MAX_BYTES} bytes")
}

fn raw(given: &RawValue) -> Result<Encoded, String> {
    if !given.get().starts_with('"') {
        // As the database wrote it: whatever its depth and its numbers.
        return Ok(encoded(given.get().to_owned(), "application/json"));
    }
    let text: String = serde_json::from_str(given.get())
        .map_err(|error| format!("the body is not a valid string: {error}"))?;
    Ok(encoded(text, "text/plain; charset=utf-8"))
}

fn form(fields: &Map<String, Value>) -> Result<Encoded, String> {
    let mut pairs = url::form_urlencoded::Serializer::new(String::new());
    for (name, value) in fields {
        let values = scalars(value).ok_or_else(|| format!("form field {name:?} must not be an object"))?;
        pairs.extend_pairs(values.iter().map(|value| (name, value)));
    }
    Ok(encoded(pairs.finish(), "application/x-www-form-urlencoded"))
}

fn bytes(text: &str) -> Result<Encoded, String> {
    Ok(encoded(from_base64(text, "body_base64")?, "application/octet-stream"))
}

fn kept(reference: &Reference, blobs: &Blobs) -> Result<Encoded, String> {
    let content_type = reference.content_type.as_deref().unwrap_or("application/octet-stream");
    let content_type = HeaderValue::from_str(content_type)
        .map_err(|_| "the content type of the blob holds a character it cannot")?;
    Ok(Encoded { bytes: reference.among(blobs)?, content_type: Some(content_type) })
}

fn encoded(bytes: impl Into<Vec<u8>>, content_type: &'static str) -> Encoded {
    let content_type = Some(HeaderValue::from_static(content_type));
    Encoded { bytes: Bytes::from(bytes.into()), content_type }
}

fn from_base64(text: &str, what: &str) -> Result<Vec<u8>, String> {
    STANDARD.decode(text.trim()).map_err(|_| format!("{what} is not base64"))
}

/// RFC 7578, with the escapes of the WHATWG's forms.
fn multipart(parts: &[Part], blobs: &Blobs) -> Result<Encoded, String> {
    let mut contents = Vec::with_capacity(parts.len());
    for part in parts {
        contents.push((part.head()?, part.content(blobs)?));
    }
    // Before they are copied: a hundred parts may refer to the same large blob.
    if contents.iter().map(|(head, content)| head.len() + content.len()).sum::<usize>() > MAX_BYTES {
        return Err(too_large());
    }
    // What the parts say decides the boundary: every attempt sends the same bytes, and nobody can write it into a part.
    let mut digest = Sha256::new();
    for text in contents.iter().flat_map(|(head, content)| [head.as_bytes(), content]) {
        digest.update(text.len().to_le_bytes());
        digest.update(text);
    }
    let boundary = format!("meshhook-{}", hex::encode(digest.finalize()));
    let mut out = Vec::new();
    for (head, content) in &contents {
        out.extend_from_slice(format!("--{boundary}\r\n{head}\r\n").as_bytes());
        out.extend_from_slice(content);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
    let content_type = HeaderValue::from_str(&format!("multipart/form-data; boundary={boundary}"));
    Ok(Encoded { bytes: Bytes::from(out), content_type: content_type.ok() })
}

impl Reference {
    fn among(&self, blobs: &Blobs) -> Result<Bytes, String> {
        blobs
            .get(&self.sha256)
            .cloned()
            .ok_or_else(|| "a blob that the body refers to is not at hand".to_owned())
    }
}

impl Part {
    fn head(&self) -> Result<String, String> {
        let escaped = |text: &str| text.replace('"', "%22").replace('\r', "%0D").replace('\n', "%0A");
        let mut head = format!("Content-Disposition: form-data; name=\"{}\"", escaped(&self.name));
        if let Some(filename) = &self.filename {
            head.push_str(&format!("; filename=\"{}\"", escaped(filename)));
        }
        head.push_str("\r\n");
        let kept = self.blob.as_ref().and_then(|blob| blob.content_type.as_deref());
        let default = self.filename.as_ref().map(|_| "application/octet-stream");
        if let Some(content_type) = self.content_type.as_deref().or(kept).or(default) {
            if HeaderValue::from_str(content_type).is_err() {
                return Err(format!("the content type of part {:?} holds a character it cannot", self.name));
            }
            head.push_str(&format!("Content-Type: {content_type}\r\n"));
        }
        Ok(head)
    }

    fn content(&self, blobs: &Blobs) -> Result<Bytes, String> {
        match (&self.value, &self.base64, &self.blob) {
            (None, Some(text), None) => {
                from_base64(text, &format!("base64 of part {:?}", self.name)).map(Bytes::from)
            }
            (None, None, Some(blob)) => blob.among(blobs),
            (Some(Value::String(text)), None, None) => Ok(Bytes::from(text.clone())),
            (Some(value), None, None) => Ok(Bytes::from(value.to_string())),
            (None, None, None) => Ok(Bytes::new()),
            _ => Err(format!("part {:?} has more than one of value, base64 and blob", self.name)),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn encode(given: Value) -> Result<(String, String), String> {
        let own = |member: &str| given.get(member).cloned();
        let given = Given {
            body: own("body").map(|body| serde_json::value::to_raw_value(&body).unwrap()),
            form: own("form").map(|form| serde_json::from_value(form).unwrap()),
            multipart: own("multipart").map(|parts| serde_json::from_value(parts).unwrap()),
            body_base64: own("body_base64").map(|text| serde_json::from_value(text).unwrap()),
            body_blob: own("body_blob").map(|blob| serde_json::from_value(blob).unwrap()),
        };
        let wanted = given.blobs().into_iter().filter(|sha256| *sha256 != "gone");
        let blobs = wanted.map(|sha256| (sha256.to_owned(), Bytes::from(format!("<{sha256}>")))).collect();
        given.encode(&blobs).map(|encoded| {
            let content_type = encoded.content_type.map(|value| value.to_str().unwrap().to_owned());
            (String::from_utf8(encoded.bytes.to_vec()).unwrap(), content_type.unwrap_or_default())
        })
    }

    #[test]
    fn every_form() {
        let ok = |given, body: &str, content_type: &str| {
            assert_eq!(encode(given), Ok((body.to_owned(), content_type.to_owned())));
        };
        ok(json!({}), "", "");
        ok(json!({"body": "hé"}), "hé", "text/plain; charset=utf-8");
        ok(json!({"body": {"a": [1, null]}}), r#"{"a":[1,null]}"#, "application/json");
        ok(json!({"body": null}), "null", "application/json");
        ok(
            json!({"form": {"a": "x y&z", "b": 2, "c": ["1", true], "d": null}}),
            "a=x+y%26z&b=2&c=1&c=true",
            "application/x-www-form-urlencoded",
        );
        ok(json!({"body_base64": "aGk="}), "hi", "application/octet-stream");
        ok(json!({"body_blob": {"sha256": "ab", "size": 4}}), "<ab>", "application/octet-stream");
        ok(json!({"body_blob": {"sha256": "ab", "content_type": "text/csv"}}), "<ab>", "text/csv");
    }

    #[test]
    fn multipart_parts_keep_to_themselves() {
        let given = json!({"multipart": [
            {"name": "a\"\r\nX: y", "value": "1"},
            {"name": "n", "value": {"deep": [1]}, "content_type": "application/json"},
            {"name": "file", "filename": "q\".txt", "base64": "aGk="},
            {"name": "kept", "blob": {"sha256": "ab", "content_type": "text/csv"}}]});
        let (body, content_type) = encode(given.clone()).unwrap();
        let boundary = content_type.strip_prefix("multipart/form-data; boundary=").unwrap();
        assert_eq!(
            body,
            format!(
                "--{boundary}\r\nContent-Disposition: form-data; name=\"a%22%0D%0AX: y\"\r\n\r\n1\r\n\
                 --{boundary}\r\nContent-Disposition: form-data; name=\"n\"\r\nContent-Type: application/json\r\n\r\n\
                 {{\"deep\":[1]}}\r\n\
                 --{boundary}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"q%22.txt\"\r\n\
                 Content-Type: application/octet-stream\r\n\r\nhi\r\n\
                 --{boundary}\r\nContent-Disposition: form-data; name=\"kept\"\r\nContent-Type: text/csv\r\n\r\n\
                 <ab>\r\n--{boundary}--\r\n"
            )
        );
        assert_eq!(encode(given).unwrap(), (body, content_type));
    }

    #[test]
    fn what_cannot_be_sent() {
        for given in [
            json!({"body": 1, "form": {}}),
            json!({"body_base64": "secret!"}),
            json!({"form": {"a": {"secret": 1}}}),
            json!({"multipart": [{"name": "a", "base64": "secret!"}]}),
            json!({"multipart": [{"name": "a", "value": "secret", "base64": ""}]}),
            json!({"multipart": [{"name": "a", "value": "secret", "blob": {"sha256": "ab"}}]}),
            json!({"body_blob": {"sha256": "gone"}}),
            json!({"body_blob": {"sha256": "ab", "content_type": "secret\r\nX: y"}}),
            json!({"body_blob": {"sha256": "ab"}, "body": "secret"}),
            json!({"multipart": [{"name": "a", "value": "x", "content_type": "secret\r\nX: y"}]}),
        ] {
            let error = encode(given).unwrap_err();
            assert!(!error.contains("secret"), "{error}");
        }
        let half = json!({"name": "a", "value": "x".repeat(MAX_BYTES / 2)});
        assert!(encode(json!({"multipart": [half, half]})).unwrap_err().contains("larger"));
        let large = encode(json!({"body_base64": STANDARD.encode(vec![0; MAX_BYTES + 1])}));
        assert!(large.unwrap_err().contains("larger"));
    }
}
