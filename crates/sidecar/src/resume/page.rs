//! The page that people see: no script, nothing from elsewhere, every text escaped.

use serde_json::Value;

/// What the page may do: be styled by its own style sheet, and send its form to where it came from.
pub(super) const POLICY: &str = "default-src 'none'; style-src 'sha256-xnr5S8x/KdUVJ7e+AUrDToCGjs3F5yq7Itl6y5wQsoA='; \
    form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

const STYLE: &str = "body{font:1.1rem/1.5 system-ui,sans-serif;max-width:34rem;margin:3rem auto;padding:0 1rem;color:#1c1f23;background:#fff}code{overflow-wrap:anywhere}label{display:block;margin:1rem 0}input{display:block;box-sizing:border-box;width:100%;padding:.5rem;font:inherit}button{padding:.6rem 1.4rem;margin:0 .6rem 0 0;font:inherit;cursor:pointer}";

/// The page for what the database said.
pub(super) fn page(body: &Value) -> String {
    let text = |name: &str| body.get(name).and_then(Value::as_str).unwrap_or_default();
    let is_approval = body.get("approval").is_some();
    let (title, content) = match (text("state"), text("error")) {
        ("open", "") if is_approval => ("Your approval is asked for", approval()),
        ("open", "") => ("Your answer is asked for", signal()),
        ("early", "") => (
            "Not yet",
            paragraph("The workflow does not wait for your answer yet. Load this page again in a moment."),
        ),
        ("used", "") => ("Answered", answered(body)),
        (_, error) => ("This cannot be answered", paragraph(&format!("{}.", capitalised(error)))),
    };
    let about = if text("node").is_empty() { String::new() } else { about(body, is_approval) };
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <meta name=\"robots\" content=\"noindex\">\
         <title>{title}</title><style>{STYLE}</style></head>\n\
         <body><main><h1>{title}</h1>\n{about}\n{content}\n</main></body>\n</html>\n"
    )
}

/// Who asks.
fn about(body: &Value, is_approval: bool) -> String {
    let text = |name: &str| escaped(body.get(name).and_then(Value::as_str).unwrap_or_default());
    let what =
        if is_approval { "an approval".to_owned() } else { format!("the signal “{}”", text("signal")) };
    format!(
        "<p>Workflow <strong>{}</strong> waits at <strong>{}</strong> for {what}.</p>\n<p>Run <code>{}</code></p>",
        text("workflow"),
        text("node"),
        text("run_id")
    )
}

fn approval() -> String {
    format!(
        "<form method=\"post\">{}{}\
         <button name=\"approved\" value=\"true\">Approve</button>\
         <button name=\"approved\" value=\"false\">Reject</button></form>",
        field("by", "Your name"),
        field("payload", "Comment")
    )
}

fn signal() -> String {
    format!("<form method=\"post\">{}<button>Send</button></form>", field("payload", "Message"))
}

fn field(name: &str, label: &str) -> String {
    format!("<label>{label} (optional)<input name=\"{name}\" autocomplete=\"off\"></label>")
}

/// The answer that counts, whoever gave it.
fn answered(body: &Value) -> String {
    let answer = &body["answer"];
    let said = match answer["approved"].as_bool() {
        Some(true) => "approved",
        Some(false) => "rejected",
        None => "answered",
    };
    let by = answer["by"].as_str().map_or_else(String::new, |by| format!(" by {by}"));
    paragraph(&if body["used"] == Value::Bool(true) {
        format!("This was {said}{by} before; only the first answer counts.")
    } else {
        format!("It is {said}{by}. Thank you.")
    })
}

fn paragraph(text: &str) -> String {
    format!("<p>{}</p>", escaped(text))
}

fn capitalised(text: &str) -> String {
    let mut characters = text.chars();
    characters.next().map_or_else(String::new, |first| first.to_uppercase().chain(characters).collect())
}

fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use serde_json::json;
    use sha2::{Digest, Sha256};

    use super::*;

    #[test]
    fn the_policy_lets_the_own_style_in() {
        let hash = STANDARD.encode(Sha256::digest(STYLE.as_bytes()));
        assert!(POLICY.contains(&format!("'sha256-{hash}'")), "{hash}");
    }

    #[test]
    fn whatever_is_said_is_text() {
        let evil = "<script>\"'&</script>";
        for body in [
            json!({"state": "open", "approval": true, "workflow": evil, "node": evil, "run_id": evil}),
            json!({"state": "open", "signal": evil, "workflow": evil, "node": evil, "run_id": evil}),
            json!({"state": "used", "used": true, "approval": true, "workflow": evil, "node": evil,
                   "run_id": evil, "answer": {"approved": false, "by": evil, "payload": evil}}),
            json!({"state": "over", "error": evil}),
            json!(null),
        ] {
            let page = page(&body);
            assert!(!page.contains("<script") && !page.contains("\"'&<"), "{page}");
        }
    }

    #[test]
    fn each_state_has_its_page() {
        let of = |mut body: Value| {
            body["workflow"] = json!("order");
            body["node"] = json!("review");
            page(&body)
        };
        let approval = of(json!({"state": "open", "approval": true}));
        assert!(approval.contains("value=\"true\">Approve<") && approval.contains("value=\"false\">Reject<"));
        let signal = of(json!({"state": "open", "signal": "paid"}));
        assert!(signal.contains("“paid”") && !signal.contains("approved"));
        let early = of(json!({"state": "early", "approval": true}));
        assert!(early.contains("Not yet") && !early.contains("<form"));
        let answer = json!({"approved": true, "by": "Anna"});
        let first = of(json!({"state": "used", "used": false, "approval": true, "answer": answer}));
        assert!(first.contains("It is approved by Anna. Thank you."), "{first}");
        let again = of(json!({"state": "used", "used": true, "approval": true, "answer": answer}));
        assert!(again.contains("approved by Anna before") && !again.contains("<form"), "{again}");
        let over = page(&json!({"state": "over", "error": "nobody waits for this answer any more"}));
        assert!(over.contains("<p>Nobody waits for this answer any more.</p>") && !over.contains("<form"));
    }
}
