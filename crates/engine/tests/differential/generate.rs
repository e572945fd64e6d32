//! Random expressions that mostly fit their input, so that most of them have a result to compare.

use fastrand::Rng;

/// What an expression takes or gives.
#[derive(Clone, Copy, PartialEq)]
enum Type {
    Num,
    Str,
    Bool,
    /// An array of numbers
    Nums,
    /// An array of strings
    Strs,
    /// `{"n": number, "s": string, "l": numbers, "b": boolean}`
    Obj,
    /// An array of such objects
    Objs,
    Null,
}

use Type::{Bool, Null, Num, Nums, Obj, Objs, Str, Strs};

const TYPES: [Type; 8] = [Num, Str, Bool, Nums, Strs, Obj, Objs, Null];

/// One thing to evaluate.
pub struct Case {
    /// The input, as JSON text.
    pub input: String,
    /// The expression.
    pub expr: String,
}

/// The case of this number.
pub fn case(number: u64) -> Case {
    let mut generator = Generator { rng: Rng::with_seed(number), vars: Vec::new() };
    let (from, to) = (generator.any_type(), generator.any_type());
    let input = generator.value(from);
    let depth = generator.rng.u32(1..5);
    Case { input, expr: generator.expr(from, to, depth) }
}

struct Generator {
    rng: Rng,
    vars: Vec<(String, Type)>,
}

