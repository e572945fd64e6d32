//! Disks that are soon full: file systems of a few megabytes in a cluster's folder.

use crate::cluster::Cluster;
use crate::install;
use rustix::process::geteuid;
use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A file system in memory, as large as it was made. It goes with its cluster.
#[derive(Debug)]
pub struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    /// Mounts one in the cluster's folder, for root or by sudo.
    ///
    /// # Panics
    /// When it cannot be mounted.
    pub fn mount(cluster: &Cluster, megabytes: u32) -> SmallDisk {
        let path = cluster.dir().join("disk");
        fs::create_dir(&path).unwrap_or_else(|e| panic!("cannot make {}: {e}", path.display()));
        let mut command = if geteuid().is_root() { Command::new("mount") } else { Command::new("sudo") };
        if !geteuid().is_root() {
            command.args(["-n", "mount"]);
        }
        let output = command
            .args(["-t", "tmpfs", "-o", &format!("size={megabytes}m,mode=777"), "meshhook-test"])
            .arg(&path)
            .output()
            .unwrap_or_else(|e| panic!("cannot run mount (as who is not root: sudo): {e}"));
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "a full disk needs the right to mount a tmpfs (root, or sudo): {errors}"
        );
        SmallDisk { path }
    }

    /// A new folder on it that belongs to the server.
    pub fn folder(&self, name: &str) -> PathBuf {
        let path = self.path.join(name);
        fs::create_dir(&path).unwrap_or_else(|e| panic!("cannot make {}: {e}", path.display()));
        install::give_to_server(&path);
        path
    }

    /// Takes all the room that is left.
    pub fn fill(&self) {
        let mut file = File::options().create(true).append(true).open(self.ballast());
        let file = file.as_mut().unwrap_or_else(|e| panic!("cannot fill the disk: {e}"));
        loop {
            match file.write(&[1; 4096]) {
                Ok(_) => {}
                Err(e) if e.kind() == ErrorKind::StorageFull => return,
                Err(e) => panic!("cannot fill the disk: {e}"),
            }
        }
    }

    /// Gives back what [`SmallDisk::fill`] took.
    pub fn make_room(&self) {
        fs::remove_file(self.ballast()).unwrap_or_else(|e| panic!("cannot make room: {e}"));
    }

    /// Moves a folder of a stopped server here and leaves a link in its place.
    pub fn take_in(&self, folder: &Path) {
        let name = folder.file_name().unwrap_or_else(|| panic!("{} has no name", folder.display()));
        let moved = Command::new("cp")
            .arg("-a")
            .arg(folder)
            .arg(&self.path)
            .status()
            .unwrap_or_else(|e| panic!("cannot run cp: {e}"));
        assert!(moved.success(), "{} does not fit on the small disk", folder.display());
        let linked = fs::remove_dir_all(folder)
            .and_then(|()| std::os::unix::fs::symlink(self.path.join(name), folder));
        linked.unwrap_or_else(|e| panic!("cannot put a link in the place of {}: {e}", folder.display()));
    }

    fn ballast(&self) -> PathBuf {
        self.path.join("ballast")
    }
}
