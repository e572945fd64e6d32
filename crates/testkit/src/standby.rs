//! Streaming standbys: clusters that begin as a copy of another one and replay what it writes. And copies that are
//! restored to a point in time.
//!
//! A standby is a [`Cluster`] like any other, with a folder, a port and an end of its own; what it is besides is in its
//! data folder.

use crate::cluster::Cluster;
use crate::install;
use crate::wait::wait_for;
use std::path::Path;
use std::time::Duration;

/// How long a promotion, or catching up, may take before the test fails.
const PATIENCE: Duration = Duration::from_secs(60);

impl Cluster {
    /// Makes a standby of this cluster by `pg_basebackup`, starts it and waits until it takes connections.
    ///
    /// Only what is durable here reaches it: with `synchronous_commit = off` commits follow when the WAL writer has
    /// come by.
    ///
    /// # Panics
    /// When the backup fails or the standby does not come up.
    pub fn standby(&self) -> Cluster {
        let standby = self.backup();
        // Replay would wait up to 30 s for a reader that holds a snapshot, of whatever database: the standby's other
        // readers would see nothing new meanwhile.
        standby.add_setting("hot_standby_feedback", "on");
        standby.add_setting("wal_receiver_status_interval", "1s");
        let primary = format!("host=127.0.0.1 port={} user=postgres", self.port());
        standby.add_setting("primary_conninfo", &primary);
        standby.mark("standby.signal");
        standby.start();
        standby
    }

    /// A copy by `pg_basebackup` with a folder and a port of its own, which was never started: to be made a standby, or
    /// to be [restored](Cluster::restore).
    ///
    /// # Panics
    /// When the backup fails.
    pub fn backup(&self) -> Cluster {
        let copy = Cluster::without_data();
        let output = install::server_command("pg_basebackup")
            .args(["-h", "127.0.0.1", "-U", "postgres", "-p"])
            .arg(self.port().to_string())
            .args(["--wal-method=stream", "--checkpoint=fast", "--no-sync", "-D"])
            .arg(copy.data_dir())
            .output()
            .unwrap_or_else(|e| panic!("cannot run pg_basebackup of {}: {e}", install::bin_dir().display()));
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "pg_basebackup failed: {errors}");
        copy.add_setting("port", &copy.port().to_string());
        copy.add_setting("unix_socket_directories", &copy.dir().display().to_string());
        if self.kek_file().exists() {
            std::fs::copy(self.kek_file(), copy.kek_file())
                .unwrap_or_else(|e| panic!("cannot copy the KEK: {e}"));
            install::give_to_server(&copy.kek_file());
            copy.add_setting("meshhook.kek_file", &copy.kek_file().display().to_string());
        }
        copy
    }

    /// Starts this backup as what its origin was at `time`, from the WAL that was archived in `archive`, and waits until
    /// it takes writes.
    pub fn restore(&self, archive: &Path, time: &str) {
        self.add_setting("archive_mode", "off");
        self.add_setting("restore_command", &format!("cp '{}/%f' '%p'", archive.display()));
        self.add_setting("recovery_target_time", time);
        self.add_setting("recovery_target_action", "promote");
        self.mark("recovery.signal");
        self.start();
        let mut session = self.superuser("postgres");
        wait_for("the end of recovery", PATIENCE, || session.value("SELECT NOT pg_is_in_recovery()", &[]));
    }

    /// Puts one of the empty files into the data folder that tell the server how to start.
    fn mark(&self, name: &str) {
        let path = self.data_dir().join(name);
        std::fs::write(&path, "").unwrap_or_else(|e| panic!("cannot write {}: {e}", path.display()));
        install::give_to_server(&path);
    }

    /// Ends this standby's recovery and waits until it takes writes. What its primary had not sent is lost here.
    pub fn promote(&self) {
        let promoted: bool = self.superuser("postgres").value("SELECT pg_promote(true, 60)", &[]);
        assert!(promoted, "the standby was not promoted in time");
    }

    /// Lets this standby hear no more of its primary, which goes on.
    pub fn cut_off(&self) {
        let mut admin = self.superuser("postgres");
        admin.exec("ALTER SYSTEM SET primary_conninfo = ''");
        admin.exec("SELECT pg_reload_conf()");
        wait_for("the standby to stop listening", PATIENCE, || {
            admin.value("SELECT count(*) = 0 FROM pg_stat_wal_receiver", &[])
        });
    }

    /// Waits until `standby` has replayed everything that is durable here by now.
    #[track_caller]
    pub fn wait_replayed(&self, standby: &Cluster) {
        let end: String = self.superuser("postgres").value("SELECT pg_current_wal_flush_lsn()::text", &[]);
        let mut there = standby.superuser("postgres");
        wait_for("the standby to catch up", PATIENCE, || {
            there.value("SELECT pg_last_wal_replay_lsn() >= $1::text::pg_lsn", &[&end])
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_until_it_is_cut_off_and_goes_on_by_itself() {
        let primary = Cluster::builder().start();
        primary.create_empty_database("shop");
        let mut session = primary.superuser("shop");
        session.exec("CREATE TABLE t AS SELECT 1 AS x");
        let standby = primary.standby();
        session.exec("INSERT INTO t VALUES (2)");
        primary.wait_replayed(&standby);
        let sum = "SELECT sum(x) FROM t";
        let mut there = standby.superuser("shop");
        assert_eq!(there.value::<i64>(sum, &[]), 3);
        assert_eq!(there.error("INSERT INTO t VALUES (4)", &[]).code().code(), "25006");
        standby.cut_off();
        session.exec("INSERT INTO t VALUES (8)");
        standby.promote();
        there.exec("INSERT INTO t VALUES (4)");
        assert_eq!(there.value::<i64>(sum, &[]), 7);
        assert_eq!(session.value::<i64>(sum, &[]), 11);
    }
}
