//! No expression may overflow the stack: Postgres would end every session of the server. These
//! tests run in threads with a stack of 1 MiB, half of what Postgres warns at and an eighth of
//! what it really has; an overflow aborts the test binary.

use meshhook_engine::expr::{Budget, Expr};
use meshhook_engine::json::Json;
use meshhook_engine::template::{Template, TemplateOptions};

const STACK: usize = 1 << 20;

fn with_small_stack<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> T {
    let thread = std::thread::Builder::new().stack_size(STACK).spawn(run).expect("thread");
    thread.join().expect("no panic")
}

/// What is put around, behind and in the middle of an expression, again and again.
const SHAPES: &[(&str, &str, &str)] = &[
    ("(", "1", ")"),
    ("[", "1", "]"),
    ("[.[]?|", "1", "]"),
    ("{a:", "1", "}"),
    ("{(\"a\",\"b\"):", "1", "}"),
    ("{a:(1,", "1", ")}"),
    ("-", "1", ""),
    ("-(1,", "1", ")"),
    ("try ", "1", ""),
    ("try error catch ", "1", ""),
    ("try (1,", "error", ") catch error"),
    ("if ", "true", " then true else true end"),
    ("if true then ", "1", " else 1 end"),
    ("if false then 1 else ", "1", " end"),
    ("if (true,false) then (1,", "1", ") else 2 end"),
    ("if false then 1 elif true then 1 elif (", "true", ") then 1 else 1 end"),
    ("1 as $x|", "1", ""),
    ("(1,2) as $x|", "1", ""),
    ("[1] as [$x]|", "1", ""),
    ("[[1]] as [[$x]]|", "1", ""),
    ("{a:1} as {a:$x}|", "1", ""),
    (". as {(", "\"a\"", "):$x}|\"a\""),
    ("(", "1", ") as $x|$x"),
    (".|", ".", ""),
    ("(1,2)|", ".", ""),
    ("first(1,2)|", ".", ""),
    ("[1,2]|.[]|", ".", ""),
    ("1,", "1", ""),
    ("1+", "1", ""),
    ("(1,1)+", "1", ""),
    ("1+(1,", "1", ")"),
    ("1==(", "1", ")"),
    ("(1,2)==(", "1", ")"),
    ("true and ", "true", ""),
    ("true and (", "true", ")"),
    ("(true,true) and (", "true", ")"),
    ("(false,false) or (", "true", ")"),
    ("null//", "1", ""),
    ("null//(", "1", ")"),
    ("(null,null)//(", "1", ")"),
    ("1//1+1|", "1", ""),
    (".[", "0", "]?"),
    (".[(0,1,", "0", ")]?"),
    (".[", "0", ":]?"),
    (".[(0,1):(1,", "0", ")]?"),
    ("(", ".", "|.[]?)"),
    ("", ".", "[]?"),
    ("", ".b", ".a?"),
    ("", ".", "|.a?"),
    ("\"\\(", "1", ")\""),
    ("\"a\\((1,", "1", "))\""),
    ("\"\\(1)\\((1,", "1", "))\\(2,3)\""),
    ("@json \"\\(", "1", ")\""),
    ("[1]|map(", "1", ")"),
    ("select(", "true", ")"),
    ("[1]|map_values(", "1", ")"),
    ("[1]|map_values((", "1", ",2))"),
    ("[1]|sort_by(", "1", ")"),
    ("[1]|sort_by((1,", "1", "))"),
    ("[1]|group_by(", "1", ")"),
    ("[1]|walk(", ".", ")"),
    ("[[[[[[[[1]]]]]]]]|walk(", ".", ")"),
    ("{a:1}|with_entries(", ".", ")"),
    ("first(", "1", ")"),
    ("first((1,", "1", "))"),
    ("last(1,", "1", ")"),
    ("limit(1;", "1", ")"),
    ("limit(1,", "1", ";1,2)"),
    ("isempty(", "1", ")"),
    ("any(", "true", ")?"),
    ("any(1;", "true", ")"),
    ("all(1,", "1", ";true)"),
    ("[range(", "1", ")]|length"),
    ("range(0,", "1", ";1)"),
    ("add(1,", "1", ")"),
    ("reduce ", "1", " as $x(0;1)"),
    ("reduce 1 as $x(", "1", ";1)"),
    ("reduce 1 as $x(0;", "1", ")"),
    ("reduce (1,2) as $x(0;1,", "1", ")"),
    ("foreach (1,2) as $x(0;", "1", ")"),
    ("foreach 1 as $x(0;1;1,", "1", ")"),
    ("foreach 1 as [$x,{a:$y}](0;1;", "1", ")?"),
    ("\"a\"|test(", "\"a\"", "|tostring)|tostring"),
    ("\"a\"|sub(\"a\";", "\"a\"", ")"),
    ("\"a\"|sub(\"a\";\"b\",", "\"a\"", ")"),
    ("\"a\"|startswith(", "\"a\"", "|tostring)|tostring"),
    ("\"a\"|ltrimstr(\"b\",", "\"a\"", ")"),
    ("[[1]]|flatten(", "1", ")|length"),
    ("def f:", "1", ";f"),
    ("def f:1;", "f", ""),
    ("def f(g):g;f(", "1", ")"),
    ("def f(g):g|g;f(", ".", ")"),
    ("def f($a):$a;f(", "1", ")"),
    ("def f($a):$a;f(1,", "1", ")"),
];

