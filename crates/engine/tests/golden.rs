//! Logs that released engines wrote, decided again by this one: `tests/golden/<release>/`, real runs of the examples,
//! made by `make golden`. A log that no longer replays is a promise broken, whatever else it shows.

use std::fs;
use std::path::{Path, PathBuf};

use meshhook_engine::definition::Workflow;
use meshhook_engine::event::{Event, Recorded};
use meshhook_engine::json::Json;
use meshhook_engine::replay::verify;
use meshhook_engine::time::Timestamp;
use meshhook_engine::to_json;

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut files: Vec<PathBuf> = entries
        .flat_map(|entry| {
            let path = entry.unwrap().path();
            if path.is_dir() { files(&path) } else { vec![path] }
        })
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .collect();
    files.sort();
    files
}

fn text<'a>(json: &'a Json, key: &str) -> &'a str {
    json.get(key).and_then(Json::as_str).unwrap_or_else(|| panic!("no {key}"))
}

fn recorded(event: &Json) -> Recorded {
    let data = event.get("data").unwrap().to_string();
    Recorded {
        position: u64::try_from(event.get("position").and_then(Json::as_i64).unwrap()).unwrap(),
        at: Timestamp::parse(text(event, "at")).unwrap(),
        event: Event::from_parts(text(event, "type"), &data).unwrap(),
    }
}

#[test]
fn every_log_of_a_release_replays_to_the_state_it_had() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden");
    let mut runs = 0;
    for file in files(&folder) {
        let golden = Json::parse(&fs::read_to_string(&file).unwrap()).unwrap();
        for run in golden.as_arr().unwrap() {
            let (id, place) = (text(run, "run"), file.display());
            let workflow = Workflow::compile(run.get("definition").unwrap())
                .unwrap_or_else(|problems| panic!("{place}, run {id}: {problems:?}"));
            let log: Vec<Recorded> =
                run.get("events").and_then(Json::as_arr).unwrap().iter().map(recorded).collect();
            let state = verify(&workflow, id, &log)
                .unwrap_or_else(|difference| panic!("{place}, run {id}: {difference}"));
            assert_eq!(Some(&to_json(&state)), run.get("state"), "{place}, run {id}");
            runs += 1;
        }
    }
    assert!(runs >= 20, "{runs} runs are too few: were they lost?");
}
