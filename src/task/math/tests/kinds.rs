//! Kinds of answers, each with pairs that must be equal or different: the sections of
//! `tests/data/math_kinds.tsv`.

use super::{KINDS, check, read_pairs};

/// The pairs of a section.
fn section(name: &str) -> &'static str {
    let start = KINDS.find(&format!("## {name}\n")).expect("a section of this name");
    let section = &KINDS[start..];
    &section[..section[2..].find("\n## ").map_or(section.len(), |end| end + 3)]
}

macro_rules! kinds {
    ($($name:ident,)*) => {
        $(
            #[test]
            fn $name() {
                let pairs = read_pairs(section(stringify!($name)));
                assert!(pairs.len() >= 8);
                check(&pairs);
            }
        )*

        #[test]
        fn every_section_is_a_test() {
            let tests = [$(stringify!($name)),*];
            let sections: Vec<&str> = KINDS.lines().filter_map(|line| line.strip_prefix("## ")).collect();
            assert_eq!(tests.as_slice(), sections.as_slice());
        }
    };
}

kinds! {
    quantities_keep_all_their_numbers_and_units,
    vectors_in_angles_keep_order_and_repetition,
    sets_nest,
    sequences_of_letters_keep_their_order,
    of_an_approximation_the_exact_side_counts,
    inverse_functions_are_no_reciprocals,
    clock_times_keep_their_zeros,
    digits_of_other_bases_are_no_exponents,
    identities_are_not_zero,
    equations_are_the_same_up_to_a_factor_and_solved_for_y,
    powers_and_factorials_of_any_size_are_exact,
    a_quantity_is_its_value,
    rays_with_or_are_a_union,
    text_is_not_read_as_mathematics,
    looks_do_not_count,
    all_else_that_people_write_is_told_apart,
}
