//! Generated arithmetic: `a+b*c+d-e*f` and its shorter and longer relatives.

use std::collections::HashSet;

use super::{AnswerKey, Question, Questions, Split};
use crate::engine::draw_key;
use crate::error::{Error, Result};
use crate::measure::Chance;
use crate::run::TaskSection;

/// The most terms an expression may have.
const MAX_TERMS: usize = 12;

/// A generator of expressions. Question i is a function of i and the settings alone.
#[derive(Clone, Copy, Debug)]
pub struct Arithmetic {
    terms: usize,
    max_operand: u32,
}

impl Arithmetic {
    /// From `[task]`.
    pub fn new(section: &TaskSection) -> Result<Self> {
        let terms = section.terms as usize;
        if !(1..=MAX_TERMS).contains(&terms) {
            return Err(Error::input(
                section.key("terms"),
                format!("found {terms}, expected 1 to {MAX_TERMS}"),
            ));
        }
        if !(1..=1_000_000).contains(&section.max_operand) {
            return Err(Error::input(
                section.key("max_operand"),
                format!("found {}, expected 1 to 1000000", section.max_operand),
            ));
        }
        Ok(Self { terms, max_operand: section.max_operand })
    }

    /// Expression number `index` and its value.
    ///
    /// Terms 1 to 4 are `a`, `b*c`, `d`, `-e*f`, and so on in turn: `a+b*c+d-e*f+g+h*i…`. With three terms it is
    /// `a+b*c-d*e`, with one `a*b`.
    pub fn expression(&self, index: u64) -> (String, i64) {
        let key = draw_key(&[
            b"arithmetic",
            &(self.terms as u64).to_le_bytes(),
            &u64::from(self.max_operand).to_le_bytes(),
            &index.to_le_bytes(),
        ]);
        let mut chance = Chance::new(key);
        let mut operand = || chance.below(self.max_operand as usize + 1) as i64;
        let (mut text, mut value) = (String::new(), 0i64);
        for term in 0..self.terms {
            let (product, minus) = match (self.terms, term) {
                (1, _) => (true, false),
                (3, 2) => (true, true),
                (_, t) => (t % 2 == 1, t % 4 == 3),
            };
            if term > 0 {
                text.push(if minus { '-' } else { '+' });
            }
            let a = operand();
            text.push_str(&a.to_string());
            let mut amount = a;
            if product {
                let b = operand();
                text.push_str(&format!("*{b}"));
                amount *= b;
            }
            value += if minus { -amount } else { amount };
        }
        (text, value)
    }

    /// That a split is not asked for far more questions than there are expressions, which the
    /// search would take very long to find out.
    fn check_room(&self, section: &TaskSection) -> Result<()> {
        let operands = self.expression(0).0.split(|c: char| !c.is_ascii_digit()).count();
        let expressions = (f64::from(self.max_operand) + 1.0).powi(operands as i32);
        // A split holds a tenth of them; small numbers of them may be dealt unevenly.
        let most = expressions * 0.11 + 50.0;
        let wanted = [
            (section.train_questions, section.train_key()),
            (section.dev_questions, "dev_questions"),
            (section.test_questions, "test_questions"),
        ];
        match wanted.into_iter().find(|(want, _)| *want as f64 > most) {
            None => Ok(()),
            Some((want, key)) => Err(Error::input(
                section.key(key),
                format!(
                    "{want} asked for, but only about {:.0} different expressions of {} terms with operands up to {} are in this split",
                    expressions / 10.0,
                    self.terms,
                    self.max_operand
                ),
            )),
        }
    }

