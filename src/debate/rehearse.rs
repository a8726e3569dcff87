//! The rehearsal of a debate before any work: do its texts render, how long can they get?

use super::Protocol;
use crate::engine::SampleKind;
use crate::error::{Error, Result};
use crate::run::Others;
use crate::task::{Labels, Question};
use crate::text::Message;

impl Protocol {
    /// Checks before any work that every question's first prompt fits the context and that every
    /// template renders. Returns the most tokens that a conversation about one of them can come to
    /// if all is said at its longest (and tokenized again as it was drawn); at most the context.
    pub fn check<'a>(&self, questions: impl IntoIterator<Item = &'a Question>) -> Result<usize> {
        let mut longest: Option<(usize, &Question)> = None;
        for question in questions {
            let first = self.addressed(self.agents - 1, self.task.prompts.first(question.subject())?)?;
            let prompt = self.voice.prompt(&[Message::user(first)])?;
            let prompt = self.fits_first(question, prompt)?;
            if longest.is_none_or(|(tokens, _)| prompt.len() > tokens) {
                longest = Some((prompt.len(), question));
            }
        }
        longest.map_or(Ok(0), |(_, question)| self.rehearse(question))
    }

    /// Renders a debate in which nothing is said. Returns its tokens and those of all that could be
    /// said.
    fn rehearse(&self, question: &Question) -> Result<usize> {
        let prompts = &self.task.prompts;
        let (silence, others) = ("…", self.agents - 1);
        let mut messages = vec![Message::user(self.addressed(others, prompts.first(question.subject())?)?)];
        let most = |kind| self.voice.max_tokens(kind) as usize;
        let (answer, summary) = (most(SampleKind::LaterAnswer), most(SampleKind::Summary));
        let mut said = answer;
        for _ in 1..self.rounds {
            let (asked, read) = match (self.agents, self.others) {
                (1, _) => (prompts.alone(question.subject())?, 0),
                (_, Others::Concatenate) => {
                    (self.ask_with_responses(question, &vec![silence; others])?, others * answer)
                }
                (_, Others::Summary) => {
                    prompts.summary(question.subject(), &[silence])?;
                    (self.ask_with_summary(question, silence)?, summary)
                }
            };
            messages.extend([Message::assistant(silence), Message::user(self.addressed(others, asked)?)]);
            said += read + answer;
        }
        // The last answer's end; what stands for the others' words is counted too.
        let most = self.codec().max_positions();
        let tokens = self.voice.prompt(&messages)?.map_or(most, |prompt| prompt.len() + said + 1);
        Ok(tokens.min(most))
    }

    /// Checks that the question can be asked with a hint: the template renders.
    pub fn check_hint(&self, question: &Question, labels: &Labels) -> Result<()> {
        self.hint(question, labels).map(drop)
    }

    pub(super) fn fits_first(&self, question: &Question, prompt: Option<Vec<u32>>) -> Result<Vec<u32>> {
        let most = self.codec().max_positions();
        let problem = match prompt {
            Some(prompt) if prompt.len() < most => return Ok(prompt),
            Some(prompt) => {
                format!("its prompt has {} tokens, but the model's context is {most}", prompt.len())
            }
            None => format!("its prompt is longer than any text of {most} tokens, the model's context"),
        };
        let shown: String = question.text.chars().take(60).collect();
        Err(Error::input(format!("question {} ({shown:?})", question.id), problem))
    }
}
