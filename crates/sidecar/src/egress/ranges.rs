//! Which addresses are of the public internet, and what the others are for.
//!
//! The IANA special-purpose registries (RFC 6890), and addresses at which clouds hand out credentials. Forms that
//! carry an IPv4 address are judged by that address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::LazyLock;

use ipnet::IpNet;

/// Who may be reached at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Anybody on the internet.
    Public,
    /// Machines of one's own: called only where a rule says so, by network or by name.
    Internal(&'static str),
    /// Nobody a workflow has business with: called only where a rule names the network.
    Special(&'static str),
}

use Reach::{Internal, Special};

/// The first that holds an address decides.
const RANGES: [(&str, Reach); 37] = [
    // Credentials of the machine for whoever asks: no private network, whatever lies around it.
    ("169.254.0.0/16", Special("link-local, where clouds keep the machine's credentials")),
    ("100.100.100.200/32", Special("where a cloud keeps the machine's credentials")),
    ("168.63.129.16/32", Special("a cloud's own service")),
    ("fd00:ec2::/32", Special("where a cloud keeps the machine's credentials")),
    ("fd20:ce::254/128", Special("where a cloud keeps the machine's credentials")),
    ("10.0.0.0/8", Internal("a private network")),
    ("172.16.0.0/12", Internal("a private network")),
    ("192.168.0.0/16", Internal("a private network")),
    ("100.64.0.0/10", Internal("a provider's shared network")),
    ("127.0.0.0/8", Internal("this machine")),
    ("0.0.0.0/8", Special("no host")),
    ("192.0.0.0/24", Special("for protocols")),
    ("192.0.2.0/24", Special("for documentation")),
    ("192.88.99.0/24", Special("a 6to4 relay")),
    ("198.18.0.0/15", Special("for benchmarks")),
    ("198.51.100.0/24", Special("for documentation")),
    ("203.0.113.0/24", Special("for documentation")),
    ("224.0.0.0/4", Special("multicast")),
    ("240.0.0.0/4", Special("reserved")),
    ("0.0.0.0/0", Reach::Public),
    ("::1/128", Internal("this machine")),
    ("fc00::/7", Internal("a private network")),
    ("::/8", Special("reserved")),
    ("64:ff9b:1::/48", Special("a local translation to IPv4")),
    ("100::/64", Special("for discarding")),
    ("100:0:0:1::/64", Special("for dummies")),
    ("2001::/32", Special("Teredo")),
    ("2001::/23", Special("for protocols")),
    ("2001:db8::/32", Special("for documentation")),
    ("2002::/16", Special("6to4")),
    ("3fff::/20", Special("for documentation")),
    ("5f00::/16", Special("for segment routing")),
    ("fe80::/10", Special("link-local")),
    ("fec0::/10", Special("site-local")),
    ("ff00::/8", Special("multicast")),
    // What has been assigned to the internet so far.
    ("2000::/3", Reach::Public),
    ("::/0", Special("not assigned")),
];

static TABLE: LazyLock<Vec<(IpNet, Reach)>> = LazyLock::new(|| {
    RANGES.iter().map(|(net, reach)| (net.parse().expect("a network of the table"), *reach)).collect()
});

/// Who may be reached at `address`, and within which network that is so.
pub fn reach(address: IpAddr) -> (Reach, IpNet) {
    let address = carried(address).unwrap_or(address);
    if let IpAddr::V6(v6) = address
        && is_isatap(v6)
    {
        return (Special("a tunnel to IPv4 (ISATAP)"), IpNet::from(address));
    }
    let found = TABLE.iter().find(|(net, _)| net.contains(&address));
    found.map_or((Special("not assigned"), IpNet::from(address)), |(net, reach)| (*reach, *net))
}

/// The IPv4 address that one of IPv6 stands for: mapped (`::ffff:…`), or translated by NAT64 (`64:ff9b::…`, RFC 6052).
pub fn carried(address: IpAddr) -> Option<IpAddr> {
    let IpAddr::V6(v6) = address else { return None };
    let [.., a, b, c, d] = v6.octets();
    let is_nat64 = v6.segments()[..6] == [0x64, 0xff9b, 0, 0, 0, 0];
    (v6.to_ipv4_mapped().is_some() || is_nat64).then_some(IpAddr::V4(Ipv4Addr::new(a, b, c, d)))
}

/// An interface identifier of RFC 5214, under any prefix.
fn is_isatap(address: Ipv6Addr) -> bool {
    matches!(address.segments(), [_, _, _, _, 0 | 0x0200, 0x5efe, _, _])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(address: &str) -> Reach {
        reach(address.parse().unwrap()).0
    }

    #[test]
    fn the_internet_is_public() {
        for address in [
            "1.1.1.1",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "169.253.255.255",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.1.0",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "2606:4700::1111",
            "2a00:1450:4001:82b::200e",
            "::ffff:1.1.1.1",
            "64:ff9b::1.1.1.1",
        ] {
            assert_eq!(of(address), Reach::Public, "{address}");
        }
    }

    #[test]
    fn ones_own_networks_are_internal() {
        for address in [
            "10.0.0.1",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "100.64.0.1",
            "127.0.0.1",
            "127.255.255.254",
            "::1",
            "fd12:3456::1",
            "::ffff:10.0.0.1",
            "::ffff:127.0.0.1",
            "64:ff9b::7f00:1",
        ] {
            assert!(matches!(of(address), Internal(_)), "{address}");
        }
    }

    #[test]
    fn everything_else_is_special() {
        for address in [
            "0.0.0.0",
            "0.1.2.3",
            "169.254.169.254",
            "169.254.170.2",
            "100.100.100.200",
            "168.63.129.16",
            "192.0.0.8",
            "192.0.2.1",
            "192.88.99.1",
            "198.18.0.1",
            "198.51.100.7",
            "203.0.113.7",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::7f00:1",
            "::ffff:0:127.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::1",
            "100::1",
            "2001::1",
            "2001:2::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "3fff::1",
            "4000::1",
            "5f00::1",
            "fd00:ec2::254",
            "fd00:ec2::23",
            "fd20:ce::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "2a00::5efe:7f00:1",
            "2a00::200:5efe:10.0.0.1",
        ] {
            assert!(matches!(of(address), Special(_)), "{address}");
        }
    }
}
