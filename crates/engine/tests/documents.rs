//! The documents are held to the code: the rules to their tests, the events to the catalogue, the examples to the
//! compiler.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use meshhook_engine::definition::Workflow;
use meshhook_engine::event::EVENT_TYPES;
use meshhook_engine::json::Json;
use meshhook_engine::node::NODE_TYPES;
use meshhook_engine::signature::PRESETS;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn document(name: &str) -> String {
    std::fs::read_to_string(root().join("docs").join(name)).unwrap()
}

/// The tests of every source file below a folder, by the file's name.
fn tests_in(folder: &Path, found: &mut BTreeMap<String, BTreeSet<String>>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            tests_in(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            let file = path.file_stem().unwrap().to_string_lossy().into_owned();
            found.entry(file).or_default().extend(tests_of(&text));
        }
    }
}

/// The functions that follow `#[test]`, past other attributes.
fn tests_of(text: &str) -> Vec<String> {
    let name = |rest: &str| {
        let line = rest.lines().map(str::trim).find(|line| line.starts_with("fn "))?;
        Some(line["fn ".len()..].split('(').next()?.to_owned())
    };
    text.split("#[test]").skip(1).filter_map(name).collect()
}

/// What stands between backticks in a text.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

#[test]
fn every_rule_names_a_test_and_every_test_of_a_rule_is_named() {
    let text = document("semantics.md");
    let (_, table) = text.split_once("\n## The rules and their tests\n").unwrap();
    let named: BTreeSet<(String, String)> = quoted(table)
        .filter_map(|name| name.split_once("::"))
        .map(|(file, test)| (file.to_owned(), test.to_owned()))
        .collect();
    let mut there = BTreeMap::new();
    for folder in ["crates/engine/src", "crates/engine/tests", "tests/e2e/tests/suite"] {
        tests_in(&root().join(folder), &mut there);
    }
    for (file, test) in &named {
        assert!(there.get(file).is_some_and(|tests| tests.contains(test)), "there is no test {file}::{test}");
    }
    for (file, tests) in there.iter().filter(|(file, _)| file.starts_with("semantics")) {
        for test in tests {
            let is_named = named.contains(&(file.clone(), test.clone()));
            assert!(is_named, "docs/semantics.md does not name {file}::{test}");
        }
    }
    assert!(named.len() > 50, "{} tests are named", named.len());
    let rows = table.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| rule |"));
    rows.for_each(|row| assert!(row.contains("::"), "no test in {row}"));
}

#[test]
fn every_event_type_is_in_the_catalogue_and_no_other() {
    let text = document("events.md");
    let rows: BTreeSet<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` |"))
        .map(|(name, _)| name)
        .collect();
    for (name, _) in EVENT_TYPES {
        assert!(rows.contains(name), "docs/events.md has no row for {name}");
    }
    let known: BTreeSet<&str> = EVENT_TYPES.iter().map(|(name, _)| *name).collect();
    let dotted = |name: &&str| {
        ["run.", "node.", "item.", "signal.", "approval.", "fact."].iter().any(|p| name.starts_with(p))
    };
    for name in rows.into_iter().filter(dotted) {
        assert!(known.contains(name), "docs/events.md knows an event {name} that there is not");
    }
}

/// The data of an event as the catalogue's row describes it holds every field of the structure.
#[test]
fn every_field_of_an_event_is_in_its_row() {
    let source = std::fs::read_to_string(root().join("crates/engine/src/event.rs")).unwrap();
    let starts = std::fs::read_to_string(root().join("crates/engine/src/fact.rs")).unwrap();
    let text = document("events.md");
    let fields = |structure: &str| -> Vec<String> {
        let head = format!("pub struct {structure} {{");
        let body =
            [&source, &starts].into_iter().find_map(|source| Some(source.split_once(&head)?.1)).unwrap();
        let body = body.split('}').next().unwrap();
        let names = body.lines().filter_map(|line| line.trim().strip_prefix("pub ")?.split_once(':'));
        names.map(|(name, _)| name.to_owned()).collect()
    };
    let listed = source.split_once("\nevents! {").unwrap().1;
    for line in listed.lines().take_while(|line| !line.starts_with('}')).filter(|line| line.contains('(')) {
        let structure = line.split(['(', ')']).nth(1).unwrap();
        let name = line.split('"').nth(1).unwrap();
        let row = text.lines().find(|row| row.starts_with(&format!("| `{name}` |"))).unwrap();
        for field in fields(structure) {
            assert!(quoted(row).any(|word| word == field), "the row of {name} does not say `{field}`");
        }
    }
}

#[test]
fn every_preset_is_in_the_table_with_its_headers_and_no_other() {
    let text = document("webhooks.md");
    let text = text.split_once("\n## Presets\n").unwrap().1.split("\n## ").next().unwrap();
    let row = |name: &str| text.lines().find(|line| line.starts_with(&format!("| `{name}`")));
    for preset in PRESETS.iter() {
        let row = row(&preset.name).unwrap_or_else(|| panic!("{} has no row", preset.name)).to_lowercase();
        let set = preset.headers.first();
        let is_told = |name: &str| {
            let end = name.rsplit_once('-').map_or(name, |(_, end)| end);
            row.contains(name.trim_start_matches('?'))
                || row.contains(&format!("…-{end}"))
                || row.contains("as `standard`")
        };
        for name in set
            .iter()
            .flat_map(|set| [Some(&set.signature), set.id.as_ref(), set.timestamp.as_ref()])
            .flatten()
        {
            assert!(is_told(name), "{}: {name}", preset.name);
        }
    }
    let rows = text.lines().filter(|line| line.starts_with("| `")).count();
    assert_eq!(rows, PRESETS.len());
}

#[test]
fn every_example_of_the_reference_compiles() {
    let text = document("workflows.md");
    let mut count = 0;
    for block in text.split("\n```json\n").skip(1) {
        let example = block.split("\n```").next().unwrap();
        let value = Json::parse(example).unwrap_or_else(|error| panic!("{error}:\n{example}"));
        let definition = if value.get("nodes").is_some() { value } else { around(&value) };
        if let Err(problems) = Workflow::compile(&definition) {
            panic!("{problems:?}:\n{example}");
        }
        count += 1;
    }
    assert!(count > NODE_TYPES.len(), "{count} examples");
}

#[test]
fn every_workflow_of_the_examples_compiles() {
    let mut count = 0;
    for entry in std::fs::read_dir(root().join("examples")).unwrap() {
        let path = entry.unwrap().path().join("workflow.json");
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        if let Err(problems) = Workflow::compile(&Json::parse(&text).unwrap()) {
            panic!("{}: {problems:?}", path.display());
        }
        count += 1;
    }
    assert!(count > 0, "there are none");
}

/// A workflow of one node.
fn around(node: &Json) -> Json {
    Json::object([("name", Json::from("example")), ("nodes", Json::array([node.clone()]))])
}

#[test]
fn every_node_type_has_its_section_in_the_reference() {
    let text = document("workflows.md");
    for kind in NODE_TYPES {
        assert!(
            text.contains(&format!("\n### `{}`", kind.name)),
            "docs/workflows.md says nothing of {}",
            kind.name
        );
    }
}
