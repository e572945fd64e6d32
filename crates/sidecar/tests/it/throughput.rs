//! How fast the executor is when the database costs nothing. Run with
//! `cargo test -p meshhook-sidecar --release --test it -- --ignored --nocapture throughput`.

use std::time::{Duration, Instant};

use meshhook_sidecar::executor::Settings;

use crate::executor::{settings, start};
use crate::fake::{Fake, get};
use crate::stub::Stub;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement, not a test"]
async fn throughput() {
    const JOBS: usize = 50_000;
    let stub = Stub::forgetful().await;
    for (concurrency, batch) in [(1, 1), (16, 50), (64, 50), (256, 50)] {
        let fake = Fake::new();
        let url = stub.url("/ok");
        let jobs = if concurrency == 1 { JOBS / 10 } else { JOBS };
        fake.add_all((0..jobs).map(|i| (format!("j{i}"), get(url.clone()))));
        let begun = Instant::now();
        let settings = Settings { concurrency, per_host: concurrency, batch, ..settings() };
        let (trigger, running) = start(&fake, settings);
        while fake.finished() < jobs && begun.elapsed() < Duration::from_secs(60) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let seconds = begun.elapsed().as_secs_f64();
        trigger.drain();
        running.await.unwrap();
        let inner = fake.inner.lock().unwrap();
        println!(
            "concurrency {concurrency}: {:.0} calls/s ({} calls, {} claims, {} writes)",
            inner.outcomes.len() as f64 / seconds,
            inner.outcomes.len(),
            inner.claims.len(),
            inner.writes.len(),
        );
    }
}
