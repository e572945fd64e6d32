//! Strikes secrets out of what a service answers: some echo the request, and answers are kept in the log of the run.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use serde_json::Value;
use url::form_urlencoded;
use zeroize::Zeroizing;

use super::fill::Opened;

/// Shorter ones are part of too many words.
const SHORTEST: usize = 6;

/// What to look for, and what stands in its place.
#[derive(Default)]
pub struct Redactor(Vec<(Zeroizing<String>, String)>);

/// Shows how many there are.
impl fmt::Debug for Redactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Redactor({})", self.0.len())
    }
}

impl Redactor {
    /// Looks for these secrets, as they are and in the forms that services show them in.
    pub fn new(opened: &Opened) -> Self {
        let mut redactor = Self::default();
        for (name, value) in opened {
            redactor.also(name, value);
        }
        redactor
    }

    /// Looks for this one as well.
    pub fn also(&mut self, name: &str, value: &str) {
        if value.len() < SHORTEST {
            return;
        }
        let quoted = Value::String(value.to_owned()).to_string();
        let forms = [
            value.to_owned(),
            quoted[1..quoted.len() - 1].to_owned(),
            form_urlencoded::byte_serialize(value.as_bytes()).collect(),
            hex::encode(value.as_bytes()),
            STANDARD.encode(value.as_bytes()),
            STANDARD_NO_PAD.encode(value.as_bytes()),
            URL_SAFE.encode(value.as_bytes()),
            URL_SAFE_NO_PAD.encode(value.as_bytes()),
        ];
        self.0.extend(forms.map(|form| (Zeroizing::new(form), format!("[secret {name}]"))));
        // One that is part of another must not break it up.
        self.0.sort_by_key(|(form, _)| std::cmp::Reverse(form.len()));
        self.0.dedup_by(|a, b| a.0 == b.0);
    }

    /// Whether there is nothing to look for.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The text without them. What has been put in their place is not looked at again: it could be part of another one.
    pub fn text(&self, text: &str) -> String {
        let mut found: Vec<_> = self.0.iter().map(|(form, _)| text.find(form.as_str())).collect();
        let (mut out, mut done) = (String::new(), 0);
        // The earliest; of those that begin alike the longest, which comes first.
        while let Some((at, place)) =
            found.iter().enumerate().filter_map(|(place, at)| Some(((*at)?, place))).min()
        {
            let (form, instead) = &self.0[place];
            out.push_str(&text[done..at]);
            out.push_str(instead);
            done = at + form.len();
            for (next, (form, _)) in found.iter_mut().zip(&self.0) {
                if next.is_some_and(|next| next < done) {
                    *next = text[done..].find(form.as_str()).map(|at| done + at);
                }
            }
        }
        out.push_str(&text[done..]);
        out
    }

    /// Strikes them out of every string and every name in a value.
    pub fn value(&self, value: &mut Value) {
        if self.is_empty() {
            return;
        }
        match value {
            Value::String(text) => *text = self.text(text),
            Value::Array(items) => items.iter_mut().for_each(|item| self.value(item)),
            Value::Object(members) => {
                let taken = std::mem::take(members);
                members.extend(taken.into_iter().map(|(name, mut member)| {
                    self.value(&mut member);
                    (self.text(&name), member)
                }));
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    /// The bytes of a body without them.
    pub fn bytes(&self, body: Vec<u8>) -> Vec<u8> {
        let holds = |form: &str| body.windows(form.len()).any(|window| window == form.as_bytes());
        if self.is_empty() || !self.0.iter().any(|(form, _)| holds(form)) {
            return body;
        }
        match std::str::from_utf8(&body) {
            Ok(text) => self.text(text).into_bytes(),
            // Not a text, and yet a secret is in it: nothing of it is safe.
            Err(_) => self.0[0].1.clone().into_bytes(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_put_in_is_not_looked_at_again() {
        let grown = redactor(&[("bbbbbb", "aaaaaa"), ("cccccc", "bbbbbb")]);
        assert_eq!(grown.text("xaaaaaay bbbbbb"), "x[secret bbbbbb]y [secret cccccc]");
        let overlapping = redactor(&[("long", "secret-secret"), ("short", "secret")]);
        assert_eq!(overlapping.text("secret secret-secret"), "[secret short] [secret long]");
    }

    fn redactor(secrets: &[(&str, &str)]) -> Redactor {
        let opened =
            secrets.iter().map(|(name, value)| ((*name).to_owned(), Zeroizing::new((*value).to_owned())));
        Redactor::new(&opened.collect())
    }

    #[test]
    fn every_form_is_struck_out() {
        let redactor = redactor(&[("api", "pa\"ss/word+1"), ("short", "abc")]);
        let forms = [
            "pa\"ss/word+1".to_owned(),
            r#"pa\"ss/word+1"#.to_owned(),
            "pa%22ss%2Fword%2B1".to_owned(),
            "706122737".to_owned() + "32f776f72642b31",
            STANDARD.encode("pa\"ss/word+1"),
            URL_SAFE_NO_PAD.encode("pa\"ss/word+1"),
        ];
        for form in forms {
            assert_eq!(redactor.text(&format!("<{form}>")), "<[secret api]>", "{form}");
        }
        let mut value = json!({"echo": ["abc", {"pa\"ss/word+1": 1}]});
        redactor.value(&mut value);
        assert_eq!(value, json!({"echo": ["abc", {"[secret api]": 1}]}));
    }

    #[test]
    fn bodies_of_any_kind_lose_them() {
        let redactor = redactor(&[("api", "password")]);
        assert_eq!(redactor.bytes(b"a password!".to_vec()), b"a [secret api]!");
        assert_eq!(redactor.bytes(b"\xff password".to_vec()), b"[secret api]");
        assert_eq!(redactor.bytes(b"\xff nothing".to_vec()), b"\xff nothing");
    }

    #[test]
    fn a_secret_within_another_does_not_leave_the_rest() {
        let redactor = redactor(&[("a", "password"), ("b", "password-and-more")]);
        assert_eq!(redactor.text("password-and-more password"), "[secret b] [secret a]");
    }
}
