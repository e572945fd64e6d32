//! What a project may call: rules by network and by name, over what is refused unless a rule says otherwise.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use ipnet::IpNet;
use serde::Deserialize;

use super::ranges::{Reach, carried, reach};

/// Ports below 1024 that are the web's.
const WEB_PORTS: [u16; 2] = [80, 443];
/// Ports from 1024 on where something else than HTTP listens that takes commands from whoever connects.
const OTHER_SERVICES: [u16; 11] = [2049, 2375, 2379, 3306, 5432, 6379, 6432, 9042, 9200, 11_211, 27_017];
/// Names that mean machines of one's own, wherever they lead.
const LOCAL_NAMES: [&str; 6] = ["localhost", "internal", "local", "svc", "cluster.local", "home.arpa"];

/// Where a call must not go, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{target} must not be called: {reason}")]
pub struct Forbidden {
    target: String,
    reason: String,
}

/// One entry of a list: `10.1.0.0/16`, `10.1.2.3:8080`, `[fd00::/8]:80`, `api.example.com`, `*.example.com:8443`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Rule {
    place: Place,
    /// The only port it is about, if it is not about all.
    port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Net(IpNet),
    Name(String),
    /// All names below this one.
    Below(String),
}

impl FromStr for Rule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let unclear = || format!("{text:?} is neither a network, nor a host name, with a port or without");
        if let Some(net) = net(text) {
            return Ok(Self { place: Place::Net(net), port: None });
        }
        let (place, port) = match text.rsplit_once(':') {
            Some((place, port)) => (place, Some(port.parse().map_err(|_| unclear())?)),
            None => (text, None),
        };
        let bare = place.strip_prefix('[').and_then(|place| place.strip_suffix(']'));
        if let Some(net) = net(bare.unwrap_or(place)) {
            return Ok(Self { place: Place::Net(net), port });
        }
        let (below, name) = match place.strip_prefix("*.") {
            Some(name) => (true, name),
            None => (false, place),
        };
        let is_name = |name: &str| {
            !name.is_empty()
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'))
        };
        // No URL has a host whose last part is a number and that is not an address.
        let last = name.trim_end_matches('.').rsplit('.').next().unwrap_or_default();
        if !is_name(name) || last.starts_with(|first: char| first.is_ascii_digit()) {
            return Err(unclear());
        }
        let name = canonical(name);
        Ok(Self { place: if below { Place::Below(name) } else { Place::Name(name) }, port })
    }
}

impl TryFrom<String> for Rule {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// A network, or an address alone. One of IPv6 that stands for an address of IPv4 is that.
fn net(text: &str) -> Option<IpNet> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(IpNet::from(carried(address).unwrap_or(address)));
    }
    text.parse::<IpNet>().ok().map(|net| net.trunc())
}

impl From<IpAddr> for Rule {
    /// All ports of one address.
    fn from(address: IpAddr) -> Self {
        Self { place: Place::Net(IpNet::from(carried(address).unwrap_or(address))), port: None }
    }
}

/// The address that a URL's host is, if it is one.
pub fn literal(host: &str) -> Option<IpAddr> {
    host.trim_matches(['[', ']']).parse().ok()
}

/// A host name as names are compared.
fn canonical(name: &str) -> String {
    name.trim_end_matches('.').to_ascii_lowercase()
}

impl Rule {
    /// Whether it means a host as a URL names it: a name by what it is called, not by where it leads.
    pub fn is_about_url(&self, host: &str, port: u16) -> bool {
        match literal(host) {
            Some(address) => self.is_about_address(address, port),
            None => self.is_about_name(Some(&canonical(host)), port),
        }
    }

    fn is_about(&self, name: Option<&str>, address: Option<IpAddr>, port: u16) -> bool {
        self.is_about_name(name, port) || address.is_some_and(|address| self.is_about_address(address, port))
    }

    fn is_about_name(&self, name: Option<&str>, port: u16) -> bool {
        let is_it = match (&self.place, name) {
            (Place::Name(known), Some(name)) => known == name,
            (Place::Below(known), Some(name)) => is_below(name, known),
            _ => false,
        };
        is_it && self.port.is_none_or(|only| only == port)
    }

    /// Whether it names nothing outside of a network.
    fn is_within(&self, outer: &IpNet) -> bool {
        matches!(&self.place, Place::Net(net) if outer.contains(net))
    }

