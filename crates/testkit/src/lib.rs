//! Private clusters, faults and stub servers for meshhook's tests.
//!
//! Each piece stands alone and is named after what it stands for:
//!
//! * [`Cluster`]: a real Postgres in a temporary folder, preloaded with meshhook or not, with its own port.
//! * [`clock`]: a clock of a cluster's own, that is put forward and back.
//! * [`disk`]: disks that are soon full.
//! * [`standby`]: streaming standbys of a cluster, their promotion, and being cut off; restoring to a point in time.
//! * [`Session`]: one connection that remembers the notices it was sent.
//! * [`Sidecar`]: a `meshhook-sidecar` process.
//! * [`Proxy`]: what stands between clients and a cluster, and cuts, delays, or loses answers.
//! * [`Stub`]: an HTTP server that answers by script and remembers every request.
//! * [`NameServer`]: a name server that answers as it is told.
//! * [`wait_for`]: the only way a test may wait.
//! * [`sign`]: what a sender of webhooks does.
//! * [`history`]: what must hold of any run's log, whatever happened to it.
//! * [`order`]: what must hold of messages, and of whoever reads them in global order.
//! * [`message_db`]: the original Message DB, for comparison.
//!
//! The kit is called by tests only, so it panics with a description instead of returning errors: a test
//! that cannot have its cluster has nothing left to decide.

pub mod clock;
pub mod cluster;
pub mod disk;
pub mod history;
pub mod http;
pub mod install;
pub mod message_db;
pub mod names;
pub mod order;
pub mod process;
pub mod proxy;
pub mod session;
pub mod sidecar;
pub mod sign;
pub mod standby;
pub mod stub;
pub mod wait;

pub use cluster::{Cluster, ClusterBuilder, StopMode};
pub use http::{Response, request};
pub use names::NameServer;
pub use proxy::Proxy;
pub use session::Session;
pub use sidecar::{Sidecar, SidecarBuilder};
pub use stub::{Gate, Received, Reply, Stub};
pub use wait::wait_for;
