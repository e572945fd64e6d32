//! Which rules hold for which project: those of the command line, and a file that is read again on SIGHUP.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use serde::Deserialize;

use super::hosts::{Entry, Host, Hosts};
use super::proxy::{Proxy, Route};
use super::rules::{Rule, Rules};
use crate::secrets::file::ensure_private;

/// The file: rules for all projects, and for single ones, and what is set for hosts.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    allow: Vec<Rule>,
    deny: Vec<Rule>,
    only: Option<Vec<Rule>>,
    projects: BTreeMap<String, Rules>,
    hosts: Vec<Entry>,
    proxy: Option<String>,
    proxy_resolves: bool,
}

/// The rules of every project.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Of a project that is not named.
    pub general: Arc<Rules>,
    /// Of those that are, with the general ones in them; also of those that are named for a host.
    pub projects: BTreeMap<String, Arc<Rules>>,
    /// What is set for single hosts.
    pub hosts: Arc<Hosts>,
}

impl Policy {
    /// `given` on the command line, and what the file says, with the files that it names.
    ///
    /// # Errors
    /// When one of them cannot be read or understood.
    pub fn load(given: &Rules, file: Option<&Path>) -> anyhow::Result<Self> {
        let Some(path) = file else {
            return Self::of(given, File::default(), Path::new(""));
        };
        let shown = path.display();
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {shown}"))?;
        let file = parse(&text).with_context(|| format!("cannot understand {shown}"))?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let policy = Self::of(given, file, folder).with_context(|| format!("cannot follow {shown}"))?;
        if policy.hosts.proxies().any(Proxy::has_credentials) {
            ensure_private(path).context("it holds the password of a proxy")?;
        }
        Ok(policy)
    }

    /// Relative paths start at `folder`.
    fn of(given: &Rules, file: File, folder: &Path) -> anyhow::Result<Self> {
        let entries = file.hosts.into_iter().map(|entry| Host::read(entry, folder));
        let entries: Vec<Host> = entries.collect::<anyhow::Result<_>>()?;
        let hosts = Hosts { entries, route: Route::read(file.proxy.as_deref(), file.proxy_resolves)? };
        let own = hosts.proxies().filter_map(Proxy::place).collect();
        let general =
            Arc::new(given.with(&Rules { allow: file.allow, deny: file.deny, only: file.only, own }));
        let mut projects: BTreeMap<_, _> =
            file.projects.into_iter().map(|(name, rules)| (name, Arc::new(general.with(&rules)))).collect();
        for name in hosts.entries.iter().flat_map(Host::projects) {
            projects.entry(name.clone()).or_insert_with(|| general.clone());
        }
        Ok(Self { general, projects, hosts: Arc::new(hosts) })
    }
}

/// Reads the file's text. Errors quote none of its lines: one may hold a password.
fn parse(text: &str) -> anyhow::Result<File> {
    toml::from_str(text).map_err(|error| {
        let before = error.span().and_then(|span| text.get(..span.start));
        let line = before.map_or(1, |before| before.matches('\n').count() + 1);
        anyhow::anyhow!("line {line}: {}", error.message())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vet(rules: &Rules, host: &str) -> bool {
        rules.vet(host, format!("{host}:80").parse().unwrap()).is_ok()
    }

    #[test]
    fn a_project_has_its_rules_and_everybodys() {
        let file = parse(
            r#"
            allow = ["10.0.0.0/8"]
            deny = ["10.9.0.0/16"]

            [projects.acme]
            allow = ["192.168.0.0/16"]

            [projects.shut]
            only = ["10.1.1.1"]
            "#,
        );
        let given = Rules { allow: vec!["127.0.0.1".parse().unwrap()], ..Rules::default() };
        let policy = Policy::of(&given, file.unwrap(), Path::new("")).unwrap();
        let reached = |rules: &Rules| {
            let hosts = ["127.0.0.1", "10.1.1.1", "10.9.1.1", "192.168.1.1", "1.1.1.1"];
            hosts.into_iter().filter(|host| vet(rules, host)).collect::<Vec<_>>()
        };
        assert_eq!(reached(&policy.general), ["127.0.0.1", "10.1.1.1", "1.1.1.1"]);
        assert_eq!(reached(&policy.projects["acme"]), ["127.0.0.1", "10.1.1.1", "192.168.1.1", "1.1.1.1"]);
        assert_eq!(reached(&policy.projects["shut"]), ["10.1.1.1"]);
    }

    #[test]
    fn a_proxy_is_no_place_for_calls() {
        let text = "proxy = \"http://10.0.0.9:3128\"\n[[hosts]]\nmatch = \"a.example\"\nproxy = \"http://b.example\"";
        let policy = Policy::of(&Rules::default(), parse(text).unwrap(), Path::new("")).unwrap();
        let vet = |host: &str, address: &str| policy.general.vet(host, address.parse().unwrap()).is_ok();
        assert!(!vet("b.example", "1.1.1.1:80") && vet("b.example", "1.1.1.1:443"));
        assert!(!vet("10.0.0.9", "10.0.0.9:3128") && vet("c.example", "1.1.1.1:80"));
    }

    #[test]
    fn a_file_that_is_wrong_says_where() {
        for (text, line, told) in [
            ("allow = [\"10.0.0.0/40\"]", "line 1", "neither a network"),
            ("alow = []", "line 1", "unknown field `alow`"),
            ("[projects.a]\nports = []", "line 2", "unknown field `ports`"),
            ("deny = []\n[[hosts]]\nca = \"x\"", "line 2", "missing field `match`"),
        ] {
            let error = parse(text).err().unwrap().to_string();
            assert!(error.contains(told) && error.starts_with(line), "{error}");
        }
    }
}
