//! What must hold for every answer.

use proptest::prelude::*;

use super::super::canonical;
use super::pairs;

/// Pieces that answers are made of, in any order.
fn soup() -> impl Strategy<Value = String> {
    const PIECES: [&str; 80] = [
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
        "10^{40}",
        "2^{n+1}",
        "40!",
        "10:05",
        "\\text{TFT}",
        " feet ",
        "_{16}",
        "\\approx",
        "^{-1}",
        "f",
        "\\circ",
        "\\land",
        "‹",
        "›",
    ];
    proptest::collection::vec(0..PIECES.len(), 1..10)
        .prop_map(|all| all.into_iter().map(|i| PIECES[i]).collect())
}

/// An answer of the tables with a piece of another put into it.
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

/// An expression in x and y.
#[derive(Clone, Debug)]
enum Tree {
    Whole(i32),
    Name(&'static str),
    Sum(Box<Tree>, Box<Tree>),
    Difference(Box<Tree>, Box<Tree>),
    Product(Box<Tree>, Box<Tree>),
    Quotient(Box<Tree>, Box<Tree>),
    Power(Box<Tree>, u32),
}

impl Tree {
    /// Its value; none where something is divided by 0.
    fn value(&self, x: f64, y: f64) -> Option<f64> {
        let of = |tree: &Tree| tree.value(x, y);
        Some(match self {
            Tree::Whole(n) => f64::from(*n),
            Tree::Name(name) => {
                if *name == "x" {
                    x
                } else {
                    y
                }
            }
            Tree::Sum(a, b) => of(a)? + of(b)?,
            Tree::Difference(a, b) => of(a)? - of(b)?,
            Tree::Product(a, b) => of(a)? * of(b)?,
            Tree::Quotient(a, b) => of(a)? / of(b).filter(|b| b.abs() > 1e-9)?,
            Tree::Power(a, n) => of(a)?.powi(i32::try_from(*n).ok()?),
        })
    }

