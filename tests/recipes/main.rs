//! Recipes, debates and what they cost, mostly on an engine that answers by a script.

#[path = "../common/mod.rs"]
mod common;

mod arms;
mod baselines;
mod debate;
mod diversity;
mod examples;
mod experiment;
mod forecast;
mod multiagent;
mod serve;
