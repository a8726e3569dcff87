//! The tables of pairs, and answers that would cost much.

mod kinds;
mod properties;

use super::canonical;

/// `=` or `!`, two answers.
const PAIRS: &str = include_str!("../../../tests/data/math_equivalence.tsv");
/// The same, in sections `## name`.
const KINDS: &str = include_str!("../../../tests/data/math_kinds.tsv");

/// Whether two answers are equal, and both.
type Pair = (bool, &'static str, &'static str);

fn read_pairs(table: &'static str) -> Vec<Pair> {
    let lines = table.lines().filter(|l| !l.is_empty() && !l.starts_with('#'));
    lines
        .map(|line| match line.split('\t').collect::<Vec<_>>()[..] {
            [sign @ ("=" | "!"), a, b] => (sign == "=", a, b),
            _ => panic!("expected = or !, and two answers: {line:?}"),
        })
        .collect()
}

/// The pairs of all tables.
fn pairs() -> Vec<Pair> {
    [read_pairs(PAIRS), read_pairs(KINDS)].concat()
}

/// Panics with every pair that is not as it should be.
fn check(pairs: &[Pair]) {
    let wrong: Vec<String> = pairs
        .iter()
        .filter(|(equal, a, b)| {
            let (a, b) = (canonical(a), canonical(b));
            a.is_none() || b.is_none() || (a == b) != *equal
        })
        .map(|(equal, a, b)| format!("equal: {equal}: {a} is {:?}, {b} is {:?}", canonical(a), canonical(b)))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_table_holds() {
    let pairs = read_pairs(PAIRS);
    assert!(pairs.len() >= 150 && pairs.iter().filter(|(equal, ..)| !equal).count() >= 60);
    check(&pairs);
}

/// Equality is transitive: what the tables call equal, by way of others too, they nowhere call
/// different.
#[test]
fn the_tables_agree_with_each_other() {
    let pairs = pairs();
    let mut class: std::collections::HashMap<&str, usize> = std::collections::HashMap::new();
    for (i, (_, a, b)) in pairs.iter().enumerate() {
        class.entry(a).or_insert(2 * i);
        class.entry(b).or_insert(2 * i + 1);
    }
    for (_, a, b) in pairs.iter().filter(|(equal, ..)| *equal) {
        let (from, to) = (class[a], class[b]);
        class.values_mut().filter(|c| **c == from).for_each(|c| *c = to);
    }
    for (_, a, b) in pairs.iter().filter(|(equal, ..)| !*equal) {
        assert_ne!(class[a], class[b], "{a} and {b}");
    }
}

#[test]
fn forms_are_readable() {
    for (answer, form) in [
        (r"\frac{3\sqrt{2}x^2}{4} - 1", "3*sqrt(2)*x^2/4-1"),
        (r"\left(-\infty, \tfrac12\right]", "(-∞,1/2]"),
        (r"\frac{x}{x^2-2}", "x/(x^2-2)"),
        (r"\begin{pmatrix}1&0\\0&x\end{pmatrix}", "matrix(1,0;0,x)"),
        (r"\frac{-5+\sqrt{-3}}{2}", "-5/2+sqrt(3)*i/2"),
        (r"2^{x+1}", "2*2^(x)"),
        (r"\text{5 feet 3 in.}", "‹5 foot 3 inch›"),
    ] {
        assert_eq!(canonical(answer).as_deref(), Some(form), "{answer}");
    }
    for empty in ["", "  ", "$$", r"\,", "."] {
        assert_eq!(canonical(empty), None, "{empty:?}");
    }
}

#[test]
fn hostile_answers_are_bounded_and_have_one_form() {
    let nested = |open: &str, close: &str, n: usize| format!("{}1{}", open.repeat(n), close.repeat(n));
    let all = [
        nested("(", ")", 490),
        nested(r"\sqrt{", "}", 120),
        nested("{", "}", 480),
        nested(r"\text{", "}", 120),
        nested("[1,", "]", 200),
        "x^".repeat(400) + "2",
        "-".repeat(990),
        "5".to_string() + &"!".repeat(900),
        "9".repeat(990),
        "1e999".into(),
        r"2^{2^{2^{2^{2^{2^2}}}}}".into(),
        r"10^{-10^{10}}".into(),
        r"(x+y+z+w)^{60}".into(),
        vec!["(x+y+z+a+b+c)"; 40].join("*"),
        (0..60).map(|k| format!("(x^2+{k}x+1)")).collect::<Vec<_>>().join("/"),
        (0..40).map(|k| format!(r"\sqrt{{{}}}", 9_999_999_967u64 - 2 * k)).collect::<Vec<_>>().join("+"),
        r"\frac{1}{\sqrt2+\sqrt3+\sqrt5+\sqrt7+\sqrt{11}+\sqrt{13}+\sqrt{17}}".into(),
        r"\binom{200}{100}".into(),
        "1/0".into(),
        r"0^{-1}".into(),
        format!("{}/1", i128::MAX),
        format!("-{}-1-1-1", i128::MAX),
        format!("{}", u128::MAX),
        r"\pm".repeat(300) + "1",
        "a=b=".repeat(200) + "c",
        "1,".repeat(490),
        "x".repeat(5000),
        "é∞√π∪".repeat(100),
        r"9999!!!!".into(),
        r"\frac{9999!}{2^{9000}}+\frac{9998!}{3^{9000}}".into(),
        r"10^{999999999999}\cdot 3^{999999999999}".into(),
        r"(2^{n+m+k})^{n+m+k}".repeat(20),
        r"\text{a}".repeat(120),
        "5 feet ".repeat(120),
        "1_{2}".repeat(200),
        format!(r"\frac{{{}}}{{{}}}", "(x+y+z+1)".repeat(8), "(x-y+2z+3)".repeat(8)),
        "\\{".repeat(200) + &"\\}".repeat(200),
        "‹".repeat(200) + &"›".repeat(200),
    ];
    for answer in all {
        let form = canonical(&answer);
        if let Some(form) = form.filter(|f| f.len() <= super::MAX_LENGTH) {
            assert_eq!(canonical(&form), Some(form.clone()), "{}", &answer[..answer.len().min(60)]);
        }
    }
}

/// What is multiplied out, made a name and multiplied out again would be twice as long with every
/// bracket.
#[test]
fn forms_stay_short() {
    for (open, close) in
        [(r"\sin((", ")+1)^{16}"), (r"\sqrt{(", ")^{9}+1}"), ("|(", ")^{9}+1|"), (r"\log(", "^2+1)")]
    {
        for depth in [1, 2, 3, 5, 12, 30] {
            let answer = format!("{}x+1{}", open.repeat(depth), close.repeat(depth));
            let form = canonical(&answer).unwrap();
            assert!(form.len() <= 5000, "{answer}: {} bytes", form.len());
        }
    }
    assert_eq!(canonical(r"\sin((x+1)^{2})"), canonical(r"\sin(x^2+2x+1)"));
}
