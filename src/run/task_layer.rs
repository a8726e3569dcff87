//! Naming another task in a configuration: what an earlier layer says of its own task does not apply to it.

use toml::Table;

use super::TaskSection;

/// Keys of `[task]` and `[transfer]` that hold for the task they were written for: its questions, how they are
/// asked, and how answers are read and compared.
const OF_ONE_TASK: [&str; 12] = [
    "data",
    "dev_data",
    "test_data",
    "question_field",
    "answer_field",
    "levels",
    "subjects",
    "prompts",
    "extraction",
    "pattern",
    "reference",
    "equality",
];

/// Prepares `lower` for being overlaid with `upper`. Where `upper` names another task than `lower`, removes what
/// `lower` says of its own, so that the new task brings its own choices ([`crate::task::resolve`]) unless `upper`
/// makes them. The same name keeps all.
pub(super) fn forget_other_task(lower: &mut Table, upper: &Table) {
    for section in ["task", "transfer"] {
        let name = |table: &Table| Some(table.get(section)?.as_table()?.get("name")?.as_str()?.to_string());
        let Some(new) = name(upper) else { continue };
        if new == name(lower).unwrap_or_else(|| TaskSection::default().name) {
            continue;
        }
        if let Some(lower) = lower.get_mut(section).and_then(|s| s.as_table_mut()) {
            OF_ONE_TASK.iter().for_each(|key| {
                lower.remove(*key);
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(text: &str) -> Table {
        toml::from_str(text).expect("TOML")
    }

    #[test]
    fn another_name_forgets_the_reading_and_keeps_the_sizes() {
        let said = "[task]\nname = \"custom\"\nextraction = \"regex\"\npattern = \"x\"\nprompts = \"p\"\n\
                    data = \"d\"\ndev_questions = 7\n[sampling]\nmax_tokens = 9\n";
        let mut lower = table(said);
        forget_other_task(&mut lower, &table("[task]\nname = \"custom\"\n"));
        assert_eq!(lower, table(said));
        forget_other_task(&mut lower, &table("[task]\nlevels = [1]\n"));
        assert_eq!(lower, table(said));
        forget_other_task(&mut lower, &table("[task]\nname = \"mmlu\"\n"));
        let left = "[task]\nname = \"custom\"\ndev_questions = 7\n[sampling]\nmax_tokens = 9\n";
        assert_eq!(lower, table(left));
    }

    #[test]
    fn no_name_is_the_default_one() {
        let mut lower = table("[task]\nprompts = \"p\"\n[transfer]\nprompts = \"q\"\n");
        forget_other_task(&mut lower, &table("[task]\nname = \"arithmetic\"\n[transfer]\nname = \"math\"\n"));
        assert_eq!(lower, table("[task]\nprompts = \"p\"\n[transfer]\n"));
    }
}
