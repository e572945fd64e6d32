//! Which versions of the extension this sidecar works with.

use std::fmt;

/// The version of this binary.
pub const SIDECAR: &str = env!("CARGO_PKG_VERSION");

/// A version `major.minor.patch`; anything after a `-` or `+` is ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    major: u32,
    minor: u32,
    patch: u32,
}

impl Version {
    /// Reads `1.2.3`, `1.2` or `1.2.3-rc.1`; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let core = text.trim().split(['-', '+']).next()?;
        let mut parts = core.split('.');
        let major = parts.next()?.parse().ok()?;
        let minor = parts.next()?.parse().ok()?;
        let patch = match parts.next() {
            Some(part) => part.parse().ok()?,
            None => 0,
        };
        parts.next().is_none().then_some(Self { major, minor, patch })
    }

    /// The same major version, and minor versions that are equal or neighbours: so that either side
    /// of a rolling upgrade may go first.
    pub fn works_with(self, other: Self) -> bool {
        self.major == other.major && self.minor.abs_diff(other.minor) <= 1
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// Checks what `meshhook.version()` said; the error says what to do about it.
pub fn check(extension: &str) -> Result<(), String> {
    check_pair(SIDECAR, extension)
}

fn check_pair(sidecar: &str, extension: &str) -> Result<(), String> {
    let (Some(ours), Some(theirs)) = (Version::parse(sidecar), Version::parse(extension)) else {
        return Err(format!(
            "cannot compare extension version {extension:?} with sidecar version {sidecar:?}"
        ));
    };
    if ours.works_with(theirs) {
        return Ok(());
    }
    let newer_extension = (theirs.major, theirs.minor) > (ours.major, ours.minor);
    Err(if newer_extension {
        format!("extension {theirs} is too new for sidecar {ours}: upgrade the sidecar to {theirs}")
    } else {
        format!(
            "extension {theirs} is too old for sidecar {ours}: install the newer extension and run \
             ALTER EXTENSION meshhook UPDATE, or use sidecar {theirs}"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses() {
        assert_eq!(Version::parse("0.1.2"), Some(Version { major: 0, minor: 1, patch: 2 }));
        assert_eq!(Version::parse("1.2-rc1").unwrap().to_string(), "1.2.0");
        for bad in ["", "1", "a.b", "1.2.3.4", "1.-2"] {
            assert_eq!(Version::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn accepts_a_neighbouring_minor_both_ways() {
        for ok in ["0.2.0", "0.2.9", "0.1.0", "0.3.4"] {
            assert_eq!(check_pair("0.2.1", ok), Ok(()), "{ok}");
        }
        for (bad, hint) in
            [("0.0.9", "ALTER EXTENSION"), ("0.4.0", "upgrade the sidecar"), ("1.2.1", "upgrade the sidecar")]
        {
            assert!(check_pair("0.2.1", bad).unwrap_err().contains(hint), "{bad}");
        }
        assert!(check_pair("0.2.1", "nonsense").is_err());
    }
}
