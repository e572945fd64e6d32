//! What a sender of webhooks does: signing a body with the secret that `create_endpoint` showed once.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// Headers of a request, in the order sent.
pub type Headers = Vec<(String, String)>;

fn mac(key: &[u8], parts: &[&[u8]]) -> Vec<u8> {
    let mut mac =
        Hmac::<Sha256>::new_from_slice(key).unwrap_or_else(|e| panic!("HMAC takes a key of any length: {e}"));
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().to_vec()
}

/// Seconds since 1970 now, as Standard Webhooks' timestamp header wants them.
pub fn unix_now() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |d| i64::try_from(d.as_secs()).unwrap_or(i64::MAX))
}

/// Signs `body` as Standard Webhooks does: `webhook-id`, `webhook-timestamp`, `webhook-signature`.
///
/// `secret` is `whsec_` followed by base64; `timestamp` is in seconds since 1970.
///
/// # Panics
/// When the secret is not of that form.
pub fn standard(secret: &str, id: &str, timestamp: i64, body: &[u8]) -> Headers {
    let encoded =
        secret.strip_prefix("whsec_").unwrap_or_else(|| panic!("a standard secret starts with whsec_"));
    let key =
        BASE64.decode(encoded).unwrap_or_else(|e| panic!("a standard secret is base64 after whsec_: {e}"));
    let timestamp = timestamp.to_string();
    let signature = mac(&key, &[id.as_bytes(), b".", timestamp.as_bytes(), b".", body]);
    vec![
        ("content-type".into(), "application/json".into()),
        ("webhook-id".into(), id.into()),
        ("webhook-timestamp".into(), timestamp),
        ("webhook-signature".into(), format!("v1,{}", BASE64.encode(signature))),
    ]
}

/// Signs `body` as GitHub does: `x-hub-signature-256` over the body alone, the delivery id unsigned.
pub fn github(secret: &str, delivery: &str, body: &[u8]) -> Headers {
    github_event(secret, delivery, "push", body)
}

/// The same for an event of another kind, as `issues`.
pub fn github_event(secret: &str, delivery: &str, event: &str, body: &[u8]) -> Headers {
    vec![
        ("content-type".into(), "application/json".into()),
        ("x-github-delivery".into(), delivery.into()),
        ("x-github-event".into(), event.into()),
        ("x-hub-signature-256".into(), format!("sha256={}", hex::encode(mac(secret.as_bytes(), &[body])))),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the Standard Webhooks specification's reference libraries.
    #[test]
    fn standard_matches_the_published_vector() {
        let headers = standard(
            "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1_614_265_330,
            br#"{"test": 2432232314}"#,
        );
        assert!(headers.contains(&(
            "webhook-signature".into(),
            "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=".into()
        )));
    }

    /// The example in GitHub's documentation.
    #[test]
    fn github_matches_the_published_vector() {
        let headers = github("It's a Secret to Everybody", "1", b"Hello, World!");
        assert!(headers.contains(&(
            "x-hub-signature-256".into(),
            "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17".into()
        )));
    }
}