    fn is_about_address(&self, address: IpAddr, port: u16) -> bool {
        // An IPv4 address that is carried in one of IPv6 is the same machine.
        let holds =
            |net: &IpNet| net.contains(&address) || carried(address).is_some_and(|v4| net.contains(&v4));
        let is_it = matches!(&self.place, Place::Net(net) if holds(net));
        is_it && self.port.is_none_or(|only| only == port)
    }
}

fn is_below(name: &str, parent: &str) -> bool {
    name.strip_suffix(parent).is_some_and(|rest| rest.ends_with('.'))
}

/// Rules with commas between them, as flags take them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct List(pub Vec<Rule>);

impl FromStr for List {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let rules = text.split(',').filter(|rule| !rule.trim().is_empty());
        rules.map(str::parse).collect::<Result<_, _>>().map(Self)
    }
}

impl fmt::Display for List {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rules: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&rules.join(","))
    }
}

/// The lists that hold for calls of one project.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rules {
    /// May be called although it is not of the public internet.
    pub allow: Vec<Rule>,
    /// Must not be called, whatever else is said.
    pub deny: Vec<Rule>,
    /// Where it is given, nothing else may be called.
    pub only: Option<Vec<Rule>>,
    /// The machine itself and what it works for: not to be called unless a network of `allow` holds it.
    #[serde(skip)]
    pub own: Vec<Rule>,
}

impl Rules {
    /// These together with those of a project, whose `only` replaces this one.
    pub fn with(&self, project: &Self) -> Self {
        let both = |ours: &[Rule], theirs: &[Rule]| [ours, theirs].concat();
        Self {
            allow: both(&self.allow, &project.allow),
            deny: both(&self.deny, &project.deny),
            only: project.only.clone().or_else(|| self.only.clone()),
            own: both(&self.own, &project.own),
        }
    }

    /// Judges where a call to `host` would go. `host` is a name, or an address as it stands in URLs.
    ///
    /// # Errors
    /// When a call must not go there.
    pub fn vet(&self, host: &str, address: SocketAddr) -> Result<(), Forbidden> {
        let name = literal(host).is_none().then(|| canonical(host));
        self.judge(name.as_deref(), Some(address.ip()), address.port())
            .map_err(|reason| Forbidden { target: host.to_owned(), reason })
    }

    /// Judges a name alone, where somebody else looks up what it leads to.
    ///
    /// # Errors
    /// When a call must not go there.
    pub fn vet_name(&self, host: &str, port: u16) -> Result<(), Forbidden> {
        self.judge(Some(&canonical(host)), None, port)
            .map_err(|reason| Forbidden { target: host.to_owned(), reason })
    }

    fn judge(&self, name: Option<&str>, ip: Option<IpAddr>, port: u16) -> Result<(), String> {
        let says = |rules: &[Rule]| rules.iter().any(|rule| rule.is_about(name, ip, port));
        if says(&self.deny) {
            return Err("the sidecar's configuration denies it".to_owned());
        }
        if self.only.as_ref().is_some_and(|only| !says(only)) {
            return Err("it is not among what the sidecar's configuration allows".to_owned());
        }
        let by_name = self.allow.iter().any(|rule| rule.is_about_name(name, port));
        if let Some(ip) = ip {
            // Whoever lists a network as all that may be called means it, whatever it is.
            let networks = self.allow.iter().chain(self.only.iter().flatten());
            let mut networks = networks.filter(|rule| rule.is_about_address(ip, port));
            let (reach, range) = reach(ip);
            let what = match reach {
                Reach::Public | Reach::Internal(_) if networks.clone().next().is_some() => return Ok(()),
                // A wide network does not mean what is special within it.
                Reach::Special(_) if networks.any(|rule| rule.is_within(&range)) => return Ok(()),
                Reach::Public => None,
                // A name of one's own may well lead to a machine of one's own; what is special is never meant.
                Reach::Internal(_) if by_name => None,
                Reach::Internal(what) | Reach::Special(what) => Some(what),
            };
            if let Some(what) = what {
                // Where a name leads is nobody's business: it would tell of the networks inside.
                let subject = name.map_or("it is", |_| "it leads to");
                return Err(format!("{subject} no address of the internet ({what}); --allow permits it"));
            }
        }
        if says(&self.own) && !by_name {
            return Err("the sidecar itself, or what it works with, is there; --allow permits it".to_owned());
        }
        if by_name {
            return Ok(());
        }
        if let Some(name) = name.filter(|name| is_local(name)) {
            return Err(format!("{name:?} is a name for machines of one's own; --allow permits it"));
        }
        if !(WEB_PORTS.contains(&port) || port >= 1024 && !OTHER_SERVICES.contains(&port)) {
            return Err(format!("port {port} is not for HTTP; --allow permits it"));
        }
        Ok(())
    }
}