    /// The first questions of each split in order of index, without repetition.
    pub fn questions(&self, section: &TaskSection) -> Result<(Questions, AnswerKey)> {
        let mut questions = Questions::default();
        let mut answers = Vec::new();
        let mut seen = HashSet::new();
        let wanted = [section.train_questions, section.dev_questions, section.test_questions];
        let total: usize = wanted.iter().sum();
        self.check_room(section)?;
        // One in ten expressions is in a split; small operand ranges repeat themselves.
        let attempts = 100_000 + 1_000 * total as u64;
        for index in 0..attempts {
            let full = [&questions.train, &questions.dev, &questions.test];
            if full.iter().zip(wanted).all(|(have, want)| have.len() == want) {
                break;
            }
            let (text, value) = self.expression(index);
            let (list, want) = match Split::of_expression(&text) {
                Split::Pretrain => continue,
                Split::Train => (&mut questions.train, wanted[0]),
                Split::Dev => (&mut questions.dev, wanted[1]),
                Split::Test => (&mut questions.test, wanted[2]),
            };
            if list.len() < want && seen.insert(text.clone()) {
                let question = Question::new(text);
                answers.push((question.id.clone(), value.to_string()));
                list.push(question);
            }
        }
        for (list, want, key) in [
            (&questions.train, wanted[0], section.train_key()),
            (&questions.dev, wanted[1], "dev_questions"),
            (&questions.test, wanted[2], "test_questions"),
        ] {
            if list.len() < want {
                return Err(Error::input(
                    section.key(key),
                    format!(
                        "{want} asked for, but only {} different expressions of {} terms with operands up to {} are in this split",
                        list.len(),
                        self.terms,
                        self.max_operand
                    ),
                ));
            }
        }
        Ok((questions, AnswerKey::new(answers)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section(terms: u32, max_operand: u32, counts: [usize; 3]) -> TaskSection {
        TaskSection {
            terms,
            max_operand,
            train_questions: counts[0],
            dev_questions: counts[1],
            test_questions: counts[2],
            ..TaskSection::default()
        }
    }

    fn evaluate(text: &str) -> i64 {
        let text = text.replace('-', "+-");
        text.split('+')
            .map(|term| {
                let (sign, term) = term.strip_prefix('-').map_or((1, term), |t| (-1, t));
                sign * term.split('*').map(|f| f.parse::<i64>().unwrap()).product::<i64>()
            })
            .sum()
    }

    #[test]
    fn expressions_have_the_papers_shape_and_value() {
        let shape = |terms| {
            let (text, value) = Arithmetic::new(&section(terms, 29, [0; 3])).unwrap().expression(17);
            assert_eq!(evaluate(&text), value, "{text}");
            text.split(|c: char| c.is_ascii_digit()).filter(|s| !s.is_empty()).collect::<String>()
        };
        assert_eq!(shape(1), "*");
        assert_eq!(shape(2), "+*");
        assert_eq!(shape(3), "+*-*");
        assert_eq!(shape(4), "+*+-*");
        assert_eq!(shape(6), "+*+-*++*");
    }

    #[test]
    fn operands_cover_their_range() {
        let arithmetic = Arithmetic::new(&section(4, 3, [0; 3])).unwrap();
        let mut seen = HashSet::new();
        for i in 0..200 {
            let (text, _) = arithmetic.expression(i);
            seen.extend(text.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse::<u32>().unwrap()));
        }
        assert_eq!(seen, (0..=3).collect());
    }

    #[test]
    fn splits_are_disjoint_full_and_stable() {
        let section = section(4, 29, [60, 50, 40]);
        let arithmetic = Arithmetic::new(&section).unwrap();
        let (questions, answers) = arithmetic.questions(&section).unwrap();
        assert_eq!((questions.train.len(), questions.dev.len(), questions.test.len()), (60, 50, 40));
        let all: Vec<_> = questions.train.iter().chain(&questions.dev).chain(&questions.test).collect();
        let ids: HashSet<_> = all.iter().map(|q| &q.id).collect();
        assert_eq!(ids.len(), 150);
        for q in &all {
            assert_eq!(answers.reference(&q.id).unwrap(), evaluate(&q.text).to_string());
            assert_ne!(Split::of_expression(&q.text), Split::Pretrain);
        }
        assert!(questions.dev.iter().all(|q| Split::of_expression(&q.text) == Split::Dev));
        // More questions begin with the same ones.
        let more = TaskSection { train_questions: 80, ..section };
        assert_eq!(arithmetic.questions(&more).unwrap().0.train[..60], questions.train);
    }

    #[test]
    fn too_few_expressions_are_an_error() {
        let section = section(1, 3, [10, 0, 0]);
        let e = Arithmetic::new(&section).unwrap().questions(&section).unwrap_err().to_string();
        assert!(e.contains("task.train_questions") && e.contains("10 asked for"), "{e}");
        // At once, however many are asked for.
        let section = self::section(4, 17, [0, usize::MAX / 2, 0]);
        let e = Arithmetic::new(&section).unwrap().questions(&section).unwrap_err().to_string();
        assert!(e.contains("task.dev_questions") && e.contains("only about 3401222"), "{e}");
        assert!(Arithmetic::new(&self::section(0, 3, [0; 3])).is_err());
        assert!(Arithmetic::new(&self::section(4, 0, [0; 3])).is_err());
    }
}
