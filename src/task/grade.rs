//! Grading given answers: what a task reads from each, and whether they are the same.

use super::answer::{Equality, Reader, Reading};
use super::reference::Reference;
use crate::error::Result;
use crate::run::TaskSection;

/// Grades answers as a task's runs and evaluations do.
pub struct Grader {
    reader: Reader,
    reference: Reference,
    solution: Reference,
}

/// Two answers and what became of them.
pub struct Verdict {
    /// What was read from each; `None` where no rule found anything.
    pub read: [Option<Reading>; 2],
    /// How canonical forms were compared.
    pub equality: Equality,
}

impl Verdict {
    /// Whether both were read and are the same answer.
    pub fn equal(&self) -> bool {
        let answer = |side: usize| self.read[side].as_ref().and_then(|r| r.answer.as_deref());
        answer(0).is_some() && answer(0) == answer(1)
    }
}

impl Grader {
    /// By a task's settings.
    pub fn new(section: &TaskSection) -> Result<Self> {
        let section = super::resolve(section)?;
        Ok(Self {
            reader: Reader::new(&section)?,
            reference: Reference::of_field("answer", &section)?,
            solution: Reference::of_field("solution", &section)?,
        })
    }

    /// A response against a reference answer; letters beyond `choices` are no answers.
    pub fn response(&self, response: &str, reference: &str, choices: usize) -> Verdict {
        self.verdict(self.reader.reading(response, choices), self.by(&self.reference, reference))
    }

    /// A response against a worked solution that holds the reference answer.
    pub fn solution(&self, response: &str, solution: &str, choices: usize) -> Verdict {
        self.verdict(self.reader.reading(response, choices), self.by(&self.solution, solution))
    }

    /// Two answers that are written as answers, without text around them.
    pub fn answers(&self, a: &str, b: &str) -> Verdict {
        let whole = |text| self.by(&Reference::Whole, text);
        self.verdict(whole(a), whole(b))
    }

    fn verdict(&self, a: Option<Reading>, b: Option<Reading>) -> Verdict {
        Verdict { read: [a, b], equality: self.reader.equality() }
    }

    fn by(&self, reference: &Reference, text: &str) -> Option<Reading> {
        let written = reference.find(text)?;
        Some(Reading { rule: reference.name(), answer: self.reader.canonical(&written), written })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grader(name: &str) -> Grader {
        Grader::new(&TaskSection { name: name.into(), ..TaskSection::default() }).unwrap()
    }

    #[test]
    fn a_response_is_read_as_a_run_reads_it_and_says_by_which_rule() {
        let gsm8k = grader("gsm8k");
        let verdict = gsm8k.response("so 7, \\boxed{18}", "9 + 9\n#### 18", 26);
        assert!(verdict.equal());
        let [Some(response), Some(reference)] = &verdict.read else { panic!("both are read") };
        assert_eq!((response.rule, response.written.as_str()), ("boxed", "18"));
        assert_eq!((reference.rule, reference.answer.as_deref()), ("after-hashes", Some("18")));
        let verdict = gsm8k.response("it is 18", "#### 18", 26);
        assert_eq!(verdict.read[0].as_ref().map(|r| r.rule), Some("last-number"));
        assert!(verdict.equal());
        // No reference in the field: nothing is equal to it.
        let verdict = gsm8k.response("18", "18", 26);
        assert!(verdict.read[1].is_none() && !verdict.equal());
    }

    #[test]
    fn two_answers_are_compared_as_they_are() {
        let math = grader("math");
        assert!(math.answers(r"\frac{2}{4}", "0.5").equal());
        assert!(!math.answers("x", "y").equal());
        assert!(math.solution(r"\boxed{3}", r"Thus $\boxed{3}$.", 26).equal());
        assert!(!math.response("3", "3", 26).equal(), "math reads boxes alone");
        let mmlu = grader("mmlu");
        assert!(mmlu.response("The answer is (B).", "B", 4).equal());
        assert!(mmlu.response("(E)", "E", 4).read[0].is_none(), "no fifth choice");
    }
}
