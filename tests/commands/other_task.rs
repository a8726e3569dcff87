//! `eval` of a society on another task than its own.

use serde_json::json;

use crate::common::shell::*;

#[test]
fn a_society_is_asked_another_task_as_that_task_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let lines: String = (0..40)
        .map(|i| format!("{}\n", json!({"question": format!("{i}+1"), "answer": format!("= {};", i + 1)})))
        .collect();
    std::fs::write(dir.path().join("own.jsonl"), lines).unwrap();
    let own = "[task]\nname = \"custom\"\ndata = \"own.jsonl\"\nprompts = \"arithmetic\"\nextraction = \"last-number\"\n\
               reference = \"regex\"\npattern = \"= (.*);\"\nequality = \"number\"\ntrain_questions = 2\n\
               dev_questions = 2\n[sampling]\nmax_tokens = 8\nsummary_max_tokens = 8\n[debate]\nagents = 2\n\
               others = \"concatenate\"\n[run]\niterations = 1\n[eval]\ndiversity = 0\nmethods = [\"greedy\"]\n";
    std::fs::write(dir.path().join("own.toml"), own).unwrap();
    succeed(dir.path(), &["run", "own.toml", "--output", "soc"]);

    let question = json!({"question": "What is 9 and 9?", "answer": "9 + 9 = <<9+9=18>>18\n#### 18"});
    std::fs::write(dir.path().join("gsm8k.jsonl"), format!("{question}\n")).unwrap();
    let args = ["eval", "--society", "soc", "--data", "gsm8k.jsonl", "--method", "greedy", "--output", "-"];
    let answered = read_stdout(&succeed(dir.path(), &[&args[..], &["--task", "gsm8k"]].concat()));
    assert_eq!(answered["reference"], "18");
    // As its own task it has no reference answer, since that is read by the society's pattern.
    let e = fail(dir.path(), &args, 1);
    assert!(e.contains("field `answer`: no reference answer"), "{e}");
}

fn read_stdout(text: &str) -> serde_json::Value {
    lines(text).remove(0)
}