    /// As a calculator shows it, or in LaTeX.
    fn write(&self, latex: bool) -> String {
        let of = |tree: &Tree| tree.write(latex);
        let (open, close) = if latex { ("\\left( ", "\\right)") } else { ("(", ")") };
        match self {
            Tree::Whole(n) => format!("{open}{n}{close}"),
            Tree::Name(name) => (*name).to_string(),
            Tree::Sum(a, b) => format!("{open}{}+{}{close}", of(a), of(b)),
            Tree::Difference(a, b) => format!("{open}{} - {}{close}", of(a), of(b)),
            Tree::Product(a, b) if latex => format!("{} \\cdot {}", of(a), of(b)),
            Tree::Product(a, b) => format!("{}*{}", of(a), of(b)),
            Tree::Quotient(a, b) if latex => format!("\\dfrac{{{}}}{{{}}}", of(a), of(b)),
            Tree::Quotient(a, b) => format!("(({})/({}))", of(a), of(b)),
            Tree::Power(a, n) if latex => format!("{{{open}{}{close}}}^{{{n}}}", of(a)),
            Tree::Power(a, n) => format!("({})^{n}", of(a)),
        }
    }
}

fn tree() -> impl Strategy<Value = Tree> {
    let leaf = prop_oneof![(-3i32..4).prop_map(Tree::Whole), Just(Tree::Name("x")), Just(Tree::Name("y"))];
    leaf.prop_recursive(3, 8, 2, |inner| {
        let two = || (inner.clone().prop_map(Box::new), inner.clone().prop_map(Box::new));
        prop_oneof![
            two().prop_map(|(a, b)| Tree::Sum(a, b)),
            two().prop_map(|(a, b)| Tree::Difference(a, b)),
            two().prop_map(|(a, b)| Tree::Product(a, b)),
            two().prop_map(|(a, b)| Tree::Quotient(a, b)),
            (inner.prop_map(Box::new), 0u32..4).prop_map(|(a, n)| Tree::Power(a, n)),
        ]
    })
}

/// Whether two expressions have the same values wherever both have one; `None` where one never has.
fn same_values(a: &Tree, b: &Tree) -> Option<bool> {
    let points = [(0.37, 1.91), (-1.73, 0.59), (2.31, -0.77), (5.03, 3.49), (-4.27, -2.83), (0.11, 7.7)];
    let pairs: Vec<(f64, f64)> =
        points.iter().filter_map(|(x, y)| Some((a.value(*x, *y)?, b.value(*x, *y)?))).collect();
    let near = |(a, b): &(f64, f64)| (a - b).abs() <= 1e-6 * (1.0 + a.abs().max(b.abs()));
    (pairs.len() == points.len()).then(|| pairs.iter().all(near))
}

/// What only concerns looks, around an answer.
const LOOKS: [(&str, &str); 9] = [
    ("$", "$"),
    ("$$", "$$"),
    ("\\(", "\\)"),
    ("\\displaystyle ", ""),
    ("  ", "  "),
    ("\\quad ", "\\,"),
    ("\\!", "\\!"),
    ("\\boxed{", "}"),
    ("\\color{blue}{", "}"),
];

/// 3000 cases from one seed, unless the environment says otherwise.
fn configuration() -> ProptestConfig {
    let mut configuration = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    if std::env::var_os("PROPTEST_CASES").is_none() {
        configuration.cases = 3000;
    }
    if std::env::var_os("PROPTEST_RNG_SEED").is_none() {
        configuration.rng_seed = proptest::test_runner::RngSeed::Fixed(16);
    }
    configuration
}

proptest! {
    // A build is no lottery: PROPTEST_RNG_SEED and PROPTEST_CASES try other cases.
    #![proptest_config(configuration())]

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

    #[test]
    fn expressions_are_equal_iff_their_values_are(a in tree(), b in tree()) {
        let form = canonical(&a.write(true));
        if let Some(same) = same_values(&a, &b) {
            prop_assert_eq!(&form, &canonical(&a.write(false)), "{}", a.write(true));
            let equal = form == canonical(&b.write(false));
            prop_assert_eq!(equal, same, "{} and {}: {:?}", a.write(true), b.write(false), form);
        }
    }

    #[test]
    fn a_common_factor_of_a_quotient_is_cancelled(k in tree(), n in tree(), d in tree()) {
        let parts = [&k, &n, &d].map(|tree| tree.write(true));
        let defined = same_values(&k, &Tree::Whole(0)) == Some(false) && same_values(&d, &Tree::Whole(0)) == Some(false);
        prop_assume!(defined && same_values(&n, &n).is_some());
        let [k, n, d] = parts;
        let long = canonical(&format!("\\frac{{({k})({n})}}{{({k})({d})}}"));
        prop_assert_eq!(long, canonical(&format!("\\frac{{{n}}}{{{d}}}")), "{} {} {}", k, n, d);
    }

    #[test]
    fn different_integers_are_different(a in "[1-9][0-9]{0,60}", b in "[1-9][0-9]{0,60}", at in any::<prop::sample::Index>()) {
        let mut near = a.clone().into_bytes();
        let at = at.index(near.len());
        near[at] = if near[at] == b'9' { b'8' } else { near[at] + 1 };
        let near = String::from_utf8(near).unwrap();
        let form = canonical(&a);
        prop_assert!(form.is_some() && form != canonical(&near), "{} {}", a, near);
        prop_assert_eq!(form == canonical(&b), a == b);
        prop_assert_eq!(&form, &canonical(&format!("00{a}.0")));
        let negative = canonical(&format!("-{a}"));
        prop_assert!(form != negative);
        prop_assert_eq!(&canonical(&format!("{a}0")), &canonical(&format!("{a} \\cdot 10")));
        let short = &b[..b.len().min(15)];
        let first = &a[..a.len().min(20)];
        prop_assert_eq!(canonical(&format!("{first}*{short}")), canonical(&format!("{short}\\times {first}")));
    }

    #[test]
    fn powers_are_exact(p in 2u32..40, q in 2u32..40, m in 1u32..300, n in 1u32..300) {
        let form = canonical(&format!("{p}^{{{m}}}\\cdot {q}^{{{n}}}"));
        prop_assert_eq!(&form, &canonical(&format!("({q}^{n})({p}^{m})")));
        let longer = format!("{p}^{{{}}}\\cdot {q}^{{{n}}}", m + 1);
        prop_assert_eq!(&canonical(&format!("{p}\\cdot {p}^{{{m}}}\\cdot {q}^{{{n}}}")), &canonical(&longer));
        prop_assert!(form != canonical(&longer));
        prop_assert_eq!(canonical(&format!("\\frac{{{longer}}}{{{p}}}")), form);
        let symbolic = canonical(&format!("{p}^{{{m}k+{n}}}"));
        prop_assert_eq!(&symbolic, &canonical(&format!("({p}^k)^{{{m}}} \\cdot {p}^{{{n}}}")));
        let other = canonical(&format!("{p}^{{{m}k+{}}}", n + 1));
        prop_assert!(symbolic != other);
        prop_assert_eq!(canonical(&format!("{}!", m + 1)), canonical(&format!("{}\\cdot {m}!", m + 1)));
    }

    #[test]
    fn sets_of_sets_have_no_order_on_any_level(all in prop::collection::vec(prop::collection::vec(0i32..6, 0..4), 1..4)) {
        let join = |sets: &[Vec<i32>], open: &str, close: &str| {
            let sets = sets.iter().map(|set| {
                format!("{open}{}{close}", set.iter().map(i32::to_string).collect::<Vec<_>>().join(","))
            });
            format!("\\{{{}\\}}", sets.collect::<Vec<_>>().join(", "))
        };
        let sorted = |sets: &[Vec<i32>]| {
            let sets = sets.iter().map(|set| set.iter().copied().collect::<std::collections::BTreeSet<_>>());
            sets.collect::<std::collections::BTreeSet<_>>()
        };
        let form = canonical(&join(&all, "\\{", "\\}"));
        let mut other = all.clone();
        other.reverse();
        other.iter_mut().for_each(|set| set.reverse());
        prop_assert_eq!(&form, &canonical(&join(&other, "\\left\\{", "\\right\\}")));
        other[0].push(7);
        let larger = canonical(&join(&other, "\\{", "\\}"));
        prop_assert!(form != larger);
        let moved: Vec<Vec<i32>> = all.iter().map(|set| set.iter().map(|n| (n + 1) % 6).collect()).collect();
        let equal = form == canonical(&join(&moved, "\\{", "\\}"));
        prop_assert_eq!(equal, sorted(&all) == sorted(&moved));
        let angles = canonical(&join(&all, "\\langle 9,", "\\rangle"));
        let same = all.iter().zip(&other).all(|(a, b)| a == b);
        prop_assert_eq!(angles == canonical(&join(&other, "⟨9,", "⟩")), same);
    }

    #[test]
    fn quantities_times_and_bases_keep_all_their_digits(a in 1u32..60, b in 1u32..60, c in 1u32..60, d in 1u32..60) {
        for (open, between, close) in [
            ("", " feet ", " inches"),
            ("", "\\text{ hours }", "\\text{ minutes}"),
            ("", " lb ", " oz"),
            ("", " R ", ""),
            ("", " to ", ""),
            ("", "\\text{ out of }", ""),
            ("", "^\\circ ", "'"),
            ("", ":", " pm"),
            ("\\langle ", ",", "\\rangle"),
            ("(", ",", ")"),
            ("[", ";", ")"),
            ("", " men and ", " women"),
            ("a=", ", b=", ""),
            ("", "E", "_{16}"),
            ("1.", ".", ""),
            ("\\binom{100}{", "} + 1000000000000000000000000000000000000^{", "}"),
        ] {
            let write = |a: u32, b: u32| canonical(&format!("{open}{a}{between}{b}{close}"));
            prop_assert_eq!(write(a, b) == write(c, d), (a, b) == (c, d) || close == "}" && b == d && a + c == 100);
            prop_assert!(write(a, b) != canonical(&a.to_string()));
        }
    }
}

#[test]
fn looks_around_an_answer_do_not_count() {
    let mut wrong = Vec::new();
    for (_, a, b) in pairs() {
        for answer in [a, b] {
            // `$` inside, a box inside, and what is no group are other things.
            let whole = !answer.contains(['$', '`']) && !answer.contains("\\(") && !answer.contains("\\[");
            let group = answer.matches('{').count() == answer.matches('}').count() && !answer.ends_with('\\');
            for (open, close) in LOOKS {
                if !whole || (!group && open.ends_with('{')) || answer.contains("**") {
                    continue;
                }
                let (with, alone) = (canonical(&format!("{open}{answer}{close}")), canonical(answer));
                if with != alone {
                    wrong.push(format!("{open} {answer}: {with:?}, alone {alone:?}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} are other answers:\n{}", wrong.len(), wrong.join("\n"));
}
