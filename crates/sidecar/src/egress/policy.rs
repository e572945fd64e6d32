//! Which rules hold for which project: those of the command line, and a file that is read again on SIGHUP.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use serde::Deserialize;

use super::rules::{Rule, Rules};

/// The file: rules for all projects, and for single ones.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    allow: Vec<Rule>,
    deny: Vec<Rule>,
    only: Option<Vec<Rule>>,
    projects: BTreeMap<String, Rules>,
}

/// The rules of every project.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Of a project that is not named.
    pub general: Arc<Rules>,
    /// Of those that are, with the general ones in them.
    pub projects: BTreeMap<String, Arc<Rules>>,
}

impl Policy {
    /// `given` on the command line, and what the file says.
    ///
    /// # Errors
    /// When the file cannot be read or understood.
    pub fn load(given: &Rules, file: Option<&Path>) -> anyhow::Result<Self> {
        let Some(path) = file else {
            return Ok(Self::of(given, File::default()));
        };
        let text =
            std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let file = toml::from_str(&text).with_context(|| format!("cannot understand {}", path.display()))?;
        Ok(Self::of(given, file))
    }

    fn of(given: &Rules, file: File) -> Self {
        let general =
            given.with(&Rules { allow: file.allow, deny: file.deny, only: file.only, own: Vec::new() });
        let projects =
            file.projects.into_iter().map(|(name, rules)| (name, Arc::new(general.with(&rules)))).collect();
        Self { general: Arc::new(general), projects }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vet(rules: &Rules, host: &str) -> bool {
        rules.vet(host, format!("{host}:80").parse().unwrap()).is_ok()
    }

    #[test]
    fn a_project_has_its_rules_and_everybodys() {
        let file = toml::from_str(
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
        let policy = Policy::of(&given, file.unwrap());
        let reached = |rules: &Rules| {
            let hosts = ["127.0.0.1", "10.1.1.1", "10.9.1.1", "192.168.1.1", "1.1.1.1"];
            hosts.into_iter().filter(|host| vet(rules, host)).collect::<Vec<_>>()
        };
        assert_eq!(reached(&policy.general), ["127.0.0.1", "10.1.1.1", "1.1.1.1"]);
        assert_eq!(reached(&policy.projects["acme"]), ["127.0.0.1", "10.1.1.1", "192.168.1.1", "1.1.1.1"]);
        assert_eq!(reached(&policy.projects["shut"]), ["10.1.1.1"]);
    }

    #[test]
    fn a_file_that_is_wrong_says_where() {
        for (text, told) in [
            ("allow = [\"10.0.0.0/40\"]", "neither a network"),
            ("alow = []", "unknown field `alow`"),
            ("[projects.a]\nports = []", "unknown field `ports`"),
        ] {
            let error = toml::from_str::<File>(text).unwrap_err().to_string();
            assert!(error.contains(told) && error.contains("line"), "{error}");
        }
    }
}
