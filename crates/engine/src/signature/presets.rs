//! The table of signature schemes. One row a sender; sources beside those whose documents say it best.

use std::sync::LazyLock;

use super::challenge::{Challenge, Reply};
use super::key::KeyForm;
use super::preset::{
    Algorithm, Dedupe, Encoding, Grammar, HeaderSet, Part, Preset, Proof, Text, TimestampSource,
};

/// Seconds that most senders recommend.
const TOLERANCE: i64 = 300;

/// Where a scheme's values are.
fn at(signature: &'static str, id: Option<&'static str>, timestamp: Option<&'static str>) -> HeaderSet {
    HeaderSet { signature: signature.into(), id: id.map(Text::from), timestamp: timestamp.map(Text::from) }
}

/// A header that holds the signature, and no other that matters.
fn header(signature: &'static str) -> Vec<HeaderSet> {
    vec![at(signature, None, None)]
}

/// A proof whose key is the secret's text.
fn keyed(algorithm: Algorithm, grammar: Grammar, encoding: Encoding) -> Proof {
    Proof { grammar, algorithm, encoding, key: KeyForm::Raw }
}

fn prefix(text: &'static str) -> Grammar {
    Grammar::Prefix(text.into())
}

fn scheme(text: &'static str) -> Grammar {
    Grammar::Scheme(text.into())
}

fn version(text: &'static str) -> Grammar {
    Grammar::SpaceList { version: text.into() }
}

fn kv(separator: char, key: &'static str) -> Grammar {
    Grammar::Kv { separator, signature_key: key.into() }
}

fn literal(text: &'static str) -> Part {
    Part::Literal(text.into())
}

fn field(pointer: &'static str) -> Dedupe {
    Dedupe::BodyField(pointer.into())
}

/// The id, the time and the body, as Standard Webhooks signs them.
fn id_time_body() -> Vec<Part> {
    vec![Part::Id, literal("."), Part::Timestamp, literal("."), Part::Body]
}

/// As Slack signs.
fn v0_time_body() -> Vec<Part> {
    vec![literal("v0:"), Part::Timestamp, literal(":"), Part::Body]
}

/// The symmetric half of Standard Webhooks.
fn standard_hmac() -> Proof {
    let (algorithm, encoding) = (Algorithm::HmacSha256, Encoding::Base64);
    Proof { grammar: version("v1"), algorithm, encoding, key: KeyForm::Whsec }
}

/// A scheme that signs the body and nothing else.
fn of_body(name: &'static str, headers: Vec<HeaderSet>, proof: Proof, hint: Option<&'static str>) -> Preset {
    Preset {
        name: name.into(),
        headers,
        proofs: vec![proof],
        token: None,
        signed: vec![Part::Body],
        any_port: false,
        timestamp: TimestampSource::None,
        tolerance_s: TOLERANCE,
        dedupe: Dedupe::BodyDigest,
        hint: hint.map(Text::from),
        challenge: None,
    }
}

/// An event of this kind at this place, whose token is to come back.
fn event(kind: (&'static str, &'static str), token: &'static str, reply: Reply) -> Option<Challenge> {
    Some(Challenge::Event { kind: (kind.0.into(), kind.1.into()), token: token.into(), reply })
}

/// Every preset there is, by name.
pub static PRESETS: LazyLock<Vec<Preset>> = LazyLock::new(table);

