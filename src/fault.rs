//! Points at which a test ends this process, and bugs that it plants: what `tests/faults` works with.
//!
//! Compiled in with the feature `faults` only, which no release has; without it the macros expand to nothing. The
//! places are named in `fault/sites.txt`; one that is not does not compile. `docs/replay.md` tells what is done
//! with them.

#[cfg(feature = "faults")]
mod armed;
#[cfg(feature = "faults")]
pub mod bugs;
#[cfg(feature = "faults")]
pub use armed::{Passage, commits};

/// Every place, a line each: its name, and what is written there.
#[cfg(feature = "faults")]
const SITES: &str = include_str!("fault/sites.txt");

/// Names a write: one point lies before it, one behind it. Of an expression, or of all that follows in the block.
macro_rules! around {
    ($site:literal) => {
        #[cfg(feature = "faults")]
        let _passage = $crate::fault::Passage::begin(const { $crate::fault::listed($site) });
    };
    ($site:literal, $work:expr) => {{
        $crate::fault::around!($site);
        $work
    }};
}

/// Names the commit of the transaction under way: one point lies before it, one behind it.
macro_rules! at_commit {
    ($site:literal) => {
        #[cfg(feature = "faults")]
        $crate::fault::commits(const { $crate::fault::listed($site) });
    };
}

pub(crate) use {around, at_commit};

/// The name, if it is that of a place; else the build fails.
#[cfg(feature = "faults")]
pub const fn listed(site: &'static str) -> &'static str {
    let (list, name) = (SITES.as_bytes(), site.as_bytes());
    let mut start = 0;
    while start < list.len() {
        let mut i = 0;
        while i < name.len() && start + i < list.len() && list[start + i] == name[i] {
            i += 1;
        }
        if i == name.len() && start + i < list.len() && list[start + i] == b' ' {
            return site;
        }
        while start < list.len() && list[start] != b'\n' {
            start += 1;
        }
        start += 1;
    }
    panic!("this place is not named in fault/sites.txt")
}
