//! Secrets are in clear in the sidecar's memory, and memory must not end in a file.

use rustix::io;
use rustix::process::{Resource, Rlimit, setrlimit};

/// A crash of this process leaves no core from now on, and nobody but root looks into it.
///
/// # Errors
/// When the system refuses; it has no reason to.
pub fn seclude() -> io::Result<()> {
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    // A core that is piped to a program, as most distributions have it, does not mind the limit.
    #[cfg(target_os = "linux")]
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secluded_process_leaves_no_core() {
        seclude().expect("the system lets us");
        let limit = rustix::process::getrlimit(Resource::Core);
        assert_eq!((limit.current, limit.maximum), (Some(0), Some(0)));
        #[cfg(target_os = "linux")]
        assert_eq!(rustix::process::dumpable_behavior(), Ok(rustix::process::DumpableBehavior::NotDumpable));
    }
}