fn is_local(name: &str) -> bool {
    LOCAL_NAMES.iter().any(|local| name == *local || is_below(name, local))
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.place, self.port) {
            (Place::Net(net @ IpNet::V6(_)), Some(_)) => write!(f, "[{net}]")?,
            (Place::Net(net), _) => write!(f, "{net}")?,
            (Place::Name(name), _) => f.write_str(name)?,
            (Place::Below(name), _) => write!(f, "*.{name}")?,
        }
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(allow: &[&str], deny: &[&str], only: &[&str]) -> Rules {
        let list = |rules: &[&str]| rules.iter().map(|rule| rule.parse().unwrap()).collect();
        let only = (!only.is_empty()).then(|| list(only));
        Rules { allow: list(allow), deny: list(deny), only, own: Vec::new() }
    }

    fn vet(rules: &Rules, host: &str, address: &str) -> Result<(), String> {
        rules.vet(host, address.parse().unwrap()).map_err(|forbidden| forbidden.to_string())
    }

    #[test]
    fn without_rules_only_the_internet_is_called() {
        let none = Rules::default();
        assert_eq!(vet(&none, "example.com", "93.184.215.14:443"), Ok(()));
        assert_eq!(vet(&none, "example.com", "93.184.215.14:8080"), Ok(()));
        for (host, address, why) in [
            ("example.com", "10.0.0.1:443", "a private network"),
            ("example.com", "[::ffff:10.0.0.1]:443", "a private network"),
            ("169.254.169.254", "169.254.169.254:80", "credentials"),
            ("[::1]", "[::1]:80", "this machine"),
            ("localhost", "93.184.215.14:80", "machines of one's own"),
            ("metadata.google.internal.", "93.184.215.14:80", "machines of one's own"),
            ("api.default.svc.cluster.local", "93.184.215.14:80", "machines of one's own"),
            ("example.com", "93.184.215.14:22", "port 22 is not for HTTP"),
            ("example.com", "93.184.215.14:5432", "port 5432 is not for HTTP"),
        ] {
            let refused = vet(&none, host, address).unwrap_err();
            assert!(refused.starts_with(&format!("{host} must not")) && refused.contains(why), "{refused}");
        }
    }

    #[test]
    fn allowed_by_network_or_by_name() {
        let some =
            rules(&["10.1.0.0/16", "127.0.0.1:8080", "[fd00::/8]:80", "*.corp", "api.internal:81"], &[], &[]);
        for (host, address) in [
            ("10.1.2.3", "10.1.2.3:22"),
            ("anything.example", "10.1.2.3:443"),
            ("localhost", "127.0.0.1:8080"),
            ("[fd12::1]", "[fd12::1]:80"),
            ("a.b.CORP", "192.168.0.9:5432"),
            ("api.internal", "10.9.9.9:81"),
        ] {
            assert_eq!(vet(&some, host, address), Ok(()), "{host} {address}");
        }
        for (host, address) in [
            ("10.2.0.1", "10.2.0.1:80"),
            ("localhost", "127.0.0.1:8081"),
            ("[fd12::1]", "[fd12::1]:81"),
            ("corp", "192.168.0.9:80"),
            ("evilcorp", "192.168.0.9:80"),
            ("api.internal", "10.9.9.9:80"),
            // A name leads to no credentials, whoever answers for it.
            ("a.corp", "169.254.169.254:80"),
            ("a.corp", "[::ffff:169.254.169.254]:80"),
        ] {
            assert!(vet(&some, host, address).is_err(), "{host} {address}");
        }
        // Nor does a wide network mean them.
        let wide = rules(&["0.0.0.0/0", "100.64.0.0/10", "fc00::/7"], &[], &[]);
        for address in
            ["169.254.169.254:80", "100.100.100.200:80", "[fd00:ec2::254]:80", "[64:ff9b::a9fe:a9fe]:80"]
        {
            assert!(vet(&wide, "a.example", address).is_err(), "{address}");
        }
        assert_eq!(vet(&wide, "10.0.0.1", "10.0.0.1:80"), Ok(()));
        let metadata = rules(&["169.254.169.254"], &[], &[]);
        assert_eq!(vet(&metadata, "169.254.169.254", "169.254.169.254:80"), Ok(()));
    }

    #[test]
    fn denied_wins_and_only_excludes() {
        let some = rules(&["10.0.0.0/8"], &["10.0.0.5", "*.bad.example"], &[]);
        assert!(vet(&some, "10.0.0.5", "10.0.0.5:80").unwrap_err().contains("denies"));
        assert!(vet(&some, "good.example", "10.0.0.5:80").is_err());
        assert!(vet(&some, "x.bad.example", "1.1.1.1:443").is_err());
        assert_eq!(vet(&some, "bad.example", "1.1.1.1:443"), Ok(()));
        let only = some.with(&rules(&[], &[], &["api.stripe.com:443", "192.168.7.0/24"]));
        assert_eq!(vet(&only, "api.stripe.com", "1.1.1.1:443"), Ok(()));
        assert_eq!(vet(&only, "192.168.7.1", "192.168.7.1:80"), Ok(()));
        assert!(vet(&only, "api.stripe.com", "1.1.1.1:80").unwrap_err().contains("not among"));
        assert!(vet(&only, "10.0.0.6", "10.0.0.6:80").is_err());
        assert!(vet(&only, "10.0.0.5", "10.0.0.5:80").is_err());
        // A name that is all that may be called still leads nowhere inside.
        assert!(vet(&only, "api.stripe.com", "127.0.0.1:443").is_err());
        let shut = some.with(&Rules { only: Some(Vec::new()), ..Rules::default() });
        assert!(vet(&shut, "api.stripe.com", "1.1.1.1:443").is_err());
        // Denied in every form.
        let denied = rules(&[], &["1.2.3.4", "::ffff:1.2.3.5"], &[]);
        for address in ["1.2.3.4:80", "[::ffff:1.2.3.4]:80", "[64:ff9b::102:304]:80", "1.2.3.5:80"] {
            assert!(vet(&denied, "x.example", address).is_err(), "{address}");
        }
        let own = Rules { own: vec!["5.5.5.5:6543".parse().unwrap()], ..rules(&["5.5.5.6:6543"], &[], &[]) };
        assert!(vet(&own, "db.example", "5.5.5.5:6543").unwrap_err().contains("what it works with"));
        assert_eq!(vet(&own, "db.example", "5.5.5.5:443"), Ok(()));
    }

    #[test]
    fn a_name_that_others_look_up_is_judged_alone() {
        let some = rules(&["api.internal", "10.0.0.0/8"], &["*.bad.example"], &[]);
        let vet =
            |rules: &Rules, host: &str, port| rules.vet_name(host, port).map_err(|error| error.to_string());
        assert_eq!(vet(&some, "api.INTERNAL.", 22), Ok(()));
        assert_eq!(vet(&some, "good.example", 443), Ok(()));
        for (host, port, why) in [
            ("a.bad.example", 443, "denies it"),
            ("db.internal", 80, "machines of one's own"),
            ("good.example", 22, "not for HTTP"),
        ] {
            let refused = vet(&some, host, port).unwrap_err();
            assert!(refused.contains(why), "{refused}");
        }
        let only = some.with(&rules(&[], &[], &["good.example:443", "1.2.3.0/24"]));
        assert_eq!(vet(&only, "good.example", 443), Ok(()));
        assert!(vet(&only, "other.example", 443).is_err() && vet(&only, "good.example", 80).is_err());
        let own = Rules { own: vec!["proxy.example:3128".parse().unwrap()], ..Rules::default() };
        assert!(vet(&own, "proxy.example", 3128).unwrap_err().contains("what it works with"));
    }

    #[test]
    fn rules_are_read_and_written() {
        for text in
            ["10.0.0.0/8", "10.0.0.1/32:80", "[fd00::/8]:80", "fd00::/8", "a.example", "*.b.example:8443"]
        {
            assert_eq!(text.parse::<Rule>().unwrap().to_string(), text);
        }
        assert_eq!("10.0.0.1".parse::<Rule>().unwrap().to_string(), "10.0.0.1/32");
        assert_eq!("10.1.2.3/8".parse::<Rule>().unwrap().to_string(), "10.0.0.0/8");
        for bad in [
            "",
            "*",
            "*.",
            "a b",
            "http://a",
            "a:b",
            "10.1",
            "0x7f.1",
            "10.0.0.0/33",
            "a/8",
            "[::1",
            "é.example",
            "a:70000",
        ] {
            assert!(bad.parse::<Rule>().is_err(), "{bad:?}");
        }
    }
}
