//! The machine that the sidecar runs on.

use std::net::IpAddr;

use anyhow::Context;

use super::ranges::{Reach, reach};
use super::rules::Rule;

/// Its addresses of the public internet: what listens there may trust whoever comes from the machine itself. Others are
/// refused for what they are.
///
/// # Errors
/// When the system does not tell them.
pub fn public_addresses() -> anyhow::Result<Vec<Rule>> {
    let interfaces = if_addrs::get_if_addrs().context(
        "cannot ask for this machine's own addresses, which must not be called: the system has to permit AF_NETLINK",
    )?;
    Ok(public(interfaces.into_iter().map(|interface| interface.ip())))
}

fn public(addresses: impl Iterator<Item = IpAddr>) -> Vec<Rule> {
    let mut public: Vec<IpAddr> = addresses.filter(|address| reach(*address).0 == Reach::Public).collect();
    // The system tells them in any order, and one of several interfaces twice; another order is no other policy.
    public.sort_unstable();
    public.dedup();
    public.into_iter().map(Rule::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::egress::rules::Rules;

    #[test]
    fn what_has_a_public_address_here_is_not_called_unless_a_rule_names_it() {
        let here = ["5.6.7.8", "2606:4700::9", "10.0.0.1", "127.0.0.1", "fe80::1", "5.6.7.8", "1.2.3.4"];
        let own = public(here.into_iter().map(|address| address.parse().unwrap()));
        let shown: Vec<String> = own.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["1.2.3.4/32", "5.6.7.8/32", "2606:4700::9/128"]);
        let allow = vec!["hooks.example:443".parse().unwrap(), "1.2.3.4:8443".parse().unwrap()];
        let rules = Rules { own, allow, ..Rules::default() };
        let vet = |host: &str, address: &str| rules.vet(host, address.parse().unwrap());
        for (host, address) in [
            ("5.6.7.8", "5.6.7.8:443"),
            ("evil.example", "5.6.7.8:9000"),
            ("hooks.example", "5.6.7.8:80"),
            ("[2606:4700::9]", "[2606:4700::9]:443"),
            ("[::ffff:5.6.7.8]", "[::ffff:5.6.7.8]:443"),
            ("1.2.3.4", "1.2.3.4:443"),
        ] {
            let refused = vet(host, address).unwrap_err().to_string();
            assert!(refused.contains("the sidecar itself"), "{refused}");
        }
        for (host, address) in
            [("hooks.example", "5.6.7.8:443"), ("x.example", "1.2.3.4:8443"), ("x.example", "5.6.7.9:443")]
        {
            assert_eq!(vet(host, address), Ok(()), "{host}");
        }
    }

    #[test]
    fn the_system_tells_them() {
        public_addresses().unwrap();
    }
}
