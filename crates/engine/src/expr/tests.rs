use super::*;

fn json(text: &str) -> Json {
    Json::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn outputs(input: &Json, text: &str) -> String {
    let outputs = Expr::parse(text).and_then(|expr| expr.eval_many(input, &mut Budget::node(), 1_000));
    match outputs {
        Ok(values) => values.iter().map(Json::to_string).collect::<Vec<_>>().join(" "),
        Err(error) => format!("! {}", error.code),
    }
}

/// The expressions of the corpus, with inputs and expected outputs.
fn corpus() -> Vec<(&'static str, &'static str, &'static str)> {
    let text = include_str!("../../tests/corpus/functions.txt");
    let mut lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let mut cases = Vec::new();
    while let (Some(case), Some(expected)) = (lines.next(), lines.next()) {
        let (input, expr) = case.split_once(" | ").unwrap();
        cases.push((input, expr, expected.strip_prefix("    => ").unwrap()));
    }
    cases
}

#[test]
fn corpus_of_functions() {
    let cases = corpus();
    assert!(cases.len() > 200);
    let wrong: Vec<String> = cases
        .iter()
        .map(|(input, expr, expected)| (expr, outputs(&json(input), expr), expected))
        .filter(|(_, got, expected)| got != *expected)
        .map(|(expr, got, expected)| format!("{expr}\n  expected {expected}\n  got      {got}"))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The words of an expression, each with whether arguments follow.
fn words(expr: &str) -> Vec<(&str, bool)> {
    let ends = |c: char| !c.is_alphanumeric() && c != '_' && c != '@';
    let starts = expr.match_indices(|c: char| !ends(c));
    let firsts = starts.filter(|(at, _)| expr[..*at].chars().last().is_none_or(ends));
    firsts
        .map(|(at, _)| {
            let word = expr[at..].split(ends).next().unwrap_or("");
            (word, expr[at + word.len()..].starts_with('('))
        })
        .collect()
}

/// The functions that none of these expressions calls.
fn missing<'a>(exprs: impl Iterator<Item = &'a str>) -> Vec<String> {
    let words: Vec<(&str, bool)> = exprs.flat_map(words).collect();
    let names = natives::names().into_iter().chain(builtin::DERIVED.iter().copied());
    let plain = names.filter(|(name, arity)| !words.contains(&(name, *arity > 0)));
    let missing = plain.map(|(name, arity)| format!("{name}/{arity}"));
    let special = SPECIAL.iter().filter(|name| !words.iter().any(|(word, _)| word == *name));
    missing.chain(special.map(|name| (*name).to_owned())).collect()
}

/// The functions of terms.
#[rustfmt::skip]
const SPECIAL: &[&str] = &[
    "empty", "range", "first", "last", "limit", "nth", "isempty", "any", "all", "add", "sort_by", "group_by",
    "unique_by", "min_by", "max_by", "map_values", "walk", "test", "match", "capture", "scan", "split", "splits", "sub",
    "gsub",
];

#[test]
fn every_function_has_a_case() {
    assert!(SPECIAL.iter().all(|name| !natives::arities(name).is_empty()));
    let missing = missing(corpus().into_iter().map(|(_, expr, _)| expr));
    assert!(missing.is_empty(), "no case of {missing:?}");
}

#[test]
fn the_documentation_is_true() {
    let text = include_str!("../../../../docs/expressions.md");
    let mut examples = Vec::new();
    let mut inside = false;
    for line in text.lines() {
        match line {
            "```jq" => inside = true,
            "```" => inside = false,
            line if inside => {
                let (case, expected) = line.rsplit_once(" → ").expect(line);
                let (input, expr) = case.split_once(" | ").expect(line);
                examples.push((input, expr, expected));
            }
            _ => {}
        }
    }
    let wrong: Vec<String> = examples
        .iter()
        .map(|(input, expr, expected)| (expr, outputs(&json(input), expr), expected))
        .filter(|(_, got, expected)| got != *expected)
        .map(|(expr, got, expected)| format!("{expr}\n  documented {expected}\n  got        {got}"))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let missing = missing(examples.into_iter().map(|(_, expr, _)| expr));
    assert!(missing.is_empty(), "no example of {missing:?}");
}

#[test]
fn faults_point_at_the_character() {
    for (text, code, offset, message) in [
        ("", "expr.syntax", 0, "expected term"),
        (".a +", "expr.syntax", 4, "expected term"),
        ("\"ä\" | foo(1)", "expr.unknown_name", 6, "function foo is not defined"),
        (".a | ltrimstr", "expr.unknown_name", 5, "ltrimstr takes 1 arguments, not 0"),
        (".a + $x", "expr.unknown_name", 5, "variable $x is not defined"),
        (".a | now", "expr.unsupported", 5, "now is not supported"),
        ("def f: 1; def g: nope; f", "expr.unknown_name", 17, "function nope is not defined"),
        (
            ".a |= 1",
            "expr.unsupported",
            3,
            "assignment is not supported; build the object anew, as in . + {key: value}",
        ),
        ("[1, 2", "expr.syntax", 5, "expected closing bracket"),
        ("\"abc", "expr.syntax", 4, "expected closing quote"),
        ("if . then 1", "expr.syntax", 11, "expected else or end"),
        (". as [$a | 1", "expr.syntax", 12, "expected closing bracket"),
        ("(1]", "expr.syntax", 2, "closing bracket does not fit"),
        (".a | test(\"(\")", "expr.regex", 11, "regular expression is malformed"),
        (".a | test(\"a\"; \"q\")", "expr.regex", 11, "unknown regex flag"),
        ("{(1): 2}", "expr.type", 2, "object keys are strings"),
        (
            "$secrets.a + 1",
            "expr.unsupported",
            0,
            "$secrets is only known in a hole of its own, as in {{ $secrets.name }}",
        ),
        (
            "[$resume.a]",
            "expr.unsupported",
            1,
            "$resume is only known in a hole of its own, as in {{ $resume.node }}",
        ),
        ("reduce . as $x (1)", "expr.syntax", 0, "reduce with 1 arguments is not defined"),
        ("def f: 1 | f; f", "expr.recursive", 11, "f calls itself, which is not supported"),
    ] {
        let error = Expr::parse(text).unwrap_err();
        assert_eq!(
            (error.code.as_str(), error.offset, error.message.as_str()),
            (code, Some(offset), message),
            "{text}"
        );
    }
    for (text, code, offset) in [
        ("{a: 1} | .a | .b", "expr.type", 15),
        ("1 + \"ä\" + .n.x", "expr.type", 0),
        ("\"ä\" | tonumber", "expr.value", 6),
        ("[1, {}] | map(. / 0)", "expr.arithmetic", 18),
    ] {
        let error = Expr::parse(text).unwrap().eval(&json("{}"), &mut Budget::node()).unwrap_err();
        assert_eq!((error.code.as_str(), error.offset), (code, Some(offset)), "{text}");
    }
}

#[test]
fn markers_stand_below_the_character() {
    let marker = |text: &str| Expr::parse(text).unwrap_err().marker(text).unwrap();
    assert_eq!(marker("\"ä\" | nope"), "\"ä\" | nope\n      ^");
    assert_eq!(marker(".a |\n\tnope |\n.b"), "\tnope |\n\t^");
    assert_eq!(marker(".a +"), ".a +\n    ^");
    let long = format!("{}nope{}", ".a|".repeat(50), "|.b".repeat(50));
    let shown = format!("…{}nope{}…\n{}^", &".a|".repeat(14)[2..], &"|.b".repeat(12), " ".repeat(41));
    assert_eq!(marker(&long), shown);
    let placeless = Expr::parse("1").unwrap().eval_bool(&Json::Null, &mut Budget::node()).unwrap_err();
    assert_eq!(placeless.marker("1"), None);
}

#[test]
fn messages_never_contain_data() {
    let root = json(r#"{"secretvalue": "secretvalue", "n": 424242}"#);
    for text in [
        ".secretvalue.secretkey",
        ".secretvalue + 1",
        ".secretvalue | tonumber",
        ".[.n]",
        ".n[]",
        ".secretvalue | fromjson",
        "error(.secretvalue)",
        ".secretvalue | error",
        ".n | ltrim",
        "{(.n|tostring|tonumber|tostring): 1} | .[\"424242\"].x",
        ".secretvalue | fromdate",
        ".secretvalue as $p | \"x\" | test(\"(\" + $p)",
        ".secretvalue * .secretvalue",
        "-.secretvalue",
        ".n | strftime(\"%Q\")",
        "[.secretvalue] | implode",
        "[[.n]] | join(\",\")",
        "[.n,.secretvalue] | @base64d",
    ] {
        let error = Expr::parse(text).unwrap().eval(&root, &mut Budget::node()).unwrap_err();
        assert!(!error.to_string().contains("secretv") && !error.to_string().contains("4242"), "{error}");
    }
}

#[test]
fn what_user_errors_carry() {
    let error = Expr::parse("error({code: .a})").unwrap().eval(&json(r#"{"a":7}"#), &mut Budget::node());
    let error = error.unwrap_err();
    assert_eq!(error.code, ExprCode::User);
    assert_eq!(error.payload, Some(json(r#"{"code":7}"#)));
    assert_eq!(error.to_string(), "the expression raised an error at character 1");
}

#[test]
fn one_output_or_a_fault() {
    let eval = |text: &str| {
        let expr = Expr::parse(text).unwrap();
        expr.eval(&json("[1,2]"), &mut Budget::node()).map_err(|error| error.code.as_str())
    };
    assert_eq!(eval(".[0]"), Ok(1.into()));
    assert_eq!(eval(".[]"), Err("expr.many"));
    assert_eq!(eval("empty"), Err("expr.empty"));
    assert_eq!(eval(".[] | select(. == 2)"), Ok(2.into()));
    let eval_bool = |text: &str| {
        let expr = Expr::parse(text).unwrap();
        expr.eval_bool(&json("[1,2]"), &mut Budget::node()).map_err(|error| error.code.as_str())
    };
    assert_eq!(eval_bool("length == 2"), Ok(true));
    assert_eq!(eval_bool(".[0]"), Err("expr.type"));
    assert_eq!(eval_bool("null"), Err("expr.type"));
    assert_eq!(eval_bool("true, true"), Err("expr.many"));
    let expr = Expr::parse(".[]").unwrap();
    assert_eq!(expr.eval_many(&json("[1,2]"), &mut Budget::node(), 2).unwrap().len(), 2);
    let many = expr.eval_many(&json("[1,2,3]"), &mut Budget::node(), 2).unwrap_err();
    assert_eq!(many.message, "expression has more than 2 outputs");
}

#[test]
fn paths_that_are_read() {
    for (text, expected) in [
        (".", "(root)"),
        (".input.total", "input.total"),
        (".nodes.charge.output | .total", "nodes.charge.output.total"),
        (".nodes[\"charge\"].output.items[0].id", "nodes.charge.output.items"),
        (".nodes[.input.key].x", "input.key nodes"),
        (". as $r | $r.nodes.a + .nodes.b", "nodes.a nodes.b"),
        (". as {nodes: {a: $x}} | $x.y", "nodes.a.y"),
        (".nodes.a.x? // .nodes.b.y // \"z\"", "nodes.a.x nodes.b.y"),
        ("if .nodes.a.ok then .nodes.b else .nodes.c end", "nodes.a.ok nodes.b nodes.c"),
        ("\"\\(.nodes.a.x) and \\(.vars.y)\"", "nodes.a.x vars.y"),
        ("[.nodes.a.items[] | .price * .count] | add", "nodes.a.items"),
        (".nodes.a.items | map(.x)", "nodes.a.items"),
        ("{a: .nodes.a, b: {c: .nodes.b.c}}", "nodes.a nodes.b.c"),
        ("def f: .nodes.a; f.x", "nodes.a.x"),
        ("def f(g): .nodes | g; f(.b)", "nodes.b"),
        ("reduce .input.items[] as $i (0; . + $i.n)", "input.items"),
        ("1 + 2", ""),
        (".nodes | keys", "nodes"),
        (".nodes | to_entries[] | .value.x", "nodes"),
        ("any(.nodes.a.items[]; . > 1)", "nodes.a.items"),
        ("select(.nodes.a)", "nodes.a (root)"),
    ] {
        let expr = Expr::parse(text).unwrap();
        let paths: Vec<String> = expr
            .paths()
            .iter()
            .map(|path| match path.keys.is_empty() {
                true => "(root)".to_owned(),
                false => path.keys.join("."),
            })
            .collect();
        assert_eq!(paths.join(" "), expected, "{text}");
    }
    let expr = Expr::parse("\"ä\" + .nodes.a").unwrap();
    assert_eq!(expr.paths()[0].offset, Some(7));
}

#[test]
fn steps_are_counted_and_shared() {
    let mut budget = Budget::node();
    let expr = Expr::parse("[range(100)] | map(. + 1) | add").unwrap();
    assert_eq!(expr.eval(&Json::Null, &mut budget), Ok(5050.into()));
    let used = budget.used_steps();
    assert!((300..2_000).contains(&used), "{used}");
    expr.eval(&Json::Null, &mut budget).unwrap();
    assert_eq!(budget.used_steps(), 2 * used);
    // The budget of the node ends it, not that of the expression.
    budget.node_steps = used - 1;
    assert_eq!(expr.eval(&Json::Null, &mut budget).unwrap_err().code, ExprCode::Budget);
    assert_eq!(budget.node_steps, 0);
    let mut budget = Budget::node();
    budget.bytes = 1_000;
    assert_eq!(expr.eval(&Json::Null, &mut budget).unwrap_err().code, ExprCode::Budget);
    let mut budget = Budget::node();
    budget.max_output = 10;
    let expr = Expr::parse("[range(10)]").unwrap();
    assert_eq!(expr.eval(&Json::Null, &mut budget).unwrap_err().code, ExprCode::Budget);
}

#[test]
fn building_up_in_a_fold_takes_memory_for_what_is_added() {
    for text in [
        "reduce range(10000) as $i ([]; . + [$i]) | length",
        "reduce range(5000) as $i ({}; . + {(\"k\\($i)\"): $i}) | length",
        "reduce range(10000) as $i ([]; if $i % 2 == 0 then . + [$i] else . end) | length",
        "[range(5000) | tostring] | add | length",
        "[range(5000) | tostring] | join(\",\") | length",
    ] {
        let expr = Expr::parse(text).unwrap();
        let result = expr.eval(&Json::Null, &mut Budget::node());
        assert!(result.is_ok(), "{text}: {result:?}");
    }
}

#[test]
fn interrupts_are_offered() {
    use std::sync::atomic::{AtomicU32, Ordering};
    static CALLS: AtomicU32 = AtomicU32::new(0);
    let mut budget = Budget::node();
    budget.interrupt = Some(|| {
        CALLS.fetch_add(1, Ordering::Relaxed);
    });
    Expr::parse("last(range(20000))").unwrap().eval(&Json::Null, &mut budget).unwrap();
    assert!((10..100).contains(&CALLS.load(Ordering::Relaxed)));
}

#[test]
fn pass_through_keeps_every_digit() {
    let text = r#"{"a":[123456789012345678901234567890,0.1000000000000000000001,1.5]}"#;
    for expr in [".", "{a}", "[.a[]] | {a: .}", "tojson | fromjson", "walk(.)", "with_entries(.)", "del(.b)"]
    {
        assert_eq!(outputs(&json(text), expr), text, "{expr}");
    }
}
