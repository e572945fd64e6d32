use super::*;
use crate::definition::Problem;

fn compile(schema: &str) -> Result<Option<Contract>, Vec<Problem>> {
    let mut problems = Problems::default();
    let contract = Contract::compile(&Json::parse(schema).unwrap(), "/input_schema", &mut problems);
    let found = problems.0;
    if found.is_empty() { Ok(contract) } else { Err(found) }
}

fn violations(schema: &str, document: &str) -> Vec<String> {
    let contract = compile(schema).unwrap().unwrap();
    let found = contract.violations(&Json::parse(document).unwrap());
    found.into_iter().map(|violation| format!("{}: {}", violation.pointer, violation.message)).collect()
}

fn refused(schema: &str) -> (String, &'static str) {
    let problem = compile(schema).unwrap_err().remove(0);
    (problem.pointer, problem.code)
}

#[test]
fn all_violations_are_told_in_order_and_without_the_values() {
    let schema = r##"{"type":"object","required":["id","total"],"properties":{
        "id":{"type":"integer"},"lines":{"type":"array","items":{"$ref":"#/$defs/line"}}},
        "$defs":{"line":{"properties":{"sku":{"type":"string","pattern":"^[A-Z]+$"}}}}}"##;
    assert_eq!(violations(schema, r#"{"id":1,"total":2,"lines":[{"sku":"A"}]}"#), [] as [&str; 0]);
    assert_eq!(
        violations(schema, r#"{"id":"hunter2","lines":[{"sku":"A"},{"sku":"a"}]}"#),
        [
            ": \"total\" is a required property",
            "/id: value is not of type \"integer\"",
            "/lines/1/sku: value does not match \"^[A-Z]+$\"",
        ]
    );
}

#[test]
fn reports_are_bounded() {
    let many = format!("[{}]", vec!["1"; 5_000].join(","));
    let found = violations(r#"{"items":{"type":"string"}}"#, &many);
    assert_eq!(found.len(), MAX_VIOLATIONS);
    let long = format!("{{\"{}\":1}}", "x".repeat(10_000));
    assert!(violations(r#"{"additionalProperties":false}"#, &long)[0].len() <= MAX_VIOLATION_BYTES + 2);
}

#[test]
fn numbers_keep_their_side_of_a_bound() {
    for (document, sound) in [
        ("18446744073709551615", true),
        ("1e400", true),
        ("-1e400", false),
        ("0.1", true),
        ("123456789012345678901234567890", true),
    ] {
        assert_eq!(violations(r#"{"minimum":0}"#, document).is_empty(), sound, "{document}");
    }
    assert_eq!(violations(r#"{"type":"integer"}"#, "1.0"), [] as [&str; 0]);
}

#[test]
fn no_schema_and_an_open_one_are_nothing_to_check() {
    assert!(compile("{}").unwrap().is_none());
    assert!(compile("true").unwrap().is_none());
    assert!(!compile("false").unwrap().unwrap().violations(&Json::Null).is_empty());
}

#[test]
fn faulty_schemas_are_refused_with_their_place() {
    assert_eq!(refused("[]"), ("/input_schema".into(), "type"));
    assert_eq!(refused(r#"{"properties":{"a":{"type":"text"}}}"#).1, "schema");
    assert_eq!(refused(r#"{"properties":{"a":{"type":"text"}}}"#).0, "/input_schema/properties/a/type");
    assert_eq!(refused(r#"{"pattern":"(a"}"#).1, "schema");
    assert_eq!(refused(r##"{"$ref":"#/$defs/a"}"##), ("/input_schema/$ref".into(), "reference"));
    assert_eq!(
        refused(r#"{"$schema":"http://json-schema.org/draft-07/schema#"}"#),
        ("/input_schema/$schema".into(), "unsupported")
    );
}

#[test]
fn nothing_is_fetched() {
    for reference in ["http://127.0.0.1:1/a.json", "file:///etc/passwd", "other.json", "#anchor", "//host/a"]
    {
        let schema = format!(r#"{{"items":{{"$ref":"{reference}"}}}}"#);
        assert_eq!(refused(&schema), ("/input_schema/items/$ref".into(), "reference"), "{reference}");
        // Where no check ever comes it is looked for all the same.
        assert!(
            compile(&format!(r#"{{"$defs":{{"a":{{"$ref":"{reference}"}}}},"type":"object"}}"#)).is_err()
        );
    }
    assert_eq!(refused(r#"{"$id":"http://127.0.0.1/"}"#).1, "unsupported");
}

/// Each definition applies the next one twice.
fn doubling(keyword: impl Fn(&str) -> String) -> String {
    let defs: Vec<_> =
        (0..40).map(|i| format!(r#""d{i}":{}"#, keyword(&format!("#/$defs/d{}", i + 1)))).collect();
    format!(r##"{{"$ref":"#/$defs/d0","$defs":{{{},"d40":{{}}}}}}"##, defs.join(","))
}

#[test]
fn schemas_that_take_too_long_are_refused_at_once() {
    let in_place = doubling(|next| format!(r#"{{"anyOf":[{{"$ref":"{next}"}},{{"$ref":"{next}"}}]}}"#));
    assert_eq!(refused(&in_place).1, "limit");
    let deeper = r##"{"anyOf":[{"properties":{"a":{"$ref":"#"}}},{"properties":{"a":{"$ref":"#"}}}]}"##;
    assert_eq!(refused(deeper).1, "limit");
    assert_eq!(refused(r##"{"allOf":[{"$ref":"#"}]}"##).1, "reference");
    let chain: Vec<_> = (0..1_500).map(|i| format!(r##""d{i}":{{"$ref":"#/$defs/d{}"}}"##, i + 1)).collect();
    let chain = format!(r##"{{"$ref":"#/$defs/d0","$defs":{{{},"d1500":{{}}}}}}"##, chain.join(","));
    assert_eq!(refused(&chain).1, "limit");
    let words: Vec<_> = (0..5_000).map(|i| format!("\"w{i}\"")).collect();
    assert_eq!(refused(&format!(r#"{{"enum":[{}]}}"#, words.join(","))).1, "limit");
    assert_eq!(refused(&format!(r#"{{"pattern":"({}){{100}}"}}"#, "a{1,100}".repeat(20))).1, "schema");
}

#[test]
fn trees_lists_and_shared_parts_are_not_too_much() {
    let tree = r##"{"type":"object","properties":{"left":{"$ref":"#"},"right":{"$ref":"#"},
        "children":{"type":"array","items":{"$ref":"#"}}},"additionalProperties":false}"##;
    assert_eq!(violations(tree, r#"{"left":{"right":{"children":[{},{"left":{}}]}}}"#), [] as [&str; 0]);
    assert_eq!(violations(tree, r#"{"left":{"right":{"children":[{},{"left":1}]}}}"#).len(), 1);
    let deepest = format!("{}{{}}{}", r#"{"left":"#.repeat(99), "}".repeat(99));
    assert_eq!(violations(tree, &deepest), [] as [&str; 0]);
    // As deep as schemas may be applied within each other, on a thread's two mebibytes of stack.
    let chained = r##"{"allOf":[{"$ref":"#/$defs/b"}],
        "$defs":{"b":{"properties":{"left":{"$ref":"#"}},"type":"object"}}}"##;
    assert_eq!(violations(chained, &deepest), [] as [&str; 0]);
    assert_eq!(violations(chained, &deepest.replace("{}", "1")).len(), 1);
    // Two members of each kind: as many schemas as a document has places, but one for each place.
    let wide =
        doubling(|next| format!(r#"{{"properties":{{"a":{{"$ref":"{next}"}},"b":{{"$ref":"{next}"}}}}}}"#));
    assert_eq!(violations(&wide, r#"{"a":{"b":{"a":{}}}}"#), [] as [&str; 0]);
}

#[test]
fn a_costly_schema_checks_a_large_document_in_time() {
    let alternatives: Vec<_> =
        (0..60).map(|i| format!(r#"{{"allOf":[{{"type":"integer"}},{{"minimum":{i}}}]}}"#)).collect();
    let schema = format!(r#"{{"items":{{"oneOf":[{}]}}}}"#, alternatives.join(","));
    let document = format!("[{}]", vec!["7"; 20_000].join(","));
    let started = std::time::Instant::now();
    let found = violations(&schema, &document);
    assert_eq!(found, [": the document breaks the schema and is too large to say where"]);
    assert!(started.elapsed() < std::time::Duration::from_secs(30), "{:?}", started.elapsed());
}