impl Generator {
    fn any_type(&mut self) -> Type {
        TYPES[self.rng.usize(..TYPES.len())]
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.rng.usize(..from.len())]
    }

    fn num(&mut self) -> String {
        match self.rng.u32(..8) {
            0 => "0".to_owned(),
            1 => format!("-{}", self.rng.i32(1..100)),
            2 => format!("{}.5", self.rng.i32(1..20)),
            3 => format!("{}.25", self.rng.i32(0..1000)),
            4 => self.rng.i64(0..1_000_000_000_000).to_string(),
            _ => self.rng.i32(0..10).to_string(),
        }
    }

    fn str(&mut self) -> String {
        let words = [
            "",
            "a",
            "b",
            "abc",
            "aXbXc",
            " a b ",
            "a,b,,c",
            "12",
            "-3.5",
            "äé",
            "😀a😀",
            "<a href='x'>&\\\"",
            "2015-03-05T23:51:47Z",
            "[1,{\\\"a\\\":null}]",
            "YWJj",
            "a-b_c~d",
            "A1b22c",
            "aaa",
            "null",
            "a\\nb\\tc",
        ];
        format!("\"{}\"", self.pick(&words))
    }

    fn list(&mut self, most: usize, mut item: impl FnMut(&mut Self) -> String) -> String {
        let items: Vec<String> = (0..self.rng.usize(..=most)).map(|_| item(self)).collect();
        format!("[{}]", items.join(","))
    }

    /// A value as JSON text, which is an expression as well.
    fn value(&mut self, of: Type) -> String {
        match of {
            Num => self.num(),
            Str => self.str(),
            Bool => self.rng.bool().to_string(),
            Nums => self.list(6, Self::num),
            Strs => self.list(5, Self::str),
            Objs => self.list(4, |this| this.value(Obj)),
            Null => "null".to_owned(),
            Obj => {
                let (n, s, l, b) = (self.num(), self.str(), self.list(4, Self::num), self.rng.bool());
                match self.rng.u32(..6) {
                    // Keys in byte order: what depends on it, as tojson does, is no difference then.
                    0 => format!("{{\"n\":{n}}}"),
                    1 => format!("{{\"b\":{b},\"l\":null,\"n\":{n},\"s\":{s}}}"),
                    _ => format!("{{\"b\":{b},\"l\":{l},\"n\":{n},\"s\":{s}}}"),
                }
            }
        }
    }

    /// An expression that takes a value of one type and gives one of another, but now and then does not.
    fn expr(&mut self, from: Type, to: Type, depth: u32) -> String {
        if self.rng.u32(..30) == 0 {
            let other = self.any_type();
            return self.typed(from, other, depth);
        }
        self.typed(from, to, depth)
    }

    fn typed(&mut self, from: Type, to: Type, depth: u32) -> String {
        if depth == 0 {
            return self.leaf(from, to);
        }
        match self.rng.u32(..12) {
            0 => self.leaf(from, to),
            1 => {
                let middle = self.any_type();
                let first = self.expr(from, middle, depth - 1);
                format!("({first} | {})", self.expr(middle, to, depth - 1))
            }
            2..=3 => self.control(from, to, depth - 1),
            _ => {
                // Most functions take another type than the input's: get there first.
                let (of, shape) = self.function(to);
                let filled = self.fill(of, shape, depth - 1);
                match of == from && self.rng.bool() {
                    true => format!("({filled})"),
                    false => format!("({} | {filled})", self.expr(from, of, depth - 1)),
                }
            }
        }
    }

    fn leaf(&mut self, from: Type, to: Type) -> String {
        let vars: Vec<String> =
            self.vars.iter().filter(|(_, of)| *of == to).map(|(name, _)| name.clone()).collect();
        if !vars.is_empty() && self.rng.bool() {
            return vars[self.rng.usize(..vars.len())].clone();
        }
        match (from, to) {
            _ if from == to && self.rng.u32(..4) > 0 => ".".to_owned(),
            (Obj, Num) => ".n".to_owned(),
            (Obj, Str) => ".s".to_owned(),
            (Obj, Nums) => ".l".to_owned(),
            (Obj, Bool) => ".b".to_owned(),
            (Nums, Num) | (Strs, Str) | (Objs, Obj) => format!(".[{}]", self.rng.i32(-3..4)),
            _ => self.value(to),
        }
    }

    /// What works for every type.
    fn control(&mut self, from: Type, to: Type, depth: u32) -> String {
        let way = self.rng.u32(..14);
        let mut x = |of| self.expr(from, of, depth);
        match way {
            0 => format!("(if {} then {} else {} end)", x(Bool), x(to), x(to)),
            1 => {
                let (first, second) = (x(Bool), x(Bool));
                format!("(if {first} then {} elif {second} then {} else {} end)", x(to), x(to), x(to))
            }
            2 => format!("({} // {})", x(to), x(to)),
            3 => format!("({}, {})", x(to), x(to)),
            4 => format!("(try {} catch {})", x(to), x(to)),
            5 => format!("({})?", x(to)),
            6 => format!("first({}, {})", x(to), x(to)),
            7 => format!("(limit(2; {}, {}, {}))", x(to), x(to), x(to)),
            8 => format!("(def f: {}; f)", x(to)),
            9 => format!("({} | select({}))", x(to), self.expr(to, Bool, depth)),
            10 => self.bind(from, to, depth),
            11 => {
                let (of, init) = (self.any_type(), self.expr(from, to, depth));
                let source = self.expr(from, of, depth);
                self.with_var(of, |this, var| {
                    let update = this.expr(to, to, depth);
                    format!("(reduce ({source}, {source}) as {var} ({init}; {update}))")
                })
            }
            12 => {
                let init = self.expr(from, to, depth);
                self.with_var(Num, |this, var| {
                    let update = this.expr(to, to, depth);
                    format!("(foreach range(3) as {var} ({init}; {update}; .))")
                })
            }
            _ => format!("([{}] | .[0])", x(to)),
        }
    }

    fn bind(&mut self, from: Type, to: Type, depth: u32) -> String {
        match self.rng.u32(..3) {
            0 => {
                let source = self.expr(from, Nums, depth);
                self.with_var(Num, |this, var| {
                    format!("({source} as [{var}] | {})", this.expr(from, to, depth))
                })
            }
            1 => {
                let source = self.expr(from, Obj, depth);
                self.with_var(Str, |this, var| {
                    format!("({source} as {{s: {var}}} | {})", this.expr(from, to, depth))
                })
            }
            _ => {
                let of = self.any_type();
                let source = self.expr(from, of, depth);
                self.with_var(of, |this, var| format!("({source} as {var} | {})", this.expr(from, to, depth)))
            }
        }
    }

    fn with_var(&mut self, of: Type, body: impl FnOnce(&mut Self, &str) -> String) -> String {
        let name = format!("$v{}", self.vars.len());
        self.vars.push((name.clone(), of));
        let text = body(self, &name);
        self.vars.pop();
        text
    }

    /// Fills in a shape: `N S B L T O` stand for expressions from the shape's input to a number, string, boolean,
    /// numbers, strings or object, `n` and `o` for ones from a number or object to the same, `p` and `q` for a boolean
    /// from a number or object, `k` for a number from an object, `e` for a string from a string. `R` is a regular
    /// expression, `G` one to replace by, `W` a word, `I` a small number, and `@` an at sign.
    fn fill(&mut self, of: Type, shape: &str, depth: u32) -> String {
        let mut text = String::new();
        let mut letters = shape.split('@');
        text += letters.next().unwrap_or_default();
        for part in letters {
            // `@@` is a literal at sign, as in `@@base64`.
            let Some(letter) = part.chars().next() else {
                text.push('@');
                continue;
            };
            text += &match letter {
                'N' => self.expr(of, Num, depth),
                'S' => self.expr(of, Str, depth),
                'B' => self.expr(of, Bool, depth),
                'L' => self.expr(of, Nums, depth),
                'T' => self.expr(of, Strs, depth),
                'O' => self.expr(of, Obj, depth),
                'n' => self.expr(Num, Num, depth),
                'o' => self.expr(Obj, Obj, depth),
                'p' => self.expr(Num, Bool, depth),
                'q' => self.expr(Obj, Bool, depth),
                'k' => self.expr(Obj, Num, depth),
                'e' => self.expr(Str, Str, depth),
                'R' => self.pick(&REGEXES).to_owned(),
                // The last ones make jq 1.6 replace for ever.
                'G' => self.pick(&REGEXES[..REGEXES.len() - 2]).to_owned(),
                // jq 1.6 looks for "" for ever.
                'W' => self.pick(&["\"a\"", "\"b\"", "\"aa\"", "\"é\"", "\",\""]).to_owned(),
                'I' => self.rng.i32(-3..6).to_string(),
                other => other.to_string(),
            };
            text += &part[letter.len_utf8()..];
        }
        text
    }

    /// A way to make a value of this type: the input it takes, and its shape.
    fn function(&mut self, to: Type) -> (Type, &'static str) {
        let table: &[(Type, &'static str)] = match to {
            Num => &TO_NUM,
            Str => &TO_STR,
            Bool => &TO_BOOL,
            Nums => &TO_NUMS,
            Strs => &TO_STRS,
            Obj => &TO_OBJ,
            Objs => &TO_OBJS,
            Null => &TO_NULL,
        };
        table[self.rng.usize(..table.len())]
    }
}

