//! What is set for single hosts: which roots vouch for them, what they are shown when they ask who calls, which way calls
//! take, and how many there may be.

use std::fmt;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use rustls::ClientConfig;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::proxy::{Proxy, Route};
use super::rules::Rule;
use super::tls::{self, Identity, Pem};
use crate::store::tls::system_roots;

/// An entry of `[[hosts]]` as it stands in the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    #[serde(rename = "match")]
    about: Rule,
    ca: Option<PathBuf>,
    client_cert: Option<PathBuf>,
    client_key: Option<PathBuf>,
    projects: Option<Vec<String>>,
    proxy: Option<String>,
    #[serde(default)]
    proxy_resolves: bool,
    concurrency: Option<NonZeroUsize>,
    rate: Option<Rate>,
}

/// How many calls to a host there may be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// At once, by all sidecars together.
    pub concurrency: Option<NonZeroUsize>,
    /// One in so long a time, by all sidecars together.
    pub every: Option<Duration>,
}

/// `10/s`, `100/min`, `1000/h`: as the time that is between two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Rate(Duration);

impl TryFrom<String> for Rate {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let read = || {
            let (count, unit) = text.split_once('/')?;
            let seconds = match unit.trim() {
                "s" => 1,
                "m" | "min" => 60,
                "h" => 3600,
                _ => return None,
            };
            let count = count.trim().parse().ok().filter(|count| (1..=1_000_000).contains(count))?;
            Some(Self(Duration::from_secs(seconds) / count))
        };
        read().ok_or_else(|| format!("{text:?} is no rate: 1 to 1000000, with /s, /min or /h"))
    }
}

/// What is set for the hosts that a rule means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    about: Rule,
    tls: Option<Tls>,
    /// Those on whose behalf the client certificate is shown; all if it is not given.
    projects: Option<Vec<String>>,
    route: Option<Route>,
    limits: Limits,
}

impl Host {
    /// `entry`, with the files that it names; relative paths start at `folder`.
    ///
    /// # Errors
    /// When a file cannot be used, or the entry makes no sense; the text says which.
    pub fn read(entry: Entry, folder: &Path) -> anyhow::Result<Self> {
        let Entry { about, ca, client_cert, client_key, projects, proxy, proxy_resolves, .. } = entry;
        let limits = Limits { concurrency: entry.concurrency, every: entry.rate.map(|Rate(every)| every) };
        let place = about.to_string();
        let read = || {
            let ca = ca.map(|path| Pem::read(&folder.join(path))).transpose()?;
            let identity = match (client_cert, client_key) {
                (Some(certificate), Some(key)) => Some(Identity {
                    certificate: Pem::read(&folder.join(certificate))?,
                    key: Pem::read_private(&folder.join(key))?,
                }),
                (None, None) => None,
                _ => bail!("client_cert and client_key belong together"),
            };
            if let Some(projects) = &projects {
                ensure!(identity.is_some(), "projects says who shows the client certificate: there is none");
                ensure!(!projects.is_empty(), "projects names nobody who may show the client certificate");
            }
            let tls = match (&ca, &identity) {
                (None, None) => None,
                (ca, identity) => Some(Tls::of(ca.as_ref(), identity.as_ref())?),
            };
            let route = Route::read(proxy.as_deref(), proxy_resolves)?;
            Ok(Self { about, tls, projects, route, limits })
        };
        read().with_context(|| format!("[[hosts]] {place}"))
    }

    /// The projects that it names.
    pub fn projects(&self) -> impl Iterator<Item = &String> {
        self.projects.iter().flatten()
    }

    fn tls(&self, project: Option<&str>) -> Option<&Arc<ClientConfig>> {
        let Tls { anonymous, known, .. } = self.tls.as_ref()?;
        let may_show = match &self.projects {
            None => true,
            Some(projects) => project.is_some_and(|project| projects.iter().any(|name| name == project)),
        };
        known.as_ref().filter(|_| may_show).or(anonymous.as_ref())
    }
}

/// How calls to a host are secured.
#[derive(Clone)]
struct Tls {
    /// Without the client certificate; the system's roots where nothing is here.
    anonymous: Option<Arc<ClientConfig>>,
    /// With it.
    known: Option<Arc<ClientConfig>>,
    /// Of the files, to tell whether they have changed.
    digest: [u8; 32],
}

