//! What a configuration chooses among.

choice! {
    /// `debate.others`: what agents read of each other.
    Others {
        /// A summary written by the base model.
        Summary = "summary",
        /// The responses themselves.
        Concatenate = "concatenate",
    }
}

choice! {
    /// `debate.style`: what agents are asked to make of what they read.
    Style {
        /// To take it as advice.
        Debate = "debate",
        /// To build on it.
        Cooperative = "cooperative",
    }
}

choice! {
    /// `debate.critics`: who answers the later rounds.
    Critics {
        /// A critic for every agent.
        Own = "own",
        /// The agent's generator.
        Generator = "generator",
        /// The base model.
        Base = "base",
    }
}

choice! {
    /// `debate.ties`: what happens when several answers have the most votes.
    Ties {
        /// A seeded choice among them.
        Random = "random",
        /// The one that the lowest agent gave.
        First = "first",
        /// The largest as a string (what the official code does).
        Largest = "largest",
    }
}

choice! {
    /// `training.lr_scheduler`: how the learning rate changes over the steps of one iteration.
    Scheduler {
        /// Not at all after the warm-up.
        Constant = "constant",
        /// Straight to zero.
        Linear = "linear",
        /// Along half a cosine to zero.
        Cosine = "cosine",
    }
}

choice! {
    /// `training.critic_mix_rule`: how corrected and confirmed trajectories make a critic's data.
    MixRule {
        /// `critic_mix` of the data are corrected ones.
        Ratio = "ratio",
        /// Every corrected one, and after each a fair coin adds a confirmed one.
        CoinFlip = "coin-flip",
    }
}

choice! {
    /// `training.critic_loss`: which turns of a critic's trajectory carry loss.
    CriticLoss {
        /// The last.
        Final = "final",
        /// Every assistant turn.
        All = "all",
    }
}

choice! {
    /// `training.start_from`: where each iteration's training starts.
    StartFrom {
        /// At the adapters of the iteration before.
        Previous = "previous",
        /// At the base model.
        Base = "base",
    }
}

choice! {
    /// `training.data`: whose data an agent learns from.
    DataOf {
        /// Its own.
        Own = "own",
        /// All agents', dealt to them at random.
        Dealt = "dealt",
    }
}

choice! {
    /// `training.labels`: which answers are learned.
    LabelsOf {
        /// Those that match the vote.
        Vote = "vote",
        /// As many, at random.
        Shuffled = "shuffled",
    }
}

choice! {
    /// `training.match`: what the amount of training is matched with.
    Matching {
        /// Nothing.
        None = "none",
        /// The tokens that would carry gradients in multiagent finetuning.
        GradientTokens = "gradient-tokens",
    }
}

choice! {
    /// `run.preset`: choices that belong together.
    Preset {
        /// What we hold to be best.
        Default = "default",
        /// What arXiv 2501.05707 says.
        Paper = "paper",
        /// What the authors' published code does.
        OfficialCode = "official-code",
    }
}

choice! {
    /// `eval.methods`: how questions are answered.
    EvalMethod {
        /// By every generator, most likely tokens only.
        Greedy = "greedy",
        /// By one sample of every generator.
        Single = "single",
        /// By the vote over samples.
        Majority = "majority",
        /// By a debate and its votes.
        Debate = "debate",
    }
}

choice! {
    /// `eval.encoder`: what encodes answers for the embedding dissimilarity.
    Encoder {
        /// The base model's last hidden state after its final norm, averaged over the answer's tokens.
        BaseMeanPooled = "base-mean-pooled",
    }
}

choice! {
    /// `report.primary.method`: which accuracy is compared.
    PrimaryMethod {
        /// Of most likely answers.
        Greedy = "greedy",
        /// Of single samples.
        Single = "single",
        /// Of the vote over samples.
        Majority = "majority",
        /// Of the vote of a debate's first round.
        FirstVote = "first-vote",
        /// Of the vote of its last round.
        FinalVote = "final-vote",
    }
}

impl PrimaryMethod {
    /// What must be asked for it.
    pub fn needs(self) -> EvalMethod {
        match self {
            Self::Greedy => EvalMethod::Greedy,
            Self::Single => EvalMethod::Single,
            Self::Majority => EvalMethod::Majority,
            Self::FirstVote | Self::FinalVote => EvalMethod::Debate,
        }
    }
}