const REGEXES: [&str; 12] = [
    r#""a""#,
    r#""[a-c]+""#,
    r#""(?<x>a)(?<y>b)?""#,
    r#""^a""#,
    r#""c$""#,
    r#""\\d+""#,
    r#""b|X""#,
    r#"".""#,
    r#""(a)(X)?""#,
    r#""[^a-z]""#,
    r#""é|😀""#,
    r#""""#,
];

const TO_NUM: [(Type, &str); 37] = [
    (Num, "@N + @N"),
    (Num, "@N - @N"),
    (Num, "@N * @N"),
    (Num, "@N / @N"),
    (Num, "@N % @N"),
    (Num, "-(@N)"),
    (Num, "floor"),
    (Num, "ceil"),
    (Num, "round"),
    (Num, "abs"),
    (Num, "tostring | tonumber"),
    (Num, "gmtime | mktime"),
    (Str, "length"),
    (Str, "utf8bytelength"),
    (Str, "tonumber"),
    (Str, "index(@W)"),
    (Str, "rindex(@W)"),
    (Str, "fromdate"),
    (Str, "[match(@R; \"g\").offset] | add"),
    (Str, "explode | .[0]"),
    (Nums, "length"),
    (Nums, "add"),
    (Nums, "min"),
    (Nums, "max"),
    (Nums, "first"),
    (Nums, "last"),
    (Nums, ".[@I]"),
    (Nums, "nth(1)"),
    (Nums, "index(@N)"),
    (Nums, "min_by(@n)"),
    (Nums, "add(.[] | @n)"),
    (Nums, "reduce .[] as $x (0; . + $x)"),
    (Nums, "last(.[])"),
    (Obj, "length"),
    (Obj, ".n"),
    (Obj, ".l | add"),
    (Objs, "map(.n) | add"),
];

