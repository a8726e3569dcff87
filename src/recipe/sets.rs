//! Every agent's own part of the debates, and its two variations: pooled data dealt at random, and a random choice in place of the vote.

use super::data::{
    Example, MixShares, critic_candidates, critic_set, critic_sets, generator_candidates, generator_set,
};
use super::registry::names;
use super::{Lane, Training};
use crate::debate::Debate;
use crate::error::Result;
use crate::measure::Chance;
use crate::measure::record::{Data, Mix};

/// D_n^G and D_n^C of every agent (Multiagent Finetuning, Algorithm 1, lines 23 to 27).
pub struct AgentSets {
    /// By agent.
    pub generators: Vec<Vec<Example>>,
    /// By agent; none where critics are not finetuned.
    pub critics: Vec<Vec<Example>>,
    /// What each critic's set was made of by the vote.
    pub shares: Vec<MixShares>,
}

impl Lane {
    /// What each agent would learn from its own answers to these debates; `critics`: whether critics learn too.
    pub fn agent_sets(
        &self,
        iteration: usize,
        debates: &[Debate],
        labels: &[Option<&str>],
        critics: bool,
    ) -> Result<AgentSets> {
        let agents = self.agents();
        let generators = (0..agents).map(|n| generator_set(debates, labels, n)).collect();
        let mut sets = AgentSets { generators, critics: vec![], shares: vec![] };
        let training = &self.critic_training;
        for name in names("critic", if critics { agents } else { 0 }) {
            let n = sets.critics.len();
            let (corrected, confirmed) =
                critic_sets(debates, labels, n, training.section.critic_loss, self.table.codec())?;
            let key = self.choice(iteration, "mix", &name);
            let (examples, shares) = critic_set(corrected, confirmed, training, debates, key);
            sets.critics.push(examples);
            sets.shares.push(shares);
        }
        Ok(sets)
    }

    /// Sets of the same sizes, each a random choice among all answers of that agent that could be learnt: they parse, and no trained turn
    /// is cut off. The vote decides how many, not which.
    pub fn shuffled(&self, iteration: usize, debates: &[Debate], sets: AgentSets) -> Result<AgentSets> {
        let mut chosen = AgentSets { generators: vec![], critics: vec![], shares: sets.shares };
        for (n, set) in sets.generators.iter().enumerate() {
            let key = self.choice(iteration, "shuffled", &format!("generator-{n}"));
            chosen.generators.push(Chance::new(key).choose(&generator_candidates(debates, n), set.len()));
        }
        for (n, set) in sets.critics.iter().enumerate() {
            let loss = self.critic_training.section.critic_loss;
            let candidates = critic_candidates(debates, n, loss, self.table.codec())?;
            let key = self.choice(iteration, "shuffled", &format!("critic-{n}"));
            chosen.critics.push(Chance::new(key).choose(&candidates, set.len()));
        }
        Ok(chosen)
    }

    /// Sets of the same sizes, dealt at random from what all agents of a role would learn. Which agent wrote what says nothing any more of
    /// who learns it.
    pub fn dealt(&self, iteration: usize, debates: &[Debate], sets: AgentSets) -> AgentSets {
        let deal = |role: &str, sets: Vec<Vec<Example>>| {
            let sizes: Vec<usize> = sets.iter().map(Vec::len).collect();
            let mut pool: Vec<Example> = sets.into_iter().flatten().collect();
            Chance::new(self.choice(iteration, "deal", role)).shuffle(&mut pool);
            let mut pool = pool.into_iter();
            let hand = |size: &usize| {
                let mut hand: Vec<Example> = pool.by_ref().take(*size).collect();
                let place = |e: &Example| (debates.iter().position(|d| d.id == e.question), e.agent);
                hand.sort_by_cached_key(place);
                hand
            };
            sizes.iter().map(hand).collect::<Vec<_>>()
        };
        AgentSets {
            generators: deal("generator", sets.generators),
            critics: deal("critic", sets.critics),
            shares: sets.shares,
        }
    }

    /// Tokens of all sequences, gradients flowing through each as often as the epochs say: what training on these sets would take.
    pub fn gradient_tokens(&self, sets: &AgentSets) -> u64 {
        let of = |sets: &[Vec<Example>], training: &Training| {
            let tokens: usize = sets.iter().flatten().map(|e| e.sequence.tokens.len()).sum();
            (tokens * training.section.num_epochs) as u64
        };
        of(&sets.generators, &self.training) + of(&sets.critics, &self.critic_training)
    }
}

/// How a critic's data came about.
pub fn about_mix(shares: &MixShares, training: &Training) -> Data {
    let mix = Mix {
        corrected: shares.corrected,
        confirmed: shares.confirmed,
        corrected_taken: shares.corrected_taken,
        confirmed_taken: shares.confirmed_taken,
        critic_mix: training.section.critic_mix,
        effective_mix: shares.effective_mix(),
    };
    Data { mix: Some(mix), ..Data::default() }
}
