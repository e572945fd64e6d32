//! HTTP out: how many runs of one call a second the sidecar and the server carry, and what limits them.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::thread;

use anyhow::Result;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::TcpListener;

use super::{Bench, Options};
use crate::process::resident;
use crate::report::{Report, Target, median};

const WORKFLOW: &str = "call";

/// Adds what is reached durably, and beside it what the same reaches when the server flushes nothing.
pub fn measure(options: &Options, bench: &Bench, report: &mut Report) -> Result<()> {
    let service = service()?;
    bench.publish(&json!({"name": WORKFLOW, "nodes": [
        {"id": "call", "type": "http", "with": {"method": "POST", "url": format!("http://{service}/orders"),
         "body": {"order": "{{ .input }}"}}}]}));
    once(options, bench)?;
    let memory = resident(bench.sidecar.pid())?;

    let (mut durable, mut volatile) = (Vec::new(), Vec::new());
    for round in 0..options.rounds {
        let before = bench.spent();
        let (rate, seconds) = once(options, bench)?;
        durable.push(rate);
        if round + 1 == options.rounds {
            bench.report_cores(report, "executor", before, seconds);
        }
        bench.cluster.add_setting("fsync", "off");
        bench.cluster.reload();
        volatile.push(once(options, bench)?.0);
        bench.cluster.add_setting("fsync", "on");
        bench.cluster.reload();
    }
    let rate = median(&durable);
    report.check("executor.calls_per_second", rate, "1/s", Target::AtLeast(1_500.0));
    let slowest = durable.iter().copied().fold(f64::INFINITY, f64::min);
    report.number("executor.slowest_round", slowest, "1/s");
    report.number("executor.without_fsync", median(&volatile), "1/s");
    report.number("executor.share_of_without_fsync", rate / median(&volatile), "");
    report.number("executor.sidecar_memory_before", memory, "MiB");
    report.number("executor.sidecar_memory_after", resident(bench.sidecar.pid())?, "MiB");
    Ok(())
}

/// Starts runs of one call each and waits for them: how many were done a second, from the first start to the last end, and
/// how long it took.
fn once(options: &Options, bench: &Bench) -> Result<(f64, f64)> {
    let mut admin = bench.admin();
    let begun = std::time::Instant::now();
    let since: std::time::SystemTime = admin.value("SELECT clock_timestamp()", &[]);
    let start = "SELECT count(meshhook.start_run($1, to_jsonb(n))) FROM generate_series(1, $2::integer) n";
    admin.value::<i64>(start, &[&WORKFLOW, &options.calls]);
    bench.ended(WORKFLOW)?;
    let seconds: f64 = admin.value(
        "SELECT extract(epoch FROM max(finished_at) - $2)::float8 FROM meshhook.runs
         WHERE workflow = $1 AND created_at >= $2",
        &[&WORKFLOW, &since],
    );
    Ok((f64::from(options.calls) / seconds, begun.elapsed().as_secs_f64()))
}

/// A service that answers at once, on a thread of its own for the life of this process.
fn service() -> Result<SocketAddr> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let runtime = crate::runtime()?;
    thread::spawn(move || runtime.block_on(serve(listener)));
    Ok(address)
}

async fn serve(listener: std::net::TcpListener) -> Result<Infallible> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer)));
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let _ = request.into_body().collect().await;
    let mut response = Response::new(Full::from(r#"{"ok": true}"#));
    response
        .headers_mut()
        .insert("content-type", hyper::header::HeaderValue::from_static("application/json"));
    Ok(response)
}
