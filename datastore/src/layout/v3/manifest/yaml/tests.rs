use super::*;
use serde_json::json;

fn one(text: &str) -> Result<Value, String> {
    match read(text) {
        (documents, None) if documents.len() == 1 => Ok(documents[0].value.clone()),
        (documents, None) => Err(format!("{} documents", documents.len())),
        (_, Some(error)) => Err(format!("line {}: {}", error.line, error.reason)),
    }
}

#[test]
fn scalars_of_the_core_schema() {
    for (text, expected) in [
        ("null", json!(null)),
        ("~", json!(null)),
        ("true", json!(true)),
        ("FALSE", json!(false)),
        ("0", json!(0)),
        ("-7", json!(-7)),
        ("+7", json!(7)),
        ("18446744073709551615", json!(18446744073709551615_u64)),
        ("0xff000000", json!(4278190080_u64)),
        ("1.5", json!(1.5)),
        ("1e3", json!(1000.0)),
        (".5", json!(0.5)),
        ("\"no\"", json!("no")),
        ("'010'", json!("010")),
        ("!!str 5", json!("5")),
        ("n", json!("n")),
        ("8000:8999", json!("8000:8999")),
        ("00:11:22:33:44:55", json!("00:11:22:33:44:55")),
        ("10.0.0.0/8", json!("10.0.0.0/8")),
        ("1.2.3", json!("1.2.3")),
        ("role == 'x'", json!("role == 'x'")),
        ("fd00::1", json!("fd00::1")),
        ("calico_01", json!("calico_01")),
        ("0_x", json!("0_x")),
        ("2024-11-05T10:00:00Z", json!("2024-11-05T10:00:00Z")),
        ("-", json!([null])),
        ("e5", json!("e5")),
        (".", json!(".")),
    ] {
        assert_eq!(one(text), Ok(expected), "{text}");
    }
}

#[test]
fn what_readers_disagree_about_is_refused() {
    for text in
        ["no", "Yes", "ON", "off", "010", "-017", "0o17", "0b1", "1_000", "0x_ff", "1_0.5", "00"]
    {
        let error = one(text).unwrap_err();
        assert!(error.contains("needs quotes"), "{text}: {error}");
    }
    for text in [".inf", "-.INF", ".nan", "1e999", "99999999999999999999", "0x10000000000000000"] {
        assert!(one(text).unwrap_err().contains("out of range"), "{text}");
    }
    for (text, expected) in [
        ("on: 1", "needs quotes"),
        ("1_0: 1", "needs quotes"),
        ("a: 1\nb: 2\na: 3", "line 3: the key \"a\" comes twice"),
        ("{\"a\": 1, \"a\": 2}", "comes twice"),
        ("base: &b {x: 1}\nc:\n  <<: *b", "merge keys"),
        ("? [a]\n: 1", "key must be a text"),
        ("a: !!int '5'", "tags"),
        ("a: !x {}", "tags"),
        ("a: [1", "not YAML"),
        ("a: b: c", "not YAML"),
        ("a: &x [*x]", "itself"),
    ] {
        let error = one(text).unwrap_err();
        assert!(error.contains(expected), "{text}: {error}");
    }
}

#[test]
fn json_is_yaml() {
    let text = "{\n\t\"a\": [1, \"x\\/\\u00e9\", null, true],\n\t\"b\": {\"c\": -1.5e3}\n}\n";
    assert_eq!(one(text), Ok(json!({"a": [1, "x/é", null, true], "b": {"c": -1500.0}})));
}

#[test]
fn documents_and_what_is_whole_before_a_mistake() {
    let (documents, error) = read("# nothing\n---\na: 1\n---\n# empty\n---\n- x\n...\n");
    assert_eq!(error, None);
    let lines: Vec<_> = documents.iter().map(|d| (d.line, d.value.clone())).collect();
    assert_eq!(lines[0], (3, json!({"a": 1})));
    assert_eq!(lines.last().unwrap(), &(7, json!(["x"])));
    let (documents, error) = read("a: 1\n---\nb: [\n---\nc: 1\n");
    assert_eq!(documents, [Document { line: 1, value: json!({"a": 1}) }]);
    assert!(error.is_some());
    assert_eq!(read(""), (vec![], None));
    assert_eq!(read("\u{feff}a: 1").0[0].value, json!({"a": 1}));
}

#[test]
fn anchors_work_and_do_not_explode() {
    let value = one("a: &x {p: [1, 2]}\nb: *x\n").unwrap();
    assert_eq!(value, json!({"a": {"p": [1, 2]}, "b": {"p": [1, 2]}}));
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for n in 1..12 {
        let ten = vec![format!("*a{}", n - 1); 10].join(", ");
        bomb += &format!("a{n}: &a{n} [{ten}]\n");
    }
    assert!(one(&bomb).unwrap_err().contains("more than"), "{bomb}");
    let deep = format!("{}{}", "[".repeat(100), "]".repeat(100));
    assert!(one(&deep).unwrap_err().contains("levels deep"));
    assert!(one(&format!("{}{}", "[".repeat(60), "]".repeat(60))).is_ok());
}