fn table() -> Vec<Preset> {
    vec![
        of_body(
            "basic",
            header("authorization"),
            Proof {
                grammar: scheme("basic"),
                algorithm: Algorithm::Token,
                encoding: Encoding::Base64,
                key: KeyForm::Pair,
            },
            None,
        ),
        of_body(
            "bearer",
            header("authorization"),
            keyed(Algorithm::Token, scheme("bearer"), Encoding::Plain),
            None,
        ),
        // Bitbucket Server and Data Center, Bitbucket Cloud.
        of_body(
            "bitbucket",
            header("x-hub-signature"),
            keyed(Algorithm::HmacSha256, prefix("sha256="), Encoding::Hex),
            Some("x-request-id"),
        ),
        // https://discord.com/developers/docs/interactions/overview#setting-up-an-endpoint-validating-security-request-headers
        Preset {
            signed: vec![Part::Timestamp, Part::Body],
            timestamp: TimestampSource::Header,
            dedupe: field("/id"),
            ..of_body(
                "discord",
                vec![at("x-signature-ed25519", None, Some("x-signature-timestamp"))],
                Proof {
                    grammar: Grammar::Bare,
                    algorithm: Algorithm::Ed25519,
                    encoding: Encoding::Hex,
                    key: KeyForm::Ed25519Hex,
                },
                None,
            )
        },
        // Forgejo sends the same.
        of_body(
            "gitea",
            header("x-gitea-signature"),
            keyed(Algorithm::HmacSha256, Grammar::Bare, Encoding::Hex),
            Some("x-gitea-delivery"),
        ),
        // The SHA-1 header X-Hub-Signature is not read at all.
        of_body(
            "github",
            header("x-hub-signature-256"),
            keyed(Algorithm::HmacSha256, prefix("sha256="), Encoding::Hex),
            Some("x-github-delivery"),
        ),
        // GitHub Enterprise Server before 2.23 knows nothing else.
        of_body(
            "github_sha1",
            header("x-hub-signature"),
            keyed(Algorithm::HmacSha1, prefix("sha1="), Encoding::Hex),
            Some("x-github-delivery"),
        ),
        // The signing token of 2026 is a Standard Webhooks secret.
        Preset {
            signed: id_time_body(),
            timestamp: TimestampSource::Header,
            dedupe: Dedupe::SignedId,
            ..of_body(
                "gitlab",
                vec![at("webhook-signature", Some("webhook-id"), Some("webhook-timestamp"))],
                standard_hmac(),
                Some("x-gitlab-event-uuid"),
            )
        },
        of_body(
            "gitlab_token",
            header("x-gitlab-token"),
            keyed(Algorithm::Token, Grammar::Bare, Encoding::Plain),
            Some("x-gitlab-event-uuid"),
        ),
        Preset {
            dedupe: field("/id"),
            ..of_body(
                "intercom",
                header("x-hub-signature"),
                keyed(Algorithm::HmacSha1, prefix("sha1="), Encoding::Hex),
                None,
            )
        },
        Preset {
            timestamp: TimestampSource::Body("/webhookTimestamp".into()),
            tolerance_s: 60,
            ..of_body(
                "linear",
                header("linear-signature"),
                keyed(Algorithm::HmacSha256, Grammar::Bare, Encoding::Hex),
                Some("linear-delivery"),
            )
        },
        Preset {
            challenge: Some(Challenge::Query {
                mode: ("hub.mode".into(), "subscribe".into()),
                word: "hub.verify_token".into(),
                token: "hub.challenge".into(),
            }),
            ..of_body(
                "meta",
                header("x-hub-signature-256"),
                keyed(Algorithm::HmacSha256, prefix("sha256="), Encoding::Hex),
                None,
            )
        },
        // Whoever knows the address is taken for the sender.
        Preset { proofs: Vec::new(), ..of_body("none", Vec::new(), standard_hmac(), None) },
        // Paddle Billing.
        Preset {
            signed: vec![Part::Timestamp, literal(":"), Part::Body],
            timestamp: TimestampSource::Kv("ts".into()),
            dedupe: field("/event_id"),
            ..of_body(
                "paddle",
                header("paddle-signature"),
                keyed(Algorithm::HmacSha256, kv(';', "h1"), Encoding::Hex),
                None,
            )
        },
        // https://www.twilio.com/docs/sendgrid/for-developers/tracking-events/getting-started-event-webhook-security-features
        Preset {
            signed: vec![Part::Timestamp, Part::Body],
            timestamp: TimestampSource::Header,
            ..of_body(
                "sendgrid",
                vec![at(
                    "x-twilio-email-event-webhook-signature",
                    None,
                    Some("x-twilio-email-event-webhook-timestamp"),
                )],
                Proof {
                    grammar: Grammar::Bare,
                    algorithm: Algorithm::EcdsaP256,
                    encoding: Encoding::Base64,
                    key: KeyForm::P256Spki,
                },
                None,
            )
        },
        of_body(
            "shopify",
            vec![at("x-shopify-hmac-sha256", None, None), at("shopify-hmac-sha256", None, None)],
            keyed(Algorithm::HmacSha256, Grammar::Bare, Encoding::Base64),
            Some("x-shopify-webhook-id"),
        ),
        Preset {
            signed: v0_time_body(),
            timestamp: TimestampSource::Header,
            dedupe: field("/event_id"),
            challenge: event(("/type", "url_verification"), "/challenge", Reply::Echo("challenge".into())),
            ..of_body(
                "slack",
                vec![at("x-slack-signature", None, Some("x-slack-request-timestamp"))],
                keyed(Algorithm::HmacSha256, prefix("v0="), Encoding::Hex),
                None,
            )
        },
        Preset {
            signed: vec![Part::Url, Part::Body],
            dedupe: field("/event_id"),
            ..of_body(
                "square",
                header("x-square-hmacsha256-signature"),
                keyed(Algorithm::HmacSha256, Grammar::Bare, Encoding::Base64),
                None,
            )
        },
        // https://www.standardwebhooks.com; Svix sends the same under its own header names.
        Preset {
            signed: id_time_body(),
            timestamp: TimestampSource::Header,
            dedupe: Dedupe::SignedId,
            proofs: vec![
                standard_hmac(),
                Proof {
                    grammar: version("v1a"),
                    algorithm: Algorithm::Ed25519,
                    encoding: Encoding::Base64,
                    key: KeyForm::Whpk,
                },
            ],
            ..of_body(
                "standard",
                vec![
                    at("webhook-signature", Some("webhook-id"), Some("webhook-timestamp")),
                    at("svix-signature", Some("svix-id"), Some("svix-timestamp")),
                ],
                standard_hmac(),
                None,
            )
        },
        // The test signatures v0 are ignored.
        Preset {
            signed: vec![Part::Timestamp, literal("."), Part::Body],
            timestamp: TimestampSource::Kv("t".into()),
            dedupe: field("/id"),
            ..of_body(
                "stripe",
                header("stripe-signature"),
                keyed(Algorithm::HmacSha256, kv(',', "v1"), Encoding::Hex),
                None,
            )
        },
        // https://www.twilio.com/docs/usage/webhooks/webhooks-security
        Preset {
            signed: vec![Part::Url, Part::Form],
            any_port: true,
            dedupe: Dedupe::SignedContent,
            ..of_body(
                "twilio",
                header("x-twilio-signature"),
                keyed(Algorithm::HmacSha1, Grammar::Bare, Encoding::Base64),
                Some("i-twilio-idempotency-token"),
            )
        },
        // For senders that can do nothing but call an address: the secret is a parameter of it.
        of_body(
            "url_secret",
            header("?secret"),
            keyed(Algorithm::Token, Grammar::Bare, Encoding::Plain),
            None,
        ),
        Preset {
            signed: v0_time_body(),
            timestamp: TimestampSource::Header,
            challenge: event(
                ("/event", "endpoint.url_validation"),
                "/payload/plainToken",
                Reply::Mac("plainToken".into(), "encryptedToken".into()),
            ),
            ..of_body(
                "zoom",
                vec![at("x-zm-signature", None, Some("x-zm-request-timestamp"))],
                keyed(Algorithm::HmacSha256, prefix("v0="), Encoding::Hex),
                Some("x-zm-trackingid"),
            )
        },
    ]
}

impl Preset {
    /// The preset of that name, if there is one. Names are lower case and matched exactly.
    #[must_use]
    pub fn by_name(name: &str) -> Option<&'static Preset> {
        PRESETS.iter().find(|preset| preset.name == name)
    }
}