const TO_STR: [(Type, &str); 46] = [
    (Str, "@S + @S"),
    (Str, "@S * @I"),
    (Str, "ascii_downcase"),
    (Str, "ascii_upcase"),
    (Str, "ltrimstr(@S)"),
    (Str, "rtrimstr(@S)"),
    (Str, "trim"),
    (Str, "ltrim"),
    (Str, "rtrim"),
    (Str, ".[@I:@I]"),
    (Str, ".[@I:]"),
    (Str, "explode | implode"),
    (Str, "tojson"),
    (Str, "tojson | fromjson"),
    (Str, "@@base64"),
    (Str, "@@base64d"),
    (Str, "@@uri"),
    (Str, "@@html"),
    (Str, "@@sh"),
    (Str, "@@text"),
    (Str, "@@json"),
    (Str, "sub(@R; @S)"),
    (Str, "gsub(@G; \"<\\(@S)>\")"),
    (Str, "sub(@G; \"-\"; \"gi\")"),
    (Str, "gsub(\"(?<x>[a-c])\"; .x + .x)"),
    (Str, "\"a\\(@N)b\\(@S)\""),
    (Str, "@@uri \"x=\\(@S)&y=\\(@N)\""),
    (Str, "@@sh \"echo \\(@S)\""),
    (Str, "capture(@R) | tojson"),
    (Str, "[scan(@R)] | tojson"),
    (Str, "fromdate | todate"),
    (Str, "strptime(\"%Y-%m-%dT%H:%M:%SZ\") | tojson"),
    (Num, "tostring"),
    (Num, "tojson"),
    (Num, "todate"),
    (Num, "strftime(\"%Y-%m-%d %H:%M:%S %j %a %b\")"),
    (Num, "\"\\(.)\""),
    (Num, "type"),
    (Strs, "join(@S)"),
    (Strs, "add"),
    (Strs, "min"),
    (Strs, "@@csv"),
    (Strs, "@@tsv"),
    (Nums, "@@json"),
    (Obj, "tojson"),
    (Obj, "keys[0]"),
];

const TO_BOOL: [(Type, &str); 36] = [
    (Num, "@N < @N"),
    (Num, "@N <= @N"),
    (Num, "@N > @N"),
    (Num, "@N == @N"),
    (Num, "@N != @N"),
    (Num, ". == (tostring | tonumber)"),
    (Str, "@S < @S"),
    (Str, "@S >= @S"),
    (Str, "@S == @S"),
    (Str, "startswith(@S)"),
    (Str, "endswith(@S)"),
    (Str, "contains(@S)"),
    (Str, "inside(@S)"),
    (Str, "test(@R)"),
    (Str, "test(@R; \"i\")"),
    (Bool, "not"),
    (Bool, "@B and @B"),
    (Bool, "@B or @B"),
    (Bool, "@B == @B"),
    (Nums, "contains(@L)"),
    (Nums, "inside(@L)"),
    (Nums, "any(@p)"),
    (Nums, "all(@p)"),
    (Nums, "any(.[]; @p)"),
    (Nums, "has(@I)"),
    (Nums, "@L < @L"),
    (Nums, "@L == @L"),
    (Nums, "isempty(.[])"),
    (Strs, "@T < @T"),
    (Strs, "contains(@T)"),
    (Obj, "has(\"n\")"),
    (Obj, "@O < @O"),
    (Obj, "@O == @O"),
    (Obj, "contains(@O)"),
    (Obj, "\"s\" | in({\"s\": 1})"),
    (Objs, "map(.b) | any"),
];