/// Parses and evaluates; says whether the text was accepted.
fn run(text: &str) -> bool {
    let Ok(expr) = Expr::parse(text) else {
        return false;
    };
    let mut root = Json::from("x");
    for _ in 0..127 {
        root = Json::array([root]);
    }
    for root in [root, Json::Null, Json::from(1)] {
        let mut budget = Budget::node();
        let outputs = expr.eval_many(&root, &mut budget, 100_000);
        drop(outputs);
        assert!(budget.used_steps() <= budget.expr_steps, "{text}");
    }
    true
}

#[test]
fn every_shape_nests_as_deep_as_it_may() {
    for &(before, middle, after) in SHAPES {
        with_small_stack(move || {
            let nested = |n: usize| before.repeat(n) + middle + &after.repeat(n);
            assert!(run(&nested(3)), "{}", nested(3));
            let depth = (3..600).take_while(|n| Expr::parse(&nested(*n)).is_ok()).count() + 2;
            assert!(depth >= 7, "{before} nests only {depth} deep");
            for depth in [depth / 2, depth] {
                assert!(run(&nested(depth)));
            }
            for beyond in [depth + 1, depth + 2, depth * 2, 600, 1_000, 4_000, 100_000] {
                run(&nested(beyond));
            }
        });
    }
}

#[test]
fn shapes_within_shapes() {
    // Pairs find what single shapes miss: cheap outer levels around expensive inner ones.
    for &(before, _, after) in SHAPES {
        with_small_stack(move || {
            for &(inner_before, middle, inner_after) in SHAPES.iter().step_by(9) {
                for (outer, inner) in [(6, 20), (20, 8)] {
                    let inner = inner_before.repeat(inner) + middle + &inner_after.repeat(inner);
                    run(&(before.repeat(outer) + &inner + &after.repeat(outer)));
                }
            }
        });
    }
}

#[test]
fn functions_that_double_are_bounded() {
    with_small_stack(|| {
        for body in
            [".|.", ".,.", "[.]|.[]", "(.,.)|(.,.)", ". as $x|.,$x", "first(.,.)", "try (.,.) catch ."]
        {
            for n in [2, 4, 6, 8, 10, 20, 60] {
                let mut text = format!("def f0: {body};");
                for i in 1..n {
                    text += &format!("def f{i}: f{p}|f{p};", p = i - 1);
                }
                run(&(text + &format!("1|f{}", n - 1)));
            }
        }
    });
}

#[test]
fn deep_values_are_walked_printed_compared_and_dropped() {
    with_small_stack(|| {
        for expr in [
            "tojson|length",
            "tojson|fromjson",
            "walk(.)",
            "[..]|length",
            "flatten",
            "[.,.]|unique",
            ". == (tojson|fromjson)",
            "contains([[[[[[]]]]]])",
            "[.,.]|sort|length",
            "[..]|map(tojson)|add|length",
            "{a:.}*{a:{b:1}}",
            "map_values(walk(walk(.)))",
            "@json",
            "@uri",
        ] {
            assert!(run(expr), "{expr}");
        }
    });
}

#[test]
fn templates_are_bounded_too() {
    with_small_stack(|| {
        for open in ["(", "[", "{a:", "\"\\(", "-", "{{", "\"{{"] {
            for n in [10, 100, 10_000] {
                let template = Json::from(format!("{{{{ {} }}}}", open.repeat(n)));
                assert!(Template::compile(&template, TemplateOptions::default()).is_err());
            }
        }
        let mut nested = Json::from("{{ . }}");
        for _ in 0..127 {
            nested = Json::object([("a", Json::array([nested]))]);
            if nested.to_string().matches('[').count() >= 60 {
                break;
            }
        }
        let template = Template::compile(&nested, TemplateOptions::default()).expect("compiles");
        let rendered = template.render(&Json::from(1), &mut Budget::node()).expect("renders");
        assert!(rendered.value.to_string().ends_with(&"]}".repeat(60)));
    });
}
