//! HTTP out: how many runs of one call a second the sidecar and the server carry, and what limits them.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

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
/// Its calls go to one of many hosts, by the run's number.
const SPREAD: &str = "spread";
/// Its calls go to a host that takes longer than anybody waits here.
const SLOW: &str = "slow";
/// Hosts that answer at once.
const QUICK_HOSTS: i32 = 100;
/// For so many calls to them, one goes to the slow one.
const QUICK_PER_SLOW: i32 = 20;

/// Adds what is reached durably, and beside it what the same reaches when the server flushes nothing.
pub fn measure(options: &Options, bench: &Bench, report: &mut Report) -> Result<()> {
    let service = service()?;
    publish(bench, WORKFLOW, &format!("http://127.0.0.1:{}/orders", service.port()));
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

/// Adds how much calls to many quick hosts suffer when others go to one that takes half a minute.
pub fn measure_slow_host(options: &Options, bench: &Bench, report: &mut Report) -> Result<()> {
    let service = service()?;
    let host = format!("{{{{ .input % {QUICK_HOSTS} + 2 }}}}");
    publish(bench, SPREAD, &format!("http://127.0.0.{host}:{}/orders", service.port()));
    publish(bench, SLOW, &format!("http://127.0.0.200:{}{SLOW_PATH}", service.port()));
    spread(options, bench, false)?;
    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    for _ in 0..options.rounds {
        alone.push(spread(options, bench, false)?);
        beside.push(spread(options, bench, true)?);
    }
    let (alone, beside) = (median(&alone), median(&beside));
    report.number("executor.quick_hosts_alone", alone, "1/s");
    report.number("executor.quick_hosts_beside_slow_one", beside, "1/s");
    report.check("executor.slowed_by_slow_host", 100.0 * (1.0 - beside / alone), "%", Target::Below(10.0));
    Ok(())
}

/// Starts runs whose calls go to quick hosts, but every so many-th, where that one is to go to the slow host: how many of
/// the others were done a second.
fn spread(options: &Options, bench: &Bench, is_slow: bool) -> Result<f64> {
    let mut admin = bench.admin();
    let since: std::time::SystemTime = admin.value("SELECT clock_timestamp()", &[]);
    let start = "SELECT count(meshhook.start_run(CASE WHEN n % $3 = 0 THEN $4 ELSE $1 END, to_jsonb(n)))
                 FROM generate_series(1, $2::integer) n";
    let every_so_many = if is_slow { SLOW } else { SPREAD };
    admin.value::<i64>(start, &[&SPREAD, &options.calls, &QUICK_PER_SLOW, &every_so_many]);
    let open = "SELECT EXISTS (SELECT FROM meshhook.runs WHERE workflow = $1 AND finished_at IS NULL)";
    bench.wait_until_not(open, &[&SPREAD])?;
    let rate: f64 = admin.value(
        "SELECT count(*) FILTER (WHERE input::integer % $3 <> 0) / extract(epoch FROM max(finished_at) - $2)::float8
         FROM meshhook.runs WHERE workflow = $1 AND created_at >= $2",
        &[&SPREAD, &since, &QUICK_PER_SLOW],
    );
    let cancel = "SELECT count(meshhook.cancel_run(run_id, 'measured')) FROM meshhook.runs
                  WHERE workflow = $1 AND finished_at IS NULL";
    admin.value::<i64>(cancel, &[&SLOW]);
    bench.wait_until_not(open, &[&SLOW])?;
    Ok(rate)
}

fn publish(bench: &Bench, name: &str, url: &str) {
    bench.publish(&json!({"name": name, "nodes": [
        {"id": "call", "type": "http", "with": {"method": "POST", "url": url, "body": {"order": "{{ .input }}"}}}]}));
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

/// What the service takes its time for.
const SLOW_PATH: &str = "/slow";
const SLOW_ANSWER: Duration = Duration::from_secs(30);

/// A service that answers at once at every address of loopback, on a thread of its own for the life of this process.
fn service() -> Result<SocketAddr> {
    let listener = std::net::TcpListener::bind("0.0.0.0:0")?;
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
    let is_slow = request.uri().path() == SLOW_PATH;
    let _ = request.into_body().collect().await;
    if is_slow {
        tokio::time::sleep(SLOW_ANSWER).await;
    }
    let mut response = Response::new(Full::from(r#"{"ok": true}"#));
    response
        .headers_mut()
        .insert("content-type", hyper::header::HeaderValue::from_static("application/json"));
    Ok(response)
}
