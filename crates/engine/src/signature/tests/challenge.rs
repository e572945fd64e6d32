//! Challenges of senders that have one.

use super::*;

fn of(preset: &str) -> &'static Challenge {
    Preset::by_name(preset).and_then(|preset| preset.challenge.as_ref()).unwrap()
}

#[test]
fn slack_gets_its_token_back() {
    let body = br#"{"token": "x", "challenge": "3eZbrw1aBm2rZgRNFdxV2595E9CY3gmdALWMmHkvFXO7tYXAYM8P",
        "type": "url_verification"}"#;
    let reply = json!({"challenge": "3eZbrw1aBm2rZgRNFdxV2595E9CY3gmdALWMmHkvFXO7tYXAYM8P"});
    assert_eq!(of("slack").reply(body, b"secret"), Some(reply));
    for other in [
        &br#"{"type": "event_callback", "challenge": "abc"}"#[..],
        br#"{"type": "url_verification"}"#,
        br#"{"type": "url_verification", "challenge": "<script>"}"#,
        br#"{"type": "url_verification", "challenge": ""}"#,
        b"payload=1",
        &[0xff, 0xfe],
    ] {
        assert_eq!(of("slack").reply(other, b"secret"), None, "{other:?}");
    }
}

/// The token and its MAC are those of Zoom's documents, made with `printf qgg8vlvZRS6UYooatFL8Aw | openssl dgst -sha256
/// -hmac secret`.
#[test]
fn zoom_gets_the_token_and_its_mac() {
    let body = br#"{"payload": {"plainToken": "qgg8vlvZRS6UYooatFL8Aw"}, "event_ts": 1654503849680,
        "event": "endpoint.url_validation"}"#;
    let mac = "72cef096bfd47c0b8664df30d07721641e4abd7e885ba432204260db477a9a3e";
    let reply = json!({"plainToken": "qgg8vlvZRS6UYooatFL8Aw", "encryptedToken": mac});
    assert_eq!(of("zoom").reply(body, b"secret"), Some(reply));
}

#[test]
fn meta_gets_its_token_back_if_it_knows_the_word() {
    let query = "hub.mode=subscribe&hub.challenge=1158201444&hub.verify_token=abc";
    assert_eq!(of("meta").echo(query, "abc").as_deref(), Some("1158201444"));
    for other in [
        "",
        "hub.mode=subscribe&hub.challenge=1158201444",
        "hub.mode=subscribe&hub.challenge=1158201444&hub.verify_token=ab",
        "hub.mode=subscribe&hub.verify_token=abc",
        "hub.challenge=1158201444&hub.verify_token=abc",
        "hub.mode=unsubscribe&hub.challenge=1158201444&hub.verify_token=abc",
        "hub.mode=subscribe&hub.challenge=%3Cb%3E&hub.verify_token=abc",
    ] {
        assert_eq!(of("meta").echo(other, "abc"), None, "{other}");
    }
}
