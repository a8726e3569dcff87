//! Data: records of files, and lines that are sent to a session.

use std::cell::OnceCell;

use colloquy::cli::lines::read;
use colloquy::run::TaskSection;
use colloquy::serve::records::{Content, Reader};
use colloquy::serve::request::{self, Request};
use colloquy::task::load_file;

/// Records of commands and of tasks, as JSON Lines, JSON and CSV.
pub fn jsonl_records(input: &[u8]) {
    thread_local!(static FOLDER: OnceCell<tempfile::TempDir> = const { OnceCell::new() });
    FOLDER.with(|folder| {
        let folder = folder.get_or_init(super::folder).path();
        for extension in ["jsonl", "json", "csv"] {
            let path = folder.join(format!("data.{extension}"));
            std::fs::write(&path, input).expect("a file");
            if extension == "jsonl"
                && let Ok(records) = read(&path, Reader::Train)
            {
                for record in records {
                    if let Content::Tokens(tokens, Some(weights)) = record.content {
                        assert!(tokens.len() == weights.len() && weights.iter().all(|w| w.is_finite()));
                    }
                }
            }
            // Which task it is makes a difference to records, not to what they are in.
            let tasks: &[&str] =
                if extension == "jsonl" { &["gsm8k", "math", "mmlu", "custom"] } else { &["mmlu"] };
            for &name in tasks {
                let section = TaskSection { name: name.into(), ..TaskSection::default() };
                let Ok((questions, answers)) = load_file(&section, &path) else { continue };
                for question in &questions {
                    assert!(answers.reference(&question.id).is_some_and(|answer| !answer.is_empty()));
                    assert!(answers.is_right(&question.id, answers.reference(&question.id)));
                }
            }
        }
    });
}

/// Requests, as far as they go without a model.
pub fn session_lines(input: &[u8]) {
    for line in input.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty()) {
        let (_, request) = request::read(line, "stdin:1", 0);
        match request {
            Ok(Request::Generate { records, .. }) => assert!(!records.is_empty()),
            Ok(Request::Score { records }) => assert!(!records.is_empty()),
            Ok(Request::Train { adapters }) => {
                let good = |training: &request::Training| !training.records.is_empty();
                assert!(adapters.iter().flat_map(|(_, training)| training).all(good));
            }
            _ => {}
        }
    }
}
