//! Reference answers of training questions, for the recipes that ask for them.

use std::collections::HashMap;

use super::{AnswerKey, Question};

/// Reference answers of some questions. Only a recipe that asks for labels is handed one; every
/// other recipe has no value from which it could learn an answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Labels(HashMap<String, String>);

impl Labels {
    /// Of these questions and no others.
    pub fn of(questions: &[Question], key: &AnswerKey) -> Self {
        let of = |q: &Question| Some((q.id.clone(), key.reference(&q.id)?.to_string()));
        Self(questions.iter().filter_map(of).collect())
    }

    /// The reference answer of a question, in canonical form.
    pub fn reference(&self, id: &str) -> Option<&str> {
        self.0.get(id).map(String::as_str)
    }

    /// Whether a canonical answer is right. No answer is wrong.
    pub fn is_right(&self, id: &str, answer: Option<&str>) -> bool {
        answer.is_some() && self.reference(id) == answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::Questions;

    #[test]
    fn labels_are_of_the_questions_given_only() {
        let questions: Vec<Question> = ["1+1", "2+2", "3+3"].map(Question::new).to_vec();
        let answers = ["2", "4", "6"].map(String::from);
        let key = AnswerKey::new(questions.iter().map(|q| q.id.clone()).zip(answers));
        let labels = Labels::of(&questions[..2], &key);
        assert_eq!(labels.reference(&questions[1].id), Some("4"));
        assert_eq!(labels.reference(&questions[2].id), None);
        assert!(labels.is_right(&questions[0].id, Some("2")));
        assert!(!labels.is_right(&questions[2].id, None) && !labels.is_right(&questions[0].id, Some("3")));
    }

    #[test]
    fn seeds_draw_training_questions_from_a_pool() {
        let of = |prefix: &str, n: usize| {
            (0..n).map(|i| Question::new(format!("{prefix}{i}"))).collect::<Vec<_>>()
        };
        let all = Questions { train: of("q", 40), dev: of("d", 3), test: of("t", 3) };
        let subset = |seed| all.of_seed(10, seed);
        let place = |q: &Question| q.text[1..].parse::<usize>().unwrap();
        for seed in 0..5 {
            let s = subset(seed);
            assert_eq!((s.train.len(), &s.dev, &s.test), (10, &all.dev, &all.test));
            assert!(s.train.iter().map(place).is_sorted_by(|a, b| a < b), "in their order, none twice");
            assert_eq!(s, subset(seed));
            assert!((0..seed).all(|other| subset(other).train != s.train));
        }
        assert_eq!(all.of_seed(40, 3), all);
        // Every question is drawn by some seed.
        let drawn: std::collections::BTreeSet<usize> =
            (0..60).flat_map(|s| subset(s).train).map(|q| place(&q)).collect();
        assert_eq!(drawn.len(), 40);
    }
}
