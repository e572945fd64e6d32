//! Files that only their owner may read.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context as _, ensure};
use zeroize::Zeroizing;

/// The text of a file that holds a secret.
///
/// # Errors
/// When it cannot be read, or is open to others; the text quotes nothing of it.
pub fn read_private(path: &Path) -> anyhow::Result<Zeroizing<String>> {
    ensure_private(path)?;
    Ok(Zeroizing::new(
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?,
    ))
}

/// Refuses a file that others than its owner may open.
///
/// # Errors
/// When they may, or nobody can tell.
pub fn ensure_private(path: &Path) -> anyhow::Result<()> {
    let shown = path.display();
    let mode = std::fs::metadata(path).with_context(|| format!("cannot read {shown}"))?.permissions().mode();
    ensure!(mode & 0o077 == 0, "{shown} is open to others; make its mode 0600");
    Ok(())
}
