//! The table of pairs, and what must hold for every answer.

use proptest::prelude::*;

use super::canonical;

/// `=` or `!`, two answers.
const PAIRS: &str = include_str!("../../../tests/data/math_equivalence.tsv");

fn pairs() -> Vec<(bool, &'static str, &'static str)> {
    let lines = PAIRS.lines().filter(|l| !l.is_empty() && !l.starts_with('#'));
    lines
        .map(|line| match line.split('\t').collect::<Vec<_>>()[..] {
            [sign @ ("=" | "!"), a, b] => (sign == "=", a, b),
            _ => panic!("expected = or !, and two answers: {line:?}"),
        })
        .collect()
}

#[test]
fn the_table_holds() {
    let pairs = pairs();
    assert!(pairs.len() >= 150 && pairs.iter().filter(|(equal, ..)| !equal).count() >= 60);
    let wrong: Vec<String> = pairs
        .iter()
        .filter(|(equal, a, b)| (canonical(a) == canonical(b)) != *equal)
        .map(|(equal, a, b)| format!("equal: {equal}: {a} is {:?}, {b} is {:?}", canonical(a), canonical(b)))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(pairs.iter().all(|(_, a, b)| canonical(a).is_some() && canonical(b).is_some()));
}

#[test]
fn forms_are_readable() {
    for (answer, form) in [
        (r"\frac{3\sqrt{2}x^2}{4} - 1", "3*sqrt(2)*x^2/4-1"),
        (r"\left(-\infty, \tfrac12\right]", "(-∞,1/2]"),
        (r"\frac{x}{x^2-2}", "x/(x^2-2)"),
        (r"\begin{pmatrix}1&0\\0&x\end{pmatrix}", "matrix(1,0;0,x)"),
        (r"\frac{-5+\sqrt{-3}}{2}", "-5/2+sqrt(3)*i/2"),
        (r"2^{x+1}", "(2)^(x+1)"),
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
    ];
    for answer in all {
        let form = canonical(&answer);
        if let Some(form) = form.filter(|f| f.len() <= super::MAX_LENGTH) {
            assert_eq!(canonical(&form), Some(form.clone()), "{}", &answer[..answer.len().min(60)]);
        }
    }
}

/// Pieces that answers are made of, in any order.
fn soup() -> impl Strategy<Value = String> {
    const PIECES: [&str; 66] = [
        "1",
        "2",
        "12",
        "0.5",
        "x",
        "y",
        "xy",
        "abc",
        "the",
        "i",
        "e",
        "+",
        "-",
        "*",
        "/",
        "^",
        "_",
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        "\\{",
        "\\}",
        ",",
        ";",
        "=",
        "<",
        ">",
        "\\le",
        "\\frac",
        "\\sqrt",
        "\\pi",
        "\\infty",
        "\\cup",
        "\\pm",
        "\\text{cm}",
        "\\text{ or }",
        " and ",
        "!",
        "|",
        "\\sin",
        "\\log",
        "\\begin{pmatrix}",
        "\\end{pmatrix}",
        "\\\\",
        "&",
        ":",
        "%",
        "$",
        "1,234",
        "3/4",
        " ",
        "\\langle",
        "\\rangle",
        ".",
        "\\in",
        "9",
        "^2",
        "∞",
        "sqrt",
        "matrix",
        "\\alpha",
        "\\emptyset",
        "10^{20}",
    ];
    proptest::collection::vec(0..PIECES.len(), 1..10)
        .prop_map(|all| all.into_iter().map(|i| PIECES[i]).collect())
}

/// An answer of the table with a piece of another put into it.
fn mutant() -> impl Strategy<Value = String> {
    let answers: Vec<&str> = pairs().into_iter().flat_map(|(_, a, b)| [a, b]).collect();
    let n = answers.len();
    (0..n, 0..n, any::<prop::sample::Index>(), any::<prop::sample::Index>()).prop_map(
        move |(a, b, cut, from)| {
            let (a, b): (Vec<char>, Vec<char>) = (answers[a].chars().collect(), answers[b].chars().collect());
            let (cut, from) = (cut.index(a.len() + 1), from.index(b.len() + 1));
            a[..cut].iter().chain(&b[from..]).collect()
        },
    )
}

fn polynomial(coefficients: &[i32]) -> String {
    let terms = coefficients.iter().enumerate().map(|(k, c)| format!("({c})x^{{{k}}}"));
    terms.collect::<Vec<_>>().join("+")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_form_is_its_own_form(answer in prop_oneof![soup(), mutant()]) {
        if let Some(form) = canonical(&answer) {
            prop_assert_eq!(canonical(&form), Some(form.clone()), "{}", answer);
        }
    }

    #[test]
    fn fractions_are_what_they_are(n in -2000i64..2000, d in 1i64..2000, k in 1i64..50) {
        let form = canonical(&format!(r"\frac{{{n}}}{{{d}}}"));
        prop_assert_eq!(&form, &canonical(&format!("{}/{}", n * k, d * k)));
        prop_assert_eq!(&form, &canonical(&format!(r"-\dfrac{{{}}}{{{d}}}", -n)));
        let other = canonical(&format!("{}/{}", n * k + 1, d * k));
        prop_assert!(form != other);
        let root = canonical(&format!(r"\sqrt{{\frac{{{}}}{{{}}}}}", n * n, d * d));
        prop_assert_eq!(root, canonical(&format!("{}/{d}", n.abs())));
    }

    #[test]
    fn products_are_multiplied_out(a in prop::collection::vec(-9i32..9, 1..5), b in prop::collection::vec(-9i32..9, 1..5)) {
        let mut product = vec![0; a.len() + b.len() - 1];
        for (i, x) in a.iter().enumerate() {
            for (j, y) in b.iter().enumerate() {
                product[i + j] += x * y;
            }
        }
        let form = canonical(&format!("({})({})", polynomial(&a), polynomial(&b)));
        prop_assert_eq!(&form, &canonical(&polynomial(&product)));
        if b.iter().any(|c| *c != 0) {
            let quotient = format!(r"\frac{{{}}}{{{}}}", polynomial(&product), polynomial(&b));
            prop_assert_eq!(canonical(&quotient), canonical(&polynomial(&a)));
        }
        product[0] += 1;
        prop_assert!(form != canonical(&polynomial(&product)));
    }

    #[test]
    fn roots_in_denominators_go(a in -9i64..10, b in 1i64..10, c in 2i64..60) {
        prop_assume!(a * a != b * b * c);
        let form = canonical(&format!(r"\frac{{1}}{{{a}+{b}\sqrt{{{c}}}}}"));
        prop_assert_eq!(form, canonical(&format!(r"\frac{{{a}-{b}\sqrt{{{c}}}}}{{{}}}", a * a - b * b * c)));
    }

    #[test]
    fn sets_have_no_order_and_tuples_have(mut all in prop::collection::vec(-50i32..50, 2..6)) {
        let join = |v: &[i32]| v.iter().map(i32::to_string).collect::<Vec<_>>().join(", ");
        let (set, tuple) = (canonical(&join(&all)), canonical(&format!("({})", join(&all))));
        prop_assert!(set != tuple || all.iter().all(|x| *x == all[0]));
        let before = all.clone();
        all.reverse();
        prop_assert_eq!(set, canonical(&format!(r"\{{{}\}}", join(&all))));
        prop_assert_eq!(tuple == canonical(&format!("({})", join(&all))), before == all);
    }
}

/// What is multiplied out, made a name and multiplied out again would be twice as long with every bracket.
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
