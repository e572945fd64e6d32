//! Bodies of requests as documents.

use meshhook_engine::body::{BodyFault, Document, MAX_FIELDS, read};
use meshhook_engine::json::Json;
use proptest::prelude::*;

fn value(content_type: &str, body: &[u8]) -> Json {
    match read(Some(content_type), body) {
        Ok(Document::Value(value)) => value,
        other => panic!("{content_type}: {other:?}"),
    }
}

fn json(text: &str) -> Json {
    Json::parse(text).unwrap()
}

#[test]
fn json_stays_as_it_is() {
    let text = r#" {"n": 1.10, "n": 2} "#;
    for content_type in [
        None,
        Some("application/json"),
        Some("Application/JSON; charset=\"UTF-8\""),
        Some("application/cloudevents+json"),
        Some("text/plain;charset=us-ascii"),
    ] {
        assert_eq!(read(content_type, text.as_bytes()), Ok(Document::Text(text)));
    }
}

#[test]
fn forms_are_objects_of_strings() {
    let form = "application/x-www-form-urlencoded; charset=utf-8";
    assert_eq!(
        value(form, b"b=1&a=x+y%21&b=2&c&=d"),
        json(r#"{"": "d", "a": "x y!", "b": ["1", "2"], "c": ""}"#)
    );
    assert_eq!(value(form, b""), json("{}"));
    let many = "a=1&".repeat(MAX_FIELDS);
    assert!(read(Some(form), many.as_bytes()).is_ok());
    assert!(matches!(read(Some(form), format!("{many}a=1").as_bytes()), Err(BodyFault::Malformed(_))));
    for broken in [&b"a=%00"[..], b"a=%E9", b"\xe9=1"] {
        assert!(matches!(read(Some(form), broken), Err(BodyFault::Malformed(_))));
    }
    let latin = "application/x-www-form-urlencoded; charset=windows-1252";
    assert!(matches!(read(Some(latin), b"name=Jos%E9"), Err(BodyFault::ContentType(_))));
}

#[test]
fn nothing_is_null_and_a_byte_order_mark_is_no_part() {
    assert_eq!(read(None, b""), Ok(Document::Text("null")));
    assert!(matches!(read(Some("application/json"), b""), Err(BodyFault::Malformed(_))));
    assert_eq!(read(None, b"\xef\xbb\xbf{}"), Ok(Document::Text("{}")));
    assert!(matches!(read(None, b"\xef\xbb\xbf\xef\xbb\xbf{}"), Err(BodyFault::Malformed(_))));
}

#[test]
fn a_content_type_that_is_none_is_refused() {
    for none in ["json", "/", "application/", "/json", "application/json, application/json", "a b/c", ""] {
        assert!(matches!(read(Some(none), b"{}"), Err(BodyFault::ContentType(_))), "{none}");
    }
}

#[test]
fn of_files_it_is_told_what_they_are() {
    let body = b"preamble\r\n--X y\r\nContent-Disposition: form-data; name=\"note\"\r\n\r\ntwo\r\nlines\r\n--X y  \r\n\
        content-disposition: form-data; filename=\"a \\\"b\\\".bin\"; name=upload\r\nContent-Type: image/png\r\n\r\n\xff\x00\r\n--X y\r\n\
        Content-Disposition: form-data; name=note\r\n\r\n\r\n--X y--\r\nepilogue";
    let expected = r#"{"note": ["two\r\nlines", ""], "upload": {"filename": "a \"b\".bin", "content_type": "image/png",
        "bytes": 2, "sha256": "ea5dbf9596d187e9500f23e9a680109475341cf4e81f7e043f7d97152c10772f"}}"#;
    assert_eq!(value("multipart/form-data; boundary=\"X y\"", body), json(expected));
    assert_eq!(value("multipart/form-data; boundary=b", b"--b--"), json("{}"));
}

#[test]
fn xml_is_its_text_and_the_rest_base64() {
    assert_eq!(value("text/xml; charset=utf-8", "<a>ä</a>".as_bytes()), Json::from("<a>ä</a>"));
    assert_eq!(value("application/soap+xml", b"<a/>"), Json::from("<a/>"));
    assert_eq!(
        value("Application/Octet-Stream", b"\x00\xff"),
        json(r#"{"base64": "AP8=", "content_type": "application/octet-stream"}"#)
    );
}

#[test]
fn what_is_not_what_it_says_is_refused() {
    for (content_type, body) in [
        ("nonsense", &b"{}"[..]),
        ("application/json; charset=utf-16", b"{}"),
        ("text/xml; charset=iso-8859-1", b"<a/>"),
        ("multipart/form-data", b"--b--"),
        ("multipart/form-data; boundary=\"", b"--b--"),
        ("multipart/form-data; boundary=", b"----"),
    ] {
        assert!(matches!(read(Some(content_type), body), Err(BodyFault::ContentType(_))), "{content_type}");
    }
    let part = "multipart/form-data; boundary=b";
    for (content_type, body) in [
        ("application/json", &b"{"[..]),
        ("application/json", b"\"\xff\""),
        ("text/xml", b"\xff"),
        ("text/xml", b"\0"),
        (part, b""),
        (part, b"--b\r\nContent-Disposition: form-data; name=a\r\n\r\nx"),
        (part, b"--b\r\n\r\nx\r\n--b--"),
        (part, b"--b\r\nContent-Disposition: attachment; name=a\r\n\r\nx\r\n--b--"),
        (part, b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b--"),
        (part, b"--b\r\nContent-Disposition: form-data; name=a\r\n\r\n\0\r\n--b--"),
    ] {
        let told = read(Some(content_type), body);
        assert!(matches!(told, Err(BodyFault::Malformed(_))), "{content_type} {body:?} {told:?}");
    }
}

proptest! {
    #[test]
    fn nothing_panics(content_type in "[a-z/;=\" +-]{0,40}", body in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = read(Some(&content_type), &body);
        let _ = read(Some("multipart/form-data; boundary=b"), &body);
    }

    #[test]
    fn a_form_comes_back_as_it_was_sent(pairs in proptest::collection::vec(("[a-zä&=]{0,5}", "[^\\x00]{0,9}"), 0..20)) {
        let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(&pairs).finish();
        let found = value("application/x-www-form-urlencoded", body.as_bytes());
        for (name, _) in &pairs {
            let of_name: Vec<Json> =
                pairs.iter().filter(|(other, _)| other == name).map(|(_, value)| Json::from(&**value)).collect();
            let expected = if of_name.len() == 1 { of_name[0].clone() } else { Json::array(of_name) };
            prop_assert_eq!(found.get(name), Some(&expected));
        }
        let names: std::collections::BTreeSet<&String> = pairs.iter().map(|(name, _)| name).collect();
        prop_assert_eq!(found.as_obj().map(|members| members.len()), Some(names.len()));
    }
}
