//! Flow control: which starts wait, for what, and how they are held back. Admission itself is in [`admit`].

mod admit;
mod lock;
pub mod pause;
pub mod waiting;

use meshhook_engine::definition::flow::{Flow, Keys};
use meshhook_engine::json::Json;

pub use admit::{Cursor, admit, next_due};
pub use pause::refuse_if_paused;

use crate::error::{Refusal, bad_parameter};
use crate::project::Project;
use crate::random::{PG_EPOCH_MICROS, now_micros, timestamptz, unix_micros};
use crate::run::start::{Options, Start, recorded_start};
use crate::shmem;
use crate::spi::{self, Arg, RawJsonb, arg};
use crate::workflow::{self, Version};

/// Stores the limits of a workflow's newest version where admission reads them.
pub fn set_limits(project: Project, workflow: Option<i64>, flow: &Flow) {
    let concurrency = flow.concurrency.as_ref();
    let rate = flow.rate.as_ref();
    spi::exec(
        "UPDATE meshhook.workflow SET concurrency_limit = $3, on_limit = $4, rate_limit = $5, rate_ms = $6
         WHERE project_id = $1 AND workflow_id = $2
           AND (concurrency_limit, on_limit, rate_limit, rate_ms) IS DISTINCT FROM ($3, $4, $5, $6)",
        &[
            arg(project.0),
            arg(workflow),
            arg(concurrency.map(|limit| limit.limit.cast_signed())),
            arg(concurrency.map(|limit| limit.on_limit.as_str())),
            arg(rate.map(|rate| rate.limit.cast_signed())),
            arg(rate.map(|rate| rate.per_ms.cast_signed())),
        ],
    );
    // Where a limit was raised, whoever waits is looked at anew: the nil run stands for that. Nobody is woken for
    // less: the first publication makes leaves, and holds their parents' locks while the commit wakes.
    let waiting = spi::exec(
        "INSERT INTO meshhook.run_slot_freed (project_id, workflow_id, run_id)
         SELECT $1, $2, '00000000-0000-0000-0000-000000000000'
         WHERE EXISTS (SELECT FROM meshhook.run_lane WHERE project_id = $1 AND workflow_id = $2)
         ON CONFLICT DO NOTHING",
        &[arg(project.0), arg(workflow)],
    );
    if waiting > 0 {
        shmem::wake_on_commit();
    }
}

/// What a start is counted under.
///
/// # Errors
/// A key cannot be computed from this input.
pub fn keys(
    project: Project,
    version: &Version,
    input: RawJsonb,
    run: pgrx::Uuid,
    trigger: &str,
) -> Result<Keys, String> {
    if !version.flow_controlled {
        return Ok(Keys::default());
    }
    let workflow = workflow::compiled(project, version.version_id);
    let read = |text: &str| Json::parse(text).map_err(|error| error.to_string());
    let view = Json::object([
        ("id", Json::from(run.to_string())),
        ("workflow", Json::from(&*workflow.name)),
        ("version", Json::from(i64::from(version.version))),
        ("trigger", read(trigger)?),
    ]);
    workflow.flow.keys(read(&input.text())?, view)
}

/// A key cannot be computed: 22023.
pub fn refuse_key(workflow: &str, error: String) -> Refusal {
    bad_parameter(format!("workflow \"{workflow}\" cannot count this run"))
        .detail(error)
        .hint("Keys of \"concurrency\" and \"rate\" are templates over .input and .run.")
}

/// Whether a start has to ask for admission.
pub fn must_wait(version: &Version, options: &Options) -> bool {
    version.flow_controlled || version.pause.is_some() || options.start_at.is_some()
}

/// Puts a start among those that wait. `args` are those of a start that does not.
pub fn enqueue(start: &Start, mut args: Vec<Arg>) {
    let options = &start.options;
    args.extend([
        arg(start.version.workflow_id),
        arg(options.keys.concurrency.clone()),
        arg(options.keys.rate.clone()),
        arg(options.priority),
        // To the microsecond, so that those of one millisecond keep their order.
        arg(options.start_at.unwrap_or_else(|| timestamptz(now_micros()))),
    ]);
    spi::exec(
        recorded_start!(
            "INSERT INTO meshhook.run_queue (project_id, run_id, workflow_id, lane, concurrency_key, rate_key, priority,
                 ready_at, data, metadata)
             SELECT $1, $2, $13, sha256(convert_to(jsonb_build_array($14::text, $15::text)::text, 'UTF8')), $14, $15, $16, $17,
                    data, metadata FROM fact"
        ),
        &args,
    );
    match options.start_at.map(unix_micros) {
        Some(at) if at > now_micros() => shmem::note_deadline_on_commit(at - PG_EPOCH_MICROS),
        _ => shmem::wake_on_commit(),
    }
}
