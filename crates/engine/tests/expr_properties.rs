//! Properties over random values and random expressions.

use meshhook_engine::expr::{Budget, Expr};
use meshhook_engine::json::Json;
use meshhook_engine::template::{Template, TemplateOptions};
use proptest::prelude::*;

fn number() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<i64>().prop_map(|n| n.to_string()),
        any::<f64>().prop_filter("finite", |f| f.is_finite()).prop_map(|f| format!("{f:e}")),
        "-?(0|[1-9][0-9]{0,40})(\\.[0-9]{1,40})?([eE][+-]?[0-9]{1,3})?",
    ]
}

fn json() -> impl Strategy<Value = Json> {
    let leaf = prop_oneof![
        Just(Json::Null),
        any::<bool>().prop_map(Json::from),
        number().prop_map(|text| Json::parse(&text).expect("number")),
        "[^\0]{0,8}".prop_map(Json::from),
        "[a-d]{0,3}".prop_map(Json::from),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Json::array),
            prop::collection::vec(("[a-d]{1,2}", inner), 0..6).prop_map(Json::object),
        ]
    })
}

/// Expressions that are mostly well formed.
fn expr() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        prop::sample::select(vec![
            ".",
            "..",
            ".a",
            ".b.c",
            ".[]",
            ".[]?",
            ".[0]",
            ".[-1]",
            ".[1:]",
            ".[:-1]",
            ".a?",
            "null",
            "true",
            "false",
            "empty",
            "[]",
            "{}",
            "\"a\"",
            "\"\"",
            "1",
            "0",
            "-1",
            "1.5",
            "9223372036854775807",
            "1e300",
            "1e400",
            "error",
            "length",
            "keys",
            "type",
            "not",
            "add",
            "any",
            "all",
            "sort",
            "unique",
            "reverse",
            "flatten",
            "min",
            "max",
            "to_entries",
            "from_entries",
            "tojson",
            "fromjson",
            "tostring",
            "tonumber",
            "floor",
            "ceil",
            "round",
            "abs",
            "first",
            "last",
            "trim",
            "explode",
            "implode",
            "ascii_upcase",
            "@base64",
            "@base64d",
            "@uri",
            "@html",
            "@sh",
            "@csv",
            "@tsv",
            "@json",
            "gmtime",
            "mktime",
            "todate",
            "fromdate",
            "values",
            "scalars",
            "range(5)",
            "utf8bytelength",
            "$x",
        ])
        .prop_map(str::to_owned),
        json().prop_map(|value| value.to_string()),
    ];
    leaf.prop_recursive(5, 60, 3, |inner| {
        let binary = prop::sample::select(vec![
            "|", ",", "+", "-", "*", "/", "%", "==", "!=", "<", "<=", ">", ">=", "and", "or", "//",
        ]);
        let unary = prop::sample::select(vec![
            "map(X)",
            "select(X)",
            "[X]",
            "(X)",
            "-(X)",
            "{a: (X)}",
            "{(X): 1}",
            "try (X)",
            "(X)?",
            "first(X)",
            "last(X)",
            "limit(2; X)",
            "isempty(X)",
            "sort_by(X)",
            "group_by(X)",
            "unique_by(X)",
            "min_by(X)",
            "max_by(X)",
            "map_values(X)",
            "walk(X)",
            "with_entries(X)",
            "any(X)",
            "all(X)",
            "add(X)",
            "has(X)",
            "contains(X)",
            "inside(X)",
            "index(X)",
            "indices(X)",
            "join(X)",
            "split(X)",
            "startswith(X)",
            "ltrimstr(X)",
            "test(X)",
            "[match(X; \"g\")]",
            "capture(X)",
            "[scan(X)]",
            "gsub(\"a\"; X)",
            "sub(X; \"b\")",
            "splits(X)",
            "range(X)",
            "flatten(X)",
            "error(X)",
            "nth(X)",
            "\"a\\(X)b\"",
            "@uri \"\\(X)\"",
            ".[X]",
            ".[X:]",
            ".[X]?",
            "(X) as $x | $x",
            "(X) as [$x] | $x",
            "(X) as {a: $x} | $x",
            "reduce (X) as $x (0; . + 1)",
            "reduce .[]? as $x (X; [.])",
            "foreach (X) as $x (0; . + 1; [$x, .])",
            "if X then 1 else 2 end",
            "if . then X end",
            "def f: X; f",
            "def f(g): g | g; f(X)",
            "def f($x): $x; f(X)",
            "strftime(X)",
            "strptime(X)",
            "del(.a, .[0])",
            "in(X)",
            "try error(X) catch .",
        ]);
        prop_oneof![
            (inner.clone(), binary, inner.clone()).prop_map(|(a, op, b)| format!("({a}) {op} ({b})")),
            (unary, inner).prop_map(|(shape, x)| shape.replace('X', &x)),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 400 } else { 5_000 }))]

    #[test]
    fn text_is_canonical(value in json()) {
        let text = value.to_string();
        let parsed = Json::parse(&text).expect("canonical text");
        prop_assert_eq!(&parsed, &value);
        prop_assert_eq!(parsed.to_string(), text.clone());
        let through_serde: Json = serde_json::from_str(&text).expect("serde");
        prop_assert_eq!(&through_serde, &value);
        prop_assert_eq!(serde_json::to_string(&value).expect("serde"), text);
        prop_assert_eq!(&value.decode::<Json>().expect("decode"), &value);
        prop_assert_eq!(Json::encode(&value).expect("encode"), value);
    }

    #[test]
    fn order_is_total(a in json(), b in json(), c in json()) {
        prop_assert_eq!(a.cmp_jq(&b), b.cmp_jq(&a).reverse());
        prop_assert_eq!(a.cmp_jq(&b).is_eq(), a == b);
        if a.cmp_jq(&b).is_le() && b.cmp_jq(&c).is_le() {
            prop_assert!(a.cmp_jq(&c).is_le());
        }
    }

    #[test]
    fn no_text_makes_the_reader_panic(text in "[\\[\\]{}\",:0-9.eE+\\-\\\\u truefalsn]{0,40}") {
        let parsed = Json::parse(&text);
        let strict = serde_json::from_str::<serde_json::Value>(&text);
        if parsed.is_ok() {
            // serde_json refuses numbers beyond f64.
            prop_assert!(strict.is_ok() || text.contains(['e', 'E']));
        }
    }

    #[test]
    fn evaluation_ends_and_repeats(text in expr(), root in json()) {
        let text = format!("1 as $x | {text}");
        if let Ok(expr) = Expr::parse(&text) {
            let mut first = Budget::node();
            first.expr_steps = 20_000;
            let mut second = first.clone();
            let outputs = expr.eval_many(&root, &mut first, 1_000);
            let again = expr.eval_many(&root, &mut second, 1_000);
            prop_assert_eq!(first.used_steps(), second.used_steps());
            match outputs {
                Ok(values) => {
                    for value in &values {
                        let text = value.to_string();
                        let reread = Json::parse(&text).expect("storable");
                        prop_assert_eq!(&reread, value, "{}", text);
                    }
                    prop_assert_eq!(again.expect("same"), values);
                }
                Err(error) => prop_assert_eq!(again.expect_err("same"), error),
            }
            // The only output, when there is exactly one.
            if let Ok(value) = expr.eval(&root, &mut Budget::node()) {
                let mut budget = Budget::node();
                prop_assert_eq!(expr.eval_many(&root, &mut budget, 1).expect("one"), vec![value]);
            }
        }
    }

    #[test]
    fn no_text_makes_the_compiler_panic(
        text in "(\\(|\\)|\\[|\\]|\\{|\\}|\"|\\\\\\(|\\\\|\\.|\\||,|;|:|-|\\+|//|\\?|#|\n| |if|then|else|end|elif|def|reduce|foreach|as|try|catch|and|or|f|\\$x|@base64|1|a|é|\\.\\.|\\.a|=|\\|=){0,60}"
    ) {
        if let Err(error) = Expr::parse(&text) {
            prop_assert!(error.offset.is_some_and(|offset| offset <= text.chars().count()), "{:?}", error);
        }
        let template = Json::from(format!("a {{{{ {text} }}}} b {{{{{text}"));
        let options = TemplateOptions { allow_variables: true };
        if let Ok(template) = Template::compile(&template, options) {
            let mut budget = Budget::node();
            budget.expr_steps = 2_000;
            let _ = template.render(&Json::Null, &mut budget);
        }
    }
}
