//! The forms a request's body comes in.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::HeaderValue;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::request::scalars;

/// No larger body is sent.
const MAX_BYTES: usize = 16 << 20;

/// One part of a `multipart/form-data` body.
#[derive(Deserialize)]
pub struct Part {
    name: String,
    value: Option<Value>,
    base64: Option<String>,
    filename: Option<String>,
    content_type: Option<String>,
}

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
pub struct Given<'a> {
    /// A string is sent as it is, anything else as JSON.
    pub body: Option<&'a RawValue>,
    /// `application/x-www-form-urlencoded`.
    pub form: Option<&'a Map<String, Value>>,
    /// `multipart/form-data`, in this order.
    pub multipart: Option<&'a [Part]>,
    /// Bytes, as base64.
    pub body_base64: Option<&'a str>,
}

impl Given<'_> {
    /// The bytes to send. The error text quotes no values, which may be secret.
    ///
    /// # Errors
    /// When it cannot be sent: several forms at once, no base64, too large.
    pub fn encode(&self) -> Result<Encoded, String> {
        let forms = [
            self.body.map(raw),
            self.form.map(form),
            self.multipart.map(multipart),
            self.body_base64.map(bytes),
        ];
        let mut given = forms.into_iter().flatten();
        let encoded = given.next().unwrap_or_else(|| Ok(Encoded::default()))?;
        if given.next().is_some() {
            return Err("the body is given in several forms: body, form, multipart or body_base64".to_owned());
        }
        if encoded.bytes.len() > MAX_BYTES {
            return Err(format!("the body is larger than {MAX_BYTES} bytes"));
        }
        Ok(encoded)
    }
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

fn encoded(bytes: impl Into<Vec<u8>>, content_type: &'static str) -> Encoded {
    let content_type = Some(HeaderValue::from_static(content_type));
    Encoded { bytes: Bytes::from(bytes.into()), content_type }
}

fn from_base64(text: &str, what: &str) -> Result<Vec<u8>, String> {
    STANDARD.decode(text.trim()).map_err(|_| format!("{what} is not base64"))
}

/// RFC 7578, with the escapes of the WHATWG's forms.
fn multipart(parts: &[Part]) -> Result<Encoded, String> {
    let mut contents = Vec::with_capacity(parts.len());
    for part in parts {
        contents.push((part.head()?, part.content()?));
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

impl Part {
    fn head(&self) -> Result<String, String> {
        let escaped = |text: &str| text.replace('"', "%22").replace('\r', "%0D").replace('\n', "%0A");
        let mut head = format!("Content-Disposition: form-data; name=\"{}\"", escaped(&self.name));
        if let Some(filename) = &self.filename {
            head.push_str(&format!("; filename=\"{}\"", escaped(filename)));
        }
        head.push_str("\r\n");
        let default = self.filename.as_ref().map(|_| "application/octet-stream");
        if let Some(content_type) = self.content_type.as_deref().or(default) {
            if HeaderValue::from_str(content_type).is_err() {
                return Err(format!("the content type of part {:?} holds a character it cannot", self.name));
            }
            head.push_str(&format!("Content-Type: {content_type}\r\n"));
        }
        Ok(head)
    }

    fn content(&self) -> Result<Vec<u8>, String> {
        match (&self.value, &self.base64) {
            (Some(_), Some(_)) => Err(format!("part {:?} has both value and base64", self.name)),
            (None, Some(text)) => from_base64(text, &format!("base64 of part {:?}", self.name)),
            (Some(Value::String(text)), None) => Ok(text.clone().into_bytes()),
            (Some(value), None) => Ok(value.to_string().into_bytes()),
            (None, None) => Ok(Vec::new()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn encode(given: Value) -> Result<(String, String), String> {
        let own = |member: &str| given.get(member).cloned();
        let body = own("body").map(|body| serde_json::value::to_raw_value(&body).unwrap());
        let form = own("form").map(|form| serde_json::from_value::<Map<_, _>>(form).unwrap());
        let parts = own("multipart").map(|parts| serde_json::from_value::<Vec<Part>>(parts).unwrap());
        let given = Given {
            body: body.as_deref(),
            form: form.as_ref(),
            multipart: parts.as_deref(),
            body_base64: given["body_base64"].as_str(),
        };
        given.encode().map(|encoded| {
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
    }

    #[test]
    fn multipart_parts_keep_to_themselves() {
        let given = json!({"multipart": [
            {"name": "a\"\r\nX: y", "value": "1"},
            {"name": "n", "value": {"deep": [1]}, "content_type": "application/json"},
            {"name": "file", "filename": "q\".txt", "base64": "aGk="}]});
        let (body, content_type) = encode(given.clone()).unwrap();
        let boundary = content_type.strip_prefix("multipart/form-data; boundary=").unwrap();
        assert_eq!(
            body,
            format!(
                "--{boundary}\r\nContent-Disposition: form-data; name=\"a%22%0D%0AX: y\"\r\n\r\n1\r\n\
                 --{boundary}\r\nContent-Disposition: form-data; name=\"n\"\r\nContent-Type: application/json\r\n\r\n\
                 {{\"deep\":[1]}}\r\n\
                 --{boundary}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"q%22.txt\"\r\n\
                 Content-Type: application/octet-stream\r\n\r\nhi\r\n--{boundary}--\r\n"
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
            json!({"multipart": [{"name": "a", "value": "x", "content_type": "secret\r\nX: y"}]}),
        ] {
            let error = encode(given).unwrap_err();
            assert!(!error.contains("secret"), "{error}");
        }
        let large = encode(json!({"body_base64": STANDARD.encode(vec![0; MAX_BYTES + 1])}));
        assert!(large.unwrap_err().contains("larger"));
    }
}
