//! Asking again with the answer given away (STaR, arXiv 2203.14465, section 3.2: rationalization).

use super::{DrawId, DrawKind, Occasion, Protocol, Speaker, Turn};
use crate::engine::Scope;
use crate::error::Result;
use crate::task::{Labels, Question};
use crate::text::Message;

impl Protocol {
    /// One answer to the question after a hint that holds its reference answer; `None` where the
    /// hinted prompt outgrows the context. `sample` is the place of the first answer that it makes
    /// up for.
    pub async fn hinted(
        &self,
        scope: &Scope,
        question: &Question,
        speaker: &Speaker,
        occasion: Occasion,
        labels: &Labels,
        sample: usize,
    ) -> Result<Option<Turn>> {
        let Some(prompt) = self.hint(question, labels)? else { return Ok(None) };
        let messages = vec![Message::user(prompt.clone())];
        let Some(tokens) = self.voice.fitting(&messages)? else { return Ok(None) };
        let draw = DrawId { kind: DrawKind::Hint, sample, ..DrawId::answer(occasion, question) };
        let request = self.voice.request(speaker, tokens.into(), &draw);
        let response = self.voice.speak(scope, vec![Some(request)]).await?.into_iter().next().flatten();
        let answer = response.as_ref().and_then(|r| self.task.read(question, &r.text));
        Ok(Some(Turn { agent: 0, prompt, summary: None, response, answer, missing: None, messages }))
    }

    pub(super) fn hint(&self, question: &Question, labels: &Labels) -> Result<Option<String>> {
        let Some(answer) = labels.reference(&question.id) else { return Ok(None) };
        self.task.prompts.hint(question.subject(), answer).map(Some)
    }
}
