use serde::{Deserialize, Serialize};

use super::*;

const BIG: &str = "123456789012345678901234567890";

fn json(text: &str) -> Json {
    Json::parse(text).unwrap()
}

#[test]
fn canonical_text() {
    let text = r#" { "b" : [ 1 , 2.50 , -0.0 , 1e2 ] , "a" : "x\u00e9\ud83d\ude00\/\n\u0001" , "a" : null , "ä": {} , "c":[] } "#;
    let value = json(text);
    let printed = value.to_string();
    assert_eq!(printed, r#"{"a":null,"b":[1,2.5,0,100],"c":[],"ä":{}}"#);
    assert_eq!(json(&printed), value);
    let value = json(r#""x\u00e9\ud83d\ude00\/\n\u0001\u007f""#);
    assert_eq!(value.to_string(), "\"xé😀/\\n\\u0001\u{7f}\"");
}

#[test]
fn refusals_point_at_the_character() {
    let deep = "[".repeat(129);
    let cases = [
        ("", "unexpected end of JSON text", 0),
        ("ä", "expected a JSON value", 0),
        ("[\"ä\",]", "expected a JSON value", 5),
        ("[1 2]", "expected \",\" or \"]\"", 3),
        ("{\"a\" 1}", "expected \":\"", 5),
        ("{a:1}", "expected a string as object key", 1),
        ("{\"a\":1,}", "expected a string as object key", 7),
        ("\"a", "unterminated string", 2),
        ("\"a\n\"", "control character in string must be escaped", 2),
        ("\"ä\\u0000\"", "\\u0000 cannot be stored", 2),
        ("\"\\ud800\"", "lone surrogate is not a character", 1),
        ("\"\\ud800\\u0041\"", "lone surrogate is not a character", 1),
        ("\"\\udc00\"", "lone surrogate is not a character", 1),
        ("\"\\x\"", "unknown escape sequence", 1),
        ("\"\\u00g0\"", "expected four hexadecimal digits after \\u", 1),
        ("1 2", "unexpected text after the JSON value", 2),
        ("01", "malformed number or number out of range", 0),
        ("NaN", "expected a JSON value", 0),
        ("nul", "expected a JSON value", 0),
        (&deep, "JSON is nested deeper than 128 levels", 128),
    ];
    for (text, message, offset) in cases {
        assert_eq!(Json::parse(text), Err(JsonError { message, offset }), "{text}");
    }
    let error = Json::parse("[1 2]").unwrap_err();
    assert_eq!(error.to_string(), "expected \",\" or \"]\" at character 4");
}

#[test]
fn depth_and_digits_are_bounded() {
    let nested = |n: usize| "[".repeat(n) + &"]".repeat(n);
    assert!(Json::parse(&nested(MAX_DEPTH)).is_ok());
    assert!(Json::parse(&nested(MAX_DEPTH + 1)).is_err());
    assert!(Json::parse(&"[".repeat(1_000_000)).is_err());
    let amplified = format!("[{}1]", "1e131000,".repeat(100));
    assert_eq!(Json::parse(&amplified).unwrap_err().message, "numbers have too many digits");
}

#[test]
fn order_is_jqs() {
    let ascending = [
        "null",
        "false",
        "true",
        "-1",
        "0",
        "1.5",
        "2",
        "\"\"",
        "\"A\"",
        "\"a\"",
        "\"é\"",
        "\"😀\"",
        "[]",
        "[null]",
        "[1]",
        "[1,2]",
        "[2]",
        "{}",
        "{\"a\":1}",
        "{\"a\":2}",
        "{\"a\":1,\"b\":0}",
        "{\"b\":0}",
    ];
    for (i, a) in ascending.iter().enumerate() {
        for (j, b) in ascending.iter().enumerate() {
            assert_eq!(json(a).cmp_jq(&json(b)), i.cmp(&j), "{a} {b}");
        }
    }
}

#[test]
fn builders_and_access() {
    let value = Json::object([("n", Json::from(1)), ("s", "x".into()), ("l", vec![true].into())]);
    assert_eq!(value.to_string(), r#"{"l":[true],"n":1,"s":"x"}"#);
    assert_eq!(value.get("n").and_then(Json::as_i64), Some(1));
    assert_eq!(value.pointer("/l/0"), Some(&Json::Bool(true)));
    assert_eq!(value.pointer("/l/1"), None);
    assert_eq!(json(r#"{"a/b":{"~":1}}"#).pointer("/a~1b/~0"), Some(&1.into()));
    assert_eq!(Json::from(None::<i64>), Json::Null);
    assert!(value.byte_size() >= value.to_string().len() - 5);
    assert!(value.exceeds(10) && !value.exceeds(1000));
}

#[derive(Serialize, Deserialize, PartialEq, Debug)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Tagged {
    Plain,
    Data { value: Json, count: u64, ratio: f64, note: Option<String> },
}

#[derive(Serialize, Deserialize, PartialEq, Debug)]
struct Flat {
    id: u32,
    mode: Mode,
    #[serde(flatten)]
    rest: std::collections::BTreeMap<String, Json>,
}

#[derive(Serialize, Deserialize, PartialEq, Debug)]
#[serde(rename_all = "lowercase")]
enum Mode {
    All,
    Some(u8),
    Range { from: i64 },
}

#[test]
fn serde_json_keeps_every_digit() {
    let text = format!(r#"{{"a":[{BIG},0.1000000000000000000001,1.5,18446744073709551615]}}"#);
    let value: Json = serde_json::from_str(&text).unwrap();
    assert_eq!(value.to_string(), text);
    assert_eq!(serde_json::to_string(&value).unwrap(), text);
    let reader: Json = serde_json::from_reader(text.as_bytes()).unwrap();
    assert_eq!(reader, value);
    let small = serde_json::json!({"a": [1, 2.5, "x", null, true]});
    let value: Json = serde_json::from_value(small.clone()).unwrap();
    assert_eq!(serde_json::to_value(&value).unwrap(), small);
    assert!(serde_json::from_str::<Json>("\"\\u0000\"").is_err());
}

#[test]
fn decode_keeps_every_digit_even_through_buffers() {
    let text = format!(
        r#"{{"count":18446744073709551615,"note":null,"ratio":2,"type":"data","value":{{"x":[{BIG},1.5]}}}}"#
    );
    let tagged: Tagged = json(&text).decode().unwrap();
    assert_eq!(Json::encode(&tagged).unwrap().to_string(), text);
    assert_eq!(json(r#"{"type":"plain"}"#).decode(), Ok(Tagged::Plain));

    let text = format!(r#"{{"big":{BIG},"id":7,"mode":{{"range":{{"from":-1}}}}}}"#);
    let flat: Flat = json(&text).decode().unwrap();
    assert_eq!(Json::encode(&flat).unwrap().to_string(), text);
    assert_eq!(json("\"all\"").decode(), Ok(Mode::All));
    assert_eq!(json(r#"{"some":3}"#).decode(), Ok(Mode::Some(3)));
    assert!(json("[1]").decode::<Mode>().is_err());
    assert!(json("\"x\"").decode::<u32>().is_err());
    assert_eq!(json(&text).decode::<Json>().unwrap().to_string(), text);
}

#[test]
fn data_cannot_imitate_the_markers() {
    for text in [
        r#"{"$serde_json::private::RawValue":"[1]"}"#,
        r#"{"":"1"}"#,
        r#"{"x":{"$serde_json::private::RawValue":"[1]"}}"#,
    ] {
        assert_eq!(json(text).decode::<Json>().unwrap().to_string(), text);
        assert_eq!(serde_json::from_str::<Json>(text).unwrap().to_string(), text);
        let tagged: Tagged =
            json(&format!(r#"{{"type":"data","count":1,"ratio":1,"value":{text}}}"#)).decode().unwrap();
        let Tagged::Data { value, .. } = tagged else { panic!() };
        assert_eq!(value.to_string(), text);
    }
}
