//! `auth` of an `http` node: how a call proves who makes it. Checked and rendered here; the sidecar has the secrets.

use std::sync::Arc;

use super::super::field::TemplateField;
use super::{Secrets, is_http_url};
use crate::definition::{Fields, MAX_NAME_BYTES, Problems};
use crate::error::ErrorInfo;
use crate::json::Json;
use crate::signature::Preset;
use crate::template::{Part, Rendered, SecretRef, is_name};

/// A way to prove it: its name, and how its settings are read. Returns the headers that it sets.
type Kind = (&'static str, fn(&Json, String, &mut Problems) -> Vec<String>);

const KINDS: [Kind; 5] = [
    ("basic", basic),
    ("bearer", bearer),
    ("hmac", hmac),
    ("standard_webhooks", standard_webhooks),
    ("oauth2", oauth2),
];
const CREDENTIALS: [(&str, ()); 2] = [("basic", ()), ("body", ())];
/// What describes a signature: the fields of a scheme of an endpoint's own, but for those of the receiver alone.
const SCHEME: [&str; 9] =
    ["header", "algorithm", "encoding", "prefix", "pairs", "signed", "timestamp_header", "id_header", "key"];

/// Reads the field, if it is there; `headers` are the names of those that the node sets itself.
pub(super) fn read(with: &mut Fields, headers: &[&str], problems: &mut Problems) -> Option<TemplateField> {
    let value = with.get("auth")?;
    let at = with.at("auth");
    let mut given = Fields::of(value, at.clone(), problems)?;
    let kinds: Vec<_> =
        KINDS.iter().filter_map(|(name, read)| Some((*name, read, given.get(name)?))).collect();
    given.finish(problems);
    let [(name, read, settings)] = kinds[..] else {
        let known = KINDS.map(|(name, _)| format!("\"{name}\"")).join(", ");
        problems.add(at, "value", format!("\"auth\" has exactly one of {known}"));
        return None;
    };
    for header in read(settings, format!("{at}/{name}"), problems) {
        if headers.iter().any(|set| set.eq_ignore_ascii_case(&header)) {
            let message = format!("header \"{header}\" is set by \"auth\": leave one of them out");
            problems.add(with.at("headers"), "conflict", message);
        }
    }
    TemplateField::called(with, "auth", problems)
}

fn basic(settings: &Json, at: String, problems: &mut Problems) -> Vec<String> {
    if let Some(mut fields) = Fields::of(settings, at, problems) {
        strings(&mut fields, &["username", "password"], &[], problems);
        fields.finish(problems);
    }
    vec!["authorization".to_owned()]
}

fn bearer(token: &Json, at: String, problems: &mut Problems) -> Vec<String> {
    if token.as_str().is_none() {
        problems.add(at, "type", "must be a string: the token");
    }
    vec!["authorization".to_owned()]
}

fn standard_webhooks(settings: &Json, at: String, problems: &mut Problems) -> Vec<String> {
    if let Some(mut fields) = Fields::of(settings, at, problems) {
        key(&mut fields, problems);
        fields.finish(problems);
    }
    // A `webhook-id` of the node's own is what a delivery that is sent again is known by.
    ["webhook-timestamp", "webhook-signature"].map(str::to_owned).to_vec()
}

fn hmac(settings: &Json, at: String, problems: &mut Problems) -> Vec<String> {
    let Some(mut fields) = Fields::of(settings, at.clone(), problems) else { return Vec::new() };
    key(&mut fields, problems);
    let scheme = SCHEME.iter().filter_map(|name| Some((*name, fields.get(name)?.clone())));
    let scheme = Json::object(scheme.collect::<Vec<_>>());
    fields.finish(problems);
    if let Err(fault) = Preset::own(&scheme.to_string()) {
        problems.add(format!("{at}{}", fault.pointer), "scheme", fault.message);
    }
    let header = |name: &str| Some(scheme.get(name)?.as_str()?.to_owned());
    ["header", "timestamp_header"].into_iter().filter_map(header).collect()
}

/// The key that signs: as a template, or by the name of the secret that holds it.
fn key(fields: &mut Fields, problems: &mut Problems) {
    let given = (fields.string("secret", problems), fields.string("secret_name", problems));
    if given.0.is_some() == given.1.is_some() {
        problems.add(fields.at("secret"), "value", "give either \"secret\" or \"secret_name\"");
    }
}

fn oauth2(settings: &Json, at: String, problems: &mut Problems) -> Vec<String> {
    if let Some(mut fields) = Fields::of(settings, at, problems) {
        strings(&mut fields, &["token_url", "client_id", "client_secret"], &["scope", "audience"], problems);
        fields.word("credentials", &CREDENTIALS, problems);
        let literal = fields.get("token_url").and_then(Json::as_str).filter(|url| !url.contains("{{"));
        if literal.is_some_and(|url| !is_http_url(url)) {
            let message = "the URL must begin with http:// or https:// and name a host";
            problems.add(fields.at("token_url"), "url", message);
        }
        fields.finish(problems);
    }
    vec!["authorization".to_owned()]
}

/// Reads strings, those that have to be there and those that may.
fn strings(
    fields: &mut Fields,
    required: &[&'static str],
    optional: &[&'static str],
    problems: &mut Problems,
) {
    for name in required {
        fields.required(name, problems);
    }
    for name in required.iter().chain(optional) {
        fields.string(name, problems);
    }
}

/// The field's value of this firing, with what it needs of secrets noted; a secret that is named by an expression is
/// one of them from here on.
pub(super) fn render(
    field: &TemplateField,
    mut rendered: Rendered,
    secrets: &mut Secrets,
) -> Result<Json, ErrorInfo> {
    let signer = rendered.value.as_obj().and_then(|auth| {
        let (kind, settings) = auth.iter().next()?;
        Some((kind.clone(), settings.get("secret_name")?.clone(), settings.as_obj()?.clone()))
    });
    if let Some((kind, name, mut settings)) = signer {
        let name =
            name.as_str().filter(|name| is_name(name) && name.len() <= MAX_NAME_BYTES).ok_or_else(|| {
                let message = "\"secret_name\" did not come to the name of a secret (at /with/auth)";
                ErrorInfo::new("http.auth", message).retryable(false)
            })?;
        let parts = vec![Part::Secret(name.to_owned())];
        rendered.secrets.push(SecretRef { pointer: format!("/{kind}/secret"), parts });
        settings.remove("secret_name");
        settings.insert("secret".into(), Json::Null);
        rendered.value = Json::object([(&*kind, Json::Obj(Arc::new(settings)))]);
    }
    Ok(secrets.of(field, rendered))
}
