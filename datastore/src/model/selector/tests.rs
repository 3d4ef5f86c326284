use proptest::prelude::*;

use super::*;

fn parse(text: &str) -> Selector {
    text.parse().unwrap_or_else(|e| panic!("{e}"))
}

fn labels<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Labels {
    pairs.into_iter().collect()
}

#[test]
fn absent_labels() {
    let none = labels([]);
    for (text, expected) in [
        ("k == ''", false),
        ("k != ''", true),
        ("k in {''}", false),
        ("k not in {''}", true),
        ("k contains ''", false),
        ("k starts with ''", false),
        ("k ends with ''", false),
        ("has(k)", false),
    ] {
        assert_eq!(parse(text).matches(&none), expected, "{text}");
    }
}

#[test]
fn an_empty_value_is_a_value() {
    let empty = labels([("frontend", "")]);
    assert!(parse("has(frontend)").matches(&empty));
    assert!(parse("frontend == ''").matches(&empty));
    assert!(parse("frontend contains ''").matches(&empty));
    assert!(!parse("!has(frontend)").matches(&empty));
}

#[test]
fn keywords_may_be_labels() {
    for text in [
        "in in {'in'}",
        "not not in {'x'}",
        "contains contains 'x'",
        "has == 'x'",
        "all == 'x'",
        "global != 'x'",
        "starts starts with 'x'",
        "notin notin {'x'}",
        "has(in)",
    ] {
        parse(text);
    }
}

#[test]
fn errors_name_the_byte() {
    for (text, offset, reason) in [
        ("a = 'b'", 2, "expected =="),
        ("a == b", 5, "string in quotes"),
        ("a == 'b", 5, "no end"),
        ("has(a)\n", 6, "&& or ||"),
        ("\nhas(a)", 0, "label"),
        ("a == 'b'\n && has(a)", 8, "&& or ||"),
        ("has(a) has(b)", 7, "&& or ||"),
        ("(has(a)", 7, "expected )"),
        ("a in {'b' 'c'}", 10, "expected ,"),
        ("a in 'b'", 5, "braces"),
        ("a in {,}", 6, "string"),
        ("has (a)", 4, "expected =="),
        ("é == 'b'", 0, "label"),
        ("a == 'é' &", 10, "&& or ||"),
    ] {
        let error = text.parse::<Selector>().expect_err(text);
        assert_eq!(error.offset, offset, "{error}");
        assert!(error.reason.contains(reason), "{error}");
    }
}

#[test]
fn depth_is_bounded_and_the_bound_is_exact() {
    let parens = |n: usize| format!("{}has(a){}", "(".repeat(n), ")".repeat(n));
    let bangs = |n: usize| format!("{}has(a)", "!".repeat(n));
    let operators = |n: usize| (0..n).fold("has(a)".to_owned(), |s, _| format!("has(b) && ({s})"));
    for make in [&parens as &dyn Fn(usize) -> String, &bangs, &operators] {
        parse(&make(MAX_DEPTH));
        let error = make(MAX_DEPTH + 1).parse::<Selector>().expect_err("accepted");
        assert!(error.reason.contains("nested deeper"), "{error}");
    }
    for text in [
        parens(100_000),
        bangs(100_000),
        "(".repeat(100_000),
        "!(".repeat(100_000),
        "!".repeat(100_000),
    ] {
        let error = text.parse::<Selector>().expect_err("accepted");
        assert!(error.to_string().len() < 1000, "the error repeats the whole text");
    }
    // Long is not deep.
    let long = vec!["has(a)"; 20_000].join(" && ");
    assert!(parse(&long).matches(&labels([("a", "")])));
    let brackets = vec!["(has(a))"; 1000].join("||");
    assert!(parse(&brackets).matches(&labels([("a", "")])));
}

#[test]
fn combining() {
    let a = parse("has(a) || has(b)");
    let b = parse("c == 'd'");
    assert_eq!(a.and(&b).canonical(), "((has(a) || has(b)) && c == \"d\")");
    assert_eq!(a.not().canonical(), "!(has(a) || has(b))");
    assert_eq!(a.not().not(), a);
    assert_eq!(parse("!(!has(a))").canonical(), "has(a)");
    assert_eq!(
        parse("all() || global()").replacing_all_with(&b).canonical(),
        "(c == \"d\" || global())"
    );
    // A replacement below a `!` may itself be a negation.
    let absent = parse("!has(n)");
    assert_eq!(parse("!global()").replacing_global_with(&absent).canonical(), "has(n)");
    assert_eq!(Selector::one_of("a", ["y", "x", "y"]).unwrap().canonical(), "a in {\"x\", \"y\"}");
    assert_eq!(Selector::equals("a", "\"").unwrap().canonical(), "a == '\"'");
    assert!(Selector::equals("a", "\"'").is_err());
    assert!(Selector::equals("a b", "c").is_err());
    assert!(Selector::has("").is_err());
}