impl Tls {
    fn of(ca: Option<&Pem>, identity: Option<&Identity>) -> anyhow::Result<Self> {
        let roots = ca.map(Pem::roots).transpose()?;
        let anonymous = roots.clone().map(|roots| tls::config(roots, None)).transpose()?;
        let known = identity.map(|identity| tls::config(roots.unwrap_or_else(system_roots), Some(identity)));
        let mut digest = Sha256::new();
        let identity_files = identity.map(|identity| [&identity.certificate, &identity.key]);
        for file in
            [ca, identity_files.map(|[certificate, _]| certificate), identity_files.map(|[_, key]| key)]
        {
            digest.update(Sha256::digest(file.map_or("", |file| &file.text)));
        }
        Ok(Self { anonymous, known: known.transpose()?, digest: digest.finalize().into() })
    }
}

impl PartialEq for Tls {
    fn eq(&self, other: &Self) -> bool {
        let parts = |tls: &Self| (tls.anonymous.is_some(), tls.known.is_some(), tls.digest);
        parts(self) == parts(other)
    }
}

impl Eq for Tls {}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls(…)")
    }
}

/// What is set for all of them; the first entry that means a host holds for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hosts {
    /// In the order of the file.
    pub entries: Vec<Host>,
    /// Which way calls take for which no entry says.
    pub route: Option<Route>,
}

impl Hosts {
    fn of(&self, host: &str, port: u16) -> Option<&Host> {
        self.entries.iter().find(|entry| entry.about.is_about_url(host, port))
    }

    /// How a project's call to `host` is secured, if not as all are.
    pub fn tls(&self, project: Option<&str>, host: &str, port: u16) -> Option<&Arc<ClientConfig>> {
        self.of(host, port)?.tls(project)
    }

    /// The proxy that calls to `host` go through, if they do.
    pub fn proxy(&self, host: &str, port: u16) -> Option<&Proxy> {
        let own = self.of(host, port).and_then(|entry| entry.route.as_ref());
        own.or(self.route.as_ref())?.proxy()
    }

    /// How many calls there may be to a host, given as `host:port`.
    pub fn limits(&self, place: &str) -> Limits {
        let (host, port) = place.rsplit_once(':').unwrap_or((place, ""));
        let entry = port.parse().ok().and_then(|port| self.of(host, port));
        entry.map(|entry| entry.limits).unwrap_or_default()
    }

    /// Most calls at once that an entry says.
    pub fn most_at_once(&self) -> usize {
        let given = self.entries.iter().filter_map(|entry| entry.limits.concurrency);
        given.max().map_or(0, NonZeroUsize::get)
    }

    /// All proxies there are.
    pub fn proxies(&self) -> impl Iterator<Item = &Proxy> {
        let own = self.entries.iter().filter_map(|entry| entry.route.as_ref());
        own.chain(&self.route).filter_map(Route::proxy)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The entries of a file that names no other files.
    pub fn hosts(text: &str) -> anyhow::Result<Hosts> {
        #[derive(Deserialize)]
        struct File {
            hosts: Vec<Entry>,
        }
        let file: File = toml::from_str(text)?;
        let entries = file.hosts.into_iter().map(|entry| Host::read(entry, Path::new("")));
        Ok(Hosts { entries: entries.collect::<anyhow::Result<_>>()?, route: None })
    }

    #[test]
    fn the_first_entry_that_means_a_host_limits_it() {
        let hosts = hosts(
            r#"
            [[hosts]]
            match = "api.example:8443"
            concurrency = 4
            [[hosts]]
            match = "*.example"
            rate = "90/min"
            [[hosts]]
            match = "10.0.0.0/8"
            concurrency = 2
            rate = "4/s"
            "#,
        )
        .unwrap();
        let limits = |place: &str| {
            let Limits { concurrency, every } = hosts.limits(place);
            (concurrency.map_or(0, NonZeroUsize::get), every.map_or(0, |every| every.as_millis()))
        };
        for (place, limited) in [
            ("api.example:8443", (4, 0)),
            ("api.example:443", (0, 666)),
            ("b.api.example:8443", (0, 666)),
            ("10.1.2.3:80", (2, 250)),
            ("[::ffff:10.1.2.3]:80", (2, 250)),
            ("[fd00::1]:80", (0, 0)),
            ("example:80", (0, 0)),
        ] {
            assert_eq!(limits(place), limited, "{place}");
        }
        assert_eq!(hosts.most_at_once(), 4);
    }

    #[test]
    fn limits_that_make_no_sense_are_refused() {
        for wrong in
            ["concurrency = 0", "concurrency = -1", "rate = \"0/s\"", "rate = \"10\"", "rate = \"1/day\""]
        {
            let text = format!("[[hosts]]\nmatch = \"a.example\"\n{wrong}");
            assert!(hosts(&text).is_err(), "{wrong}");
        }
    }
}
