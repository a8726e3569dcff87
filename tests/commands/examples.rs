//! The examples of the library run to their end. What they show, they assert.

#[path = "../../examples/own_recipe.rs"]
mod own_recipe;
#[path = "../../examples/sample_two_adapters.rs"]
mod sample_two_adapters;
#[path = "../../examples/train_two_adapters.rs"]
mod train_two_adapters;

#[test]
fn two_adapters_are_sampled_in_one_batch() {
    sample_two_adapters::main().unwrap();
}

#[test]
fn two_adapters_are_trained_together() {
    train_two_adapters::main().unwrap();
}

#[test]
fn a_recipe_of_ones_own_is_one_file() {
    own_recipe::main().unwrap();
}