#[test]
fn impossible_restrictions_are_recognised() {
    for (text, impossible) in [
        ("has(a) && !has(a)", true),
        ("a == 'x' && a == 'y'", true),
        ("a in {}", true),
        ("a == 'x'", false),
        ("!has(a)", false),
    ] {
        let restrictions = parse(text).restrictions();
        assert_eq!(restrictions.values().any(Restriction::is_impossible), impossible, "{text}");
    }
}

const KEYS: [&str; 4] = ["a", "b/c", "in", "projectcalico.org/namespace"];
const VALUES: [&str; 5] = ["", "x", "xy", "it's", "\"q\""];

fn any_selector() -> impl Strategy<Value = String> {
    let key = || prop::sample::select(&KEYS[..]);
    let literal = || {
        prop::sample::select(&VALUES[..])
            .prop_map(|v| if v.contains('"') { format!("'{v}'") } else { format!("\"{v}\"") })
    };
    let operator = prop::sample::select(vec![
        "==",
        "!=",
        "contains",
        "starts with",
        "startswith",
        "ends  with",
    ]);
    let leaf = prop_oneof![
        Just("all()".to_owned()),
        Just("global( )".to_owned()),
        key().prop_map(|k| format!("has( {k})")),
        (key(), operator, literal()).prop_map(|(k, op, v)| format!("{k} {op}{v}")),
        (key(), any::<bool>(), prop::collection::vec(literal(), 0..4)).prop_map(
            |(k, negated, values)| {
                let operator = if negated { "notin" } else { "in" };
                format!("{k} {operator}{{{}}}", values.join(" ,"))
            }
        ),
    ];
    leaf.prop_recursive(4, 24, 3, |inner| {
        let many = prop::collection::vec(inner.clone(), 1..4);
        prop_oneof![
            inner.prop_map(|s| format!("! {s}")),
            many.clone().prop_map(|terms| format!("({})", terms.join("&&"))),
            many.clone().prop_map(|terms| format!("({})", terms.join(" || "))),
            many.prop_map(|terms| terms.join(" && ")),
        ]
    })
}

fn any_labels() -> impl Strategy<Value = Labels> {
    prop::collection::btree_map(
        prop::sample::select(&KEYS[..]),
        prop::sample::select(&VALUES[..]),
        0..4,
    )
    .prop_map(labels)
}

proptest! {
    #[test]
    fn canonical_text_reads_back(text in any_selector(), objects in prop::collection::vec(any_labels(), 1..8)) {
        let selector = parse(&text);
        let again = parse(selector.canonical());
        prop_assert_eq!(&again, &selector);
        prop_assert_eq!(again.canonical(), selector.canonical());
        prop_assert_eq!(again.id(), selector.id());
        prop_assert_eq!(again.restrictions(), selector.restrictions());
        for object in &objects {
            prop_assert_eq!(again.matches(object), selector.matches(object));
        }
    }

    #[test]
    fn combinations_match_as_their_parts_do(left in any_selector(), right in any_selector(), object in any_labels()) {
        let (a, b) = (parse(&left), parse(&right));
        prop_assert_eq!(a.and(&b).matches(&object), a.matches(&object) && b.matches(&object));
        prop_assert_eq!(a.not().matches(&object), !a.matches(&object));
        let either = parse(&format!("({left}) || ({right})"));
        prop_assert_eq!(either.matches(&object), a.matches(&object) || b.matches(&object));
    }

    #[test]
    fn prefixed_selectors_see_prefixed_labels(text in any_selector(), object in any_labels()) {
        let prefixed: Labels =
            object.iter().map(|(k, v)| (format!("pcns.{k}"), v.clone())).collect();
        let selector = parse(&text);
        prop_assert_eq!(
            selector.with_label_prefix("pcns.").matches(&prefixed),
            selector.matches(&object)
        );
    }

    /// The index may only skip objects that really do not match.
    #[test]
    fn restrictions_are_sound(text in any_selector(), object in any_labels()) {
        let selector = parse(&text);
        if selector.matches(&object) {
            for (key, demand) in selector.restrictions() {
                let value = object.get(&key);
                prop_assert!(!demand.is_impossible());
                prop_assert!(value.is_some() || !demand.must_be_present);
                prop_assert!(value.is_none() || !demand.must_be_absent);
                if let (Some(value), Some(allowed)) = (value, &demand.one_of) {
                    prop_assert!(allowed.iter().any(|v| &**v == value));
                }
            }
        }
    }

    #[test]
    fn nothing_panics(text in "[a-c(){}!&|='\", \t\né]{0,40}|.{0,60}") {
        let _ = text.parse::<Selector>();
    }
}