const TO_NUMS: [(Type, &str); 38] = [
    (Nums, "map(@n)"),
    (Nums, "map(select(@p))"),
    (Nums, "[.[] | @n]"),
    (Nums, "[.[]?]"),
    (Nums, "sort"),
    (Nums, "sort_by(@n)"),
    (Nums, "unique"),
    (Nums, "unique_by(@n)"),
    (Nums, "reverse"),
    (Nums, "@L + @L"),
    (Nums, "@L - @L"),
    (Nums, ".[@I:@I]"),
    (Nums, ".[:@I]"),
    (Nums, "flatten"),
    (Nums, "[., [.]] | flatten(1)"),
    (Nums, "group_by(@n) | add"),
    (Nums, "map_values(@n)"),
    (Nums, "[limit(2; .[])]"),
    (Nums, "del(.[0])"),
    (Nums, "del(.[1, 2])"),
    (Nums, "del(.[1:])"),
    (Nums, "indices(@N)"),
    (Nums, "walk(if type == \"number\" then @n else . end)"),
    (Nums, "[..] | map(numbers)"),
    (Nums, "keys"),
    (Nums, "to_entries? // [.[] | . * 2]"),
    (Nums, "[foreach .[] as $x (0; . + $x)]"),
    (Nums, "map([., 1]) | map(add)"),
    (Num, "[range(@I)]"),
    (Num, "[range(@I; @I)]"),
    (Num, "[range(0; @I; 2)]"),
    (Num, "[., @N]"),
    (Num, "gmtime"),
    (Str, "explode"),
    (Str, "indices(@W)"),
    (Str, "[match(@R; \"g\") | .offset, .length]"),
    (Obj, ".l"),
    (Objs, "map(.n)"),
];

const TO_STRS: [(Type, &str); 19] = [
    (Str, "split(@S)"),
    (Str, "@S / @S"),
    (Str, "split(@R; null)"),
    (Str, "[splits(@R)]"),
    (Str, "[match(@R; \"g\").string]"),
    (Str, "[scan(@R)]"),
    (Str, "[., @S]"),
    (Str, "[.[0:1], .[1:]]"),
    (Strs, "map(@e)"),
    (Strs, "sort"),
    (Strs, "unique"),
    (Strs, "reverse"),
    (Strs, "@T + @T"),
    (Strs, "@T - @T"),
    (Strs, ".[@I:]"),
    (Strs, "map(select(length > 1))"),
    (Strs, "sort_by(length)"),
    (Obj, "keys"),
    (Objs, "map(.s)"),
];

const TO_OBJ: [(Type, &str); 21] = [
    (Obj, "{n: @N, s: @S}"),
    (Obj, "{n, s}"),
    (Obj, "{\"n\": .n, (\"s\" + \"\"): @S}"),
    (Obj, "{n: (@N, @N)}"),
    (Obj, ". + {n: @N}"),
    (Obj, ". * {l: @L}"),
    (Obj, "@O * @O"),
    (Obj, "del(.l)"),
    (Obj, "del(.n, .s)"),
    (Obj, "del(.l[0])"),
    (Obj, "with_entries(.)"),
    (Obj, "with_entries(select(.key != \"n\"))"),
    (Obj, "to_entries | from_entries"),
    (Obj, "map_values(.)"),
    (Obj, "map_values(select(. != null))"),
    (Obj, "tojson | fromjson"),
    (Obj, "walk(if type == \"number\" then @n else . end)"),
    (Objs, ".[0]"),
    (Objs, "max_by(@k)"),
    (Objs, "min_by(@k)"),
    (Str, "{n: length, s: .}"),
];

const TO_OBJS: [(Type, &str); 11] = [
    (Objs, "map(@o)"),
    (Objs, "map(select(@q))"),
    (Objs, "sort_by(@k)"),
    (Objs, "sort_by(.s, .n)"),
    (Objs, "group_by(.b) | map(.[0])"),
    (Objs, "unique_by(.b)"),
    (Objs, "sort"),
    (Objs, "[.[] | {b, n}]"),
    (Objs, "flatten"),
    (Obj, "[., @O]"),
    (Nums, "map({n: ., s: tostring})"),
];

const TO_NULL: [(Type, &str); 7] = [
    (Obj, ".missing"),
    (Obj, ".missing.deeper"),
    (Nums, ".[99]"),
    (Null, ".a"),
    (Null, ".[0]"),
    (Null, "first(.[]?) // null"),
    (Num, "[] | add"),
];
