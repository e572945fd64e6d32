use super::*;

fn json(text: &str) -> Json {
    Json::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

const SECRETS: TemplateOptions = TemplateOptions { allow_variables: true };

fn render(template: &str, root: &str) -> Result<Rendered, TemplateError> {
    let template = Template::compile(&json(template), SECRETS).map_err(|errors| errors[0].clone())?;
    template.render(&json(root), &mut Budget::node())
}

fn value(template: &str, root: &str) -> String {
    match render(template, root) {
        Ok(rendered) => rendered.value.to_string(),
        Err((pointer, error)) => format!("{pointer} {} {error}", error.code),
    }
}

#[test]
fn holes() {
    let root = r#"{"n":1.50,"s":"x\"y","l":[1,{"b":2,"a":1}],"z":null,"t":true}"#;
    for (template, expected) in [
        (r#""{{ .n }}""#, "1.5"),
        (r#""{{.l}}""#, r#"[1,{"a":1,"b":2}]"#),
        (r#""{{ .missing.deeper }}""#, "null"),
        (r#""{{ .s }}""#, r#""x\"y""#),
        (r#"" {{ .n }}""#, r#"" 1.5""#),
        (
            r#""n={{ .n }}, s={{ .s }}, l={{ .l }}, t={{ .t }}""#,
            r#""n=1.5, s=x\"y, l=[1,{\"a\":1,\"b\":2}], t=true""#,
        ),
        (r#""a{{ .z // \"\" }}b""#, r#""ab""#),
        (r#""{{ .z }}b""#, " expr.type null within text; use // \"\" to allow it at character 3"),
        (r#""{{{{ .n }}""#, r#""{{ .n }}""#),
        (r#""{{{{{{ .n }}""#, r#""{{1.5""#),
        (r#""a } b }} c { d""#, r#""a } b }} c { d""#),
        (r#""{{ \"}}\" }}""#, r#""}}""#),
        (r#""{{ \"\\(\"}}\")\" }}!""#, r#""}}!""#),
        (r#""{{ {a: {b: .n}} }}""#, r#"{"a":{"b":1.5}}"#),
        (r#""{{{a: {b: .n}}}}""#, r#"{"a":{"b":1.5}}"#),
        (r#"{"{{ .n }}": "{{ .n }}"}"#, r#"{"{{ .n }}":1.5}"#),
        (r#"{"a": [1, "{{ .n }}", {"b": "{{ .t }}"}], "c": 1.10}"#, r#"{"a":[1,1.5,{"b":true}],"c":1.1}"#),
        (r#"["{{{{", "{{ 1, 2 }}"]"#, "/1 expr.many expression has more than one output at character 4"),
        (r#"{"a/b~": ["{{ empty }}"]}"#, "/a~1b~0/0 expr.empty expression has no output"),
        (r#""ä{{ \"ö\" + 1 }}""#, " expr.type string + number is not defined at character 6"),
        (r#"123456789012345678901234567890"#, "123456789012345678901234567890"),
    ] {
        assert_eq!(value(template, root), expected, "{template}");
    }
}

#[test]
fn all_faults_are_reported() {
    let template = json(
        r#"{"a":"{{ nope }}","b":["{{ .x","ok {{ 1 + }}"],"c":"{{ $secrets.key }}","d":"{{ $secrets }}",
            "e":"{{ }}","f":"{{{{ fine }}","g":"ä {{ now }}","h":"{{ \"}} }}"}"#,
    );
    let errors = Template::compile(&template, TemplateOptions::default()).unwrap_err();
    let errors: Vec<String> = errors
        .iter()
        .map(|(pointer, error)| format!("{pointer} {} {:?}", error.code, error.offset))
        .collect();
    assert_eq!(
        errors,
        [
            "/a expr.unknown_name Some(3)",
            "/b/0 expr.template Some(0)",
            "/b/1 expr.syntax Some(10)",
            "/c expr.template Some(3)",
            "/d expr.unsupported Some(3)",
            "/e expr.syntax Some(3)",
            "/g expr.unsupported Some(5)",
            "/h expr.template Some(0)",
        ]
    );
}

#[test]
fn secrets_stay_out_of_the_value() {
    let template = r#"{"url":"{{ $secrets.api }}/charge/{{ .id }}?k={{$secrets.k2}}","h":{"x/y":["Bearer {{ $secrets.token }}"]},
        "plain":"{{ .id }}","only":"{{ $secrets.api }}"}"#;
    let rendered = render(template, r#"{"id":"{{ $secrets.api }}"}"#).unwrap();
    assert_eq!(
        rendered.value.to_string(),
        r#"{"h":{"x/y":[null]},"only":null,"plain":"{{ $secrets.api }}","url":null}"#
    );
    let text = |text: &str| Part::Text(text.to_owned());
    let secret = |name: &str| Part::Secret(name.to_owned());
    assert_eq!(
        rendered.clone().masked().to_string(),
        r#"{"h":{"x/y":["Bearer {{ $secrets.token }}"]},"only":"{{ $secrets.api }}","plain":"{{ $secrets.api }}","url":"{{ $secrets.api }}/charge/{{ $secrets.api }}?k={{ $secrets.k2 }}"}"#
    );
    let parts: Vec<_> = rendered.secrets.into_iter().map(|s| (s.pointer, s.parts)).collect();
    assert_eq!(
        parts,
        [
            ("/h/x~1y/0".to_owned(), vec![text("Bearer "), secret("token")]),
            ("/only".to_owned(), vec![secret("api")]),
            ("/url".to_owned(), vec![secret("api"), text("/charge/{{ $secrets.api }}?k="), secret("k2")]),
        ]
    );
    let template = Template::compile(&json(template), SECRETS).unwrap();
    let names: Vec<&str> = template.secrets().into_iter().map(|(_, name)| name).collect();
    assert_eq!(names, ["token", "api", "api", "k2"]);
    let exprs: Vec<String> = template
        .exprs()
        .into_iter()
        .map(|(pointer, expr)| format!("{pointer} {}", expr.text().trim()))
        .collect();
    assert_eq!(exprs, ["/plain .id", "/url .id"]);
}

#[test]
fn secrets_only_where_allowed_and_alone() {
    for template in [
        r#""{{ $secrets.a + \"x\" }}""#,
        r#""{{ $secrets }}""#,
        r#""{{ $secrets[\"a\"] }}""#,
        r#""{{ $secrets.a.b }}""#,
        r#""{{ {$secrets} }}""#,
        r#""{{ . as $secrets | $secrets.a }}""#,
    ] {
        assert!(Template::compile(&json(template), SECRETS).is_err(), "{template}");
    }
    let template = json(r#""{{ $secrets.a }}""#);
    let errors = Template::compile(&template, TemplateOptions::default()).unwrap_err();
    assert_eq!(errors[0].1.message, "secrets are not available here");
}

#[test]
fn constants_are_recognised_and_rendering_is_bounded() {
    let template = json(r#"{"a":[1,"x","{{{{"]}"#);
    let template = Template::compile(&template, SECRETS).unwrap();
    assert_eq!(template.as_const().unwrap().to_string(), r#"{"a":[1,"x","{{"]}"#);

    let holes = Json::array((0..20).map(|_| Json::from("{{ .big }}")));
    let template = Template::compile(&holes, SECRETS).unwrap();
    assert!(template.as_const().is_none());
    let root = Json::object([("big", "x".repeat(100_000))]);
    let error = template.render(&root, &mut Budget::node()).unwrap_err();
    assert_eq!((error.0.as_str(), error.1.code), ("/10", ExprCode::Budget));

    let holes = Json::array((0..20).map(|_| Json::from("{{ last(range(90000)) }}")));
    let template = Template::compile(&holes, SECRETS).unwrap();
    let error = template.render(&Json::Null, &mut Budget::node()).unwrap_err();
    assert_eq!((error.0.as_str(), error.1.code), ("/11", ExprCode::Budget));
}
